"""A folder of texts with a subfolder for each label, as of 20 Newsgroups and IMDb: ``pos/1.txt``, ``neg/2.txt``.

A row is a text: `id` (the subfolder and the file's name), `text` and `label`, the subfolder's name.
"""

from collections.abc import Iterator
from pathlib import Path

from overture.data.formats.encoding import text_of
from overture.data.formats.form import Container, Item, Source
from overture.data.formats.split_names import split_named

_MAX_BYTES = 2 << 30


def are_label_folders(folder: Path) -> bool:
    """Whether a folder has two subfolders or more with texts, which are no splits."""
    labels = [part for part in _subfolders(folder) if next(_texts(part), None)]
    return len(labels) > 1 and not any(split_named(part.name) for part in labels)


def _read(source: Source) -> list[Item]:
    items: list[Item] = []
    num_bytes = 0
    if not Path(source.file).is_dir():
        source.problem(0, "a file, not a folder", "name the folder that holds a subfolder for each label")
        return []
    for label in _subfolders(Path(source.file)):
        for path in _texts(label):
            try:
                num_bytes += path.stat().st_size
                raw = path.read_bytes() if num_bytes <= _MAX_BYTES else b""
            except OSError as error:
                source.problem(0, f"{label.name}/{path.name} cannot be read: {error.strerror}")
                continue
            if num_bytes > _MAX_BYTES:
                source.problem(0, f"texts of more than {_MAX_BYTES >> 30} GiB", "take a part of them")
                return []
            text = text_of(Source(str(path), raw, source.options, source.problems, source.notices))
            fields = {"id": f"{label.name}/{path.name}", "text": text.strip(), "label": label.name}
            items.append(Item(fields, len(items) + 1))
    return items


def _subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _texts(folder: Path) -> Iterator[Path]:
    """Its texts: files called .txt, or with a number for a name, as in 20 Newsgroups."""
    for path in sorted(folder.iterdir()):
        if (path.suffix.lower() == ".txt" or path.name.isdigit()) and path.is_file():
            yield path


LABEL_FOLDERS = Container("label-folders", (), _read)
