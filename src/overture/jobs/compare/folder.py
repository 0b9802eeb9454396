"""The folder of a comparison: one JSON file a cell, the right answers they are scored by, rates and plan.

Every cell records what decides its numbers, so that cells of another request are never mixed into a report.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from overture.core.errors import Problem, StoreError
from overture.core.files import write_json
from overture.core.records.compare import Plan
from overture.data.rows import Row
from overture.data.task import portable
from overture.jobs.compare.cells import Key, Lab
from overture.jobs.compare.ways import Way
from overture.train.options import TrainConfig


class CellFolder:
    """What is kept of a comparison.

    Args:
        folder: where the files are.
        lab: the rows, model and task that its cells must belong to.
    """

    def __init__(self, folder: Path, lab: Lab) -> None:
        self.folder, self.lab = folder, lab
        self.data = _digest({name: getattr(lab.splits, name) for name in ("train", "validation", "test")})
        self._drawn: dict[tuple[int, int], str] = {}

    # -- cells

    def has(self, key: Key) -> bool:
        """Whether a cell is there."""
        return self._path(key).exists()

    def keep(self, way: Way, key: Key, rate: float | None, found: dict[str, Any]) -> None:
        """Write a cell, and the right answers that it was scored by."""
        if "gold" in found:
            write_json(self._gold_path, {"data": self.data, "gold": found["gold"]})
        cell = {name: value for name, value in found.items() if name != "gold"}
        write_json(self._path(key), {**cell, "config": self._identity(way, key, rate)})

    def cells(self, keys: Iterable[Key]) -> list[dict[str, Any]]:
        """Those of the cells that are there, each with the right answers.

        Raises:
            StoreError: a file is damaged, or the right answers are missing or those of other rows.
        """
        found = [self._cell(key) for key in keys if self.has(key)]
        gold = self._gold() if any(cell["metrics"] for cell in found) else []
        return [{**cell, "gold": gold} for cell in found]

    def _cell(self, key: Key) -> dict[str, Any]:
        return _read(self._path(key), "way", "size", "seed", "metrics")

    def _gold(self) -> list[Any]:
        path = self._gold_path
        if not path.exists():
            raise StoreError(
                "the right answers of the cells are missing",
                where=str(path),
                fix="run any of the cells again with --cell",
            )
        found = _read(path, "data", "gold")
        if found["data"] != self.data:
            raise StoreError(
                "the right answers are those of other rows",
                where=str(path),
                got=found["data"],
                wanted=self.data,
                fix="name another folder with --out",
            )
        return list(found["gold"])

    def check(self, way: Way, keys: Iterable[Key], replaced: Key | None = None) -> list[Problem]:
        """Which of a way's cells belong to another request.

        Args:
            way: whose they are.
            keys: the cells that would be used.
            replaced: a cell that will be run again, whatever it is now.
        """
        rate, problems = self.chosen(way).get("lr"), []
        for key in keys:
            if key == replaced or not self.has(key):
                continue
            other = _differing(self._cell(key).get("config", {}), self._identity(way, key, rate))
            if other:
                problems.append(Problem(str(key), f"another {', '.join(other)}"))
        return problems

    def check_answers(self, replaced: Key | None = None) -> list[Problem]:
        """Whether cells are there, asked for or not, that were scored by other right answers."""
        others = {path.stem for path in self.folder.glob("cells/*.json")} - {replaced.slug if replaced else ""}
        if others and self._gold_path.exists() and _read(self._gold_path, "data", "gold")["data"] != self.data:
            return [Problem(self._gold_path.name, "another data")]
        return []

    def _path(self, key: Key) -> Path:
        return self.folder / "cells" / f"{key.slug}.json"

    @property
    def _gold_path(self) -> Path:
        return self.folder / "gold.json"

    # -- rates and plan

    def chosen(self, way: Way) -> dict[str, Any]:
        """How a way's learning rate was chosen; empty where it was not, or for another request."""
        found, by_hand = self._rates(way), way.config.train.lr
        if not found or found["lr"] is None or (by_hand and found["lr"] != by_hand):
            return {}
        return {} if _differing(found["config"], self._of_rates(way)) else found

    def tried(self, way: Way, key: Key) -> list[dict[str, Any]]:
        """Trials of a way's learning rates at a cell, where choosing was stopped before its end."""
        found = self._rates(way)
        if not found or found["lr"] is not None or (found["size"], found["seed"]) != (key.size, key.seed):
            return []
        return [] if _differing(found["config"], self._of_rates(way)) else list(found["tried"])

    def has_other_rates(self, way: Way) -> bool:
        """Whether its learning rate was chosen, but for another request."""
        found = self._rates(way)
        return bool(found) and found["lr"] is not None and not self.chosen(way)

    def _rates(self, way: Way) -> dict[str, Any]:
        path = self._rates_path(way)
        return _read(path, "way", "lr", "size", "seed", "tried", "config") if path.exists() else {}

    def keep_chosen(self, way: Way, chosen: dict[str, Any]) -> None:
        """Write how a way's learning rate was chosen."""
        write_json(self._rates_path(way), {**chosen, "config": self._of_rates(way)})

    def _of_rates(self, way: Way) -> dict[str, Any]:
        """What decides a way's learning rate; the size it is chosen at does not, so that cells belong together."""
        return self._identity(way, constant(way), None)

    def _rates_path(self, way: Way) -> Path:
        return self.folder / "rates" / f"{way.name.replace(':', '_')}.json"

    def plan(self, asked: dict[str, Any]) -> Plan | None:
        """The plan of an earlier call for the same, so that going on does not plan anew."""
        path = self.folder / "plan.json"
        found = _read(path) if path.exists() else {}
        return Plan(**found["plan"]) if found.get("asked") == asked else None

    def keep_plan(self, asked: dict[str, Any], plan: Plan) -> None:
        """Write what is to be run, and for which request."""
        write_json(self.folder / "plan.json", {"asked": asked, "plan": plan.model_dump(mode="json")})

    # -- whose cells

    def _rows(self, key: Key) -> str:
        """Fingerprint of the rows that a cell learns and chooses by, in their order."""
        at = key.size, key.seed
        if at not in self._drawn:
            rows = self.lab.rows(*at)
            self._drawn[at] = _digest({name: rows[name] for name in ("train", "validation")} if key.size else {})
        return self._drawn[at]

    def _identity(self, way: Way, key: Key, rate: float | None) -> dict[str, Any]:
        """What decides a cell's numbers, but for the machine."""
        lab, info = self.lab, self.lab.bench.backbone.info
        train = way.config.train.with_steps(max(1, key.size), lab.min_steps).model_copy(update={"lr": rate})
        task = portable(lab.task)
        return {
            "task": {name: value for name, value in task.items() if name not in ("data", "backbone")},
            "data": self.data,
            "rows": self._rows(key),
            "settings": way.settings,
            "train": _schedule(train) if way.rates else None,
            "weights": info.weights_sha256,
            "dtype": info.dtype,
            "unrelated": hashlib.sha256("\n".join(lab.passages).encode()).hexdigest()[:16],
        }


def constant(way: Way) -> Key:
    """The one cell of a way that depends on no training rows."""
    return Key(way=way.name, size=0, seed=0)


def keys_of(way: Way, sizes: Sequence[int], seeds: Sequence[int]) -> list[Key]:
    """A way's cells."""
    return [Key(way=way.name, size=n, seed=s) for n in sizes for s in seeds] if way.needs_rows else [constant(way)]


def _differing(config: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """What of a file's request is not as it should be; files of earlier versions do not tell which rows were drawn."""
    return [name for name in wanted if config.get(name) != wanted[name] and (name != "rows" or name in config)]


def _digest(splits: Mapping[str, Sequence[Row]]) -> str:
    """Fingerprint of rows and their order."""
    rows = [[row.fields for row in split] for split in splits.values()]
    return hashlib.sha256(json.dumps(rows, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _read(path: Path, *names: str) -> dict[str, Any]:
    """A file of the folder, with what must be in it.

    Raises:
        StoreError: it is damaged.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StoreError("the file is damaged", where=str(path), got=str(error), fix="delete it and go on") from None
    if not isinstance(found, dict):
        raise StoreError("the file is damaged", where=str(path), wanted="a JSON object", fix="delete it and go on")
    missing = [name for name in names if name not in found]
    if missing:
        got = f"no {', '.join(missing)}"
        raise StoreError("the file is damaged", where=str(path), got=got, fix="delete it and go on")
    return found


def _schedule(train: TrainConfig) -> dict[str, Any]:
    """Training options as cells record them; one pass an epoch goes unsaid, as before there could be more."""
    return train.model_dump(mode="json", exclude={"passes"} if train.passes == 1 else None)
