"""Rows that prompts are asked about, as single questions to the model, and the predictions that its answers make.

Questions of many rows, prompts and callers can be answered in any order and company; an inquiry puts the answers of its
own together again.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from overture.core.contracts import Question
from overture.core.errors import BackboneError, UserError
from overture.core.rows import Encoded, Prediction

if TYPE_CHECKING:
    from overture.core.injection import Injection
    from overture.engine.heads import Head
    from overture.evaluate.host import Handle


@dataclass(frozen=True, slots=True)
class EncodedAsk:
    """A row as tokens, in one part or several, or the reason why it cannot be encoded."""

    handle: "Handle"
    parts: tuple[Encoded, ...] = ()
    problem: UserError | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """The prediction for a row, or the reason why there is none."""

    prediction: Prediction | None = None
    problem: UserError | None = None

    def result(self) -> Prediction:
        """The prediction; raises the problem where there is none."""
        if self.problem is not None:
            raise self.problem
        assert self.prediction is not None
        return self.prediction


class Item(NamedTuple):
    """A question to the model about one part of a row, or about one of its blanks.

    Args:
        handle: the prompt.
        row: the part.
        question: the question to the model.
        tenant: whose texts are kept apart from those of others.
        head: the beginning of the row, if it was read before.
    """

    handle: "Handle"
    row: Encoded
    question: Question[Any]
    tenant: str = ""
    head: "Head | None" = None

    @property
    def live_row(self) -> Encoded:
        """The part of the row that is still to be read."""
        return self.row if self.head is None else self.head.rest(self.row)

    def injections(self) -> "list[Injection | None]":
        """The prompt of this one row, its beginning with it."""
        (injection,) = self.handle.model().injections([self.row])
        return [injection if self.head is None else self.head.injection(injection)]


class Inquiry:
    """The questions to the model that answer requests.

    Args:
        encoded: the requests.
        tenant: the tenant of the requests; texts of others are kept apart.
        change: changes the question of a request's task.
        instead: a question for each row in place of its task's; then there are no replies.

    Attributes:
        problems: why requests cannot be answered, by their number.
        items: the questions; a row's parts are asked one by one, its blanks once for all rows of a prompt.
    """

    def __init__(
        self,
        encoded: Sequence[EncodedAsk],
        tenant: str = "",
        change: Callable[[Question[Any]], Question[Any]] = lambda question: question,
        instead: Question[Any] | None = None,
    ) -> None:
        self.encoded, self.items = encoded, list[Item]()
        self.problems = {index: ask.problem for index, ask in enumerate(encoded) if ask.problem}
        self._parts: dict[int, range] = {}
        self._blanks: dict[tuple[int, tuple[Encoded, ...]], range] = {}
        refusals: dict[tuple[int, str], BackboneError | None] = {}

        def put(handle: "Handle", rows: Sequence[Encoded]) -> range:
            questions = [instead or change(handle.task.spec.question(handle.task, row)) for row in rows]
            self.items += [Item(handle, row, question, tenant) for row, question in zip(rows, questions, strict=True)]
            return range(len(self.items) - len(rows), len(self.items))

        for index, ask in enumerate(encoded):
            handle, parts = ask.handle, ask.parts
            if index in self.problems:
                continue
            refusal_key = (id(handle), type(parts[0].target).__name__)
            if refusal_key not in refusals:
                refusals[refusal_key] = None
                try:
                    handle.model().check([parts[0]], instead or handle.task.spec.question(handle.task, parts[0]))
                except BackboneError as error:
                    refusals[refusal_key] = error
            if refusal := refusals[refusal_key]:
                self.problems[index] = refusal
                continue
            self._parts[index] = put(handle, parts)
            for part in parts:
                if part.blanks and not instead and (id(handle), part.blanks) not in self._blanks:
                    self._blanks[id(handle), part.blanks] = put(handle, part.blanks)

    def replies(self, answers: Mapping[int, Any]) -> list[Reply]:
        """A reply for each request, in order.

        Args:
            answers: the model's, by the index of the item.
        """
        replies: list[Reply] = []
        for index, ask in enumerate(self.encoded):
            if index in self.problems:
                replies.append(Reply(problem=self.problems[index]))
                continue
            task = ask.handle.task
            read_reply = partial(task.spec.read, task)
            predictions = []
            for part, number in zip(ask.parts, self._parts[index], strict=True):
                blanks = self._blanks[id(ask.handle), part.blanks] if part.blanks else range(0)
                predictions.append(read_reply(part, answers[number], [answers[blank] for blank in blanks]))
            replies.append(Reply(predictions[0] if len(predictions) == 1 else task.spec.merged(task, predictions)))
        return replies


def cut_into_batches(items: Sequence[Item], groups: Sequence[Sequence[int]], max_tokens: int) -> list[list[int]]:
    """Batches of the items of texts, in order, so that items times the longest row stay within the budget."""
    batches: list[list[int]] = []
    longest = 0
    for numbers in groups:
        length = max(1, *(items[number].row.num_tokens for number in numbers))
        size = max(1, max_tokens // length)
        for start in range(0, len(numbers), size):
            part = numbers[start : start + size]
            longest = max(longest, length)
            if batches and (len(batches[-1]) + len(part)) * longest <= max_tokens:
                batches[-1] += part
            else:
                batches.append(list(part))
                longest = length
    return batches
