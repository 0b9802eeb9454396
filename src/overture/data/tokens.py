"""A template's pieces as tokens.

Text is tokenised in runs that are as long as possible, so that tokens are the ones the model knows. Special tokens
come from the template's constants alone; a value that spells one stays text.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate

from overture.core.contracts import TextTokenizer
from overture.core.rows import Element, Marks, Segment
from overture.data.kind import Pick
from overture.data.template import Gap, Mask, Piece, Slot

Values = Mapping[Slot, str]
Signals = Mapping[str, Sequence[Segment]]
"""The images and sounds of a row, by field, as the model reads them."""


@dataclass(frozen=True, slots=True)
class Special:
    """Tokens that are always the same; a mask is one of them."""

    ids: tuple[int, ...]
    is_mask: bool = False


@dataclass(frozen=True, slots=True)
class Run:
    """Plain text and values that are tokenised in one go."""

    pieces: tuple[str | Slot, ...]


@dataclass(frozen=True, slots=True)
class Seen:
    """The place of an image or a sound.

    Args:
        field: the field that holds it.
    """

    field: str


Part = Special | Run | Gap | Seen


@dataclass(slots=True)
class RowTokens:
    """Parts of a row as tokens.

    Args:
        ids: the tokens, and the parts of signals.
        gaps: where prompt vectors stand among them: (index, how many).
        mask: where the mask stands, if there is one.
        places: for a field, where its text's characters went: (index, first character, end) of each token.
        texts: stretches of tokens that hold a field's text: (first, end).
    """

    ids: list[Element] = field(default_factory=list)
    gaps: list[tuple[int, int]] = field(default_factory=list)
    mask: int | None = None
    places: dict[str, list[tuple[int, int, int]]] = field(default_factory=dict)
    texts: list[tuple[int, int]] = field(default_factory=list)

    def after(self, first: "RowTokens") -> "RowTokens":
        """These tokens behind others."""
        shift = len(first.ids)
        mask = first.mask if self.mask is None else shift + self.mask
        gaps = [*first.gaps, *((shift + index, count) for index, count in self.gaps)]
        places = {name: [(shift + i, start, end) for i, start, end in spans] for name, spans in self.places.items()}
        texts = [*first.texts, *((shift + start, shift + end) for start, end in self.texts)]
        return RowTokens([*first.ids, *self.ids], gaps, mask, {**first.places, **places}, texts)


@dataclass(frozen=True, slots=True)
class Layout:
    """A template ready for rows: what depends on them, and the anchor; it is empty if a field comes last."""

    input: tuple[Part, ...]
    anchor: RowTokens


def layout_of(pieces: Sequence[Piece], tokenizer: TextTokenizer, media: Collection[str] = ()) -> Layout:
    """A template's pieces, cut behind the last field; those of `media` hold images or sounds."""
    end = max(i for i, piece in enumerate(pieces) if isinstance(piece, Slot)) + 1
    anchor = tokens_of(parts_of(pieces[end:], tokenizer), {}, tokenizer)
    anchor.ids += tokenizer.end_ids
    return Layout(tuple(parts_of(pieces[:end], tokenizer, media)), anchor)


def parts_of(pieces: Sequence[Piece], tokenizer: TextTokenizer, media: Collection[str] = ()) -> list[Part]:
    """Pieces grouped by how they are tokenised."""
    parts: list[Part] = []
    run: list[str | Slot] = []

    def close() -> None:
        if run:
            parts.append(Run(tuple(run)))
            run.clear()

    for piece in pieces:
        if isinstance(piece, Slot) and piece.name in media:
            close()
            parts.append(Seen(piece.name))
        elif isinstance(piece, Slot):
            run.append(piece)
        elif isinstance(piece, Gap):
            close()
            parts.append(piece)
        elif isinstance(piece, Mask):
            if run and isinstance(run[-1], str):
                # The word that belongs there brings its space, and masks of BPE vocabularies take it.
                run[-1] = run[-1].rstrip()
            close()
            parts.append(Special(tokenizer.mask_ids, is_mask=True))
        elif piece is None:
            close()
        else:
            for text, is_special in tokenizer.split_specials(piece) if piece else ():
                if not is_special:
                    run.append(text)
                    continue
                close()
                parts.append(Special(tuple(tokenizer.encode_template(text))))
    close()
    return parts


def tokens_of(
    parts: Sequence[Part], values: Values, tokenizer: TextTokenizer, pick: str = "", signals: Signals | None = None
) -> RowTokens:
    """Parts as tokens.

    Args:
        parts: of a template.
        values: the texts of the fields.
        tokenizer: makes the tokens.
        pick: name of the field whose tokens are recorded with their places; none if empty.
        signals: what stands in the places of images and sounds.
    """
    tokens = RowTokens()
    for part in parts:
        if isinstance(part, Gap):
            tokens.gaps.append((len(tokens.ids), part.count))
        elif isinstance(part, Seen):
            first = len(tokens.ids)
            for segment in (signals or {})[part.field]:
                tokens.ids += segment.elements
            tokens.texts.append((first, len(tokens.ids)))
        elif isinstance(part, Special):
            if part.is_mask:
                tokens.mask = len(tokens.ids)
            tokens.ids += part.ids
        else:
            _add_run(tokens, part, values, tokenizer, pick)
    return tokens


def _add_run(tokens: RowTokens, run: Run, values: Values, tokenizer: TextTokenizer, pick: str) -> None:
    """A run behind the tokens that are there."""
    texts = [text_of(piece, values) for piece in run.pieces]
    ends = list(accumulate(map(len, texts)))
    offsets = tokenizer.offsets("".join(texts)) if ends[-1] else []
    shift = len(tokens.ids)
    tokens.ids += [token for token, _, _ in offsets]
    for piece, text, end in zip(run.pieces, texts, ends, strict=True):
        first = end - len(text)
        if not isinstance(piece, Slot):
            continue
        if pick and piece == Slot(pick) and pick not in tokens.places:
            # From the field's first character; the tokens around it are before 0, or behind its end.
            places = [(shift + i, begin - first, stop - first) for i, (_, begin, stop) in enumerate(offsets)]
            tokens.places[pick] = places
        # A token that holds a character of the text is the text's, even if it began in the template.
        text_tokens = [shift + i for i, (_, begin, stop) in enumerate(offsets) if begin < end and stop > first]
        if text_tokens:
            tokens.texts.append((text_tokens[0], text_tokens[-1] + 1))


def text_of(piece: Piece, values: Values) -> str:
    """A piece as text; nothing where it is no text."""
    if isinstance(piece, Slot):
        return values[piece]
    return piece if isinstance(piece, str) else ""


def values_of(texts: Mapping[str, str], shot: int | None = None) -> dict[Slot, str]:
    """Fields' texts by their slots in the row, or in one of the examples before it."""
    return {Slot(name) if shot is None else Slot(name, shot): text for name, text in texts.items()}


def marks_of(pick: Pick, tokens: RowTokens) -> Marks:
    """Where labels are scored: the first token of each stretch of characters, behind the places that are given.

    Stretches that were cut off have none, and no label either.
    """
    if not pick.spans:
        return pick.marks
    places = tokens.places.get(pick.field, [])
    indices = list(pick.marks.at)
    number = 0
    for start, _ in pick.spans:
        while number < len(places) and places[number][2] <= start:
            number += 1
        if number == len(places):
            break
        indices.append(places[number][0])
    gold = pick.marks.gold
    if gold is not None and pick.marks.over == "labels":
        gold = gold[: len(indices)]
    if gold is not None and pick.marks.over == "places":
        fallback = 0 if pick.marks.at else max(len(indices) - 1, 0)
        gold = tuple(place if place < len(indices) else fallback for place in gold)
    return replace(pick.marks, at=tuple(indices), gold=gold)
