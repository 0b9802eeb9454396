"""Several prompts on the same rows, and how the loss depends on what a prompt and a text are made of.

Shape letters: J prompts, B rows, L tokens of the longest row, P prompt length, D width.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from overture.core.contracts import Slopes
from overture.core.errors import BackboneError
from overture.core.injection import Injection
from overture.core.rows import Encoded
from overture.engine.answerer import LocalAnswerer
from overture.engine.inputs import groups


class LocalJudge:
    """Meets `core.contracts.Judge`. What prompts must predict themselves does not count.

    Args:
        answerer: the model, with the cache of the texts that prompts share.
        max_tokens: of one forward pass: prompts times rows times the longest row.
    """

    def __init__(self, answerer: LocalAnswerer, max_tokens: int = 2048) -> None:
        self.answerer, self.max_tokens = answerer, max_tokens

    @torch.no_grad()
    def losses(self, prompts: Sequence[Injection | None], rows: Sequence[Encoded]) -> Tensor:
        """Each row's loss under each prompt, [J, B]; prompts share the rows' kept texts and, where they can, passes.

        Raises:
            BackboneError: the model cannot answer such rows under such a prompt.
        """
        losses: list[list[Tensor]] = [[] for _ in prompts]
        order = sorted(range(len(rows)), key=lambda index: rows[index].num_tokens)
        parts = list(groups(order, lambda index: rows[index].num_tokens, self.max_tokens))
        for part in parts:
            part_rows = [rows[index] for index in part]
            num_tokens = len(part) * max(1, *(row.num_tokens for row in part_rows))
            num_together = max(1, self.max_tokens // num_tokens)
            for first in range(0, len(prompts), num_together):
                some = prompts[first : first + num_together]
                injections = [prompt for prompt in some for _ in part_rows]
                together = self.answerer.losses(part_rows * len(some), injections, with_vector_targets=False)
                for number, prompt_losses in enumerate(together.view(len(some), len(part)), first):
                    losses[number].append(prompt_losses)
        place = torch.tensor([index for part in parts for index in part]).argsort()
        return torch.stack([torch.cat(prompt_losses) for prompt_losses in losses])[:, place]

    @torch.enable_grad()
    def slopes(self, prompt: Injection | None, rows: Sequence[Encoded]) -> Slopes:
        """The gradient of the rows' summed loss by the embeddings of the prompt and of the texts.

        Args:
            prompt: its vectors are looked at; a prompt without any has an empty slope.
            rows: of any lengths; slopes behind a row's last token are zero.

        Raises:
            BackboneError: below the prompt, or in front of its memory, the text runs as it is, and nothing can be
                added to its embeddings.
        """
        prompt = prompt or Injection()
        if prompt.layer or (prompt.memory is not None and prompt.memory.place == "after"):
            raise BackboneError(
                "the text runs before this prompt, whose loss has no slope by the text",
                where=self.answerer.backbone.info.id,
                got=f"a prompt at {', '.join(sorted(prompt.places))}, layer {prompt.layer}",
                fix="a prompt of vectors from the first layer on, or a memory before the text",
            )
        backbone = self.answerer.backbone
        table = backbone.embed((0,))
        vectors = prompt.vectors
        if vectors is not None:
            vectors = replace(vectors, values=vectors.values.detach().requires_grad_())
        values = table.new_zeros(0, table.shape[1]) if vectors is None else vectors.values
        longest = max(row.num_text for row in rows)
        prompt_slope = torch.zeros_like(values)
        text_slopes = table.new_zeros(len(rows), longest, table.shape[1])
        for part in groups(range(len(rows)), lambda index: rows[index].num_tokens, self.max_tokens):
            offsets = [table.new_zeros(longest, table.shape[1], requires_grad=True) for _ in part]
            injections = [replace(prompt, vectors=vectors, offset=_added(prompt.offset, offset)) for offset in offsets]
            part_rows = [rows[index] for index in part]
            loss = self.answerer.losses(part_rows, injections, with_vector_targets=False).sum()
            leaves = offsets if vectors is None else [values, *offsets]
            gradients = list(torch.autograd.grad(loss, leaves))
            if vectors is not None:
                prompt_slope += gradients.pop(0)
            for index, gradient in zip(part, gradients, strict=True):
                text_slopes[index] = gradient
        return Slopes(prompt_slope, text_slopes)


def _added(own: Tensor | None, offset: Tensor) -> Tensor:
    """A prompt's own offset, as long as the other at least, with it on top."""
    if own is None:
        return offset
    length = max(len(own), len(offset))
    pad = torch.nn.functional.pad
    return pad(own.detach(), (0, 0, 0, length - len(own))) + pad(offset, (0, 0, 0, length - len(offset)))
