"""Arrays of numpy, ``.npz``: a row for each entry of the arrays, such as `images` [n, H, W, 3] with `labels` [n].

Arrays of texts and numbers become plain values. Nothing is unpickled.
"""

import io
import zipfile
from typing import Any

from overture.data.formats.form import Container, Item, Source

_MAX_BYTES = 2 << 30


def _read(source: Source) -> list[Item]:
    # Most files are no arrays, and every command reads this module.
    import numpy

    try:
        with zipfile.ZipFile(io.BytesIO(source.raw)) as archive:
            num_bytes = sum(entry.file_size for entry in archive.infolist())
        if num_bytes > _MAX_BYTES:
            source.problem(0, f"arrays of {num_bytes >> 20:,} MiB; at most {_MAX_BYTES >> 20:,} are read")
            return []
        with numpy.load(io.BytesIO(source.raw), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (ValueError, OSError, zipfile.BadZipFile, EOFError, KeyError, NotImplementedError) as error:
        why = "it holds Python objects, which are never read" if "allow_pickle" in str(error) else str(error)
        source.problem(0, f"no arrays of numpy: {why:.120}")
        return []
    lengths = {name: len(array) for name, array in arrays.items() if array.ndim}
    if len(set(lengths.values())) != 1:
        shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in arrays.items()) or "none"
        source.problem(0, f"arrays of unlike length: {shapes}", "wanted one entry for each row in every array")
        return []
    num_rows = next(iter(lengths.values()))
    return [Item({name: _plain(arrays[name][number]) for name in lengths}, number + 1) for number in range(num_rows)]


def _plain(value: Any) -> Any:
    """An entry as a data file would have it; images and sounds stay arrays."""
    is_image = value.dtype == "uint8" and value.ndim in (2, 3)
    if is_image:
        return value
    return value.item() if value.ndim == 0 else value.tolist()


NPZ = Container("npz", (".npz",), _read)
