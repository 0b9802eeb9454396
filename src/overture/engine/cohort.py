"""Several prompts over one frozen model: trained, scored and asked together, in shared forward passes where they can.

A pass runs (prompt, row) pairs, prompt by prompt. Prompts can share one when they enter at the same layer and are read
alike; what they have in common is computed and kept once: the kept inputs, and the keys and values of a batch that
several of them read in the same order. Each prompt's memory is there once too, not once for each row.

Shape letters: B rows, C labels, J prompts.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from overture.core.decoding import GREEDY, Decoding
from overture.core.rows import Encoded, Written
from overture.engine.inputs import Ids
from overture.engine.inputs import groups as cut
from overture.engine.passes import Injections, kept_input
from overture.engine.prompted import PassKey, PromptedModel, side_by_side

_DIFFER = {
    "layer": "enter at different layers",
    "heads": "read labels from vectors or words",
    "is_mean": "read labels from different places",
    "has_marks": "read one place or many",
    "candidates": "have different labels",
}
"""Of each part of a kind, what members do that share no pass for it."""


class Cohort:
    """Prompted models of one backbone and one cache, answering together. Meets `core.contracts.Trainees`.

    Args:
        models: the backbone under each prompt.
    """

    def __init__(self, models: Sequence[PromptedModel]) -> None:
        assert models
        assert all(model.backbone is models[0].backbone and model.cache is models[0].cache for model in models)
        self.models = list(models)
        self._kinds: dict[int, PassKey] = {}
        self._keeps: dict[int, bool] = {}

    @property
    def _any(self) -> PromptedModel:
        """Any of the models: what it is asked of pairs does not depend on its own prompt."""
        return self.models[0]

    # -- training

    def groups(self, batches: Mapping[int, Sequence[Encoded]]) -> list[list[int]]:
        """The members, by number, that share passes.

        Args:
            batches: each member's next rows.

        Raises:
            BackboneError: the model cannot answer such rows under a member's prompt.
        """
        found: dict[PassKey, list[int]] = {}
        for member, rows in batches.items():
            found.setdefault(self._kind(member, rows[0]), []).append(member)
        return list(found.values())

    def losses(self, batches: Mapping[int, Sequence[Encoded]]) -> dict[int, Tensor]:
        """Each member's sum of its rows' losses, from one forward pass for each group of `groups`."""
        rows, injections = self._pairs(batches)
        each = self._any.losses_under(rows, injections)
        parts = torch.split(each, [len(own) for own in batches.values()])
        return {member: part.sum() for member, part in zip(batches, parts, strict=True)}

    def expect(self, batches: Mapping[int, Sequence[Encoded]]) -> None:
        """Begin to send the kept inputs of the next pass to the device."""
        texts: list[Ids] = []
        for member, rows in batches.items():
            if not self._kept(member, rows[0]):
                return
            texts += [row.input_ids for row in rows]
        if texts:
            self._any.inputs.expect(texts)

    def _kept(self, member: int, row: Encoded) -> bool:
        """Whether a member's inputs are kept as columns."""
        if member not in self._keeps:
            model = self.models[member]
            with torch.no_grad():
                found = kept_input(row, model.injections([row])[0], model.inputs)
            self._keeps[member] = found is not None and model.backbone.encoder is None
        return self._keeps[member]

    def grouping(self, batches: Mapping[int, Sequence[Encoded]]) -> str:
        """How the members share passes, in one sentence; with the reason when there is more than one."""
        found = [(self._kind(members[0], batches[members[0]][0]), len(members)) for members in self.groups(batches)]
        num = sum(count for _, count in found)
        if len(found) == 1:
            return f"{num} members in 1 pass"
        varies = [_DIFFER[name] for name in PassKey._fields if len({getattr(kind, name) for kind, _ in found}) > 1]
        sizes = " + ".join(str(count) for _, count in found)
        return f"{num} members in {len(found)} passes ({sizes}), because they {' and '.join(varies)}"

    def _kind(self, member: int, row: Encoded) -> PassKey:
        # The rows of one task are alike, and a prompt's parts do not change in training.
        if member not in self._kinds:
            model = self.models[member]
            with torch.no_grad():
                self._kinds[member] = model.kind(row, model.injections([row])[0])
        return self._kinds[member]

    def _pairs(self, batches: Mapping[int, Sequence[Encoded]]) -> tuple[list[Encoded], Injections]:
        rows = list(chain.from_iterable(batches.values()))
        return rows, list(chain.from_iterable(self.models[n].injections(own) for n, own in batches.items()))

    # -- scores and answers on the same rows

    def label_scores(self, rows: Sequence[Encoded], max_tokens: int = 2048) -> Tensor:
        """Log-probabilities of the labels under every prompt, [J, B, C]; see `PromptedModel.label_scores`.

        Args:
            rows: of one task.
            max_tokens: of one forward pass: prompts times rows times the longest row.
        """
        found = self._of_all(self._any.label_scores_under, rows, max_tokens)
        return torch.stack([side_by_side(own) for own in found])

    def mark_scores(self, rows: Sequence[Encoded], max_tokens: int = 2048) -> list[list[Tensor]]:
        """Logits at each row's marks under every prompt; see `PromptedModel.mark_scores`."""
        return self._of_all(self._any.mark_scores_under, rows, max_tokens)

    def log_losses(self, rows: Sequence[Encoded], max_tokens: int = 2048) -> Tensor:
        """Sum of the rows' negative log-likelihoods under every prompt, [J]."""

        def losses(part: Sequence[Encoded], injections: Injections) -> Sequence[Tensor]:
            return self._any.losses_under(part, injections, with_targets=False).unbind()

        return torch.stack([torch.stack(own).sum() for own in self._of_all(losses, rows, max_tokens)])

    def generate(
        self, rows: Sequence[Encoded], max_new_tokens: int, stop: Sequence[str], max_tokens: int = 2048
    ) -> list[list[str]]:
        """Greedy answers under every prompt; see `PromptedModel.generate`."""

        def answers(part: Sequence[Encoded], injections: Injections) -> Sequence[str]:
            return self._any.generate_under(part, injections, max_new_tokens, stop)

        return self._of_all(answers, rows, max_tokens)

    def answer(
        self,
        rows: Sequence[Encoded],
        max_new_tokens: int,
        stop: Sequence[str],
        decoding: Decoding = GREEDY,
        max_tokens: int = 2048,
    ) -> list[list[Written]]:
        """Answers by any decoding under every prompt; see `PromptedModel.answer`."""

        def answers(part: Sequence[Encoded], injections: Injections) -> Sequence[Written]:
            return self._any.answer_under(part, injections, max_new_tokens, stop, decoding)

        return self._of_all(answers, rows, max_tokens)

    @torch.no_grad()
    def _of_all(
        self, asked: Callable[[Sequence[Encoded], Injections], Sequence[Any]], rows: Sequence[Encoded], max_tokens: int
    ) -> list[list[Any]]:
        """What is found for each row under each prompt, all prompts in the passes of a row."""
        num = len(self.models)
        order = sorted(range(len(rows)), key=lambda at: rows[at].num_tokens)
        found: list[list[Any]] = [[None] * len(rows) for _ in self.models]
        for index in cut(order, lambda at: rows[at].num_tokens * num, max_tokens):
            part = [rows[at] for at in index]
            each = asked(*self._pairs(dict.fromkeys(range(num), part)))
            for number, one in enumerate(each):
                found[number // len(part)][index[number % len(part)]] = one
        return found

    def scorers(self, max_tokens: int = 2048) -> list["MemberScorer"]:
        """A scorer for each prompt, while the prompts do not change and all are asked about the same rows.

        The first that is asked about a batch answers for all; the others are asked in turn and find it done.
        """
        known: dict[Hashable, Any] = {}
        return [MemberScorer(self, number, max_tokens, known) for number in range(len(self.models))]


@dataclass(frozen=True, slots=True)
class MemberScorer:
    """One prompt of a cohort, as `core.contracts.Scorer`; made by `Cohort.scorers`."""

    cohort: Cohort
    number: int
    max_tokens: int
    _known: dict[Hashable, Any] = field(repr=False)

    def log_loss(self, rows: Sequence[Encoded]) -> Tensor:
        """As `PromptedModel.log_loss`."""
        return self._found("log_losses", rows)

    def weight(self, rows: Sequence[Encoded]) -> float:
        """As `PromptedModel.weight`."""
        return self.cohort.models[self.number].weight(rows)

    def label_scores(self, rows: Sequence[Encoded]) -> Tensor:
        """As `PromptedModel.label_scores`."""
        return self._found("label_scores", rows)

    def generate(self, rows: Sequence[Encoded], max_new_tokens: int, stop: Sequence[str]) -> list[str]:
        """As `PromptedModel.generate`."""
        return self._found("generate", rows, max_new_tokens, tuple(stop))

    def mark_scores(self, rows: Sequence[Encoded]) -> list[Tensor]:
        """As `PromptedModel.mark_scores`."""
        return self._found("mark_scores", rows)

    def answer(
        self, rows: Sequence[Encoded], max_new_tokens: int, stop: Sequence[str], decoding: Decoding = GREEDY
    ) -> list[Written]:
        """As `PromptedModel.answer`."""
        return self._found("answer", rows, max_new_tokens, tuple(stop), decoding)

    def _found(self, what: str, rows: Sequence[Encoded], *options: Any) -> Any:
        key = (what, tuple(rows), options)
        if key not in self._known:
            self._known[key] = getattr(self.cohort, what)(rows, *options, max_tokens=self.max_tokens)
        return self._known[key][self.number]
