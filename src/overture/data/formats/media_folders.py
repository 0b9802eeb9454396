"""Folders of images or sounds: a subfolder for each label, or a table ``metadata.csv`` that names the files.

Rows have the field `image` or `audio` with the file's name within the folder. Beside it stands `label`, the subfolder's
name, or what the table's columns hold.
"""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePath

from overture.core.media import Modality
from overture.data.formats.form import Container, Item, Source
from overture.data.formats.json_lines import JSONL
from overture.data.formats.split_names import split_named
from overture.data.formats.tables import CSV
from overture.data.media.read import modality_of
from overture.data.row import FILE_COLUMN, MEDIA_TABLE_STEM

_TABLES = {f"{MEDIA_TABLE_STEM}.csv": CSV, f"{MEDIA_TABLE_STEM}.jsonl": JSONL}
_NO_FOLDER = "a file, not a folder"


def are_media_folders(folder: Path) -> bool:
    """Whether a folder has two subfolders or more with images or sounds, which are no splits."""
    labels = [part for part in _subfolders(folder) if any(modality_of(name) for name in files_within(part))]
    return len(labels) > 1 and not any(split_named(part.name) for part in labels)


def is_described(folder: Path) -> bool:
    """Whether a folder has a table of its images or sounds."""
    return any((folder / name).is_file() for name in _TABLES)


def media_files(folder: Path, modality: Modality) -> list[str]:
    """The names of all images, or of all sounds, within a folder and its subfolders, sorted."""
    return [name for name in files_within(folder) if modality_of(name) == modality]


def _read_labels(source: Source) -> list[Item]:
    folder = Path(source.file)
    if not folder.is_dir():
        source.problem(0, _NO_FOLDER, "name the folder that holds a subfolder for each label")
        return []
    files = [(label.name, f"{label.name}/{name}") for label in _subfolders(folder) for name in files_within(label)]
    modality = _commonest([name for _, name in files])
    if modality is None:
        source.problem(0, "no images or sounds in its subfolders")
        return []
    strays = [name for _, name in files if modality_of(name) != modality]
    if strays:
        what = f"files whose names are not those of {modality} files"
        source.notices.add(what, source.name, count=len(strays), unit="file", first=strays[0], done="left out")
    labelled_files = [(label, name) for label, name in files if modality_of(name) == modality]
    return [Item({modality: name, "label": label}, line) for line, (label, name) in enumerate(labelled_files, 1)]


def _read_table(source: Source) -> list[Item]:
    folder = Path(source.file)
    name = next((name for name in _TABLES if (folder / name).is_file()), None)
    if name is None:
        source.problem(0, f"no {' or '.join(_TABLES)} in the folder" if folder.is_dir() else _NO_FOLDER)
        return []
    table = folder / name
    source.rows_file = str(table)
    inner = Source(str(table), table.read_bytes(), source.options, source.problems, source.notices, source.settings)
    items = _TABLES[name].read(inner)
    modality = _commonest([str(item.fields.get(FILE_COLUMN)) for item in items])
    if modality is None:
        if not source.problems:
            source.problem(0, f"{name} names no images or sounds", f"wanted them in the column {FILE_COLUMN}")
        return []
    rows = [
        Item(
            {modality if key == FILE_COLUMN else key: value for key, value in item.fields.items()},
            item.line,
            item.split,
        )
        for item in items
    ]
    file_names = {str(row.fields.get(modality)) for row in rows}
    other_files = [file for file in media_files(folder, modality) if file not in file_names]
    if other_files:
        what = f"{modality} files that {name} does not name"
        source.notices.add(what, count=len(other_files), unit="file", first=other_files[0], done="left out")
    return rows


def _commonest(names: list[str]) -> Modality | None:
    """The modality of most of the files; None where none is an image or a sound."""
    counts = Counter(modality for name in names if (modality := modality_of(name)))
    return counts.most_common(1)[0][0] if counts else None


def _subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def files_within(folder: Path) -> Iterator[str]:
    """Names of all files within a folder and its subfolders, in order, with `/`; links to folders are not followed."""
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        within = PurePath(parent).relative_to(folder)
        yield from ((within / name).as_posix() for name in sorted(names) if not name.startswith("."))


MEDIA_FOLDERS = Container("media-folders", (), _read_labels)
MEDIA_TABLE = Container("media-table", (), _read_table)
