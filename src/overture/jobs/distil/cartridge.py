"""Distil a long text into a short memory by self-study: the model talks to itself about the text, then learns to say
the same without it.

    1. c: a piece of the text;  q: the model's question, given c and a seed instruction;  a: its answer, given c
    2. min over Z of  sum over (q, a)  sum over tokens i  KL(p(. | c, x_<i) || p(. | Z, x_<i)),   x = q a

Z is a memory (method `cartridge`) that begins at the keys and values of the text's first P tokens. The divergence is
over the whole vocabulary: the teacher's last hidden states are kept, and the frozen head makes its logits again.

Source: Eyuboglu et al. 2025, "Cartridges: Lightweight and general-purpose long context representations via self-study",
sections 3 and 4. Deviations: questions and answers are greedy, and variety comes from random pieces; one of the kinds
of conversation asks how a passage goes on and is answered by the text itself; the whole softmax, not the likeliest
tokens alone; several conversations share a piece, so that it runs through the model once.

Shape letters: P columns.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import torch
from torch import Tensor

from overture.core.contracts import Readout, Readouts
from overture.core.errors import ConfigError, DataError, Diverged
from overture.core.injection import Injection, Memory
from overture.core.records.distil import CartridgeResult, Conversations, Knowledge
from overture.core.records.events import Listener, ProgressEvent, as_notices, ignore
from overture.core.records.prompt import Lineage
from overture.core.rows import Answer, Encoded
from overture.core.seeds import named_random
from overture.data.batches import scoring_batches
from overture.data.encode import Encoder
from overture.data.row import Row
from overture.data.task import Task
from overture.engine.answerer import LocalAnswerer
from overture.engine.backbone import Backbone
from overture.engine.cache import InputCache
from overture.engine.distil import divergence
from overture.engine.load import load_backbone
from overture.engine.prompted import PromptedModel
from overture.engine.tokenizer import Tokenizer
from overture.evaluate.scoring import mean_loss
from overture.evaluate.source import prompt_source
from overture.jobs.distil.options import CartridgeConfig
from overture.jobs.run.keep import made_with, new_manifest
from overture.prompt.cartridge import Cartridge, build
from overture.prompt.config import PromptConfig
from overture.prompt.methods import METHODS, CartridgeOptions
from overture.prompt.module import Request
from overture.prompt.pack import prompt_tensors
from overture.store.manifest import Manifest
from overture.store.names import ref_of
from overture.store.store import Store
from overture.train.fit import Fit, FitResult, Validation

SEEDS = (
    "Ask one short question about a fact in the text above. Write only the question.",
    "Write one request for a short summary of a part of the text above. Name the part. Write only the request.",
    "Write one request for a list of facts from the text above. Say what the list is of. Write only the request.",
    "Think of somebody who needs the text above for their work. Write one question they would ask. Write only it.",
)
"""Instructions for the user's part of a conversation."""

CONTINUE = 'How does the text go on after "{}"?'
_PER_PIECE = 5
_LEAD_TOKENS = 16


@dataclass(frozen=True, slots=True)
class Frame:
    """How a conversation about a text is written: head, text, middle, question, tail, answer."""

    head: str
    middle: str
    tail: str
    space: str

    @property
    def template(self) -> str:
        """A task's template for questions that follow the text, or the memory that stands for it."""
        middle, tail = [part.replace("{", "{{").replace("}", "}}") for part in (self.middle, self.tail)]
        return f"{middle}{{question}}{tail}"


def frame_of(tokenizer: Tokenizer) -> Frame:
    """The chat template with the text as its system message; plain questions and answers where there is none."""
    text, question = "0TEXT0", "0QUESTION0"
    messages = [{"role": "system", "content": text}, {"role": "user", "content": question}]
    plain = Frame("", "\n\nQuestion: ", "\nAnswer:", " ")
    try:
        chat = tokenizer.chat(messages)
    except DataError:
        return plain
    if chat.count(text) != 1 or chat.count(question) != 1 or chat.index(text) > chat.index(question):
        return plain
    head, behind = chat.split(text)
    middle, tail = behind.split(question)
    return Frame(head, middle, tail, "") if middle.strip() else plain


def cartridge(
    text: str,
    store: Store,
    name: str,
    config: CartridgeConfig | None = None,
    *,
    backbone: Backbone | str = "smollm2",
    task: Task | None = None,
    origin: str = "text",
    listener: Listener = ignore,
    is_stop_asked: Callable[[], bool] = lambda: False,
) -> CartridgeResult:
    """Make a memory that stands for a text, and keep it as a prompt.

    Args:
        text: the text.
        store: where the prompt goes.
        name: of the prompt.
        config: how it is made.
        backbone: the model, or its name.
        task: the task that the prompt is for; questions in the model's own chat format when None.
        origin: name of the text in the prompt's lineage.
        listener: called with each event.
        is_stop_asked: looked at while the model talks and after each step; the best epoch so far is kept.

    Raises:
        DataError: the text is shorter than the memory.
        ConfigError: the memory leaves no room in the model's context for a question and its answer.
        BackboneError: the model cannot be loaded, or is no decoder.
        Diverged: the loss became NaN or infinite in the first epoch.
    """
    store.check_can_add(name)
    config = config or CartridgeConfig()
    if isinstance(backbone, str):
        backbone = load_backbone(backbone, notify=as_notices(listener))
    LocalAnswerer(backbone).capabilities.check_text_in_memory()
    study = _SelfStudy(text, backbone, name, config, listener, is_stop_asked)
    with backbone.checkpointing(config.train.gradient_checkpointing):
        return study.run(store, task, origin)


@dataclass(frozen=True, slots=True)
class Talk:
    """A conversation about a piece of the text, encoded in three ways.

    Args:
        request_row: question and answer, as the prompt will be used.
        student_row: the same tokens, all but the first predicted.
        teacher_row: the same with the piece in front.
    """

    request_row: Encoded
    student_row: Encoded
    teacher_row: Encoded


class _SelfStudy:
    """Self-study of one text.

    Args:
        text: the text.
        backbone: the model.
        name: of the prompt.
        config: how it is made.
        listener: told of every event.
        is_stop_asked: whether to stop.
    """

    def __init__(
        self,
        text: str,
        backbone: Backbone,
        name: str,
        config: CartridgeConfig,
        listener: Listener,
        is_stop_asked: Callable[[], bool],
    ) -> None:
        self.backbone, self.config, self.listener, self.is_stop_asked = backbone, config, listener, is_stop_asked
        self.frame, tokenizer = frame_of(backbone.text.tokenizer), backbone.text.tokenizer
        self.task = Task(
            name=name,
            backbone=backbone.info.id,
            data={"path": "questions.jsonl"},
            template=self.frame.template,
            answer_field="answer",
            max_new_tokens=config.answer_tokens,
        )
        self.encoder = Encoder(self.task, tokenizer)
        head = tuple(tokenizer.encode_template(self.frame.head)) if self.frame.head else ()
        bos = tokenizer.bos_ids
        self.head = head if head[: len(bos)] == bos else (*bos, *head)
        self.ids = tuple(tokenizer.encode_plain(text))
        if len(self.head) + len(self.ids) <= config.length:
            raise DataError(
                "the text is no longer than the memory that should stand for it",
                where="text",
                got=f"{len(self.ids)} tokens",
                wanted=f"more than {config.length}",
                fix="a smaller --length",
            )
        self._check_room(tokenizer)
        self.notices: list[str] = []

    def _check_room(self, tokenizer: Tokenizer) -> None:
        """Refuse a memory behind which the longest question and answer do not fit."""
        # The mark's own token is room for the one that ends the answer.
        frame = self.encoder.encode([self._row("?")], with_answer=False)[0].num_tokens
        question = max(self.config.question_tokens, len(tokenizer.encode_plain(CONTINUE)) + _LEAD_TOKENS)
        talk, context = frame + question + self.config.answer_tokens, self.backbone.info.max_length
        if self.config.length + talk > context:
            has_room = context - talk > self.config.frozen
            raise ConfigError(
                "the memory, a question and its answer do not fit the model's context",
                where="length",
                got=f"{self.config.length} columns and {talk} tokens",
                wanted=f"at most {context} together",
                fix=f"--length {context - talk}" if has_room else "lower question_tokens and answer_tokens",
            )

    def run(self, store: Store, task: Task | None, origin: str) -> CartridgeResult:
        """Talk, teach, train, measure, keep."""
        train_talks = self._talks("trained", self.config.conversations)
        held_out: list[Talk] = []
        if not self.is_stop_asked():
            held_out = self._unseen(self._talks("held out", self.config.held_out), train_talks)
        if self.is_stop_asked():
            return self._stopped_early()
        start = self._start()
        student = _Student(PromptedModel(self.backbone, start), self._readouts(train_talks))
        judge = _Student(PromptedModel(self.backbone, start), self._readouts(held_out))
        fit = self._fitted(student, train_talks, judge, held_out)
        if not fit.best and fit.status != "interrupted":
            raise Diverged("the loss became NaN or infinite in the first epoch", fix="--set train.lr=0.001")
        if not fit.best:
            return self._stopped_early()
        with torch.no_grad():
            start.trainable()["values"].copy_(fit.best["values"])
        ways = self._measured(start.injection(), held_out, judge.readouts)
        manifest = self._manifest(task or self.task, origin, fit, ways)
        folder = store.add(manifest, {key: value.cpu().contiguous() for key, value in prompt_tensors(start).items()})
        return CartridgeResult(
            status="interrupted" if fit.status == "interrupted" else "finished",
            prompt=str(ref_of(folder)),
            text_tokens=len(self.ids),
            length=self.config.length,
            folder=str(folder),
            trainable=manifest.trainable,
            conversations=Conversations(trained=len(train_talks), held_out=len(held_out)),
            ways=ways,
            history=fit.progress.history,
            seconds=fit.progress.seconds,
            notices=self.notices,
        )

    def _stopped_early(self) -> CartridgeResult:
        """The result of a run that was stopped before its first epoch."""
        facts = {"text_tokens": len(self.ids), "length": self.config.length, "notices": self.notices}
        return CartridgeResult(status="interrupted", prompt=None, **facts)

    def _progress(self, what: str, done: int, total: int) -> None:
        self.listener(ProgressEvent(what=what, done=done, total=total))

    # -- the model talks to itself

    def _talks(self, purpose: str, count: int) -> list[Talk]:
        """Conversations about random pieces of the text; fewer when a stop is asked for."""
        random = named_random(self.config.seed, "talks", purpose)
        talks: list[Talk] = []
        room = self.backbone.info.max_length - self.config.question_tokens - self.config.answer_tokens - 128
        longest = max(min(self.config.piece, room, len(self.ids)), 1)
        while len(talks) < count and not self.is_stop_asked():
            length = random.randint((longest + 1) // 2, longest)
            first = random.randint(0, len(self.ids) - length)
            piece = self.ids[first : first + length]
            talks += self._about(piece, min(_PER_PIECE, count - len(talks)), random)
            self._progress(f"talking about the text ({purpose})", len(talks), count)
        return talks

    def _unseen(self, held_out: list[Talk], train_talks: Sequence[Talk]) -> list[Talk]:
        """The held-out conversations that are not trained on as well.

        Raises:
            DataError: all of them are.
        """
        trained_answers = {talk.student_row.answer_ids for talk in train_talks}
        unseen = [talk for talk in held_out if talk.student_row.answer_ids not in trained_answers]
        if not unseen:
            raise DataError(
                "no held-out conversation differs from those that are trained on",
                where="text",
                got=f"{len(self.ids)} tokens of text",
                fix="a longer text, or a larger --held-out",
            )
        if len(unseen) < len(held_out):
            self.notices.append(f"{len(held_out) - len(unseen)} held-out conversations were trained on: left out")
        return unseen

    def _about(self, piece: tuple[int, ...], count: int, random: Random) -> list[Talk]:
        """Conversations about one piece, which runs through the model once."""
        model = PromptedModel(self.backbone, None, InputCache(1 << 30))
        kinds = random.sample([*SEEDS, CONTINUE], min(count, len(SEEDS) + 1))
        seeds = [kind for kind in kinds if kind != CONTINUE]
        questions = self._replies(model, piece, seeds, self.config.question_tokens)
        answers = self._replies(model, piece, questions, self.config.answer_tokens)
        pairs = list(zip(questions, answers, strict=True))
        if CONTINUE in kinds:
            pairs.append(self._continued(piece, random))
        return [self._talk(piece, *pair) for pair in pairs if all(part.strip() for part in pair)]

    def _replies(
        self, model: PromptedModel, piece: tuple[int, ...], messages: Sequence[str], max_tokens: int
    ) -> list[str]:
        """The model's replies to messages, with the piece in front."""
        if not messages:
            return []
        encoded = self.encoder.encode([self._row(message) for message in messages], with_answer=False, bos=False)
        rows = [self._behind(piece, row.input_ids + row.anchor_ids) for row in encoded]
        return [text.strip() for text in model.generate(rows, max_tokens, self.task.stop)]

    def _continued(self, piece: tuple[int, ...], random: Random) -> tuple[str, str]:
        """A question about how a passage of the piece goes on, answered in the text's own words."""
        decode, length = self.backbone.text.tokenizer.decode, self.config.answer_tokens
        first = random.randint(0, max(len(piece) - _LEAD_TOKENS - length, 0))
        lead, passage = piece[first : first + _LEAD_TOKENS], piece[first + _LEAD_TOKENS :][:length]
        return CONTINUE.format(decode(lead).strip()), decode(passage).strip()

    def _row(self, question: str, answer: str = "") -> Row:
        return Row({"question": question, "answer": self.frame.space + answer}, 1, "self-study")

    def _behind(self, piece: tuple[int, ...], ids: tuple[int, ...], answer: tuple[int, ...] | None = None) -> Encoded:
        return Encoded.of_ids(0, (*self.head, *piece), ids, Answer(answer))

    def _talk(self, piece: tuple[int, ...], question: str, answer: str) -> Talk:
        row = self._row(question, answer)
        request_row, without_bos = [self.encoder.encode([row], bos=bos)[0] for bos in (True, False)]
        first = len(self.backbone.text.tokenizer.bos_ids) + 1
        ids = (*request_row.input_ids, *request_row.anchor_ids, *(request_row.answer_ids or ()))
        tail = ids[first:]
        assert (*without_bos.input_ids, *without_bos.anchor_ids, *(without_bos.answer_ids or ()))[1:] == tail
        student_row = Encoded.of_ids(0, (), ids[:first], Answer(tail))
        return Talk(request_row, student_row, teacher_row=self._behind(piece, ids[first - 1 : first], tail))

    # -- and learns to say the same without the text

    def _start(self) -> Cartridge:
        ids = (*self.head, *self.ids)[: self.config.length]
        source = prompt_source(self.backbone, self.encoder)
        start = self.backbone.embed(list(ids)).float()
        memory = self.backbone.memory_of_tokens(ids)
        request = Request(
            CartridgeOptions(frozen=self.config.frozen), "memory", start, source, self.config.seed, memory
        )
        return build(request).to(self.backbone.device)

    @torch.no_grad()
    def _readouts(self, talks: Sequence[Talk]) -> list[Readout]:
        """The teacher's readout at each token; a piece runs once for all conversations about it."""
        model = PromptedModel(self.backbone, None, InputCache(notify=self.notices.append))
        readout_of: dict[int, Readout] = {}
        rows = [replace(talk.teacher_row, row=number) for number, talk in enumerate(talks)]
        for batch in scoring_batches(rows, 2 * self.config.train.max_tokens):
            readouts = model.ask(batch, Readouts())
            readout_of |= {row.row: readout.kept() for row, readout in zip(batch, readouts, strict=True)}
            self._progress("asking the teacher", len(readout_of), len(rows))
        return [readout_of[row.row] for row in rows]

    def _fitted(
        self, student: "_Student", train_talks: Sequence[Talk], judge: "_Student", held_out: Sequence[Talk]
    ) -> FitResult:
        rows, held_out_rows = [
            [replace(talk.student_row, row=number) for number, talk in enumerate(talks)]
            for talks in (train_talks, held_out)
        ]
        rate = self.config.train.lr or METHODS["cartridge"].learning_rate["memory"]
        train = self.config.train.model_copy(update={"lr": rate})

        def validated() -> Validation:
            loss = judge.mean(held_out_rows, train.max_tokens)
            return Validation(-loss, loss)

        return Fit(
            student,
            rows,
            validated,
            train,
            self.config.seed,
            events=self.listener,
            who="memory",
            is_stop_asked=self.is_stop_asked,
        ).run()

    # -- measuring

    @torch.no_grad()
    def _measured(
        self, cartridge: Injection, talks: Sequence[Talk], readouts: Sequence[Readout]
    ) -> dict[str, Knowledge]:
        """Measure each way to give the model the text, on held-out conversations."""
        whole = (*self.head, *self.ids)
        longest = max(talk.request_row.num_tokens for talk in talks)
        fits = len(whole) + longest <= self.backbone.info.max_length
        if not fits:
            self.notices.append(f"the whole text has {len(self.ids)} tokens: the model cannot read it at once")
        injections: dict[str, Injection | None] = {
            "no text": self._memory_of(self.head) if self.head else None,
            "beginning": self._memory_of(whole[: self.config.length]),
            "cartridge": cartridge,
            **({"whole text": self._memory_of(whole)} if fits else {}),
        }
        student_rows = [replace(talk.student_row, row=number) for number, talk in enumerate(talks)]
        request_rows = [replace(talk.request_row, row=number) for number, talk in enumerate(talks)]
        max_tokens = self.config.train.max_tokens
        ways: dict[str, Knowledge] = {}
        for way, injection in injections.items():
            model = PromptedModel(self.backbone, injection)
            memory = injection.memory.memory if injection and injection.memory else None
            tensors = (memory.keys, memory.values) if memory else ()
            ways[way] = Knowledge(
                perplexity=math.exp(min(mean_loss(model, request_rows, max_tokens), 700.0)),
                divergence=_Student(model, readouts).mean(student_rows, max_tokens),
                columns=injection.length if injection else 0,
                bytes=sum(tensor.numel() * tensor.element_size() for tensor in tensors),
            )
            self._progress("measuring", len(ways), len(injections))
        return ways

    def _memory_of(self, ids: tuple[int, ...]) -> Injection:
        return Injection(memory=Memory(self.backbone.memory_of_tokens(ids), "memory"))

    def _manifest(self, task: Task, origin: str, fit: FitResult, ways: dict[str, Knowledge]) -> Manifest:
        config = self.config
        prompt = PromptConfig(
            method="cartridge", place="memory", length=config.length, options={"frozen": config.frozen}
        )
        return new_manifest(
            self.task.name,
            self.backbone,
            task,
            method="cartridge",
            place="memory",
            length=config.length,
            options=made_with(prompt, cartridge=config.model_dump(mode="json")),
            lineage=Lineage(
                text=origin,
                text_tokens=len(self.ids),
                epoch=fit.progress.best_epoch,
                ways={way: knowledge.dump() for way, knowledge in ways.items()},
            ),
            trainable=sum(value.numel() for value in fit.best.values()),
            seconds=fit.progress.seconds,
        )


class _Student:
    """The model under a memory, compared with the model that has the text; meets `core.contracts.Trainee`.

    Args:
        model: the model under the memory.
        readouts: the teacher's readout of each row, by the row's number.
    """

    def __init__(self, model: PromptedModel, readouts: Sequence[Readout]) -> None:
        self.model, self.readouts = model, readouts

    def trainable(self) -> dict[str, Tensor]:
        """The memory's trained columns."""
        return self.model.trainable()

    def rates(self) -> dict[str, float]:
        """Factors on the learning rate, by name."""
        return self.model.rates()

    def weight(self, rows: Sequence[Encoded]) -> float:
        """Number of predicted tokens."""
        return self.model.weight(rows)

    def loss(self, rows: Sequence[Encoded]) -> Tensor:
        """Divergence from the model with the text, summed over the tokens."""
        teacher = [self.readouts[row.row] for row in rows]
        return divergence(self.model.backbone, teacher, self.model.ask(rows, Readouts())).sum()

    @torch.no_grad()
    def mean(self, rows: Sequence[Encoded], max_tokens: int) -> float:
        """Divergence a token."""
        return sum(float(self.loss(batch)) for batch in scoring_batches(rows, max_tokens)) / self.weight(rows)


def text_of(path: Path) -> str:
    """Read a text file.

    Raises:
        DataError: it cannot be read, or is no UTF-8 text.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError("the text cannot be read", where=str(path), got=str(error), wanted="a UTF-8 file") from error
