"""Facts about a folder of images or sounds: sizes, lengths, rates, broken and repeated files, and odd sources.

A source is something that the files' names or the other columns tell beside the label, such as a speaker, a
microphone or a patient. Where each source stands for one label, a model may learn the source, and fail on all others.
"""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from overture.core.errors import Problem
from overture.core.media import Media, Modality
from overture.core.records.start import MediaReport, SourceOfLabel
from overture.data.formats.form import Records
from overture.data.media.read import modality_of
from overture.data.row import Row
from overture.data.rows import content_of, texts_of
from overture.data.task import Task
from overture.data.values import label_text, normal_spelling

if TYPE_CHECKING:
    import numpy

_MEDIA_SHARE = 0.9
_MAX_LOOKED_AT = 5000
_NUM_READERS = 4
_MOST_BROKEN = 20
_CONSTANT = 2.0
"""An image whose pixels deviate by less, and a sound in 16 bits, shows nothing."""
_FEWEST_ROWS = 3
"""Rows that a source has on average; with fewer its names are those of files."""
_SIDE = 8
_FEWEST_STEPS, _MOST_STEPS_APART = 24, 4
"""Of the 64 steps of an outline: so many must be seen, and copies may differ in so many."""


def media_field(rows: Records) -> tuple[str, Modality] | None:
    """The field that holds images or sounds, by names of files, bytes or pixels; None where there is none."""
    for name in dict.fromkeys(name for row in rows for name in row):
        values = [row[name] for row in rows if row.get(name) is not None]
        kinds = Counter(modality for value in values if (modality := _modality(value)) is not None)
        if kinds and kinds.most_common(1)[0][1] >= _MEDIA_SHARE * len(values):
            return name, kinds.most_common(1)[0][0]
    return None


def _modality(value: Any) -> Modality | None:
    if isinstance(value, str):
        return modality_of(value)
    if isinstance(value, Mapping) and (value.get("bytes") is not None or value.get("array") is not None):
        return "audio" if "sampling_rate" in value else modality_of(str(value.get("path"))) or "image"
    return "image" if hasattr(value, "__array_interface__") else None


@dataclass(frozen=True, slots=True)
class _Look:
    """The facts that are read from one file."""

    row: Row
    split: str
    size: tuple[int, ...]
    outline: tuple[int, ...]
    is_constant: bool


def media_report(task: Task, rows_of: Mapping[str, Sequence[Row]], group: Callable[[Row], str]) -> MediaReport:
    """Look at the files of all rows.

    Args:
        task: names the field.
        rows_of: the rows by split.
        group: the label of a row; empty where it has none.
    """
    ((name, modality),) = task.media.items()
    broken: list[Problem] = []
    good: list[tuple[str, Row, Media]] = []
    for split, rows in rows_of.items():
        for row in rows:
            content = content_of(task, row).get(name, Problem(row.where, f"no {modality}"))
            if isinstance(content, Media):
                good.append((split, row, content))
            else:
                broken.append(content)
    sample = good[:: max(1, -(-len(good) // _MAX_LOOKED_AT))]
    with ThreadPoolExecutor(_NUM_READERS) as readers:
        looks = list(readers.map(_look, sample))
    sizes = sorted(look.size for look in looks)
    lengths = sorted(look.size[-1] / (look.size[0] if modality == "audio" else 1) for look in looks)
    column = task.columns[0]
    return MediaReport(
        modality=modality,
        looked_at=len(looks),
        broken=len(broken),
        first_broken=[str(problem) for problem in broken[:_MOST_BROKEN]],
        seconds=[round(lengths[len(lengths) * part // 2 - (part == 2)], 3) for part in range(3)]
        if modality == "audio" and lengths
        else [],
        rates=dict(Counter(str(look.size[0]) for look in looks).most_common(5)) if modality == "audio" else {},
        sizes=dict(Counter(f"{size[1]} x {size[0]}" for size in sizes).most_common(5)) if modality == "image" else {},
        constant=[texts_of(task, look.row)[column] for look in looks if look.is_constant][:_MOST_BROKEN],
        alike=_alike(looks, lambda row: texts_of(task, row)[column]),
        sources=list(_sources([row for _, row, _ in good], name, task.target_fields, group)),
    )


def _look(item: tuple[str, Row, Media]) -> _Look:
    import numpy

    split, row, media = item
    values = media.open()
    if media.modality == "audio":
        assert media.rate is not None
        is_silent = float(numpy.abs(values).max()) * (1 << 15) < _CONSTANT
        # All or nothing: sounds with the same samples have it, however their files pack them.
        digest = hashlib.sha256(numpy.round(values * 127).astype(numpy.int8).tobytes()).digest()
        return _Look(row, split, (media.rate, len(values)), () if is_silent else tuple(digest), is_silent)
    is_constant = float(values.std(axis=(0, 1)).max()) < _CONSTANT
    return _Look(row, split, values.shape[:2], () if is_constant else _outline(values), is_constant)


def _outline(pixels: "numpy.ndarray") -> tuple[int, ...]:
    """Where an image grows lighter (1) or darker (-1) from left to right, on a grid of 8 x 8.

    Copies in another size, format or quality have nearly the same one.
    """
    import numpy
    from PIL import Image

    grey = Image.fromarray(pixels).convert("L").resize((_SIDE + 1, _SIDE), Image.Resampling.BOX)
    steps = numpy.diff(numpy.asarray(grey, dtype=numpy.int16), axis=1)
    # Steps of a few grey values are noise; a whole outline of them tells nothing.
    signs = (steps > 4).astype(int) - (steps < -4).astype(int)
    return tuple(signs.flat) if numpy.count_nonzero(signs) >= _FEWEST_STEPS else ()


def _alike(looks: Sequence[_Look], name_of: Callable[[Row], str]) -> list[tuple[str, str]]:
    """Files of two splits that show nearly the same and are not the same bytes."""
    import numpy

    outlined_looks = [look for look in looks if look.outline]
    if not outlined_looks:
        return []
    outlines = numpy.array([look.outline for look in outlined_looks], dtype=numpy.int16)
    pairs = []
    for number, look in enumerate(outlined_looks):
        apart = (outlines[:number] != outlines[number]).sum(axis=1)
        for index in numpy.flatnonzero(apart <= _MOST_STEPS_APART):
            earlier = outlined_looks[index]
            if earlier.split != look.split and earlier.row.content != look.row.content:
                pairs.append((name_of(earlier.row), name_of(look.row)))
                break
    return pairs[:_MOST_BROKEN]


def _sources(
    rows: Sequence[Row], name: str, targets: Sequence[str], group: Callable[[Row], str]
) -> Iterator[SourceOfLabel]:
    """Facts in file names and other columns whose every value goes with one label alone."""
    labels = [group(row) for row in rows]
    if len(set(labels)) < 2 or "" in labels:
        return
    facts: dict[str, list[str | None]] = defaultdict(lambda: [None] * len(rows))
    shown: dict[tuple[str, str], str] = {}
    for number, row in enumerate(rows):
        for column, value in row.fields.items():
            if column not in (name, *targets) and (text := label_text(value)):
                facts[f"column {column}"][number] = text
        value = row.fields.get(name)
        for fact, part in _parts(value) if isinstance(value, str) else ():
            facts[fact][number] = part
            shown.setdefault((fact, part), f"{repr(part) if part else 'a number'} in {PurePath(str(value)).name}")
    for fact, values in facts.items():
        if None in values:
            continue
        labels_of: dict[str, set[str]] = defaultdict(set)
        for text, label in zip(values, labels, strict=True):
            labels_of[str(text)].add(label)
        is_name = len(rows) < _FEWEST_ROWS * len(labels_of)
        is_label = all(normal_spelling(text) in map(normal_spelling, golds) for text, golds in labels_of.items())
        if len(labels_of) < 2 or is_name or is_label or any(len(golds) > 1 for golds in labels_of.values()):
            continue
        yield SourceOfLabel(
            what=fact,
            values=len(labels_of),
            examples=[f"{shown.get((fact, text), text)}: {min(golds)}" for text, golds in list(labels_of.items())[:3]],
        )


def _parts(name: str) -> Iterator[tuple[str, str]]:
    """The pieces of a file's name that `_`, `-`, a point or a space divides, and those of its folders.

    Numbers at their ends are left out, so a piece that is a number is empty. Each piece comes with its place.
    """
    path = PurePath(name)
    parts = [(f"the name of folder {depth}", folder) for depth, folder in enumerate(path.parts[:-1], 1)]
    for whose, part in (*parts, ("the file's name", path.stem)):
        for place, piece in enumerate(re.split(r"[_\-. ]+", part), 1):
            yield f"part {place} of {whose}", re.sub(r"\d+$", "", piece)
