"""Works on the gateway's requests step by step, so that new ones join between two tokens; `server.process` runs it.

Its own laws are the host's: a request is split into questions and joined again by an `Inquiry`; labels are asked in one
pass, answers are written in slots. It can die at any time: what it knows, the gateway and the store know too.
"""

import contextlib
import logging
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from overture.core.contracts import Answers, Question, RowMethod
from overture.core.decoding import GREEDY, Decoding
from overture.core.errors import DataError, OvertureError, UnknownPrompt
from overture.core.injection import Injection
from overture.core.records.serving import (
    AnswersEvent,
    Command,
    DoneEvent,
    EngineStats,
    ErrorEvent,
    Event,
    Outcome,
    Report,
    Request,
    TokenEvent,
    TokenShare,
    Usage,
    WorkerOptions,
    WrittenToken,
)
from overture.data.task import Task
from overture.engine.answerer import LocalAnswerer
from overture.engine.backbone import Backbone
from overture.engine.cache import default_budget_bytes
from overture.engine.generate import answer_of, is_stopped, stable_text
from overture.engine.inputs import Inputs
from overture.engine.lines import Line, chance_of
from overture.engine.passes import kept_input
from overture.engine.slots import Slots
from overture.evaluate.doubt import Certainty
from overture.evaluate.facts import backbone_ref
from overture.evaluate.host import Ask, Handle, Host
from overture.evaluate.inquiry import Inquiry, Item
from overture.prompt.pack import prompt_tensors
from overture.store.names import is_path

_log = logging.getLogger(__name__)
_MOST_TOKENS = 4096
"""Padded tokens of a pass while nobody's answer is being written."""
_MEASURED_TOKENS = 32
"""Fewer tokens say little about the speed of reading."""


@dataclass(eq=False, slots=True)
class _Job:
    """A request on its way."""

    request: Request
    inquiry: Inquiry
    usage: Usage
    certainties: Sequence[Certainty | None] = ()
    answers: dict[int, Any] = field(default_factory=dict)
    shown: str = ""
    num_told: int = 0
    num_written: int = 0
    is_cut: bool = False

    @property
    def is_streamed(self) -> bool:
        handle = self.inquiry.encoded[0].handle
        return self.request.want == "write" and handle.task.spec.is_shown_as_written and len(self.inquiry.items) == 1


class Worker:
    """Works on requests; `step` is one iteration.

    Args:
        host: the model and the store.
        options: limits.
        tokens_per_s: tokens that the model reads in a second.
    """

    def __init__(self, host: Host, options: WorkerOptions, tokens_per_s: float) -> None:
        self.host, self.options, self.tokens_per_s = host, options, tokens_per_s
        self.events: list[Event] = []
        self.outcomes: list[Outcome] = []
        self._slot_bytes = default_budget_bytes() if options.slot_bytes is None else options.slot_bytes
        self._backbone_facts = backbone_ref(host.backbone).model_dump(mode="json")
        self._handles: OrderedDict[tuple[str, bool], Handle] = OrderedDict()
        self._prompt_bytes = 0
        self._jobs: dict[str, _Job] = {}
        self._labels: deque[tuple[_Job, int]] = deque()
        self._writers: deque[tuple[_Job, int]] = deque()
        self._lines: dict[Line, tuple[_Job, int]] = {}
        self._slots: dict[Backbone, Slots] = {}

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to do until the next command."""
        return not (self._labels or self._writers or self._lines)

    def report(self) -> Report:
        """The events since the last report."""
        slots = self._slots.values()
        stats = EngineStats(
            backbone=self._backbone_facts,
            running=len(self._jobs),
            tokens_per_s=self.tokens_per_s,
            slots=sum(map(len, slots)),
            slot_bytes=sum(some.num_bytes for some in slots),
            text_bytes=self.host.text_bytes,
            prompts=len(self._handles),
        )
        report = Report(events=tuple(self.events), outcomes=tuple(self.outcomes), stats=stats)
        self.events, self.outcomes = [], []
        return report

    # -- commands

    def do(self, command: Command) -> None:
        """Take a command; what comes of it is in the next report."""
        if command.do == "ask":
            assert command.request is not None
            with self._failing([command.id]):
                self._begin(command.request)
            return
        if command.do == "cancel":
            self._forget(command.id)
            return
        outcome = Outcome(id=command.id)
        try:
            if command.do == "load":
                self._handle(command.text)
            elif command.do == "unload":
                for key in [key for key in self._handles if key[0] == command.text]:
                    self._close(key)
            else:
                tokens = self.host.backbone.text.tokenizer.encode_plain(command.text)
                outcome = Outcome(id=command.id, tokens=tuple(tokens))
        except Exception as error:
            outcome = Outcome(id=command.id, error=_event_of(error, command.id))
        self.outcomes.append(outcome)

    def _handle(self, prompt: str, is_calibrated: bool = False, is_chat: bool = False) -> Handle:
        key = (prompt or ("messages" if is_chat else "text"), is_calibrated)
        if key not in self._handles:
            handle = self._opened(prompt) if prompt else self.host.bare(_bare_task(is_chat))
            self._handles[key] = handle.calibrated() if is_calibrated else handle
            self._prompt_bytes += _size_of(handle)
            while self._prompt_bytes > self.options.prompt_bytes and len(self._handles) > 1:
                self._close(next(iter(self._handles)))
        self._handles.move_to_end(key)
        return self._handles[key]

    def _opened(self, prompt: str) -> Handle:
        store = self.host.store
        # A name may come from a stranger: where there is a store, nothing else than a prompt of it is opened.
        if store and is_path(prompt):
            raise UnknownPrompt("no such prompt", got=prompt)
        return self.host.open(store.get(prompt, named_only=True) if store else prompt)

    def _close(self, key: tuple[str, bool]) -> None:
        handle = self._handles.pop(key)
        self._prompt_bytes -= _size_of(handle)
        self.host.close(handle)

    def _begin(self, request: Request) -> None:
        if request.want == "write" and len(request.prompts) != 1:
            raise DataError("one prompt writes an answer", got=f"{len(request.prompts)} prompts")
        is_chat = "messages" in request.row
        handles = [self._handle(prompt, request.is_calibrated, is_chat) for prompt in request.prompts]
        certainties = [handle.certainty(request.coverage, request.abstain) for handle in handles]
        asks = [Ask(handle, _fields(handle, request), source="row") for handle in handles]

        def changed(question: Question[Any]) -> Question[Any]:
            return _as_wanted(question, request)

        inquiry = Inquiry(self.host.encoded(asks), request.tenant, changed)
        job = _Job(request, inquiry, self._usage(inquiry.items), certainties)
        self._jobs[request.id] = job
        for index, item in enumerate(inquiry.items):
            # A search over beams and an encoder-decoder's answer are written as a whole.
            is_written = isinstance(item.question, Answers) and item.question.decoding.beams == 1
            lane = self._writers if is_written and not item.handle.adapted.encoder else self._labels
            lane.append((job, index))
        if not inquiry.items:
            self._end(job)

    def _usage(self, items: Sequence[Item]) -> Usage:
        num_cached = num_shared = 0
        texts: set[tuple[object, ...]] = set()
        for item in items:
            if isinstance(item.handle.prompt, RowMethod):
                continue
            inputs = self._inputs_of(item)
            text = kept_input(item.row, item.handle.prompt, inputs)
            if text is None:
                continue
            if text in texts:
                num_shared += len(text)
            elif inputs.cache is not None and inputs.cache.get(text) is not None:
                num_cached += len(text)
            texts.add(text)
        num_input = sum(item.row.num_text for item in items)
        return Usage(input_tokens=num_input, cached_tokens=num_cached, shared_tokens=num_shared)

    def _inputs_of(self, item: Item) -> Inputs:
        """Kept texts, but where a text would run apart for it alone: without a prompt, with an answer behind it."""
        if item.handle.prompt is None and isinstance(item.question, Answers):
            return LocalAnswerer(item.handle.adapted).inputs
        return self.host.answerer_of(item).inputs

    # -- steps

    def step(self) -> None:
        """Answer some labels, begin some answers, and write a token of each that is begun."""
        started = time.perf_counter()
        read = self._answer_labels() + self._begin_answers()
        usages = [job.usage for job, _ in read]
        num_tokens = sum(job.inquiry.items[index].row.num_tokens for job, index in read)
        if num_tokens >= _MEASURED_TOKENS and not any(use.cached_tokens or use.shared_tokens for use in usages):
            # The rate at start is that of a machine which others may have used.
            self.tokens_per_s += 0.2 * (num_tokens / (time.perf_counter() - started) - self.tokens_per_s)
        for slots in list(self._slots.values()):
            lines = [line for line in self._lines if line in slots]
            with self._failing([self._lines[line][0].request.id for line in lines]):
                slots.step()
            for line in lines:
                self._grow(line)
        self._slots = {backbone: slots for backbone, slots in self._slots.items() if len(slots)}

    def _taken(
        self, lane: deque[tuple[_Job, int]], fits: Callable[[_Job, int], bool] = lambda job, index: True
    ) -> list[tuple[_Job, int]]:
        """The next questions of a lane: as many as others' answers can wait for, and as fit."""
        budget = self.tokens_per_s * self.options.step_s if self._lines else _MOST_TOKENS
        taken: list[tuple[_Job, int]] = []
        num_tokens = 0
        while lane:
            job, index = lane[0]
            num_tokens += job.inquiry.items[index].row.num_tokens
            if (taken and num_tokens > budget) or not fits(job, index):
                break
            taken.append(lane.popleft())
        return taken

    def _answer_labels(self) -> list[tuple[_Job, int]]:
        taken = self._taken(self._labels)
        try:
            self._ask(taken)
        except Exception:
            # What is wrong with one request, or its prompt, is not wrong with those beside it.
            for job in dict.fromkeys(job for job, _ in taken):
                with self._failing([job.request.id]):
                    self._ask([part for part in taken if part[0] is job])
        return taken

    def _ask(self, taken: Sequence[tuple[_Job, int]]) -> None:
        answers = self.host.answer_items([job.inquiry.items[index] for job, index in taken])
        for number, (job, index) in enumerate(taken):
            self._answer(job, index, answers[number])

    def _begin_answers(self) -> list[tuple[_Job, int]]:
        num_lines, num_bytes = len(self._lines), sum(map(self._bytes_of, self._lines.values()))

        def fits(job: _Job, index: int) -> bool:
            nonlocal num_lines, num_bytes
            num_lines, num_bytes = num_lines + 1, num_bytes + self._bytes_of((job, index))
            # One alone is always begun: there is nothing to wait for.
            return num_lines == 1 or (num_lines <= self.options.slots and num_bytes <= self._slot_bytes)

        groups: dict[tuple[Backbone, str, int, bool], list[tuple[_Job, int, Injection | None]]] = {}
        taken = self._taken(self._writers, fits)
        for job, index in taken:
            item = job.inquiry.items[index]
            with self._failing([job.request.id]):
                (injection,) = item.handle.model().injections([item.row])
                layer = injection.layer if injection else 0
                key = (item.handle.adapted, item.tenant, layer, item.handle.prompt is None)
                groups.setdefault(key, []).append((job, index, injection))
        for (backbone, *_), members in groups.items():
            items = [job.inquiry.items[index] for job, index, _ in members]
            lines = [_line(item, job.request) for item, (job, _, _) in zip(items, members, strict=True)]
            injections = [injection for _, _, injection in members]
            self._lines |= {line: (job, index) for line, (job, index, _) in zip(lines, members, strict=True)}
            with self._failing([job.request.id for job, _, _ in members]):
                slots = self._slots.setdefault(backbone, Slots(backbone))
                room_bytes = self._slot_bytes - sum(other.num_bytes for other in self._slots.values())
                if room_bytes < sum(self._bytes_of((job, index)) for job, index, _ in members):
                    # What other models' answers have left free is needed.
                    for other in self._slots.values():
                        other.trim()
                    room_bytes = self._slot_bytes - sum(other.num_bytes for other in self._slots.values())
                slots.begin(self._inputs_of(items[0]), [item.row for item in items], injections, lines, room_bytes)
            for line in lines:
                self._grow(line)
        return taken

    def _bytes_of(self, question: tuple[_Job, int]) -> int:
        """Memory that an answer may take in its slot."""
        job, index = question
        item = job.inquiry.items[index]
        num_columns = item.row.num_text + item.handle.manifest.length + _most_written(item)
        return Slots.bytes_of(item.handle.adapted, num_columns)

    def _grow(self, line: Line) -> None:
        """A line has one token more; one whose request has failed by another part is gone."""
        if line not in self._lines:
            return
        job, index = self._lines[line]
        item = job.inquiry.items[index]
        backbone, question = item.handle.adapted, item.question
        assert isinstance(question, Answers)
        with self._failing([job.request.id]):
            if job.is_streamed:
                decode = backbone.text.tokenizer.decode
                if not line.is_done:
                    self._tell(job, line, stable_text(decode(line.ids), question.stop))
                else:
                    self._tell(job, line, answer_of(backbone, line, question.stop).text)
            if line.is_done:
                del self._lines[line]
                job.is_cut, job.num_written = line.is_cut, job.num_written + len(line.ids)
                self._answer(job, index, answer_of(backbone, line, question.stop))

    def _tell(self, job: _Job, line: Line, text: str) -> None:
        """An event of what is new in a line; texts that were told stay as they are."""
        decode = self.host.backbone.text.tokenizer.decode
        tokens = []
        for number in range(job.num_told, len(line.ids)):
            top = line.tops[number] if line.num_top else ()
            shares = tuple(TokenShare(id=token, text=decode([token]), logprob=value) for token, value in top)
            token = line.ids[number]
            tokens.append(WrittenToken(id=token, text=decode([token]), logprob=line.shares[number], top=shares))
        more = text[len(job.shown) :] if text.startswith(job.shown) else ""
        if more or tokens:
            self.events.append(TokenEvent(id=job.request.id, text=more, tokens=tuple(tokens)))
        job.shown, job.num_told = job.shown + more, len(line.ids)

    def _answer(self, job: _Job, index: int, answer: Any) -> None:
        job.answers[index] = answer
        if len(job.answers) == len(job.inquiry.items) and job.request.id in self._jobs:
            with self._failing([job.request.id]):
                self._end(job)

    def _end(self, job: _Job) -> None:
        """All questions are answered."""
        predictions = [reply.result() for reply in job.inquiry.replies(job.answers)]
        predictions = [
            certainty.applied(prediction) if certainty else prediction
            for certainty, prediction in zip(job.certainties, predictions, strict=True)
        ]
        request, usage = job.request, job.usage.model_copy(update={"output_tokens": job.num_written})
        if request.want == "answer":
            tasks = [ask.handle.task for ask in job.inquiry.encoded]
            shown = [task.spec.shown(task, said) for task, said in zip(tasks, predictions, strict=True)]
            self.events.append(AnswersEvent(id=request.id, answers=dict(zip(request.prompts, shown, strict=True))))
        elif not job.is_streamed:
            self.events.append(TokenEvent(id=request.id, text=predictions[0].text))
        self.events.append(DoneEvent(id=request.id, finish="length" if job.is_cut else "stop", usage=usage))
        self._jobs.pop(request.id, None)

    # -- what goes wrong

    @contextlib.contextmanager
    def _failing(self, ids: Sequence[str]) -> Iterator[None]:
        """An error becomes an event of each of the requests that it concerns."""
        try:
            yield
        except Exception as error:
            for request_id in dict.fromkeys(ids):
                self._forget(request_id)
                self.events.append(_event_of(error, request_id))

    def _forget(self, request_id: str) -> None:
        self._jobs.pop(request_id, None)
        for lane in (self._labels, self._writers):
            for waiting in [waiting for waiting in lane if waiting[0].request.id == request_id]:
                lane.remove(waiting)
        for line in [line for line, (job, _) in self._lines.items() if job.request.id == request_id]:
            del self._lines[line]
            for slots in self._slots.values():
                slots.drop(line)


def _bare_task(is_chat: bool) -> Task:
    """What the model alone is asked: to go on with a text, or to reply."""
    shape = {"kind": "chat", "template": "{messages}"} if is_chat else {"template": "{text}", "answer_field": "answer"}
    return Task.model_validate({"name": "base", "data": {"path": "rows.jsonl"}, "stop": [], **shape})


def _fields(handle: Handle, request: Request) -> Any:
    """The row as the prompt's template wants it: a text or a single message fits a template of one field.

    Raises:
        DataError: a conversation for a prompt that reads one text.
    """
    row, columns = request.row, handle.task.columns
    if len(columns) != 1 or columns[0] in row:
        return row
    if set(row) == {"text"}:
        return {columns[0]: row["text"]}
    messages = row.get("messages")
    if set(row) == {"messages"} and isinstance(messages, list):
        if len(messages) == 1 and isinstance(messages[0], dict) and messages[0].get("role") == "user":
            return {columns[0]: messages[0].get("content")}
        raise DataError(
            "this prompt reads one text, not a conversation",
            where=handle.manifest.ref,
            got=f"{len(messages)} messages",
            wanted="one message of the user",
            fix="send its text alone, or use a prompt of kind chat",
        )
    return row


def _as_wanted(question: Question[Any], request: Request) -> Question[Any]:
    """A task's question with what the request wants otherwise."""
    if not isinstance(question, Answers):
        return question
    decoding = question.decoding
    if request.temperature is not None:
        is_drawn = request.temperature > 0
        drawn = {"temperature": request.temperature, "top_p": request.top_p, "seed": request.seed}
        decoding = Decoding(**drawn) if is_drawn else GREEDY
    most = request.max_new_tokens or question.max_new_tokens
    return replace(question, max_new_tokens=most, stop=(*question.stop, *request.stop), decoding=decoding)


def _line(item: Item, request: Request) -> Line:
    question, backbone = item.question, item.handle.adapted
    assert isinstance(question, Answers)
    return Line(
        item.row,
        backbone.info.eos_id,
        _most_written(item),
        lambda ids: is_stopped(backbone, ids, question.stop),
        chance_of(item.row, question.decoding),
        request.top_logprobs or 0,
    )


def _most_written(item: Item) -> int:
    """Tokens of an answer: as many as are asked for and as the model can hold behind the row."""
    room = item.handle.adapted.info.max_length - item.row.num_text - item.handle.manifest.length
    assert isinstance(item.question, Answers)
    return max(1, min(item.question.max_new_tokens, room))


def _size_of(handle: Handle) -> int:
    """Memory of an open prompt: its values, its adapter's, and its manifest, which holds a prompt's words."""
    prompt = handle.prompt
    values = {} if prompt is None else prompt.tensors() if isinstance(prompt, Injection) else prompt_tensors(prompt)
    of_tensors = sum(tensor.nbytes for tensor in (*values.values(), *handle.adapted.inner.values()))
    return of_tensors + len(handle.manifest.model_dump_json())


def _event_of(error: Exception, request_id: str) -> ErrorEvent:
    if isinstance(error, OvertureError):
        return ErrorEvent(id=request_id, error=type(error).__name__, message=str(error), status=error.http_status)
    _log.error("request %s failed", request_id, exc_info=error)
    if isinstance(error, OSError):
        message = f"the store cannot be read: {error.strerror}"
        return ErrorEvent(id=request_id, error="Unavailable", message=message, status=503, retry_after_s=5.0)
    # What a bug says may hold a caller's text or a path.
    message = f"the server failed; its log has the reason under request {request_id}"
    return ErrorEvent(id=request_id, error="OvertureError", message=message, status=500)
