"""A backbone under a prompt, or under one for each row.

Shape letters: B rows, D width, C labels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from overture.core.contracts import Answers, LabelScores, Losses, PromptMethod, Question, RowMethod
from overture.core.injection import Injection
from overture.core.rows import Encoded
from overture.engine.answerer import LocalAnswerer, recording
from overture.engine.backbone import Backbone
from overture.engine.inputs import Progress
from overture.engine.readers import side_by_side
from overture.engine.texts import Texts
from overture.engine.transfer import moved

T = TypeVar("T")
OnePrompt = PromptMethod | RowMethod | Injection
INNER = "model."
"""Prefix of the names of values inside the model."""


@dataclass(frozen=True, slots=True)
class RowPrompts:
    """A prompt for each row, by the row's number: several prompts, or none, in one batch."""

    prompts: Sequence[OnePrompt | None]


class PromptedModel:
    """The backbone with one prompt, or with none.

    Meets `core.contracts.Trainee` and `core.contracts.Scorer`.

    Args:
        backbone: the model; frozen, but for the own values of a copy.
        prompt: a method whose values may change, constant values, one for each row, or None for the model as it is.
        cache: keeps results of texts that the prompt cannot change; None computes them each time. It stays empty while
            values inside the backbone are trained.
        max_tokens: live tokens of one forward pass while a cache is filled.
    """

    def __init__(
        self,
        backbone: Backbone,
        prompt: OnePrompt | RowPrompts | None = None,
        cache: Texts | None = None,
        max_tokens: int = 2048,
    ) -> None:
        self.answerer = LocalAnswerer(backbone, cache, max_tokens)
        self.prompt = _on_device(prompt, backbone.device)

    @property
    def backbone(self) -> Backbone:
        """The model."""
        return self.answerer.backbone

    @property
    def cache(self) -> Texts | None:
        """The cache of the texts' keys, values and hidden states."""
        return self.answerer.cache

    # -- the prompt

    def injections(self, rows: Sequence[Encoded]) -> list[Injection | None]:
        """The prompt's values now, for each row."""
        if isinstance(self.prompt, RowPrompts):
            return [self._injections_of(self._prompt_of(row), [row])[0] for row in rows]
        return self._injections_of(self.prompt, rows)

    def _injections_of(self, prompt: OnePrompt | None, rows: Sequence[Encoded]) -> list[Injection | None]:
        if prompt is None or isinstance(prompt, Injection):
            return [prompt] * len(rows)
        if isinstance(prompt, RowMethod):
            return list(prompt.injections(self._features(rows)))
        # Made once a pass: a method may compute it, and its gradient is shared by all rows.
        return [prompt.injection()] * len(rows)

    def _prompt_of(self, row: Encoded) -> OnePrompt | None:
        return self.prompt.prompts[row.row] if isinstance(self.prompt, RowPrompts) else self.prompt

    def _features(self, rows: Sequence[Encoded]) -> Tensor:
        """Mean of each row's token vectors, [B, D]."""
        inputs = self.answerer.inputs
        texts = [(*row.input_elements, *row.anchor_elements) for row in rows]
        return torch.stack([inputs.vectors([text])[0].mean(0) for text in texts])

    def trainable(self) -> dict[str, Tensor]:
        """The trained values by name: the prompt's, and those inside the model."""
        of_prompt = self.prompt.trainable() if isinstance(self.prompt, PromptMethod | RowMethod) else {}
        inner = {} if self.backbone.is_frozen else self.backbone.inner
        return of_prompt | {INNER + name: value for name, value in inner.items()}

    def rates(self) -> dict[str, float]:
        """Factors on the learning rate, by name; 1 where none is given."""
        of_prompt = self.prompt.rates() if isinstance(self.prompt, PromptMethod | RowMethod) else {}
        return of_prompt | {INNER + name: self.backbone.inner_rate for name in self.backbone.inner}

    @torch.no_grad()
    def check(self, rows: Sequence[Encoded], question: Question[Any] | None = None) -> None:
        """Check that the model can answer such rows under this prompt, before anything runs.

        Args:
            rows: the rows.
            question: the question about them; their losses when None.

        Raises:
            BackboneError: it cannot.
        """
        pairs = list(zip(rows, self.injections(rows), strict=True))
        self.answerer.capabilities.check(pairs, question or Losses())

    # -- answers and losses

    def ask(self, rows: Sequence[Encoded], question: Question[T]) -> list[T]:
        """A reply for each row, in order.

        Raises:
            BackboneError: the model cannot answer such rows under this prompt.
        """
        with recording(question):
            return self.answerer.ask(list(zip(rows, self.injections(rows), strict=True)), question)

    def loss(self, rows: Sequence[Encoded]) -> Tensor:
        """Sum of the rows' losses; see `core.contracts.Losses`."""
        return self.answerer.losses(rows, self.injections(rows)).sum()

    def weight(self, rows: Sequence[Encoded]) -> float:
        """Rows for label tasks, tokens for tags, answer tokens for free text."""
        return sum(row.target.weight for row in rows)

    def label_scores(self, rows: Sequence[Encoded]) -> Tensor:
        """Log-probabilities of the labels, [B, C]; -inf behind the last of those that a row has of its own."""
        return side_by_side(self.ask(rows, LabelScores()))

    def generate(self, rows: Sequence[Encoded], max_new_tokens: int, stop: Sequence[str]) -> list[str]:
        """Greedy answers; see `core.contracts.Answers`."""
        return [answer.text for answer in self.ask(rows, Answers(max_new_tokens, tuple(stop)))]

    def warm(self, rows: Sequence[Encoded], progress: Progress | None = None) -> None:
        """Fill the cache with what the rows' texts give; see `LocalAnswerer.warm`.

        Args:
            rows: all rows of a split.
            progress: called with (done, all).
        """
        if self.answerer.inputs.cache is None:
            return
        # Only the structure of the injections matters: each prompt is built once, not once per row.
        injection_of: dict[int, Injection | None] = {}
        with torch.no_grad():
            for row in rows:
                prompt = self._prompt_of(row)
                if id(prompt) not in injection_of:
                    injection_of[id(prompt)] = self._injections_of(prompt, [row])[0]
        self.answerer.warm(rows, [injection_of[id(self._prompt_of(row))] for row in rows], progress)


def _on_device(prompt: OnePrompt | RowPrompts | None, device: torch.device) -> OnePrompt | RowPrompts | None:
    """The prompt with its values on the model's device; methods are moved in place, so trained values stay the same."""
    if isinstance(prompt, RowPrompts):
        # A prompt that several rows share is moved once.
        moved_prompts = {id(row_prompt): _on_device(row_prompt, device) for row_prompt in prompt.prompts}
        return RowPrompts([moved_prompts[id(row_prompt)] for row_prompt in prompt.prompts])  # type: ignore[misc]
    if isinstance(prompt, Injection):
        return prompt.map(lambda tensor: moved(tensor, device))
    if isinstance(prompt, torch.nn.Module):
        prompt.to(device)
    return prompt
