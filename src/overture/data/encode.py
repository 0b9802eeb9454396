"""Rows as tokens: the input, the anchor after it, and the label or answer.

Text is tokenised in runs that are as long as possible, so that tokens are the ones the model knows. Special tokens
come from the template's constants alone; a value that spells one stays text.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from overture.core.errors import DataError, Problem
from overture.core.types import Encoded, Reading, TextTokenizer
from overture.data.candidates import candidates_of
from overture.data.rows import Row, answers_of, label_of, row_problems, texts_of
from overture.data.task import Task
from overture.data.template import ANSWER, ChatTemplate, Gap, Mask, Piece, PlainTemplate, Slot, Template

Values = Mapping[Slot, str]


@dataclass(frozen=True, slots=True)
class _Special:
    """Tokens that are always the same; a mask is one of them."""

    ids: tuple[int, ...]
    is_mask: bool = False


@dataclass(frozen=True, slots=True)
class _Run:
    """Plain text and values that are tokenised in one go."""

    pieces: tuple[str | Slot, ...]


_Segment = _Special | _Run | Gap


@dataclass(frozen=True, slots=True)
class _Layout:
    """A template ready for rows: what depends on them, and the anchor; it is empty if a field comes last."""

    input: tuple[_Segment, ...]
    anchor: "_Tokens"


@dataclass(slots=True)
class _Tokens:
    """Segments as tokens.

    Args:
        ids: the tokens.
        gaps: where prompt vectors stand among them: (index, how many).
        mask: where the mask stands, if there is one.
    """

    ids: list[int] = field(default_factory=list)
    gaps: list[tuple[int, int]] = field(default_factory=list)
    mask: int | None = None

    def after(self, first: "_Tokens") -> "_Tokens":
        """These tokens behind others."""
        mask = first.mask if self.mask is None else len(first.ids) + self.mask
        return _Tokens(
            [*first.ids, *self.ids], [*first.gaps, *((len(first.ids) + i, count) for i, count in self.gaps)], mask
        )


class Encoder:
    """Turns a task's rows into tokens.

    Args:
        task: template, labels and limits.
        tokenizer: the backbone's.
        reserve: tokens to keep free for the prompt or the examples.

    Attributes:
        candidates: the label words, shared by all rows; None for free-text tasks.
        notices: what is odd about label words and rows but no error.

    Raises:
        DataError: label words that cannot be told apart, a chat template that does not fit, or a template for
            another kind of model.
    """

    def __init__(self, task: Task, tokenizer: TextTokenizer, reserve: int = 0) -> None:
        self.task, self.tokenizer, self.reserve = task, tokenizer, reserve
        _check_kind(task, tokenizer)
        self.candidates, self.notices = candidates_of(task, tokenizer)
        self.limit = min(task.max_length or tokenizer.max_length, tokenizer.max_length)
        self._template = _template_of(task, tokenizer)
        self._row_pieces = self._template.row()
        self._row_layout = self._layout(self._row_pieces)
        # An encoder's word stands at its mask.
        words = self.candidates.words if self.candidates and not tokenizer.is_encoder else ()
        self._room = max(map(len, words), default=0)

    @cached_property
    def _turn_layout(self) -> _Layout:
        return self._layout(self._template.turn())

    @property
    def anchor(self) -> tuple[str, tuple[int, ...]]:
        """The template's constant end as text and as tokens; both empty where a field comes last."""
        end = max(i for i, piece in enumerate(self._row_pieces) if isinstance(piece, Slot)) + 1
        text = "".join(piece for piece in self._row_pieces[end:] if isinstance(piece, str))
        return text, tuple(self._row_layout.anchor.ids)

    def encode(self, rows: Sequence[Row], with_answer: bool = True, bos: bool = True) -> list[Encoded]:
        """Rows as tokens, numbered from 0.

        Args:
            rows: the rows.
            with_answer: whether labels or answers are needed; without, they are None.
            bos: whether rows start a sequence. False for rows that follow the tokens of `shots`, which hold what a
                sequence starts with: the first tokens and, for chats, the system message.

        Raises:
            DataError: every row that lacks a field, or does not fit the limit.
        """
        problems: list[Problem] = []
        encoded: list[Encoded] = []
        shortened: list[Row] = []
        for number, row in enumerate(rows):
            found = row_problems(self.task, row, with_answer)
            problems += found
            if not found:
                item = self._encoded(number, row, with_answer, bos, shortened)
                if isinstance(item, Problem):
                    problems.append(item)
                else:
                    encoded.append(item)
        if problems:
            raise DataError("rows cannot be encoded", problems=problems)
        if shortened:
            count = f"{len(shortened)} of {len(rows)} rows"
            self.notices.append(f"{count} were shortened to fit {self.limit} tokens, first {shortened[0].where}")
        return encoded

    def encode_fields(self, fields: Sequence[Mapping[str, Any]]) -> list[Encoded]:
        """Rows for prediction, from their fields alone; errors name them ``input:1``, ``input:2``...

        Raises:
            DataError: as `encode`.
        """
        return self.encode([Row(dict(row), i, "input") for i, row in enumerate(fields, 1)], with_answer=False)

    def text_of(self, row: Row) -> str:
        """The row as text, template and answer included; of several label words the first.

        Raises:
            DataError: the row lacks a field, a label or an answer.
        """
        self._check([row])
        values = _values(texts_of(self.task, row))
        return "".join(_text(piece, values) for piece in self._row_pieces) + self._answer_text(row)

    def shots(self, rows: Sequence[Row]) -> list[int]:
        """Rows with their answers as in-context examples, from the start of the sequence.

        What follows must be encoded with ``bos=False``, by an encoder whose reserve counts these tokens. An example is
        its input, its anchor and its first label word or answer; then an empty line, or the end of the chat's turn.

        Raises:
            DataError: a row lacks a field, a label or an answer; the chat template does not fit examples.
        """
        self._check(rows)
        values: dict[Slot, str] = {}
        for shot, row in enumerate(rows):
            values |= _values(texts_of(self.task, row), shot)
            values[Slot(ANSWER, shot)] = self._answer_text(row)
        segments = self._segments(self._template.shots(len(rows)))
        return [*self.tokenizer.bos_ids, *self._ids(segments, values).ids]

    def _check(self, rows: Sequence[Row]) -> None:
        problems = [problem for row in rows for problem in row_problems(self.task, row)]
        if problems:
            raise DataError("rows cannot be shown as examples", problems=problems)

    def _answer_text(self, row: Row) -> str:
        if self.candidates is None:
            return answers_of(self.task, row)[0]
        return self.task.words[label_of(self.task, row)][0]

    def _encoded(self, number: int, row: Row, with_answer: bool, bos: bool, shortened: list[Row]) -> Encoded | Problem:
        answer = self._answer_ids(row) if with_answer and self.candidates is None else None
        if answer is not None and not answer:
            return Problem(row.where, "the answer has no tokens")
        label = self._label(row) if with_answer and self.candidates else None

        def build(texts: Mapping[str, str]) -> Encoded:
            num_input, tokens = self._tokens(_values(texts), bos)
            ids, read = tuple(tokens.ids), self._read(tokens)
            return Encoded(
                number,
                ids[:num_input],
                ids[num_input:],
                self.candidates,
                label,
                answer,
                tuple(tokens.gaps),
                read,
                read is not None and read == tokens.mask,
            )

        texts = texts_of(self.task, row)
        item = build(texts)
        if not item.anchor_ids:
            return Problem(row.where, "the row has no tokens")
        if self._over(item) <= 0:
            return item
        fitting = _shortened(texts, build, self._over, item) if self.task.too_long == "trim" else None
        if fitting is None:
            return self._too_long(row, item)
        shortened.append(row)
        return fitting

    def _label(self, row: Row) -> int:
        assert self.candidates is not None
        return self.candidates.labels.index(label_of(self.task, row))

    def _answer_ids(self, row: Row) -> tuple[int, ...]:
        ids = self.tokenizer.encode_plain(answers_of(self.task, row)[0])
        end = self.tokenizer.eos_id
        return (*ids, end) if ids and end is not None else tuple(ids)

    def _reserved(self, item: Encoded) -> int:
        """Tokens to keep free behind the row: the prompt's, and those of the longest label word or generated answer."""
        if self.candidates is None:
            return self.reserve + max(0, self.task.max_new_tokens - len(item.answer_ids or ()))
        return self.reserve + self._room

    def _needed(self, item: Encoded) -> tuple[int, int]:
        """Tokens of a row, and those to keep free beside them."""
        if not self.tokenizer.start_ids:
            return item.num_tokens, self._reserved(item)
        # The text is the encoder's, what is written is the decoder's, and each has the whole context for itself.
        answer = len(item.answer_ids or ())
        written = len(self.tokenizer.start_ids) + self._reserved(item) - self.reserve + answer
        return max((item.num_tokens - answer, self.reserve), (written, self.reserve))

    def _over(self, item: Encoded) -> int:
        return sum(self._needed(item)) - self.limit

    def _too_long(self, row: Row, item: Encoded) -> Problem:
        needed, reserved = self._needed(item)
        what = f"{needed} tokens + {reserved} reserved > {self.limit}"
        if self.task.too_long == "trim":
            return Problem(row.where, f"too long: {what}", "even without its text; shorten the template or the prompt")
        return Problem(row.where, f"too long: {what}", "shorten it, or set too_long: trim")

    def _tokens(self, values: Values, bos: bool) -> tuple[int, _Tokens]:
        """The row's tokens, and how many of them are the input."""
        layout = self._row_layout if bos else self._turn_layout
        start = _Tokens(list(self.tokenizer.bos_ids if bos else ()))
        found = self._ids(layout.input, values).after(start)
        # A template that ends with a field has no constant end: the last token is what must stay live.
        num_input = len(found.ids) - (0 if layout.anchor.ids else 1)
        return max(num_input, 0), layout.anchor.after(found)

    def _read(self, tokens: _Tokens) -> int | Literal["mean"] | None:
        """What the label is read from; None where decoders predict."""
        if not self.tokenizer.is_encoder:
            return None
        where: dict[Reading, int | Literal["mean"] | None] = {"mask": tokens.mask, "first": 0, "mean": "mean"}
        return where[self.task.reading]

    def _layout(self, pieces: Sequence[Piece]) -> _Layout:
        end = max(i for i, piece in enumerate(pieces) if isinstance(piece, Slot)) + 1
        anchor = self._ids(self._segments(pieces[end:]), {})
        anchor.ids += self.tokenizer.end_ids
        return _Layout(tuple(self._segments(pieces[:end])), anchor)

    def _segments(self, pieces: Sequence[Piece]) -> list[_Segment]:
        """Pieces grouped by how they are tokenised."""
        segments: list[_Segment] = []
        run: list[str | Slot] = []

        def close() -> None:
            if run:
                segments.append(_Run(tuple(run)))
                run.clear()

        for piece in pieces:
            if isinstance(piece, Slot):
                run.append(piece)
                continue
            if isinstance(piece, Gap):
                close()
                segments.append(piece)
                continue
            if isinstance(piece, Mask):
                if run and isinstance(run[-1], str):
                    # The word that belongs there brings its space, and masks of BPE vocabularies take it.
                    run[-1] = run[-1].rstrip()
                close()
                segments.append(_Special(self.tokenizer.mask_ids, is_mask=True))
                continue
            for text, is_special in self.tokenizer.split_specials(piece) if piece else ():
                if not is_special:
                    run.append(text)
                    continue
                close()
                segments.append(_Special(tuple(self.tokenizer.encode_template(text))))
            if piece is None:
                close()
        close()
        return segments

    def _ids(self, segments: Sequence[_Segment], values: Values) -> _Tokens:
        found = _Tokens()
        for segment in segments:
            if isinstance(segment, Gap):
                found.gaps.append((len(found.ids), segment.count))
            elif isinstance(segment, _Special):
                if segment.is_mask:
                    found.mask = len(found.ids)
                found.ids += segment.ids
            elif text := "".join(_text(piece, values) for piece in segment.pieces):
                found.ids += self.tokenizer.encode_plain(text)
        return found


def _check_kind(task: Task, tokenizer: TextTokenizer) -> None:
    """Masks and what is read at them are for encoders.

    Raises:
        DataError: the task asks a decoder for them, or an encoder that has none.
    """
    writes = "behind its start" if tokenizer.start_ids else "where its text ends"
    if task.read and not tokenizer.is_encoder:
        raise DataError(
            f"a decoder's label is read {writes}",
            where="read",
            got=task.read,
            fix="leave read out, or choose an encoder as --backbone",
        )
    if task.has_mask and not tokenizer.is_encoder:
        raise DataError(
            f"{{mask}} is for encoders; a decoder predicts the label's word {writes}",
            where="template",
            fix=("leave it out" if tokenizer.start_ids else "end the template where the word belongs")
            + ", or choose an encoder as --backbone",
        )
    if task.has_mask and not tokenizer.mask_ids:
        raise DataError(
            "the backbone's tokenizer has no mask",
            where="template",
            fix="leave {mask} out: labels get vectors then; or choose a masked language model as --backbone",
        )


def _template_of(task: Task, tokenizer: TextTokenizer) -> Template:
    if isinstance(task.template, str):
        return PlainTemplate(task.template, tokenizer)
    return ChatTemplate([(message.role, message.content) for message in task.template], tokenizer)


def _values(texts: Mapping[str, str], shot: int | None = None) -> dict[Slot, str]:
    return {Slot(name) if shot is None else Slot(name, shot): text for name, text in texts.items()}


def _text(piece: Piece, values: Values) -> str:
    if isinstance(piece, Slot):
        return values[piece]
    return piece if isinstance(piece, str) else ""


def _shortened(
    texts: Mapping[str, str],
    build: Callable[[Mapping[str, str]], Encoded],
    over: Callable[[Encoded], int],
    whole: Encoded,
) -> Encoded | None:
    """The row with its longest texts cut to one length, as long as fits; None if nothing does.

    One length for all: the longest is shortened first, and no field disappears for another's sake.
    """

    def cut(length: int) -> Encoded:
        return build({name: text[:length] for name, text in texts.items()})

    fits, fails = 1, max(map(len, texts.values()))
    best, fails_over = cut(fits), over(whole)
    if over(best) > 0:
        return None
    step = 0
    while fails - fits > 1 and over(best) < 0:
        # Tokens grow about evenly with characters, so a straight line lands close; halving in turn bounds the steps.
        share = 0.5 if step % 2 else -over(best) / (fails_over - over(best))
        length = min(max(fits + int(share * (fails - fits)), fits + 1), fails - 1)
        item = cut(length)
        if over(item) <= 0:
            fits, best = length, item
        else:
            fails, fails_over = length, over(item)
        step += 1
    return best
