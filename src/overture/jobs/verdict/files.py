"""The files of a comparison: one JSON file a cell while it runs, one ``cells.jsonl`` once it is packed.

A running comparison keeps ``cells/CELL.json``, ``rates/WAY.json`` and ``gold.json``, so that it goes on where it
stopped. Packed, all of it is one file: a header with right answers and rates, then one line a cell. Both forms may
stand side by side: a later call writes single files, and they count before the packed ones.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from overture.core.errors import StoreError
from overture.core.files import write_atomic, write_json
from overture.core.records.base import Record, read_record
from overture.core.records.cells import CELLS, Answers, Cell, Key, RateChoice, RightAnswers, RowText


class _Header(Record):
    """First line of a packed file."""

    data: str
    gold: Answers
    rows: tuple[RowText, ...] = ()
    rates: dict[str, RateChoice]


class CellFiles:
    """Reads and writes a comparison's cells, right answers and learning rates.

    Args:
        folder: where the files are.

    Raises:
        StoreError: ``cells.jsonl`` is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._packed: dict[Key, Cell] = {}
        self._header: _Header | None = None
        if self._packed_path.exists():
            first, *lines = self._packed_path.read_text(encoding="utf-8").splitlines() or [""]
            try:
                self._header = _Header.model_validate_json(first)
                self._packed = {cell.key: cell for cell in map(CELLS.validate_json, lines)}
            except ValidationError as error:
                raise _damaged(self._packed_path, error) from None

    # -- cells

    def has(self, key: Key) -> bool:
        """Whether a cell is there."""
        return self._cell_path(key).exists() or key in self._packed

    def cell(self, key: Key) -> Cell:
        """A cell.

        Raises:
            StoreError: its file is damaged.
        """
        path = self._cell_path(key)
        return _read_cell(path) if path.exists() else self._packed[key]

    def keep(self, cell: Cell) -> None:
        """Write a cell."""
        write_json(self._cell_path(cell.key), cell.dump())

    def slugs(self) -> set[str]:
        """Names of all cells, as files have them."""
        return {path.stem for path in self.folder.glob("cells/*.json")} | {key.slug for key in self._packed}

    def cells(self, way: str | None = None) -> dict[Key, Cell]:
        """All cells, or those of one way, sorted by way, size and seed.

        Raises:
            StoreError: a file is damaged.
        """
        pattern = "*.json" if way is None else f"{Key(way=way, size=0, seed=0).slug.partition('--')[0]}--*.json"
        loose = {cell.key: cell for cell in map(_read_cell, (self.folder / "cells").glob(pattern))}
        cells = {key: cell for key, cell in (self._packed | loose).items() if way in (None, key.way)}
        return {key: cells[key] for key in sorted(cells, key=lambda key: (key.way, key.size, key.seed))}

    # -- right answers

    @property
    def answers_path(self) -> Path:
        """The file of the right answers, while the comparison runs."""
        return self.folder / "gold.json"

    def answers(self) -> RightAnswers | None:
        """The right answers; None where none are kept.

        Raises:
            StoreError: the file is damaged.
        """
        answers = read_record(RightAnswers, self.answers_path)
        if answers is None and self._header:
            return RightAnswers(data=self._header.data, gold=self._header.gold, rows=self._header.rows)
        return answers

    def keep_answers(self, answers: RightAnswers) -> None:
        """Write the right answers."""
        write_json(self.answers_path, answers.dump())

    # -- learning rates

    def rate(self, way: str) -> RateChoice | None:
        """How a way's learning rate was chosen; None where nothing is kept.

        Raises:
            StoreError: the file is damaged.
        """
        choice = read_record(RateChoice, self._rate_path(way))
        return self._header.rates.get(way) if choice is None and self._header else choice

    def keep_rate(self, choice: RateChoice) -> None:
        """Write how a way's learning rate was chosen."""
        write_json(self._rate_path(choice.way), choice.dump())

    # -- one file

    def pack(self) -> Path:
        """Write all into ``cells.jsonl`` and delete the single files; returns its path.

        Raises:
            StoreError: there are no cells, or a file is damaged.
        """
        cells, answers = self.cells(), self.answers()
        if not cells or answers is None:
            raise StoreError("there is nothing to pack", where=str(self.folder), wanted="cells and their right answers")
        rates = {way: choice for way in dict.fromkeys(key.way for key in cells) if (choice := self.rate(way))}
        header = _Header(**dict(answers), rates=rates)
        records = (header, *cells.values())
        lines = [json.dumps(record.dump(), ensure_ascii=False, separators=(",", ":")) + "\n" for record in records]
        write_atomic(self._packed_path, "".join(lines))
        for name in ("cells", "rates", "speeds", "charts"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        for name in (self.answers_path.name, "plan.json", ".lock"):
            (self.folder / name).unlink(missing_ok=True)
        return self._packed_path

    @property
    def _packed_path(self) -> Path:
        return self.folder / "cells.jsonl"

    def _cell_path(self, key: Key) -> Path:
        return self.folder / "cells" / f"{key.slug}.json"

    def _rate_path(self, way: str) -> Path:
        return self.folder / "rates" / f"{way.replace(':', '_')}.json"


def _read_cell(path: Path) -> Cell:
    try:
        return CELLS.validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Any) -> StoreError:
    return StoreError(
        "the file is damaged",
        where=str(path),
        got=str(error)[:200],
        wanted="cells of this version of Overture",
        fix="delete it and go on",
    )
