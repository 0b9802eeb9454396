"""Alpaca (Taori et al. 2023): `instruction`, `input` (often empty) and `output`."""

from collections.abc import Sequence

from overture.core.errors import Problem
from overture.data.formats.form import Problems, Record, Shape
from overture.data.values import kind

_FIELDS = ("instruction", "input", "output")


def _is_like(record: Record) -> bool:
    return "instruction" in record and "output" in record and "messages" not in record


def _rows(record: Record, where: str, problems: Problems) -> Sequence[Record]:
    row = {**record, **{name: "" for name in ("input",) if record.get(name) is None}}
    for name in _FIELDS:
        if name not in row:
            problems.append(Problem(where, f"no field {name!r}", f"Alpaca has {', '.join(_FIELDS)}"))
        elif not isinstance(row[name], str):
            problems.append(Problem(where, f"{name!r} is {kind(row[name])}", "wanted text"))
    return [row]


ALPACA = Shape("alpaca", "Alpaca", _is_like, _rows)
