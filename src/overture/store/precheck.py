"""Refusals before anything is parsed: a hostile or torn file is named from its first bytes.

No torch: the standard library, and NumPy for NaN. safetensors itself accepts duplicate keys, zero-size tensors and
headers of any length; its parser and torch see a file only after these checks.
"""

import errno
import io
import json
import math
import os
import stat
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from overture.core.errors import ArtifactError, Problem

MAX_HEADER_BYTES = 1_000_000
MAX_MANIFEST_BYTES = 1_000_000
MAX_TENSORS = 4096
MAX_DIMENSIONS = 8
WIDTH_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")

_LENGTH_BYTES = 8
_WORDS = {"F64": "<u8", "F32": "<u4", "F16": "<u2", "BF16": "<u2"}
_EXPONENTS = {"F64": 0x7FF0000000000000, "F32": 0x7F800000, "F16": 0x7C00, "BF16": 0x7F80}
_FETCH_AGAIN = "fetch the prompt again from where it was made"


def check_folder(folder: Path) -> None:
    """Refuse a folder by its listing alone: pickles are never opened, links never followed.

    Raises:
        ArtifactError: it is no folder, or holds a pickle or a symbolic link.
    """
    try:
        with os.scandir(folder) as listing:
            suspects = [
                entry for entry in listing if entry.is_symlink() or entry.name.lower().endswith(PICKLE_SUFFIXES)
            ]
    except (OSError, ValueError) as error:
        raise ArtifactError(
            "the prompt folder cannot be read", where=str(folder), got=str(error), wanted="a folder with prompt.json"
        ) from error
    if suspects:
        links = sorted(entry.name for entry in suspects if entry.is_symlink())
        pickles = sorted(entry.name for entry in suspects if not entry.is_symlink())
        problems = [Problem(name, "a symbolic link") for name in links]
        problems += [Problem(name, "a pickle can run code when it is read; it was not opened") for name in pickles]
        raise ArtifactError(
            "the folder holds what a prompt never holds",
            where=str(folder),
            wanted="prompt.safetensors, prompt.json and README.md as plain files",
            fix="convert pickles to safetensors where you trust them; copy links with cp -rL",
            problems=problems,
        )


def open_plain(path: Path) -> BinaryIO:
    """Open a plain file for reading; a link, a pipe or a device is refused without waiting on it.

    Raises:
        ArtifactError: the file is missing, unreadable, or not a plain file.
    """
    try:
        number = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        reason = "a symbolic link" if error.errno == errno.ELOOP else error.strerror
        raise ArtifactError(
            "a file of the prompt cannot be read", where=str(path), got=str(reason), wanted="a plain file"
        ) from error
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise ArtifactError(
            "a file of the prompt cannot be read", where=str(path), got="no file", wanted="a plain file"
        )
    return os.fdopen(number, "rb")


def strict_json(raw: bytes, where: str) -> Any:
    """JSON as the standard has it: UTF-8, no NaN or infinity, each key once.

    Raises:
        ArtifactError: it is not.
    """
    try:
        return json.loads(
            raw.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_refuse_constant, parse_float=_finite
        )
    except (ValueError, RecursionError) as error:
        raise ArtifactError("the JSON cannot be read", where=where, got=str(error), fix=_FETCH_AGAIN) from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) != len(pairs):
        twice = min(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise ValueError(f"key {twice!r:.80} stands more than once")
    return mapping


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text:.80} is too large")
    return value


def check_finite_bytes(raw: bytes, where: str) -> None:
    """Refuse a safetensors file's bytes that hold what a prompt never holds, NaN and infinity among it; without torch.

    Raises:
        ArtifactError: names the tensors.
    """
    import numpy as np

    check_tensors(io.BytesIO(raw), where)
    begin = _LENGTH_BYTES + int.from_bytes(raw[:_LENGTH_BYTES], "little")
    specs = {name: spec for name, spec in json.loads(raw[_LENGTH_BYTES:begin]).items() if name != "__metadata__"}
    problems = []
    for name, spec in specs.items():
        first, end = spec["data_offsets"]
        words = np.frombuffer(raw[begin + first : begin + end], _WORDS[spec["dtype"]])
        # All bits of the exponent are set in NaN and infinity, and in nothing else.
        exponent = words.dtype.type(_EXPONENTS[spec["dtype"]])
        if bool(((words & exponent) == exponent).any()):
            problems.append(Problem(f"{name!r:.80}", "holds NaN or infinity"))
    if problems:
        raise ArtifactError(
            "the prompt holds values that are no numbers", where=where, wanted="finite values", problems=problems
        )


def check_tensors(handle: BinaryIO, where: str, max_tensors: int = MAX_TENSORS) -> tuple[str, ...]:
    """Read a safetensors file's header, and nothing else, and refuse what a prompt never holds.

    Args:
        handle: the file, at its start; it is rewound at the end.
        where: its path, for the error.
        max_tensors: as many as such a file may hold.

    Returns:
        The tensors' names.

    Raises:
        ArtifactError: it is no safetensors file, or its header does not fit the file to the byte.
    """
    size = handle.seek(0, io.SEEK_END)
    handle.seek(0)
    length = _header_length(handle.read(_LENGTH_BYTES + 1), size, where)
    handle.seek(_LENGTH_BYTES)
    header = strict_json(handle.read(length), where)
    handle.seek(0)
    return tuple(_checked_header(header, size - _LENGTH_BYTES - length, where, max_tensors))


def _header_length(start: bytes, size: int, where: str) -> int:
    # A header of 640 bytes starts like a pickle, one of 19280 like a zip; so the magic numbers only explain a refusal.
    length = int.from_bytes(start[:_LENGTH_BYTES], "little")
    is_plausible = 2 <= length <= MAX_HEADER_BYTES and start[_LENGTH_BYTES:] == b"{"
    if len(start) <= _LENGTH_BYTES or not is_plausible:
        raise ArtifactError(
            "this is not a safetensors file",
            where=where,
            got=_guess(start, length),
            wanted=f"a JSON header of at most {MAX_HEADER_BYTES} bytes",
            fix=_FETCH_AGAIN,
        )
    if _LENGTH_BYTES + length > size:
        raise ArtifactError(
            "the file is cut off",
            where=where,
            got=f"{size} bytes",
            wanted=f"more than {_LENGTH_BYTES + length}",
            fix=_FETCH_AGAIN,
        )
    return length


def _guess(start: bytes, length: int) -> str:
    if start.startswith(b"PK"):
        return "a zip file, as torch.save writes; it was not opened"
    if start.startswith(b"\x80"):
        return "a pickle; it was not opened"
    if len(start) <= _LENGTH_BYTES:
        return f"{len(start)} bytes"
    return f"a header of {length} bytes"


def _checked_header(header: Any, data_bytes: int, where: str, max_tensors: int) -> dict[str, Any]:
    if not isinstance(header, dict):
        raise ArtifactError("the header is not a mapping", where=where, got=type(header).__name__, fix=_FETCH_AGAIN)
    tensors = {name: spec for name, spec in header.items() if name != "__metadata__"}
    if not 1 <= len(tensors) <= max_tensors:
        raise ArtifactError(
            "the number of tensors is wrong", where=where, got=str(len(tensors)), wanted=f"1 to {max_tensors}"
        )
    problems = [Problem(f"{name!r:.80}", fault) for name, spec in tensors.items() if (fault := _tensor_problem(spec))]
    metadata = header.get("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        problems.append(Problem("__metadata__", "not a mapping of text to text"))
    if not problems:
        problems = _layout_problems([spec["data_offsets"] for spec in tensors.values()], data_bytes)
    if problems:
        raise ArtifactError("the tensor file's header is wrong", where=where, fix=_FETCH_AGAIN, problems=problems)
    return tensors


def _tensor_problem(spec: Any) -> str:
    if not isinstance(spec, dict) or set(spec) != {"dtype", "shape", "data_offsets"}:
        return "needs exactly dtype, shape and data_offsets"
    dtype, shape, offsets = spec["dtype"], spec["shape"], spec["data_offsets"]
    if not isinstance(dtype, str) or dtype not in WIDTH_BYTES:
        return f"dtype {dtype!r:.40} is none of {', '.join(WIDTH_BYTES)}"
    if not _is_integers(shape) or len(shape) > MAX_DIMENSIONS or min(shape, default=1) < 1:
        return f"shape {shape!r:.80} is not 0 to {MAX_DIMENSIONS} positive integers"
    if not _is_integers(offsets) or len(offsets) != 2 or min(offsets) < 0:
        return f"data_offsets {offsets!r:.80} are not two positions"
    num_bytes = math.prod(shape) * WIDTH_BYTES[dtype]
    if offsets[1] - offsets[0] != num_bytes:
        return f"holds {offsets[1] - offsets[0]} bytes, its shape wants {num_bytes}"
    return ""


def _layout_problems(offsets: Sequence[list[int]], data_bytes: int) -> list[Problem]:
    spans = sorted(offsets)
    edges = [[0, 0], *spans, [data_bytes, data_bytes]]
    return [
        Problem(f"byte {before[1]}", f"the tensors end at {before[1]}, the file at {after[0]}")
        if after is edges[-1]
        else Problem(f"byte {before[1]}", "tensors overlap" if after[0] < before[1] else "a hole between tensors")
        for before, after in pairwise(edges)
        if before[1] != after[0]
    ]


def _is_integers(value: Any) -> bool:
    # bool is an int in Python; JSON's true is no size.
    return isinstance(value, list) and all(type(item) is int for item in value)
