"""Why a first task file cannot be written for a folder, by what is in it."""

from itertools import islice
from pathlib import Path

from overture.core.errors import DataError
from overture.core.media import PLURALS
from overture.data.formats.media_folders import files_within
from overture.data.formats.split_names import split_named
from overture.data.media.read import MODALITIES, modality_of
from overture.data.read import SUFFIXES
from overture.data.row import FILE_COLUMN, MEDIA_TABLE_STEM

_MAX_FILES = 20_000
"""Files that are counted, so that a folder such as the user's own is refused at once."""


def no_training_rows(folder: Path) -> DataError:
    """The error for a folder in which no training rows were found."""
    names = list(islice(files_within(folder), _MAX_FILES))
    if not names:
        return DataError("the folder is empty", where=str(folder), wanted="data files, images or sounds")
    media = max(([name for name in names if modality_of(name) == modality] for modality in MODALITIES), key=len)
    if 2 * len(media) > len(names):
        return _without_labels(folder, PLURALS[str(modality_of(media[0]))], media)
    return DataError(
        "no training rows in the folder",
        where=str(folder),
        wanted=f"a file called train, or with train in its name ({', '.join(SUFFIXES)})",
        fix="name a file",
    )


def _without_labels(folder: Path, noun: str, names: list[str]) -> DataError:
    """The error for images or sounds that have no subfolder for each of two labels.

    Args:
        folder: the folder.
        noun: images or sounds.
        names: their names within the folder.
    """
    first_parts = {name.partition("/")[0] for name in names if "/" in name}
    if split := next((part for part in sorted(first_parts) if split_named(part) == "train"), ""):
        folder /= split
        names = [name.removeprefix(f"{split}/") for name in names if name.startswith(f"{split}/")]
    labels = {name.rpartition("/")[0].partition("/")[0] for name in names}
    count = f"{len(names)} {noun if len(names) > 1 else noun[:-1]}"
    table = f"{MEDIA_TABLE_STEM}.csv with the columns {FILE_COLUMN} and label"
    if len(labels) == 1 and labels != {""}:
        return DataError(
            f"{count} of one label; at least two subfolders are needed",
            where=str(folder),
            got=f"the subfolder {min(labels)}",
            fix=f"add a subfolder with {noun} of another label, or add {table}",
        )
    return DataError(
        f"{noun} without labels",
        where=str(folder),
        got=count,
        fix=f"put them into one folder for each label, or add {table}",
    )
