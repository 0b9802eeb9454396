"""A comparison's files beside its request: cells of another request are never mixed into a report."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from overture.core.errors import Problem, StoreError
from overture.core.files import write_json
from overture.core.records.base import Record, read_record
from overture.core.records.cells import (
    LABEL_RATE,
    Cell,
    DivergedCell,
    Identity,
    Key,
    Plan,
    RateChoice,
    RightAnswers,
    RowText,
)
from overture.data.encode import Encoder
from overture.data.row import Row
from overture.data.rows import gold_of, shown_rows
from overture.data.task import portable
from overture.evaluate.source import predicts_words
from overture.evaluate.wrong import shortened
from overture.jobs.compare.budget import Speed
from overture.jobs.compare.cells import CellContext
from overture.jobs.compare.ways import Way
from overture.jobs.verdict.files import CellFiles
from overture.prompt.build import label_rate_of
from overture.prompt.registry import method_of


class PlanRequest(Record):
    """The part of a request that a plan is made for."""

    ways: tuple[str, ...]
    sizes: tuple[int, ...]
    seeds: int
    budget: float | None
    is_rate_tuned: bool


class _KeptPlan(Record):
    request: PlanRequest
    plan: Plan


class _KeptSpeed(Record):
    speed: Speed
    config: Identity


class CellFolder:
    """Cells, rates and plan of one request.

    Args:
        folder: where the files are.
        context: the rows, model and task that its cells must belong to.
    """

    def __init__(self, folder: Path, context: CellContext) -> None:
        self.folder, self.context, self.files = folder, context, CellFiles(folder)
        self.data = _digest({name: getattr(context.splits, name) for name in ("train", "validation", "test")})
        self._labels = Encoder(context.task, context.resources.backbone.text.tokenizer).candidates
        self._row_digests: dict[tuple[int, int], str] = {}

    # -- cells

    def has(self, key: Key) -> bool:
        """Whether a cell is there."""
        return self.files.has(key)

    def keep(self, way: Way, cell: Cell) -> None:
        """Write a cell, and the right answers that it was scored by."""
        if not isinstance(cell, DivergedCell):
            gold = tuple(gold_of(self.context.task, self.context.splits.test))
            rows = tuple(
                RowText(where=Path(row.where).name, text=shortened(row.text))
                for row in shown_rows(self.context.task, self.context.splits.test)
            )
            self.files.keep_answers(RightAnswers(data=self.data, gold=gold, rows=rows))
        self.files.keep(cell.model_copy(update={"config": self._identity(way, cell.key, cell.lr)}))

    def cells(self, keys: Iterable[Key]) -> list[Cell]:
        """The cells of some keys, as far as they are stored.

        Raises:
            StoreError: a file is damaged.
        """
        return [self.files.cell(key) for key in keys if self.has(key)]

    def answers(self) -> RightAnswers:
        """The right answers of the test rows.

        Raises:
            StoreError: they are missing, damaged or those of other rows.
        """
        answers, path = self.files.answers(), str(self.files.answers_path)
        if answers is None:
            fix = "run any of the cells again with --cell"
            raise StoreError("the right answers of the cells are missing", where=path, fix=fix)
        if answers.data != self.data:
            raise StoreError(
                "the right answers are those of other rows",
                where=path,
                got=answers.data,
                wanted=self.data,
                fix="name another folder with --output",
            )
        return answers

    def check(self, way: Way, keys: Iterable[Key], rerun_key: Key | None = None) -> list[Problem]:
        """Problems of a way's cells that belong to another request.

        Args:
            way: the way.
            keys: the cells that would be used.
            rerun_key: a cell that will be run again, whatever it is now.
        """
        choice, problems = self.chosen(way), []
        for key in keys:
            if key == rerun_key or not self.has(key):
                continue
            identity = self._identity(way, key, choice.lr if choice else None)
            config = self.files.cell(key).config
            if differences := config.differences(identity) if config else list(Identity.model_fields):
                problems.append(Problem(str(key), f"another {', '.join(differences)}"))
        return problems

    def check_answers(self, rerun_key: Key | None = None) -> list[Problem]:
        """Problems of any cells, requested or not, that were scored by other right answers."""
        answers = self.files.answers()
        if answers and answers.data != self.data and self.files.slugs() - {rerun_key.slug if rerun_key else ""}:
            return [Problem(self.files.answers_path.name, "another data")]
        return []

    # -- rates and plan

    def chosen(self, way: Way) -> RateChoice | None:
        """How a way's learning rate was chosen for this request; None where it was not.

        Where the choice was not kept, the rate is the one that all the way's cells have.
        """
        choice = self.files.rate(way.name)
        if choice is None:
            cells = [cell for cell in self.files.cells(way.name).values() if cell.lr is not None]
            if not cells or len({cell.lr for cell in cells}) > 1:
                return None
            cell, by_hand = cells[0], way.config.train.lr
            if (by_hand and by_hand != cell.lr) or cell.config is None:
                return None
            if cell.config.differences(self._identity(way, cell.key, cell.lr)):
                return None
            return RateChoice(**dict(cell.key), lr=cell.lr, config=self._identity_of_rate(way))
        is_other = way.config.train.lr is not None and choice.lr != way.config.train.lr
        return None if choice.lr is None or is_other or not self._is_for(choice, way) else choice

    def trials_at(self, way: Way, key: Key) -> RateChoice | None:
        """A choice of a way's learning rate at a cell that was stopped before its end."""
        choice = self.files.rate(way.name)
        if choice and choice.lr is None and (choice.size, choice.seed) == (key.size, key.seed):
            return choice if self._is_for(choice, way) else None
        return None

    def has_other_rate(self, way: Way) -> bool:
        """Whether its learning rate was chosen, but for another request."""
        choice = self.files.rate(way.name)
        return choice is not None and choice.lr is not None and self.chosen(way) is None

    def keep_rate(self, way: Way, choice: RateChoice) -> RateChoice:
        """Write how a way's learning rate was chosen, and return it with what decides it."""
        choice = choice.model_copy(update={"config": self._identity_of_rate(way)})
        self.files.keep_rate(choice)
        return choice

    def _is_for(self, choice: RateChoice, way: Way) -> bool:
        return choice.config is not None and not choice.config.differences(self._identity_of_rate(way))

    def _identity_of_rate(self, way: Way) -> Identity:
        """Identity of a choice of a learning rate, without the size it was made at: all sizes take the same rate."""
        return self._identity(way, constant(way), None)

    def speed(self, way: Way) -> Speed | None:
        """A way's speed as an earlier call timed it; None where it did not, or timed other settings.

        Raises:
            StoreError: the file is damaged.
        """
        record = read_record(_KeptSpeed, self._speed_path(way))
        if record is None:
            return None
        # Which rows there are changes the rows' number, not the speed of one.
        differences = set(record.config.differences(self._identity_of_rate(way))) - {"data", "rows"}
        return None if differences else record.speed

    def keep_speed(self, way: Way, speed: Speed) -> None:
        """Write a way's speed."""
        record = _KeptSpeed(speed=speed, config=self._identity_of_rate(way))
        write_json(self._speed_path(way), record.dump())

    def _speed_path(self, way: Way) -> Path:
        return self.folder / "speeds" / f"{way.name.replace(':', '_')}.json"

    def plan(self, request: PlanRequest) -> Plan | None:
        """The plan that an earlier call made for the same request; None where there is none.

        Raises:
            StoreError: the file is damaged.
        """
        record = read_record(_KeptPlan, self.folder / "plan.json")
        return record.plan if record and record.request == request else None

    def keep_plan(self, request: PlanRequest, plan: Plan) -> None:
        """Write a plan and its request."""
        write_json(self.folder / "plan.json", _KeptPlan(request=request, plan=plan).dump())

    # -- identity

    def _rows(self, key: Key) -> str:
        """Fingerprint of the rows that a cell learns and chooses by, in their order."""
        place = key.size, key.seed
        if place not in self._row_digests:
            rows = self.context.rows(*place)
            learnt = {name: rows[name] for name in ("train", "validation")} if key.size else {}
            self._row_digests[place] = _digest(learnt)
        return self._row_digests[place]

    def _identity(self, way: Way, key: Key, rate: float | None) -> Identity:
        context, info = self.context, self.context.resources.backbone.info
        settings = dict(way.settings)
        if LABEL_RATE in settings:
            prompt, method = way.config.prompt, method_of(way.config.prompt)
            del settings[LABEL_RATE]
            has_words = prompt.labels != "vectors" and predicts_words(context.resources.backbone, context.task)
            if self._labels is not None and not (has_words or method.needs_labels or method.in_captions):
                # The rate itself: what a default is may change.
                settings[LABEL_RATE] = label_rate_of(prompt, self._labels.is_of_tokens)
        train = way.config.train.with_steps(max(1, key.size), context.min_steps).model_copy(update={"lr": rate})
        return Identity(
            task={name: value for name, value in portable(context.task).items() if name not in ("data", "backbone")},
            data=self.data,
            rows=self._rows(key),
            settings=settings,
            train=train.model_dump(mode="json") if way.rates else None,
            weights=info.weights_sha256,
            model={
                "tokenizer": info.tokenizer_sha256,
                "chat_template": info.chat_template_sha256,
                "config": dict(info.config),
            },
            dtype=info.dtype,
            unrelated=hashlib.sha256("\n".join(context.passages).encode()).hexdigest()[:16],
        )


def constant(way: Way) -> Key:
    """The one cell of a way that depends on no training rows."""
    return Key(way=way.name, size=0, seed=0)


def keys_of(way: Way, sizes: Sequence[int], seeds: Sequence[int]) -> list[Key]:
    """A way's cells."""
    return [Key(way=way.name, size=n, seed=s) for n in sizes for s in seeds] if way.needs_rows else [constant(way)]


def _digest(splits: Mapping[str, Sequence[Row]]) -> str:
    """Fingerprint of rows and their order."""
    rows = [[row.fields for row in split] for split in splits.values()]
    return hashlib.sha256(json.dumps(rows, sort_keys=True, default=str).encode()).hexdigest()[:16]
