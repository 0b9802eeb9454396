"""Several prompts over one frozen model that train and answer together, in shared forward passes where possible.

A pass runs (prompt, row) pairs, prompt by prompt. Prompts can share one when they enter at the same layer and are read
alike; what they have in common is computed and kept once: the kept inputs, and the keys and values of a batch that
several of them read in the same order. Each prompt's memory is there once too, not once for each row.

Shape letters: B rows, J prompts.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import Tensor

from overture.core.contracts import Question
from overture.core.rows import Encoded
from overture.engine.answerer import PassKey, pass_key
from overture.engine.inputs import groups
from overture.engine.passes import Injections
from overture.engine.prompted import PromptedModel

T = TypeVar("T")


class Cohort:
    """Prompted models of one backbone and one cache, answering together. Meets `core.contracts.Trainees`.

    Args:
        models: the backbone under each prompt.
    """

    def __init__(self, models: Sequence[PromptedModel]) -> None:
        assert models
        assert all(model.backbone is models[0].backbone and model.cache is models[0].cache for model in models)
        self.models = list(models)
        self._answerer = models[0].answerer
        self._pass_keys: dict[int, PassKey] = {}

    # -- training

    def groups(self, batches: Mapping[int, Sequence[Encoded]]) -> list[list[int]]:
        """The members, by number, that share passes.

        Args:
            batches: each member's next rows.

        Raises:
            BackboneError: the model cannot answer such rows under a member's prompt.
        """
        alike: dict[PassKey, list[int]] = {}
        for member, rows in batches.items():
            alike.setdefault(self._pass_key(member, rows[0]), []).append(member)
        return list(alike.values())

    def losses(self, batches: Mapping[int, Sequence[Encoded]]) -> dict[int, Tensor]:
        """Each member's sum of its rows' losses, from one forward pass for each group of `groups`."""
        rows, injections = self._pairs(batches)
        losses = self._answerer.losses(rows, injections)
        parts = torch.split(losses, [len(member_rows) for member_rows in batches.values()])
        return {member: part.sum() for member, part in zip(batches, parts, strict=True)}

    def grouping(self, batches: Mapping[int, Sequence[Encoded]]) -> str:
        """How the members share passes, in one sentence; with the reason when there is more than one."""
        keys = [(self._pass_key(members[0], batches[members[0]][0]), len(members)) for members in self.groups(batches)]
        num_members = sum(count for _, count in keys)
        if len(keys) == 1:
            return f"{num_members} members in 1 pass"
        reasons = ["enter at different layers"] if len({key.layer for key, _ in keys}) > 1 else []
        if len({key.reader for key, _ in keys}) > 1:
            kinds = {type(key.reader) for key, _ in keys}
            reasons.append("read labels from vectors or words" if len(kinds) > 1 else "have different labels")
        sizes = " + ".join(str(count) for _, count in keys)
        return f"{num_members} members in {len(keys)} passes ({sizes}), because they {' and '.join(reasons)}"

    def _pass_key(self, member: int, row: Encoded) -> PassKey:
        # A prompt's parts do not change in training, and where a task's rows differ their passes are parted once more.
        if member not in self._pass_keys:
            model = self.models[member]
            with torch.no_grad():
                self._pass_keys[member] = pass_key(row, model.injections([row])[0])
        return self._pass_keys[member]

    def _pairs(self, batches: Mapping[int, Sequence[Encoded]]) -> tuple[list[Encoded], Injections]:
        injections = [self.models[member].injections(rows) for member, rows in batches.items()]
        return list(chain.from_iterable(batches.values())), list(chain.from_iterable(injections))

    # -- the same rows under every prompt

    @torch.no_grad()
    def ask(self, rows: Sequence[Encoded], question: Question[T], max_tokens: int = 2048) -> list[list[T]]:
        """Each row's reply under each prompt, J lists of B; all prompts are in the passes of a row.

        Args:
            rows: the rows.
            question: the question about each row.
            max_tokens: of one forward pass: prompts times rows times the longest row.
        """
        num_prompts = len(self.models)
        order = sorted(range(len(rows)), key=lambda index: rows[index].num_tokens)
        replies: list[dict[int, T]] = [{} for _ in self.models]
        for indices in groups(order, lambda index: rows[index].num_tokens * num_prompts, max_tokens):
            part = [rows[index] for index in indices]
            pairs = self._pairs(dict.fromkeys(range(num_prompts), part))
            all_replies = self._answerer.ask(list(zip(*pairs, strict=True)), question)
            for member in range(num_prompts):
                start = member * len(part)
                replies[member] |= zip(indices, all_replies[start : start + len(part)], strict=True)
        return [[member_replies[index] for index in range(len(rows))] for member_replies in replies]

    def scorers(self, max_tokens: int = 2048) -> list["MemberScorer"]:
        """A scorer for each prompt; valid while the prompts do not change.

        The first scorer that gets a batch computes the replies of all, and the others look them up.
        """
        replies: dict[Hashable, Any] = {}
        return [MemberScorer(self, number, max_tokens, replies) for number in range(len(self.models))]


@dataclass(frozen=True, slots=True)
class MemberScorer:
    """One prompt of a cohort, as `core.contracts.Scorer`; made by `Cohort.scorers`."""

    cohort: Cohort
    number: int
    max_tokens: int
    _replies: dict[Hashable, Any] = field(repr=False)

    def ask(self, rows: Sequence[Encoded], question: Question[T]) -> list[T]:
        """A reply for each row, in order."""
        key = (question, tuple(rows))
        if key not in self._replies:
            self._replies[key] = self.cohort.ask(rows, question, self.max_tokens)
        replies: list[T] = self._replies[key][self.number]
        return replies
