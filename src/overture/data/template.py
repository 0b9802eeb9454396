"""Templates: ``{field}``, ``{list[0]}``, ``{prompt:5}``, ``{mask}`` and nothing more, so that none can run code.

A template becomes pieces: constant text, slots for values, gaps for prompt vectors, the mask at which an encoder
predicts, and ``None`` where tokenisation must not join the texts on both sides.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Protocol

from overture.core.contracts import TextTokenizer
from overture.core.errors import DataError

ANSWER = "\0answer"
_ROW = -1
_TOKEN = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
_NOT_IN_NAMES = re.compile(r"[.\[\]!:\n\"]")


@dataclass(frozen=True, slots=True)
class Slot:
    """The place of a field or of a list's entry; `shot` numbers the in-context example, -1 means the row itself."""

    name: str
    shot: int = _ROW


@dataclass(frozen=True, slots=True)
class Gap:
    """The place of some of the prompt's vectors."""

    count: int


@dataclass(frozen=True, slots=True)
class Mask:
    """The place at which an encoder predicts the label word."""


Parsed = str | Slot | Gap | Mask
Piece = Parsed | None
_GAP = re.compile(r"prompt:([1-9][0-9]{0,3})")
_ENTRY = re.compile(r"(.+)\[([0-9]{1,3})\]", re.DOTALL)


def is_field_name(name: str) -> bool:
    """Whether a template can name the field."""
    is_free = name not in ("", "mask") and name == name.strip()
    return is_free and not re.search(r"[{}]", name) and not _NOT_IN_NAMES.search(name)


def column_of(name: str) -> tuple[str, int | None]:
    """The field that a slot shows, and the number of the entry if it shows one of a list, as ``choices[0]`` does."""
    entry = _ENTRY.fullmatch(name)
    return (entry.group(1), int(entry.group(2))) if entry else (name, None)


def parse(text: str) -> tuple[Parsed, ...]:
    """Cut a template's text into constants, slots, gaps and masks.

    Raises:
        ValueError: a brace that is neither ``{field}`` nor doubled.
    """
    pieces: list[Parsed] = []
    end = 0
    for match in _TOKEN.finditer(text):
        pieces.append(text[end : match.start()])
        end = match.end()
        name = match.group(1)
        if match.group() in ("{{", "}}"):
            pieces.append(match.group()[0])
        elif name is not None and (gap := _GAP.fullmatch(name)):
            pieces.append(Gap(int(gap.group(1))))
        elif name == "mask":
            pieces.append(Mask())
        elif name is not None and is_field_name(column_of(name)[0]):
            pieces.append(Slot(name))
        else:
            raise ValueError(
                f"{match.group()!r} is not a field; write {{name}} for a field, {{name[0]}} for a list's first entry, "
                "{prompt:5} for prompt vectors, {mask} for an encoder's mask, and {{ or }} for a brace"
            )
    # Neighbouring constants become one; empty ones are dropped.
    merged_pieces: list[Parsed] = []
    for piece in [*pieces, text[end:]]:
        if isinstance(piece, str) and merged_pieces and isinstance(merged_pieces[-1], str):
            merged_pieces[-1] += piece
        elif piece != "":
            merged_pieces.append(piece)
    return tuple(merged_pieces)


def slots_in(pieces: Sequence[Piece]) -> list[Slot]:
    """The slots, in order, repeats included."""
    return [piece for piece in pieces if isinstance(piece, Slot)]


def num_vectors_in(pieces: Sequence[Piece]) -> int:
    """How many prompt vectors the gaps hold."""
    return sum(piece.count for piece in pieces if isinstance(piece, Gap))


def num_masks_in(pieces: Sequence[Piece]) -> int:
    """The number of masks."""
    return sum(isinstance(piece, Mask) for piece in pieces)


class Template(Protocol):
    """A template as the encoder sees it."""

    def row(self) -> tuple[Piece, ...]:
        """The row alone, from the start of the sequence."""
        ...

    def turn(self) -> tuple[Piece, ...]:
        """The row where it follows in-context examples."""
        ...

    def shots(self, count: int) -> tuple[Piece, ...]:
        """The examples in front of the row, from the start of the sequence."""
        ...


class PlainTemplate:
    """One text; examples follow each other with an empty line between."""

    def __init__(self, text: str, tokenizer: TextTokenizer) -> None:
        self._pieces: tuple[Piece, ...] = parse(_without_bos(text, tokenizer))

    def row(self) -> tuple[Piece, ...]:
        """The row alone."""
        return self._pieces

    def turn(self) -> tuple[Piece, ...]:
        """The same: a plain text has no opening."""
        return self._pieces

    def shots(self, count: int) -> tuple[Piece, ...]:
        """Each example as its row would be, then its answer and an empty line."""
        shots: list[Piece] = []
        for shot in range(count):
            text_pieces = [piece for piece in self._pieces if not isinstance(piece, Gap)]
            shot_pieces = [replace(piece, shot=shot) if isinstance(piece, Slot) else piece for piece in text_pieces]
            shots += [*_with_cuts([*shot_pieces, Slot(ANSWER, shot)]), "\n\n", None]
        return tuple(shots)


class ChatTemplate:
    """Messages, rendered by the model's own chat template with marks in place of the values.

    Args:
        messages: role and content of each, the last one the user's.
        tokenizer: renders and knows the special tokens.
    """

    def __init__(self, messages: Sequence[tuple[str, str]], tokenizer: TextTokenizer) -> None:
        parsed_messages = [(role, parse(content)) for role, content in messages]
        num_system = next((i for i, (role, _) in enumerate(parsed_messages) if role != "system"), len(parsed_messages))
        self._opening, self._turns = parsed_messages[:num_system], parsed_messages[num_system:]
        self._tokenizer = tokenizer
        self._mark = "OvtrSlot"
        while any(self._mark in content for _, content in messages):
            self._mark += "q"

    def row(self) -> tuple[Piece, ...]:
        """The whole conversation, up to where the assistant speaks.

        Raises:
            DataError: the model's chat template drops, repeats or changes the messages' text.
        """
        text, marks = self._rendered(0)
        return tuple(_cut(text, marks))

    def turn(self) -> tuple[Piece, ...]:
        """The row as a later turn, without the opening of the conversation."""
        _, marks = self._rendered(0)
        return tuple(_cut(self._later_turn(), marks))

    def shots(self, count: int) -> tuple[Piece, ...]:
        """The opening, then a user's and an assistant's turn for each example."""
        later = self._later_turn()
        text, marks = self._rendered(count)
        if not text.endswith(later):
            raise _unfit("it changes a turn when others stand before it")
        earlier = {mark: slot for mark, slot in marks.items() if isinstance(slot, Slot) and slot.shot != _ROW}
        return _with_cuts(list(_cut(text.removesuffix(later), earlier)))

    def _rendered(self, num_shots: int) -> tuple[str, dict[str, Slot | Gap | Mask]]:
        marks: dict[str, Slot | Gap | Mask] = {}
        messages = [self._message(role, pieces, _ROW, marks) for role, pieces in self._opening]
        for shot in range(num_shots):
            messages += [self._message(role, pieces, shot, marks) for role, pieces in self._turns]
            messages.append(self._message("assistant", (Slot(ANSWER),), shot, marks))
        messages += [self._message(role, pieces, _ROW, marks) for role, pieces in self._turns]
        text = _without_bos(self._tokenizer.chat(messages), self._tokenizer)
        if any(text.count(mark) != 1 for mark in marks):
            raise _unfit("it drops, repeats or changes the messages' text")
        return text, marks

    def _message(
        self, role: str, pieces: Sequence[Parsed], shot: int, marks: dict[str, Slot | Gap | Mask]
    ) -> dict[str, str]:
        content = ""
        for piece in pieces:
            if isinstance(piece, str):
                content += piece
            elif isinstance(piece, Slot):
                # The row's marks must not depend on the number of examples: renderings are compared.
                number = sum(isinstance(slot, Slot) and slot.shot == shot for slot in marks.values())
                mark = f"{self._mark}{'R' if shot == _ROW else shot}n{number}x"
                marks[mark] = Slot(piece.name, shot)
                content += mark
            elif shot == _ROW:
                # Examples have no prompt of their own.
                mark = f"{self._mark}Gn{sum(not isinstance(place, Slot) for place in marks.values())}x"
                marks[mark] = piece
                content += mark
        return {"role": role, "content": content}

    def _later_turn(self) -> str:
        """The common end of the row's renderings alone and after one example."""
        if any(slots_in(pieces) for _, pieces in self._opening):
            raise DataError(
                "a system message with a field cannot stand before examples",
                where="template",
                fix="move the field to the user's message",
            )
        alone, marks = self._rendered(0)
        after, after_marks = self._rendered(1)
        answer = next(mark for mark, slot in after_marks.items() if isinstance(slot, Slot) and slot.name == ANSWER)
        behind = after[after.index(answer) + len(answer) :]
        later = _common_end(self._tokenizer.split_specials(alone), self._tokenizer.split_specials(behind))
        if not all(mark in later for mark in marks):
            raise _unfit("it changes a turn when others stand before it")
        return later


def _without_bos(text: str, tokenizer: TextTokenizer) -> str:
    """The text without the first tokens that it spells out: the encoder adds them, and they must come once."""
    if not tokenizer.bos_ids:
        return text
    first, is_special = next(iter(tokenizer.split_specials(text)), ("", False))
    is_bos = is_special and tuple(tokenizer.encode_template(first)) == tuple(tokenizer.bos_ids)
    return text.removeprefix(first) if is_bos else text


def _with_cuts(pieces: Sequence[Piece]) -> tuple[Piece, ...]:
    """Examples tokenised as rows are: a cut after an example's last field, and one on each side of its answer."""
    last = {piece.shot: i for i, piece in enumerate(pieces) if isinstance(piece, Slot) and piece.name != ANSWER}
    cut: list[Piece] = []
    for i, piece in enumerate(pieces):
        if isinstance(piece, Slot) and piece.name == ANSWER:
            cut += [None, piece, None]
        elif isinstance(piece, Slot) and last[piece.shot] == i:
            cut += [piece, None]
        else:
            cut.append(piece)
    return tuple(cut)


def _cut(text: str, marks: Mapping[str, Slot | Gap | Mask]) -> Iterator[Parsed]:
    if not marks:
        yield text
        return
    for part in re.split("(" + "|".join(map(re.escape, marks)) + ")", text):
        if part:
            yield marks.get(part, part)


def _common_end(first: Sequence[tuple[str, bool]], second: Sequence[tuple[str, bool]]) -> str:
    """The longest common end that does not cut a special token."""
    end = ""
    for (text, is_special), (second_text, is_second_special) in zip(reversed(first), reversed(second), strict=False):
        if text == second_text:
            end = text + end
            continue
        if not is_special and not is_second_special:
            same = zip(reversed(text), reversed(second_text), strict=False)
            length = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], same))
            end = text[len(text) - length :] + end
        break
    return end


def _unfit(why: str) -> DataError:
    return DataError(
        f"the model's chat template does not fit the task: {why}",
        where="template",
        fix="write the template as one text instead of messages",
    )
