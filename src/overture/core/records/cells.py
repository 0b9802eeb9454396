"""Records of a comparison's cells: which there are, what each one measured and what it cost."""

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, JsonValue, TypeAdapter

from overture.core.config import unequal_values
from overture.core.errors import ConfigError
from overture.core.records.base import Record, optional
from overture.core.records.scores import Interval
from overture.core.records.training import EpochRecord

JOULES_PER_KWH = 3.6e6
MAX_VALIDATION = 256
"""A cell has as many validation rows as training rows, and no more than these."""
NO_PROMPT = "no-prompt"
"""The way that leaves the model as it is; `none` until version 0.1."""
WayName = Annotated[str, BeforeValidator(lambda name: NO_PROMPT if name == "none" else name)]
Accounts = Literal["building", "reading", "training", "validation", "scoring", "serving"]
WORK: tuple[Accounts, ...] = ("building", "reading", "training", "validation")
"""Accounts of making a way ready, as opposed to serving it."""


BEFORE_RECORDED: dict[str, dict[str, Any]] = {
    "task": {"input": "text", "input_field": None, "language": None, "translate": False, "spellings": {}},
    "settings": {"read_layer": "last", "read_features": "auto"},
    "train": {"passes": 1, "average": 0.0, "class_weights": "none"},
}
"""Options by part of an `Identity`: what cells did before there was the option, so that older cells stay usable."""
LABEL_RATE = "label_rate"
"""An option of label vectors. Identities of answers by label words have none, and what older cells recorded is void.
Where there are vectors they hold the rate itself; older cells may have none, which was the default that still is."""


# -- what was run


class Key(Record):
    """Names a cell."""

    way: WayName = Field(description="the way")
    size: int = Field(description="training rows; 0 of a way that uses none")
    seed: int = Field(description="the seed; 0 of a way that uses none")

    @property
    def slug(self) -> str:
        """Its name as a file."""
        return f"{self.way.replace(':', '_')}--{self.size}--{self.seed}"

    def __str__(self) -> str:
        return f"{self.way}:{self.size}:{self.seed}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """The inverse of `str`.

        Raises:
            ConfigError: the text does not name a cell.
        """
        way, *numbers = text.rsplit(":", 2)
        if len(numbers) != 2 or not way or not all(part.isdecimal() for part in numbers):
            raise ConfigError("not a cell", where="--cell", got=f"{text!r:.80}", wanted="WAY:SIZE:SEED")
        return cls(way=way, size=int(numbers[0]), seed=int(numbers[1]))

    @property
    def title(self) -> str:
        """Its name for people."""
        return f"{self.way}, {self.size} rows, seed {self.seed}" if self.size else self.way


class Plan(Record):
    """Sizes and seeds that are run."""

    sizes: tuple[int, ...] = Field(description="numbers of training rows, rising")
    seeds: int = Field(description="number of seeds")
    is_tuned: bool = Field(description="whether each way's learning rate is chosen among several")
    seconds: float | None = Field(None, description="expected duration; none without a budget")
    left_out: tuple[str, ...] = Field((), description="sentences about what the budget did not allow")


class Request(Record):
    """The request that a comparison was made for, without paths of the machine."""

    ways: tuple[WayName, ...] = Field(description="the ways in order")
    settings: dict[WayName, tuple[str, ...]] = Field(description="way -> settings of its own, as KEY=VALUE")
    sizes: tuple[int, ...] = Field(description="numbers of training rows")
    seeds: int = Field(description="number of seeds")
    budget: float | None = Field(description="minutes")
    price: float | None = Field(description="price of an hour of the machine")
    watts: float = Field(description="power that is assumed without a meter")
    margin: float = Field(description="largest difference that counts as none")
    reference: WayName = Field(description="the way that others are compared with; empty if the comparison chooses it")
    is_rate_tuned: bool = Field(description="whether learning rates are chosen")
    min_steps: int = Field(description="least optimiser steps of a training")
    tune: dict[str, JsonValue] = Field(description="the task and the options that all ways share")


# -- cells


class Account(Record):
    """Costs of one kind of work."""

    seconds: float = Field(0.0, description="wall time")
    cpu_seconds: float = Field(0.0, description="processor time of all threads of the process")
    positions: float = Field(0.0, description="positions that ran through the model, padding included")
    flops: float = Field(0.0, description="floating-point operations, counted as in `engine.operations`")
    joules: float = Field(0.0, description="by the machine's meter; 0 without one")


def _account(description: str) -> Any:
    return Field(Account(), description=description, exclude_if=lambda account: account == Account())


class Ledger(Record):
    """Costs of a cell."""

    building: Account = _account("making the way from the rows")
    reading: Account = _account("running inputs whose results are kept")
    training: Account = _account("optimiser steps")
    validation: Account = _account("scoring validation rows")
    serving: Account = _account("answering test rows")
    scoring: Account = _account("losses and metrics of test rows")
    peak_bytes: int = Field(description="highest memory of the process, the model included")
    grown_bytes: int = Field(description="memory beyond what was used when the cell began")
    energy_meter: str = Field(description="counters that measured the joules; empty if there were none")

    @property
    def accounts(self) -> tuple[Account, ...]:
        """All accounts."""
        return (self.building, self.reading, self.training, self.validation, self.serving, self.scoring)

    def account(self, name: Accounts) -> Account:
        """One account by its name."""
        return getattr(self, name)


class RowCounts(Record):
    """Rows of a cell."""

    train: int = Field(description="training rows")
    validation: int = Field(description="validation rows")
    test: int = Field(description="test rows")


class ModelState(Record):
    """The frozen model after a cell."""

    is_intact: bool = Field(description="whether its weights have the same digest as before")
    is_shared: bool = Field(description="whether the way answers with the frozen model's own weights")
    own_bytes: int = Field(description="bytes of weights that the way keeps beside the model's")
    perplexity_before: float | None = Field(
        description="of unrelated texts, by the model alone; none if it cannot write"
    )
    perplexity_after: float | None = Field(description="the same under the way")


class Identity(Record):
    """Everything that decides a cell's numbers, except the machine."""

    task: dict[str, JsonValue] = Field(description="the task without data and model")
    data: str = Field(description="fingerprint of all rows")
    rows: str | None = optional("fingerprint of the rows that the cell learns from, in order")
    settings: dict[str, JsonValue] = Field(description="the way's options")
    train: dict[str, JsonValue] | None = Field(description="training options; none if nothing is trained")
    weights: str = Field(description="SHA-256 of the model's weights")
    model: dict[str, JsonValue] | None = optional(
        "fingerprints of tokenizer and chat template, and values of the config that change the model's answers"
    )
    dtype: str = Field(description="their data type")
    unrelated: str = Field(description="fingerprint of the unrelated texts")

    def differences(self, wanted: "Identity") -> list[str]:
        """Names of what differs, by option and value of the model; what an older cell did not record counts as equal.

        An option that came after the cell has the value of `BEFORE_RECORDED`.
        """
        names = []
        for name in type(self).model_fields:
            value, wanted_value = getattr(self, name), getattr(wanted, name)
            if name == "model":
                names += [problem.where for problem in unequal_values(value or {}, wanted_value or {}, name)]
            elif value and wanted_value and name in BEFORE_RECORDED:
                added = {key: old for key, old in BEFORE_RECORDED[name].items() if key in wanted_value}
                options = added | value
                if LABEL_RATE not in wanted_value:
                    options.pop(LABEL_RATE, None)
                elif options.get(LABEL_RATE, 0.0) is None:
                    options[LABEL_RATE] = wanted_value[LABEL_RATE]
                # An option that one side lacks differs even from one that is null.
                names += [
                    f"{name}.{key}"
                    for key in options | wanted_value
                    if key not in options or key not in wanted_value or options[key] != wanted_value[key]
                ]
            elif value != wanted_value and not (name == "rows" and value is None):
                names.append(name)
        return names


def _as_tuples(value: Any) -> Any:
    return tuple(map(_as_tuples, value)) if isinstance(value, list | tuple) else value


Answers = Annotated[tuple[Any, ...], BeforeValidator(_as_tuples)]
"""Answers by row; lists, as JSON has them, become tuples."""


class _Cell(Key):
    """Fields of every cell."""

    status: str = Field(description="how its training ended")
    lr: float | None = Field(description="learning rate; none if nothing is trained")
    rows: RowCounts = Field(description="number of rows")
    trainable: int = Field(description="number of trained values")
    facts: dict[str, JsonValue] = Field({}, description="further facts of the way")
    versions: dict[str, str] = Field({}, description="package -> version")
    threads: int | None = optional("processor threads")
    ledger: Ledger = Field(description="costs")
    config: Identity | None = optional("what decides its numbers")

    @property
    def key(self) -> Key:
        """The cell's name."""
        return Key(way=self.way, size=self.size, seed=self.seed)


class _ScoredCell(_Cell):
    """Fields of a cell whose test rows were answered."""

    metrics: dict[str, dict[str, Interval]] = Field(description="split -> metric -> score")
    predicted: Answers = Field(description="answers to the test rows")
    confidences: tuple[float, ...] | None = optional("probability of each answer; none where there are none")
    stored_bytes: int = Field(description="bytes kept beside the frozen model")
    notices: tuple[str, ...] = Field((), description="sentences about odd rows")
    base: ModelState = Field(description="the frozen model afterwards")


class BuiltCell(_ScoredCell):
    """A cell of a way that no gradient trains."""

    kind: Literal["built"] = "built"


class _Training(Record):
    """Course of a training."""

    steps: int = Field(description="optimiser steps taken")
    best_epoch: int = Field(description="epoch whose values were kept")
    history: tuple[EpochRecord, ...] = Field(description="one record for each epoch")


class TrainedCell(_ScoredCell, _Training):
    """A cell that was trained."""

    kind: Literal["trained"] = "trained"

    @property
    def best_steps(self) -> float:
        """Optimiser steps up to the end of the best epoch."""
        return self.steps * (self.best_epoch + 1) / len(self.history) if self.history else 0.0


class DivergedCell(_Cell, _Training):
    """A cell whose training diverged before any epoch could be kept; it has no score."""

    kind: Literal["diverged"] = "diverged"


ScoredCell = BuiltCell | TrainedCell
Cell = Annotated[BuiltCell | TrainedCell | DivergedCell, Field(discriminator="kind")]
CELLS: TypeAdapter[Cell] = TypeAdapter(Cell)
"""Reads a cell of any kind."""


class FailedCell(Key):
    """A cell that could not be run."""

    what: str = Field(description="the error")


class Trial(Record):
    """One learning rate that was tried."""

    lr: float = Field(description="the rate")
    score: float | None = Field(description="best score of the validation rows; none if training diverged")
    loss: float | None = Field(description="validation loss of that epoch; none if training diverged")
    status: str = Field(description="how the training ended")
    ledger: Ledger = Field(description="costs")


class RateChoice(Key):
    """How a way's learning rate was chosen, at one size and seed."""

    lr: float | None = Field(description="the rate; none while rates are being tried")
    tried: tuple[Trial, ...] = Field((), description="the trials; none if the rate was not chosen among several")
    config: Identity | None = optional("what decides the choice")


class RowText(Record):
    """Place and text of a row, for people."""

    where: str = Field(description="file and line")
    text: str = Field(description="its text, shortened")


class RightAnswers(Record):
    """The answers that a comparison's cells are scored by."""

    data: str = Field(description="fingerprint of all rows")
    gold: Answers = Field(description="right answers of the test rows")
    rows: tuple[RowText, ...] = Field((), description="the test rows; none in older comparisons")
