"""Captions of labels as vectors, for prompts that stand among a label's words.

A caption is the tokens that all captions begin with, its text, and those that all end with. What all labels' captions
begin with, vectors included, is the trunk; the rest of each is a branch (`engine.captions`).

Shape letters: P prompt length, C labels, d width of the tower of texts, E width of the common space.
"""

import torch
from torch import Tensor

from overture.core.injection import Injection, LabelHead, Place
from overture.prompt.methods import CAPTION
from overture.prompt.source import PromptSource


class LabelCaptions:
    """The labels' words as constant vectors of the tower of texts, and the prompts' places beside them.

    Args:
        source: has the tower and the labels' words.
        suffix: what ends each caption.
        place: of the prompt's vectors: `before` the words, `after` them, or half of them on each side (`around`).
    """

    def __init__(self, source: PromptSource, suffix: str, place: Place) -> None:
        assert source.captions is not None
        self.tower, self.place = source.captions, place
        self.begin = self.tower.embed(self.tower.begin_ids)
        self.words = [self.tower.embed(self.tower.encode(text)) for text in source.label_texts]
        self.end = self.tower.embed([*self.tower.encode(suffix), *self.tower.end_ids])

    def texts(self, context: Tensor, deep: Tensor | None = None) -> Tensor:
        """The captions under a prompt, [C, E].

        Args:
            context: the prompt's vectors, [P, d], or those of each label, [C, P, d].
            deep: see `Captions.features`.
        """
        context = context.to(self.begin)
        num_front = {"before": context.shape[-2], "around": (context.shape[-2] + 1) // 2}.get(self.place, 0)
        front, back = context[..., :num_front, :], context[..., num_front:, :]
        if context.dim() == 2:
            branches = [torch.cat([words, back, self.end]) for words in self.words]
            return self.tower.features(torch.cat([self.begin, front]), branches, deep)
        labels = zip(front, self.words, back, strict=True)
        return self.tower.features(self.begin, [torch.cat([*parts, self.end]) for parts in labels])


@torch.no_grad()
def written_texts(source: PromptSource, caption: str = CAPTION) -> Tensor:
    """Captions written by hand, [C, E]; each is tokenised whole.

    Args:
        source: has the tower and the labels' words.
        caption: with {} for a label's words.
    """
    tower = source.captions
    assert tower is not None
    texts = [tower.encode(caption.replace("{}", text)) for text in source.label_texts]
    return tower.features(tower.embed(tower.begin_ids), [tower.embed([*ids, *tower.end_ids]) for ids in texts])


def compared(texts: Tensor, source: PromptSource, penalty: Tensor | None = None) -> Injection:
    """Labels that are texts of the common space, [C, E], compared with images by their cosine."""
    assert source.captions is not None
    return Injection(labels=texts, head=_head(len(texts), source), penalty=penalty)


def zero_shot(source: PromptSource, caption: str = CAPTION) -> Injection:
    """The model as it is: images compared with captions written by hand."""
    return compared(written_texts(source, caption), source)


def _head(num_labels: int, source: PromptSource) -> LabelHead:
    assert source.captions is not None
    scale = source.captions.scale
    return LabelHead(torch.zeros(num_labels), scale=scale)


def start_of_labels(start: Tensor, num_labels: int, per_label: bool) -> Tensor:
    """Where a context starts: [P, d], or the same for each label, [C, P, d]."""
    return start.repeat(num_labels, 1, 1) if per_label else start.clone()
