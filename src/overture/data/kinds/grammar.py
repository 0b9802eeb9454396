"""Grammars of answers: fixed words and pieces copied from a text, in a given order.

A grammar's pieces are token sequences. A copied piece starts at a unit of the text, a word or a letter, and may end
behind any later unit; copies follow each other in the text's order, so a list of them ends. A piece whose text stands
in several places is the first of them that may still be copied; any other is followed by its number. The pieces are
made when the first token is asked for.
"""

import bisect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import takewhile

import regex

from overture.core.contracts import TextTokenizer

# A word is a run of letters and digits, or one other sign. In scripts without spaces, and in Hangul, whose words end
# with particles, each letter is one.
UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
_UNSPACED = f"{UNSPACED}\u1100-\u11ff\u3130-\u318f\uac00-\ud7af"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+|[^\w\s]")
_LETTER = regex.compile(r"(?!\s)\X")
END = "end"
_NUMBER = "number"
Span = tuple[int, int]


def units_of(text: str, within_words: bool = False) -> tuple[Span, ...]:
    """Where the units of a text stand with which copied pieces begin and end: words, or letters."""
    return tuple(match.span() for match in (_LETTER if within_words else _WORD).finditer(text))


def units_by_token(text: str, units: Sequence[Span], tokenizer: TextTokenizer) -> tuple[Span, ...]:
    """The units for an encoder: it reads one score at each token, so those that begin in the same token are one."""
    starts = [start for _, start, _ in tokenizer.offsets(text)]
    merged_units: list[Span] = []
    last_token = -1
    for start, end in units:
        token = bisect.bisect_right(starts, start)
        if token == last_token:
            merged_units[-1] = (merged_units[-1][0], end)
        else:
            merged_units.append((start, end))
        last_token = token
    return tuple(merged_units)


def number_of(text: str, units: Sequence[Span], position: int, start: int, end: int) -> int:
    """Which of the pieces with the same text this is, from 1, of those that begin at a position or behind it."""
    piece = text[start:end]
    number, begin = 1, text.find(piece, position, end - 1)
    while begin >= 0:
        first = bisect.bisect_left(units, (begin, 0))
        last = bisect.bisect_left(units, begin + len(piece), key=lambda unit: unit[1])
        number += first < len(units) > last and (units[first][0], units[last][1]) == (begin, begin + len(piece))
        begin = text.find(piece, begin + 1, end - 1)
    return number


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """Tokens that belong together.

    Args:
        name: the type, word or text that the tokens spell.
        ids: the tokens, at least one.
        ends: for each token whether the piece may end behind it: the position in the text it then reaches, or None.
        start: where it stands in the text, for what is copied: only there or before may have been copied so far.
    """

    name: str
    ids: tuple[int, ...]
    ends: tuple[int | None, ...]
    start: int | None = None


def fixed(name: str, ids: Sequence[int], start: int | None = None, end: int = 0) -> Piece:
    """A piece that ends with its last token."""
    return Piece(name, tuple(ids), (*[None] * (len(ids) - 1), end), start)


@dataclass(frozen=True, slots=True)
class Rules:
    """Groups of pieces and what may follow them.

    Args:
        pieces: the pieces of each group.
        first: groups that an answer may begin with.
        then: for each group the groups that may follow; `END` for the end of the answer.
        end_ids: what ends an answer.
        number: the tokens that must follow a copied piece, from where copies may begin, the piece's start and its end.
    """

    pieces: Mapping[str, Sequence[Piece]]
    first: tuple[str, ...]
    then: Mapping[str, tuple[str, ...]]
    end_ids: tuple[int, ...]
    number: Callable[[int, int, int], Sequence[int]] = lambda position, start, end: ()


@dataclass(frozen=True, slots=True)
class _State:
    """So many tokens of a piece are written, behind other pieces."""

    group: str
    piece: Piece
    done: int
    position: int
    before: tuple[tuple[str, Piece, int], ...]

    @property
    def end(self) -> int | None:
        return self.piece.ends[self.done - 1]


def _may_start(piece: Piece, position: int) -> bool:
    return piece.start is None or piece.start >= position


@dataclass(slots=True, eq=False)
class Grammar:
    """Tokens that may come next, and what written tokens stand for.

    Args:
        make: the rules, made once, when they are needed.
    """

    make: Callable[[], Rules]
    _rules: Rules | None = None
    _starts: dict[str, dict[int, list[Piece]]] = field(default_factory=dict)
    _numbers: dict[tuple[Piece, int, int], Piece | None] = field(default_factory=dict)
    _known: dict[tuple[int, ...], list[_State]] = field(default_factory=dict)

    @property
    def rules(self) -> Rules:
        """The rules."""
        if self._rules is None:
            rules = self.make()
            groups = {**rules.pieces, END: [fixed(END, rules.end_ids)]}
            for name, pieces in groups.items():
                starts = self._starts.setdefault(name, {})
                for piece in pieces:
                    starts.setdefault(piece.ids[0], []).append(piece)
            self._rules = rules
        return self._rules

    def __call__(self, written: Sequence[int]) -> list[int]:
        """Tokens that may follow; none behind what is no beginning of an answer, or a whole one."""
        next_ids: set[int] = set()
        if not written:
            for group in self.rules.first:
                next_ids.update(self._starts[group])
            return sorted(next_ids)
        for state in self._states(tuple(written)):
            if state.done < len(state.piece.ids):
                next_ids.add(state.piece.ids[state.done])
            if number := self._number_behind(state):
                next_ids.add(number.ids[0])
                continue
            for group, position in self._after(state):
                starts = self._starts[group].items()
                next_ids.update(token for token, pieces in starts if any(_may_start(p, position) for p in pieces))
        return sorted(next_ids)

    def parsed(self, answer_ids: Sequence[int]) -> list[tuple[str, Piece, int]]:
        """The pieces that tokens stand for: (group, piece, how many of its tokens); not an unfinished last one."""
        if not answer_ids:
            return []
        states = self._states(tuple(answer_ids))
        whole = [state for state in states if state.end is not None]
        # A piece that its number should follow is unfinished, but nothing else may be meant.
        last_state = next((state for state in whole if not self._number_behind(state)), next(iter(whole), None))
        if last_state:
            return [*last_state.before, (last_state.group, last_state.piece, last_state.done)]
        return list(states[0].before) if states else []

    def _number_behind(self, state: _State) -> Piece | None:
        """The number that must follow a copied piece; None where there is nothing to tell apart."""
        end = state.end
        if state.piece.start is None or end is None:
            return None
        key = (state.piece, state.done, state.position)
        if key not in self._numbers:
            ids = self.rules.number(state.position, state.piece.start, end)
            self._numbers[key] = fixed(_NUMBER, ids) if ids else None
        return self._numbers[key]

    def _after(self, state: _State) -> list[tuple[str, int]]:
        if state.end is None:
            return []
        position = max(state.position, state.end)
        return [(group, position) for group in self.rules.then.get(state.group, ())]

    def _states(self, ids: tuple[int, ...]) -> list[_State]:
        """All readings of the tokens; of those that stand at one place of one piece the first."""
        if ids not in self._known:
            rules = self.rules
            if len(ids) == 1:
                state_lists = [self._begin(group, ids[0], 0, ()) for group in rules.first]
                states = [state for states in state_lists for state in states]
            else:
                states = [step for state in self._states(ids[:-1]) for step in self._stepped(state, ids[-1])]
            self._known[ids] = list({(state.piece, state.done): state for state in reversed(states)}.values())[::-1]
        return self._known[ids]

    def _begin(self, group: str, token: int, position: int, before: tuple[tuple[str, Piece, int], ...]) -> list[_State]:
        pieces = self._starts[group].get(token, ())
        return [_State(group, p, 1, position, before) for p in pieces if _may_start(p, position)]

    def _stepped(self, state: _State, token: int) -> list[_State]:
        states = []
        if state.done < len(state.piece.ids) and state.piece.ids[state.done] == token:
            states.append(_State(state.group, state.piece, state.done + 1, state.position, state.before))
        before = (*state.before, (state.group, state.piece, state.done))
        if number := self._number_behind(state):
            if number.ids[0] == token:
                # What may follow the piece follows its number.
                states.append(_State(state.group, number, 1, max(state.position, state.end or 0), before))
            return states
        for group, position in self._after(state):
            states += self._begin(group, token, position, before)
        return states


@dataclass(frozen=True)
class Copied:
    """A text whose pieces may be copied into an answer.

    Args:
        text: the text.
        tokenizer: the backbone's.
        lead: what stands in the answer before a piece: a space, or nothing.
        units: where the units stand with which pieces begin and end.
    """

    text: str
    tokenizer: TextTokenizer
    lead: str
    units: tuple[Span, ...]

    @cached_property
    def _tokens(self) -> list[tuple[int, int, int]]:
        return self.tokenizer.offsets(self.text)

    @cached_property
    def _fragments(self) -> dict[str, list[int]]:
        return {}

    def ids(self, start: int, end: int) -> list[int]:
        """Tokens of a piece, as they follow each other in the text; one that goes beyond its end is cut there."""
        path = [*takewhile(lambda token: token[1] < end, self._path(start))]
        if path and path[-1][2] > end:
            return self._cut(path, start, end)
        return [token for token, _, _ in path]

    def pieces(self, name: str, max_tokens: int) -> list[Piece]:
        """A piece from each unit on, up to so many tokens, and one for each unit that ends within a token."""
        unit_ends = [end for _, end in self.units]
        ends = set(unit_ends)
        pieces: list[Piece] = []
        for start, _ in self.units:
            path = self._path(start, max_tokens + 1)
            stops = [
                stop if stop in ends and (i + 1 == len(path) or path[i + 1][1] >= stop) else None
                for i, (_, _, stop) in enumerate(path)
            ][:max_tokens]
            if any(stop is not None for stop in stops):
                pieces.append(Piece(name, tuple(token for token, _, _ in path[:max_tokens]), tuple(stops), start))
            inner = {
                end: number
                for number, (_, begin, stop) in enumerate(path[:max_tokens], 1)
                for end in unit_ends[bisect.bisect_right(unit_ends, begin) : bisect.bisect_left(unit_ends, stop)]
            }
            cut = [(self._cut(path[:number], start, end), end) for end, number in inner.items()]
            pieces += [fixed(name, ids, start, end) for ids, end in cut if len(ids) <= max_tokens]
        return pieces

    def _path(self, start: int, most: int | None = None) -> list[tuple[int, int, int]]:
        """Tokens from a place on: up to the next space as an answer would have them, then as the text has them."""
        end = next((i for i in range(start, len(self.text)) if self.text[i].isspace()), len(self.text))
        shift = start - len(self.lead)
        head = self.tokenizer.offsets(self.lead + self.text[start:end])
        path = [(token, max(first + shift, start), stop + shift) for token, first, stop in head]
        behind = bisect.bisect_left(self._tokens, end, key=lambda token: token[1])
        stop = None if most is None else behind + max(most - len(path), 0)
        return path + self._tokens[behind:stop]

    def _cut(self, path: Sequence[tuple[int, int, int]], start: int, end: int) -> list[int]:
        """The tokens of a path whose last ones go beyond an end, those replaced by tokens of what is before it."""
        head = [*takewhile(lambda token: token[2] <= path[-1][1], path)]
        begin = path[len(head)][1]
        fragment = self.text[begin:end] if head else self.lead + self.text[start:end]
        if fragment not in self._fragments:
            self._fragments[fragment] = self.tokenizer.encode_plain(fragment)
        return [*(token for token, _, _ in head), *self._fragments[fragment]]
