"""Losses of several prompts on the same rows, and gradients of the loss by the embeddings of prompt and text.

Shape letters: J prompts, B rows, C labels, L tokens of the longest row, P prompt length, D width.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from overture.core.contracts import LabelScores, Slopes
from overture.core.errors import BackboneError
from overture.core.injection import Injection
from overture.core.rows import Encoded
from overture.engine.answerer import LocalAnswerer
from overture.engine.inputs import groups
from overture.engine.passes import Injections, kept_input


class LocalJudge:
    """Meets `core.contracts.Judge`. Targets of prompt vectors do not count.

    Args:
        answerer: the model, with the cache of the texts that prompts share.
        max_tokens: of one forward pass: live tokens of all its pairs of a prompt and a row.
    """

    def __init__(self, answerer: LocalAnswerer, max_tokens: int = 2048) -> None:
        self.answerer, self.max_tokens = answerer, max_tokens

    @torch.no_grad()
    def losses(self, prompts: Sequence[Injection | None], rows: Sequence[Encoded]) -> Tensor:
        """Each row's loss under each prompt, [J, B]; prompts share the rows' kept texts and, where they can, passes.

        Raises:
            BackboneError: the model cannot answer such rows under such a prompt.
        """

        def ask(pass_rows: Sequence[Encoded], injections: Injections) -> Tensor:
            return self.answerer.losses(pass_rows, injections, with_vector_targets=False)

        return self._replies(prompts, rows, ask)

    @torch.no_grad()
    def scores(self, prompts: Sequence[Injection | None], rows: Sequence[Encoded]) -> Tensor:
        """Log-probabilities of the labels of each row under each prompt, [J, B, C]; all rows choose from one set.

        Raises:
            BackboneError: the model cannot answer such rows under such a prompt.
        """

        def ask(pass_rows: Sequence[Encoded], injections: Injections) -> Tensor:
            return torch.stack(self.answerer.ask(list(zip(pass_rows, injections, strict=True)), LabelScores()))

        return self._replies(prompts, rows, ask)

    def _replies(
        self,
        prompts: Sequence[Injection | None],
        rows: Sequence[Encoded],
        ask: Callable[[Sequence[Encoded], Injections], Tensor],
    ) -> Tensor:
        """Replies for every pair, [J, B, ...]; each pass has few rows and many prompts, to copy few memories."""
        order = sorted(range(len(rows)), key=lambda index: rows[index].num_tokens)
        replies: list[Tensor | None] = [None] * len(prompts)
        by_input: dict[bool, list[int]] = {}
        for number, prompt in enumerate(prompts):
            is_kept = kept_input(rows[0], prompt, self.answerer.inputs) is not None
            by_input.setdefault(is_kept, []).append(number)
        for is_kept, numbers in by_input.items():
            longest = max(_num_live(prompts[number]) for number in numbers)
            # A row whose whole input is kept, such as a sound in an encoder, has no live token but those of the answer.
            lengths = [max(1, longest + row.num_tokens - (row.num_input if is_kept else 0)) for row in rows]
            parts = list(groups(order, lambda index: lengths[index] * len(numbers), self.max_tokens))  # noqa: B023
            part_replies = []
            for part in parts:
                part_rows = [rows[index] for index in part]
                num_per_pass = max(1, self.max_tokens // (len(part) * max(lengths[index] for index in part)))
                chunk_replies = []
                for first in range(0, len(numbers), num_per_pass):
                    chunk = numbers[first : first + num_per_pass]
                    injections = [prompts[number] for number in chunk for _ in part]
                    pass_replies = ask(part_rows * len(chunk), injections)
                    chunk_replies.append(pass_replies.view(len(chunk), len(part), *pass_replies.shape[1:]))
                part_replies.append(torch.cat(chunk_replies))
            place = torch.tensor([index for part in parts for index in part]).argsort()
            replies_of_all = torch.cat(part_replies, dim=1)[:, place]
            for number, prompt_replies in zip(numbers, replies_of_all, strict=True):
                replies[number] = prompt_replies
        return torch.stack([reply for reply in replies if reply is not None])

    @torch.enable_grad()
    def slopes(self, prompt: Injection | None, rows: Sequence[Encoded]) -> Slopes:
        """The gradient of the rows' summed loss by the embeddings of the prompt and of the texts.

        Args:
            prompt: gradients are those of its vectors; a prompt without vectors has an empty slope.
            rows: of any lengths; slopes behind a row's last token are zero.

        Raises:
            BackboneError: below the prompt, or in front of its memory, the text runs as it is, and nothing can be
                added to its embeddings.
        """
        prompt = prompt or Injection()
        if prompt.layer or (prompt.memory is not None and prompt.memory.place == "after"):
            raise BackboneError(
                "the text runs before this prompt, so the loss has no gradient by the text's embeddings",
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
        num_elements = max(row.num_text for row in rows)
        prompt_slope = torch.zeros_like(values)
        text_slopes = table.new_zeros(len(rows), num_elements, table.shape[1])
        for part in groups(range(len(rows)), lambda index: rows[index].num_tokens, self.max_tokens):
            offsets = [table.new_zeros(num_elements, table.shape[1], requires_grad=True) for _ in part]
            injections = [
                replace(prompt, vectors=vectors, offset=_summed_offsets(prompt.offset, offset)) for offset in offsets
            ]
            part_rows = [rows[index] for index in part]
            loss = self.answerer.losses(part_rows, injections, with_vector_targets=False).sum()
            leaves = offsets if vectors is None else [values, *offsets]
            gradients = list(torch.autograd.grad(loss, leaves))
            if vectors is not None:
                prompt_slope += gradients.pop(0)
            for index, gradient in zip(part, gradients, strict=True):
                text_slopes[index] = gradient
        return Slopes(prompt_slope, text_slopes)


def _summed_offsets(prompt_offset: Tensor | None, offset: Tensor) -> Tensor:
    """The sum of a prompt's offset and another, as long as the longer one."""
    if prompt_offset is None:
        return offset
    length = max(len(prompt_offset), len(offset))
    longer = [torch.nn.functional.pad(part, (0, 0, 0, length - len(part))) for part in (prompt_offset.detach(), offset)]
    return longer[0] + longer[1]


def _num_live(prompt: Injection | None) -> int:
    """Live tokens that a prompt adds to a row."""
    return prompt.vectors.length if prompt and prompt.vectors else 0
