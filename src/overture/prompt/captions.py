"""Captions of labels as vectors, for prompts that stand among a label's words.

A caption is the tokens that all captions begin with, its text, and those that all end with. The common beginning of all
labels' captions, vectors included, is the trunk; the rest of each is a branch (`engine.captions`).

Shape letters: P prompt length, C labels, d width of the tower of texts, E width of the common space.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from overture.core.errors import ConfigError
from overture.core.injection import Injection, LabelHead, Memory, Place, Teacher
from overture.prompt.caption_options import CAPTION
from overture.prompt.module import Request
from overture.prompt.source import PromptSource

NOISE = 0.02
"""Standard deviation of the vectors of upper layers at their start, as published."""


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
            deep: see `Captions.features`; None or none for no such layers.
        """
        context = context.to(self.begin)
        num_front = {"before": context.shape[-2], "around": (context.shape[-2] + 1) // 2}.get(self.place, 0)
        front, back = context[..., :num_front, :], context[..., num_front:, :]
        if context.dim() == 2:
            branches = [torch.cat([words, back, self.end]) for words in self.words]
            has_deep = deep is not None and len(deep) > 0
            return self.tower.features(torch.cat([self.begin, front]), branches, deep if has_deep else None)
        labels = zip(front, self.words, back, strict=True)
        return self.tower.features(self.begin, [torch.cat([*parts, self.end]) for parts in labels])


@torch.no_grad()
def written_texts(source: PromptSource, captions: Sequence[str] = (CAPTION,)) -> Tensor:
    """Captions written by hand, the mean over several of each label's, [C, E]; each is tokenised whole.

    Args:
        source: has the tower and the labels' words.
        captions: with {} for a label's words.
    """
    tower = source.captions
    assert tower is not None
    texts = [tower.encode(caption.replace("{}", text)) for caption in captions for text in source.label_texts]
    branches = [tower.embed([*ids, *tower.end_ids]) for ids in texts]
    return (
        tower.features(tower.embed(tower.begin_ids), branches)
        .reshape(len(captions), len(source.label_texts), -1)
        .mean(0)
    )


def compared(texts: Tensor, source: PromptSource, penalty: Tensor | None = None) -> Injection:
    """A prompt whose labels are texts in the common space, [C, E], compared with images by their cosine."""
    assert source.captions is not None
    head = LabelHead(torch.zeros(len(texts)), scale=source.captions.scale)
    return Injection(labels=texts, head=head, penalty=penalty)


def in_both_towers(
    texts: Tensor,
    prompts: Tensor,
    source: PromptSource,
    penalty: Tensor | None = None,
    teacher: Teacher | None = None,
) -> Injection:
    """Labels that are texts, [C, E], and vectors in every layer of the images, [N, P, D], as a memory."""
    memory = Memory(source.memory_of_layers(prompts), "memory")
    return replace(compared(texts, source, penalty), memory=memory, teacher=teacher)


def zero_shot(source: PromptSource, caption: str = CAPTION) -> Injection:
    """The model as it is: images compared with captions written by hand."""
    return compared(written_texts(source, (caption,)), source)


def start_of_labels(start: Tensor, num_labels: int, per_label: bool) -> Tensor:
    """The start of a context: [P, d], or the same for each label, [C, P, d]."""
    return start.repeat(num_labels, 1, 1) if per_label else start.clone()


def start_of_layers(request: Request, depth: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The start of vectors in several layers of the tower of texts: words [P, d], and noise above, [depth - 1, P, d].

    Raises:
        ConfigError: the tower has fewer layers.
    """
    texts = request.source.texts
    assert texts is not None
    if depth > texts.num_layers:
        raise ConfigError(
            "the tower of texts has fewer layers",
            where="prompt.options.depth",
            got=str(depth),
            wanted=f"at most {texts.num_layers}",
            fix=f"--set prompt.options.depth={texts.num_layers}",
        )
    return request.start.clone(), NOISE * torch.randn(depth - 1, *request.start.shape, generator=generator)
