"""Works on the gateway's requests step by step, so that new ones join between two tokens; `server.process` runs it.

Its own laws are the host's: a request is split into questions and joined again by an `Inquiry`; labels are asked in one
pass, answers are written in slots. It can die at any time: what it knows, the gateway and the store know too.
"""

import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from overture.core.contracts import Answers, TokenShares
from overture.core.decoding import GREEDY
from overture.core.errors import NotReady, OvertureError
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
    WorkerOptions,
    WrittenToken,
)
from overture.core.rows import ScoredToken, Written
from overture.engine.backbone import Backbone
from overture.engine.cache import default_budget_bytes
from overture.engine.generate import answer_of, stable_text
from overture.engine.lines import Line
from overture.engine.slots import Slots
from overture.evaluate.facts import backbone_ref
from overture.evaluate.host import Host
from overture.server.ahead import Ahead, is_kept
from overture.server.job import Job, inputs_of, job_of, line_of, most_written
from overture.server.open_prompts import OpenPrompts

if TYPE_CHECKING:
    from overture.server.remote import Piece, Remote

_log = logging.getLogger(__name__)
_MOST_TOKENS = 4096
"""Padded tokens of a pass while nobody's answer is being written."""
_LEAST_PIECE, _MOST_PIECE = 64, 512
"""Tokens of a piece of a long text: shorter texts are read as a whole; while nobody else waits pieces are long."""
_MEASURED_TOKENS = 32
"""Fewer tokens say little about the speed of reading."""


class Worker:
    """Works on requests; `step` is one iteration.

    Args:
        host: the model and the store.
        options: limits.
        tokens_per_s: tokens that the model reads in a second.
        remote: a vLLM server with the same model, which answers what it can.
    """

    def __init__(
        self,
        host: Host,
        options: WorkerOptions,
        tokens_per_s: float,
        remote: "Remote | None" = None,
    ) -> None:
        self.host, self.options, self.tokens_per_s = host, options, tokens_per_s
        self.events: list[Event] = []
        self.outcomes: list[Outcome] = []
        self.begun: list[str] = []
        self._slot_bytes = default_budget_bytes() if options.slot_bytes is None else options.slot_bytes
        self._backbone_facts = backbone_ref(host.backbone).model_dump(mode="json")
        self.prompts = OpenPrompts(host, options.prompt_bytes, remote)
        self._jobs: dict[str, Job] = {}
        self._labels: deque[tuple[Job, int]] = deque()
        self._writers: deque[tuple[Job, int]] = deque()
        self._lines: dict[Line, tuple[Job, int]] = {}
        self._slots: dict[Backbone, Slots] = {}
        self._lanes = [self._begin_answers, self._answer_labels]
        self._writing_s = 0.0
        self._ahead = Ahead(host)
        self.remote = remote
        self._remote_lines: dict[tuple[str, int], Line] = {}

    @property
    def _step_tokens(self) -> float:
        """Tokens that a step may read: in its time, less the time of writing answers in progress."""
        return self.tokens_per_s * max(self.options.step_s - self._writing_s, self.options.step_s / 4)

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to do until the next command."""
        return not (self._labels or self._writers or self._lines or self._ahead)

    @property
    def has_news(self) -> bool:
        """Whether there is something to report."""
        return bool(self.events or self.outcomes or self.begun)

    def report(self) -> Report:
        """The events since the last report."""
        slots = self._slots.values()
        stats = EngineStats(
            backbone=self._backbone_facts,
            running=len(self._jobs),
            tokens_per_s=self.tokens_per_s,
            slots=sum(map(len, slots)),
            slot_bytes=sum(slot.num_bytes for slot in slots),
            text_bytes=self.host.text_bytes,
            prompts=len(self.prompts),
        )
        events, outcomes, begun_ids = tuple(self.events), tuple(self.outcomes), tuple(self.begun)
        report = Report(events=events, outcomes=outcomes, begun=begun_ids, stats=stats)
        self.events, self.outcomes, self.begun = [], [], []
        return report

    # -- commands

    def do(self, command: Command) -> None:
        """Carry out a command; its outcome is in the next report."""
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
                self.prompts.handle_of(command.text)
            elif command.do == "unload":
                self.prompts.close(command.text)
            else:
                tokens = self.host.backbone.text.tokenizer.encode_plain(command.text)
                outcome = Outcome(id=command.id, tokens=tuple(tokens))
        except Exception as error:
            outcome = Outcome(id=command.id, error=_event_of(error, command.id))
        self.outcomes.append(outcome)

    def _begin(self, request: Request) -> None:
        job = job_of(request, self.host, lambda prompt: self.prompts.handle_of(prompt, request))
        self._jobs[request.id] = job
        if request.is_echoed:
            # The text first: what it says of its last token may be all that is asked for.
            self._labels.append((job, len(job.inquiry.items) - 1))
            return
        for index in range(len(job.inquiry.items)):
            self._put(job, index)
        if not job.inquiry.items:
            self._end(job)

    def _put(self, job: Job, index: int) -> None:
        """Queue a question in its lane; a long text is read ahead first."""
        item = job.inquiry.items[index]
        if self.remote is not None and self.remote.takes(item):
            if isinstance(item.question, Answers):
                self._remote_lines[job.request.id, index] = line_of(item, job.request)
                self.begun.append(job.request.id)
            self.remote.ask(job.request, index, item)
            return
        # A search over beams and an encoder-decoder's answer are written as a whole.
        is_written = isinstance(item.question, Answers) and item.question.decoding.beams == 1
        lane = self._writers if is_written and not item.handle.adapted.encoder else self._labels
        if not self._ahead.takes(job, index, max(_LEAST_PIECE, int(self._step_tokens)), lane):
            lane.append((job, index))

    # -- what vLLM answers

    def hear(self) -> None:
        """Take the pieces that vLLM has sent."""
        for piece in self.remote.take_pieces() if self.remote is not None else ():
            if piece.request_id in self._jobs:
                with self._failing([piece.request_id]):
                    self._take(self._jobs[piece.request_id], piece)

    def _take(self, job: Job, piece: "Piece") -> None:
        assert self.remote is not None
        if piece.error is not None:
            raise piece.error
        if piece.scores is not None:
            self._answer(job, piece.index, piece.scores)
            return
        if (line := self._remote_lines.get((piece.request_id, piece.index))) is None:
            return
        for token in piece.tokens:
            if line.num_top and not line.is_done:
                line.tops.append(token.top)
            line.append(token.id, token.share)
        if piece.is_end and not line.is_done:
            raise NotReady("vLLM ended an answer before its end", got=f"{len(line.ids)} tokens")
        if line.is_done:
            del self._remote_lines[piece.request_id, piece.index]
            # Behind a stop text vLLM would go on.
            self.remote.cancel(piece.request_id, piece.index)
        self._grow(line, job, piece.index)

    # -- steps

    def step(self) -> None:
        """Run one step: answer some label questions, begin some answers, write one token of each answer in progress."""
        started = time.perf_counter()
        questions: list[tuple[Job, int]] = []
        # What is left of the time is the other lane's, so each is first in every second step.
        self._lanes.reverse()
        main_slots = self._slots.get(self.host.backbone)
        rider = main_slots.rider if main_slots is not None else None
        with self.host.backbone.stack.carrying(rider):
            for answer in self._lanes:
                questions += answer(sum(job.inquiry.items[index].row.num_tokens for job, index in questions))
            num_tokens = sum(job.inquiry.items[index].row.num_tokens for job, index in questions)
            is_all_new = not any(job.usage.cached_tokens or job.usage.shared_tokens for job, _ in questions)
            if num_tokens >= _MEASURED_TOKENS and is_all_new and not any(job.is_read_ahead for job, _ in questions):
                # The rate at start is that of a machine which others may have used.
                self.tokens_per_s += 0.2 * (num_tokens / (time.perf_counter() - started) - self.tokens_per_s)
            is_reading = num_tokens > 0 or len(self._ahead) > 0
            if self._ahead:
                others_wait = self._lines or self._labels or self._writers
                room = self._step_tokens - num_tokens if others_wait else _MOST_PIECE
                with self._failing(self._ahead.next_ids):
                    self._ahead.go_on(max(_LEAST_PIECE // 4, int(room)))
        started = time.perf_counter()
        for slots in list(self._slots.values()):
            lines = [line for line in self._lines if line in slots]
            with self._failing([self._lines[line][0].request.id for line in lines]):
                slots.step()
            for line in lines:
                self._grow_local(line)
        if is_reading:
            # Where passes that read carry what is written, no time of its own is left for it.
            self._writing_s += 0.2 * (time.perf_counter() - started - self._writing_s)
        self._slots = {backbone: slots for backbone, slots in self._slots.items() if len(slots)}

    def _next_questions(
        self,
        lane: deque[tuple[Job, int]],
        num_tokens: int,
        fits: Callable[[Job, int], bool] = lambda job, index: True,
    ) -> list[tuple[Job, int]]:
        """Take the next questions of a lane, within the tokens of a step and within `fits`.

        Args:
            lane: the questions.
            num_tokens: tokens that this step has read so far.
            fits: whether there is room for one more.
        """
        budget = self._step_tokens if self._lines else _MOST_TOKENS
        questions: list[tuple[Job, int]] = []
        while lane:
            job, index = lane[0]
            is_first = num_tokens == 0
            num_tokens += job.inquiry.items[index].row.num_tokens
            if (not is_first and num_tokens > budget) or not fits(job, index):
                break
            questions.append(lane.popleft())
        return questions

    def _answer_labels(self, num_tokens: int) -> list[tuple[Job, int]]:
        questions = self._next_questions(self._labels, num_tokens)
        try:
            self._ask(questions)
        except Exception:
            # What is wrong with one request, or its prompt, is not wrong with those beside it.
            for job in dict.fromkeys(job for job, _ in questions):
                with self._failing([job.request.id]):
                    self._ask([part for part in questions if part[0] is job])
        return questions

    def _ask(self, questions: Sequence[tuple[Job, int]]) -> None:
        answers = self.host.answer_items([job.inquiry.items[index] for job, index in questions])
        for number, (job, index) in enumerate(questions):
            self._answer(job, index, answers[number])

    def _begin_answers(self, num_tokens: int) -> list[tuple[Job, int]]:
        num_lines, num_bytes = len(self._lines), sum(map(self._bytes_of, self._lines.values()))

        def fits(job: Job, index: int) -> bool:
            nonlocal num_lines, num_bytes
            num_lines, num_bytes = num_lines + 1, num_bytes + self._bytes_of((job, index))
            # One alone is always begun: there is nothing to wait for.
            return num_lines == 1 or (num_lines <= self.options.slots and num_bytes <= self._slot_bytes)

        groups: dict[tuple[Backbone, str, int, int], list[tuple[Job, int, Injection | None]]] = {}
        questions = self._next_questions(self._writers, num_tokens, fits)
        for job, index in questions:
            item = job.inquiry.items[index]
            with self._failing([job.request.id]):
                (injection,) = item.injections()
                layer = injection.layer if injection else 0
                # Rows with long memories would be padded to the longest.
                alone = id(item) if item.head else item.handle.prompt is None
                key = (item.handle.adapted, item.tenant, layer, alone)
                groups.setdefault(key, []).append((job, index, injection))
        for (backbone, *_), members in groups.items():
            items = [job.inquiry.items[index] for job, index, _ in members]
            lines = [
                line_of(item, job.request, is_kept(job, item)) for item, (job, _, _) in zip(items, members, strict=True)
            ]
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
                slots.begin(
                    inputs_of(items[0], self.host), [item.live_row for item in items], injections, lines, room_bytes
                )
            self.begun += [job.request.id for job, _, _ in members]
            for line in lines:
                self._grow_local(line)
        return questions

    def _bytes_of(self, question: tuple[Job, int]) -> int:
        """Memory that an answer may take in its slot."""
        job, index = question
        item = job.inquiry.items[index]
        num_columns = item.row.num_text + item.handle.manifest.length + most_written(item)
        return Slots.bytes_of(item.handle.adapted, num_columns)

    def _grow_local(self, line: Line) -> None:
        """Report a line of this process after a step; lines of failed requests are gone."""
        if line in self._lines:
            job, index = self._lines.pop(line) if line.is_done else self._lines[line]
            self._grow(line, job, index)

    def _grow(self, line: Line, job: Job, index: int) -> None:
        """Report the new tokens of a line, and its answer when it is done."""
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
                self._ahead.keep(job, item, line)
                job.is_cut, job.num_written = line.is_cut, job.num_written + len(line.ids)
                self._answer(job, index, answer_of(backbone, line, question.stop))

    def _tell(self, job: Job, line: Line, text: str) -> None:
        """An event of what is new in a line; texts that were told stay as they are."""
        tokens = [
            self._written_token(line.ids[number], line.shares[number], line.tops[number] if line.num_top else ())
            for number in range(job.num_sent, len(line.ids))
        ]
        more = text[len(job.sent_text) :] if text.startswith(job.sent_text) else ""
        if more or tokens:
            self.events.append(TokenEvent(id=job.request.id, text=more, tokens=tuple(tokens)))
        job.sent_text, job.num_sent = job.sent_text + more, len(line.ids)

    def _written_token(self, token: int, share: float | None, top: Sequence[tuple[int, float]]) -> WrittenToken:
        """A token as events hold it."""
        decode = self.host.backbone.text.tokenizer.decode
        likeliest = tuple(TokenShare(id=other, text=decode([other]), logprob=value) for other, value in top)
        return WrittenToken(id=token, text=decode([token]), logprob=share, top=likeliest)

    def _answer(self, job: Job, index: int, answer: Any) -> None:
        job.answers[index] = answer
        if job.request.id not in self._jobs:
            return
        with self._failing([job.request.id]):
            if isinstance(job.inquiry.items[index].question, TokenShares):
                self._echo(job, answer)
            if len(job.answers) == len(job.inquiry.items):
                self._end(job)

    def _echo(self, job: Job, scored_tokens: Sequence[ScoredToken]) -> None:
        """Report an echoed text. The pass also predicts one token; if more are wanted, they are written."""
        request, item, tokens = job.request, job.inquiry.items[0], [*scored_tokens]
        decode, eos_id = item.handle.adapted.text.tokenizer.decode, item.handle.adapted.info.eos_id
        assert isinstance(item.question, Answers)
        following, most = tokens.pop(), item.question.max_new_tokens
        ids = [token.id for token in tokens[job.num_before :]]
        text = decode(ids) if request.ids else str(request.row["text"])
        is_known = most == 1 and item.question.decoding == GREEDY and request.json_schema is None
        if is_known:
            # The end token with it: clients count on one token behind the text.
            tokens.append(following)
            job.is_cut = following.id != eos_id
            text += decode([following.id]) if job.is_cut else ""
        written_tokens = tuple(
            self._written_token(token.id, token.share, token.top) for token in tokens[job.num_before :]
        )
        self.events.append(TokenEvent(id=request.id, text=text, tokens=written_tokens))
        if is_known or most == 0:
            job.answers[0] = Written("", (), 0.0)
            job.num_written, job.is_cut = int(is_known), job.is_cut or most == 0
        else:
            self._put(job, 0)

    def _end(self, job: Job) -> None:
        """End a request whose questions are all answered."""
        request, usage = job.request, job.usage.model_copy(update={"output_tokens": job.num_written})
        for problem in job.inquiry.problems.values():
            raise problem
        if request.want == "embed":
            self.events.append(
                AnswersEvent(
                    id=request.id, answers={request.prompts[0]: {"embedding": job.answers[0].float().tolist()}}
                )
            )
        else:
            predictions = [reply.result() for reply in job.inquiry.replies(job.answers)]
            for number, certainty in enumerate(job.certainties):
                predictions[number] = certainty.applied(predictions[number]) if certainty else predictions[number]
            if request.want == "answer":
                tasks = [ask.handle.task for ask in job.inquiry.encoded]
                answers = [
                    task.spec.shown(task, prediction) for task, prediction in zip(tasks, predictions, strict=True)
                ]
                by_prompt = dict(zip(request.prompts, answers, strict=True))
                self.events.append(AnswersEvent(id=request.id, answers=by_prompt))
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
        self._ahead.forget(request_id)
        if self.remote is not None:
            self.remote.cancel(request_id)
        self._remote_lines = {key: line for key, line in self._remote_lines.items() if key[0] != request_id}
        for line in [line for line, (job, _) in self._lines.items() if job.request.id == request_id]:
            del self._lines[line]
            for slots in self._slots.values():
                slots.drop(line)


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
