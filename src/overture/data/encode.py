"""Rows as tokens: the input, the anchor after it, and the label or answer."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from overture.core.contracts import TextTokenizer
from overture.core.errors import DataError, Problem
from overture.core.media import Media
from overture.core.rows import Answer, AtMarks, Encoded, OneOf, Reading, Signal, Target, segments_of, text_ids
from overture.data.fitting import shortened
from overture.data.kind import Example, Tools
from overture.data.row import Row
from overture.data.rows import content_of, row_problems, texts_of
from overture.data.task import Task
from overture.data.template import ChatTemplate, PlainTemplate, Slot, Template
from overture.data.tokens import Layout, RowTokens, Seen, Signals, layout_of, marks_of, tokens_of, values_of


@dataclass(slots=True)
class _Odd:
    """Places of rows, each once.

    Args:
        shortened: rows that were shortened.
        unsaid: rows whose answers cannot be said.
        long: rows whose answers are longer than what may be written.
        lost: rows whose answers stand in no part of them.
    """

    shortened: dict[str, None] = field(default_factory=dict)
    unsaid: dict[str, None] = field(default_factory=dict)
    long: dict[str, None] = field(default_factory=dict)
    lost: dict[str, None] = field(default_factory=dict)


class Encoder:
    """Turns a task's rows into tokens.

    Args:
        task: template, labels and limits.
        tokenizer: the backbone's.
        reserve: tokens to keep free for the prompt.
        behind: tokens of examples that stand in front of each row; they take room of the model's context, and none of
            what the task allows a row.
        follows: whether rows stand behind a text that holds what a sequence starts with, such as examples.
        class_weights: how much training rows of a label count; labels that a mapping leaves out have weight 1.

    Attributes:
        template: the task's template, as tokens need it.
        row_pieces: the template's pieces for one row.
        candidates: the label words, shared by all rows; None for free-text tasks.
        notices: what is odd about label words and the rows encoded so far, but no error; grows with the rows.
        num_shortened: how often a row was shortened.

    Raises:
        DataError: label words that cannot be told apart, a chat template that does not fit, or a template for
            another kind of model.
    """

    def __init__(
        self,
        task: Task,
        tokenizer: TextTokenizer,
        reserve: int = 0,
        behind: int = 0,
        follows: bool = False,
        class_weights: Literal["none", "balanced"] | Mapping[str, float] = "none",
    ) -> None:
        self.task, self.tokenizer, self.reserve, self.follows = task, tokenizer, reserve, follows
        self.class_weights = class_weights
        task.spec.check_model(task, tokenizer)
        self.candidates, self._label_notices = task.spec.candidates(task, tokenizer)
        self.notices, self.num_shortened, self._odd = list(self._label_notices), 0, _Odd()
        self.limit = min(task.max_length or tokenizer.max_length, tokenizer.max_length - behind)
        if isinstance(task.template, str):
            self.template: Template = PlainTemplate(task.template, tokenizer)
        else:
            messages = [(message.role, message.content) for message in task.template]
            self.template = ChatTemplate(messages, tokenizer)
        is_told = task.language is not None or task.translate
        self._start = tokenizer.speech_start(task.language or "en", task.translate) if is_told else ()
        self._other_layouts: dict[tuple[tuple[str, str], ...] | None, Layout] = {}
        self.row_pieces = self.template.row()
        self._row_layout = layout_of(self.row_pieces, tokenizer, task.media)

    @property
    def anchor(self) -> tuple[str, tuple[int, ...]]:
        """The template's constant end as text and as tokens; both empty where a field comes last."""
        end = max(i for i, piece in enumerate(self.row_pieces) if isinstance(piece, Slot)) + 1
        text = "".join(piece for piece in self.row_pieces[end:] if isinstance(piece, str))
        return text, text_ids(self._row_layout.anchor.ids)

    def encode(self, rows: Sequence[Row], with_answer: bool = True, bos: bool | None = None) -> list[Encoded]:
        """Rows as tokens, numbered from 0; a row of several parts gives one after the other.

        Args:
            rows: the rows.
            with_answer: whether labels or answers are needed; without, they are None.
            bos: whether rows start a sequence; unless the encoder's rows follow a text when None. False for rows that
                follow the tokens of `shots.shot_ids`, which hold what a sequence starts with: the first tokens and, for
                chats, the system message.

        Raises:
            DataError: every row that lacks a field, or does not fit the limit.
        """
        bos = not self.follows if bos is None else bos
        problems: list[Problem] = []
        encoded: list[Encoded] = []
        for number, row in enumerate(rows):
            row_faults = row_problems(self.task, row, with_answer)
            problems += row_faults
            if not row_faults:
                for part, item in enumerate(self._parts(row, with_answer, bos)):
                    if isinstance(item, Problem):
                        problems.append(item)
                    else:
                        encoded.append(replace(item, row=number, part=part))
        if problems:
            raise DataError("rows cannot be encoded", problems=problems)
        most = self.task.spec.max_written(self.task)
        long = [item for item in encoded if most is not None and item.target.num_tokens > most]
        self._odd.long |= {rows[item.row].where: None for item in long}
        if with_answer:
            no_target = sorted({item.row for item in encoded} - {item.row for item in encoded if item.target.is_known})
            self._odd.lost |= {rows[number].where: None for number in no_target}
        self.notices[:] = self._notices()
        return encoded

    def _notices(self) -> list[str]:
        odd, notices = self._odd, list(self._label_notices)
        if odd.shortened:
            first = next(iter(odd.shortened))
            count = f"{len(odd.shortened)} row{'s were' if len(odd.shortened) > 1 else ' was'}"
            notices.append(f"{count} shortened to fit {self.limit} tokens, first {first}")
        if odd.unsaid:
            notices.append(
                f"the answers of {len(odd.unsaid)} rows begin or end within a word, overlap, or are longer than may "
                f"be written: they cannot be given exactly, first {next(iter(odd.unsaid))}"
            )
        if odd.long:
            notices.append(
                f"{len(odd.long)} answers are longer than the {self.task.spec.max_written(self.task)} tokens that may "
                "be written (max_new_tokens, or options.max_answer_tokens), and cannot be written whole, first "
                f"{next(iter(odd.long))}"
            )
        if odd.lost:
            notices.append(
                f"the answers of {len(odd.lost)} rows stand in no part of them that fits {self.limit} tokens: nothing "
                f"is learnt from these rows, and none of them can be answered right, first {next(iter(odd.lost))}"
            )
        return notices

    def encode_split(self, split: str, rows: Sequence[Row]) -> list[Encoded]:
        """A split's rows as tokens; of training rows the parts that something can be learnt from, with their weights.

        Args:
            split: "train", or another.
            rows: the rows.

        Raises:
            DataError: as `encode`.
        """
        encoded = self.encode(rows)
        if split != "train":
            return encoded
        encoded = [item for item in encoded if item.target.is_known]
        return encoded if self.class_weights == "none" else self._weighted(encoded)

    def _weighted(self, encoded: list[Encoded]) -> list[Encoded]:
        """Rows with the weights of their labels; balanced ones are those of scikit-learn, 1 on average."""
        labels = list(self.task.words)
        counts = Counter(item.label for item in encoded)
        weights = {
            label: len(encoded) / (len(counts) * count)
            if isinstance(self.class_weights, str)
            else self.class_weights.get(labels[label], 1.0)
            for label, count in counts.items()
            if label is not None
        }
        targets = [item.target for item in encoded]
        return [
            replace(item, target=replace(target, factor=weights[target.label]))
            if isinstance(target, OneOf) and target.label is not None
            else item
            for item, target in zip(encoded, targets, strict=True)
        ]

    def encode_fields(self, fields: Sequence[Mapping[str, Any]]) -> list[Encoded]:
        """Rows for prediction, from their fields alone; errors name them ``input:1``, ``input:2``...

        Raises:
            DataError: as `encode`.
        """
        return self.encode([Row(dict(row), i, "input") for i, row in enumerate(fields, 1)], with_answer=False)

    def fitting(self, texts: Mapping[str, str]) -> Mapping[str, str]:
        """A row's texts as they are, or shortened if the task says so and they are too long."""

        def build(cut: Mapping[str, str]) -> Encoded:
            return self._built(Example(cut), True, {})

        if self.task.too_long != "trim":
            return texts
        whole = build(texts)
        fitting = shortened(texts, build, self._over, whole) if self._over(whole) > 0 else None
        return fitting[0] if fitting else texts

    def _parts(self, row: Row, with_answer: bool, bos: bool) -> list[Encoded | Problem]:
        """The parts of a row, one or several."""
        try:
            content = content_of(self.task, row) if self.task.media else {}
            signals: Signals = {
                name: self.tokenizer.segments(media) for name, media in content.items() if isinstance(media, Media)
            }
        except DataError as error:
            return [Problem(error.where or row.where, error.what, error.fix)]
        tools = Tools(self.tokenizer, self.candidates, lambda example: self._over(self._built(example, bos, signals)))
        examples = self.task.spec.examples(self.task, row, texts_of(self.task, row), tools, with_answer)
        return [self._encoded(row, example, bos, signals) for example in examples]

    def _encoded(self, row: Row, example: Example, bos: bool, signals: Signals) -> Encoded | Problem:
        item = self._built(example, bos, signals)
        if item.answer_ids is not None and not item.answer_ids:
            return Problem(row.where, "the answer has no tokens")
        if not item.num_text:
            return Problem(row.where, "the row has no tokens")
        if not example.can_say:
            self._odd.unsaid[row.where] = None
        if self._over(item) <= 0:
            return item

        def build(texts: Mapping[str, str]) -> Encoded:
            return self._built(example.cut(texts) if example.cut else replace(example, texts=texts), bos, signals)

        fitting = shortened(example.texts, build, self._over, item) if self.task.too_long == "trim" else None
        if fitting is None:
            return self._too_long(row, item)
        self._odd.shortened[row.where] = None
        self.num_shortened += 1
        return fitting[1]

    def _built(self, example: Example, bos: bool, signals: Signals) -> Encoded:
        """An example as tokens, whether it fits or not."""
        num_input, tokens = self._tokens(example, bos, signals)
        ids, read_at = tuple(tokens.ids), self._read(tokens)
        blanks = [replace(example, texts=texts, blanks=(), label=None) for texts in example.blanks]
        candidates = example.candidates or self.candidates
        target: Target
        if example.answer_ids is not None or candidates is None:
            target = Answer(example.answer_ids, example.allowed)
        elif example.pick:
            target = AtMarks(candidates, marks_of(example.pick, tokens))
        else:
            is_mask = read_at is not None and read_at == tokens.mask
            target = OneOf(candidates, example.label, example.shares, read_at, is_mask)
        return Encoded(
            0,
            segments_of(ids[:num_input]),
            segments_of(ids[num_input:]),
            target,
            slots=tuple(tokens.gaps),
            source=example.source,
            blanks=tuple(self._built(blank, bos, signals) for blank in blanks),
            texts=tuple(tokens.texts),
            start=self._start,
        )

    def _reserved(self, item: Encoded) -> int:
        """Tokens to keep free behind the row: the prompt's, and those of the longest label word or generated answer."""
        if self.task.spec.writes and not self.tokenizer.is_encoder:
            return self.reserve + max(0, self.task.max_new_tokens - item.target.num_tokens)
        # An encoder's word stands at its mask.
        words = () if self.tokenizer.is_encoder or not isinstance(item.target, OneOf) else item.target.candidates.words
        return self.reserve + max(map(len, words), default=0)

    def _needed(self, item: Encoded) -> tuple[int, int]:
        """Tokens of a row, and those to keep free beside them."""
        if not self.tokenizer.start_ids:
            return item.num_tokens, self._reserved(item)
        # The text is the encoder's, what is written is the decoder's, and each has the whole context for itself.
        answer = item.target.num_tokens
        num_written = len(self.tokenizer.start_ids) + self._reserved(item) - self.reserve + answer
        if any(isinstance(segment, Signal) for segment in item.input):
            # A sound has the encoder for itself, and its frontend knows how long it may be; words are the decoder's.
            return item.num_text - item.num_input + num_written, self.reserve
        return max((item.num_tokens - answer, self.reserve), (num_written, self.reserve))

    def _over(self, item: Encoded) -> int:
        return sum(self._needed(item)) - self.limit

    def _too_long(self, row: Row, item: Encoded) -> Problem:
        num_needed, num_reserved = self._needed(item)
        overflow = f"{num_needed} tokens + {num_reserved} reserved > {self.limit}"
        if self.task.too_long == "trim":
            most = self.task.max_new_tokens
            if self.task.spec.writes and 2 * most > self.limit:
                fix = f"answers have room for {most} tokens: lower max_new_tokens"
            else:
                fix = "shorten the template or the prompt"
            return Problem(row.where, f"too long: {overflow}", f"even without its text; {fix}")
        fix = "shorten it, or set too_long: trim"
        if self.task.spec.writes and num_reserved > self.reserve:
            fix += f"; answers have room for {self.task.max_new_tokens} tokens (max_new_tokens)"
        return Problem(row.where, f"too long: {overflow}", fix)

    def _tokens(self, example: Example, bos: bool, signals: Signals) -> tuple[int, RowTokens]:
        """The example's tokens, and how many of them are the input."""
        layout = self._layout_of(example, bos)
        start = RowTokens(list(self.tokenizer.bos_ids if bos else ()))
        pick_field = example.pick.field if example.pick else ""
        tokens = tokens_of(layout.input, values_of(example.texts), self.tokenizer, pick_field, signals).after(start)
        # A template that ends with a text has no constant end: its last token is what must stay live.
        ends_in_text = not layout.anchor.ids and not isinstance(layout.input[-1], Seen)
        num_input = len(tokens.ids) - int(ends_in_text)
        return max(num_input, 0), layout.anchor.after(tokens)

    def _layout_of(self, example: Example, bos: bool) -> Layout:
        messages = example.messages
        if messages is None and bos:
            return self._row_layout
        if messages not in self._other_layouts:
            pieces = self.template.turn() if messages is None else ChatTemplate(messages, self.tokenizer).row()
            self._other_layouts[messages] = layout_of(pieces, self.tokenizer, self.task.media)
        return self._other_layouts[messages]

    def _read(self, tokens: RowTokens) -> int | Literal["mean"] | None:
        """The place that the label is read from; None where decoders predict."""
        if not self.tokenizer.is_encoder:
            return None
        where: dict[Reading, int | Literal["mean"] | None] = {"mask": tokens.mask, "first": 0, "mean": "mean"}
        return where[self.task.read or ("mask" if self.task.has_mask else self.tokenizer.reading)]
