"""Reads long texts in pieces before their questions are answered; continues conversations from kept columns."""

from collections import OrderedDict, deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

from overture.core.contracts import Answers, Features, RowMethod, TokenShares
from overture.core.injection import Injection
from overture.engine.heads import Head, KeptHeads, PiecewiseReading, can_have_head
from overture.engine.lines import Line
from overture.engine.passes import kept_input
from overture.evaluate.host import Host
from overture.evaluate.inquiry import Item
from overture.server.job import Job, inputs_of

Lane = deque[tuple[Job, int]]


@dataclass(slots=True)
class _Waiting:
    """A text that is read, and the questions that wait for it."""

    reading: PiecewiseReading
    finish: Callable[[PiecewiseReading], None]
    questions: list[tuple[Job, int, Lane]] = field(default_factory=list)


class Ahead:
    """Reads texts before their questions are asked.

    Args:
        host: the model and the kept texts.
    """

    def __init__(self, host: Host) -> None:
        self.host = host
        self._heads = KeptHeads()
        self._waiting: OrderedDict[Hashable, _Waiting] = OrderedDict()

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def next_ids(self) -> list[str]:
        """The requests whose text is read next."""
        return [job.request.id for job, _, _ in next(iter(self._waiting.values())).questions]

    def takes(self, job: Job, index: int, most: int, lane: Lane) -> bool:
        """Have a question wait until its text is read ahead, if the part that is not kept is long; whether it waits.

        Args:
            job: the request.
            index: of the question.
            most: a part of at most so many tokens is not read ahead.
            lane: the lane that gets the question when its text is read.
        """
        item = job.inquiry.items[index]
        if isinstance(item.question, TokenShares | Features) or item.handle.adapted.encoder:
            return False
        prompt, inputs = item.handle.prompt, inputs_of(item, self.host)
        text = None if isinstance(prompt, RowMethod) else kept_input(item.row, prompt, inputs)
        if text is not None and inputs.cache is not None:
            cache = inputs.cache
            if len(text) <= most or cache.get(text) is not None or not all(isinstance(token, int) for token in text):
                return False
            key: Hashable = ("text", item.tenant, text)
            first = -len(text) if inputs.backbone.family.is_rotary else 0
            if key not in self._waiting:
                reading = PiecewiseReading(inputs.reader, text, first)
                self._waiting[key] = _Waiting(reading, lambda reading: cache.put(text, reading.entry))
            job.is_read_ahead = True
            self._waiting[key].questions.append((job, index, lane))
            return True
        return self._takes_head(job, index, most, lane)

    def _takes_head(self, job: Job, index: int, most: int, lane: Lane) -> bool:
        item = job.inquiry.items[index]
        prompt, backbone = item.handle.prompt, item.handle.adapted
        if not can_have_head(prompt, backbone, item.row):
            return False
        memory = prompt.memory.memory if prompt and prompt.memory else None
        num_prompt = memory.length if memory else 0
        kept_head = None
        texts = self.host.answerer_of(item).cache
        if _is_talk(job, item) and texts is not None and (memory is None or memory.weights is None):
            kept_head = self._heads.longest(texts, _scope(item), item.row.input_ids, num_prompt)
        if kept_head:
            job.inquiry.items[index] = item._replace(head=kept_head)
            job.usage = job.usage.model_copy(update={"cached_tokens": job.usage.cached_tokens + kept_head.num})
        num = kept_head.num if kept_head else 0
        if item.row.num_input - num <= most:
            return False
        reading = PiecewiseReading(
            backbone, item.row.input_ids[num:], num_prompt + num, kept_head.memory if kept_head else memory
        )

        def finish(reading: PiecewiseReading) -> None:
            head = Head(reading.memory, item.row.num_input)
            job.inquiry.items[index] = item._replace(head=head)

        job.is_read_ahead = True
        self._waiting[job.request.id, index] = _Waiting(reading, finish, [(job, index, lane)])
        return True

    def go_on(self, num: int) -> None:
        """Read a piece of the next text; when a text is complete, its questions go to their lanes."""
        key, waiting = next(iter(self._waiting.items()))
        waiting.reading.go_on(num)
        self._waiting.move_to_end(key)
        if waiting.reading.is_done:
            del self._waiting[key]
            waiting.finish(waiting.reading)
            for job, index, lane in waiting.questions:
                lane.append((job, index))

    def keep(self, job: Job, item: Item, line: Line) -> None:
        """Keep a conversation with its answer, for its next turn."""
        texts = self.host.answerer_of(item).cache
        if line.memory is None or texts is None:
            return
        prompt = item.handle.prompt
        num_prompt = prompt.length if isinstance(prompt, Injection) else 0
        # The last token has no columns, unless an end token came behind it.
        ids = [*item.row.input_ids, *item.row.anchor_ids, *line.ids][: line.memory.length - num_prompt]
        self._heads.put(texts, _scope(item), ids, line.memory)

    def forget(self, request_id: str) -> None:
        """Drop the questions of a request, and texts that no other question needs."""
        for key, waiting in list(self._waiting.items()):
            waiting.questions = [question for question in waiting.questions if question[0].request.id != request_id]
            if not waiting.questions:
                del self._waiting[key]


def is_kept(job: Job, item: Item) -> bool:
    """Whether the columns of an answer are worth keeping: its conversation may go on."""
    return _is_talk(job, item) and can_have_head(item.handle.prompt, item.handle.adapted, item.row)


def _is_talk(job: Job, item: Item) -> bool:
    return "messages" in job.request.row and isinstance(item.question, Answers)


def _scope(item: Item) -> tuple[Hashable, ...]:
    manifest = item.handle.manifest
    return item.tenant, "" if item.handle.prompt is None else manifest.tensors_sha256, manifest.place
