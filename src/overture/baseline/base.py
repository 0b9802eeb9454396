"""The contract of a baseline: each has a function that builds a `Built` from a `Request`."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pydantic import JsonValue
from torch import Tensor

from overture.baseline.options import LabelOptions
from overture.core.contracts import Scorer, Trainee
from overture.core.errors import ConfigError
from overture.core.rows import Encoded
from overture.data.encode import Encoder
from overture.data.row import Row
from overture.data.task import Task
from overture.engine.backbone import Backbone
from overture.engine.cache import InputCache
from overture.engine.prompted import PromptedModel
from overture.evaluate.source import prompt_source
from overture.prompt.build import wants_label_vectors
from overture.prompt.config import PromptConfig
from overture.prompt.labels import LabelVectors, RowLabelVectors, label_start, with_labels


@dataclass(frozen=True, slots=True)
class Request:
    """Everything that a baseline is built from.

    Args:
        options: the baseline's options, checked.
        backbone: the frozen model; no baseline changes it.
        encoder: of the task's rows.
        splits: rows as they were read, by split; `train` and `validation` are needed.
        rows: the same encoded.
        seed: of the run.
        cache: of the frozen model's inputs; None for none.
    """

    options: Any
    backbone: Backbone
    encoder: Encoder
    splits: Mapping[str, Sequence[Row]]
    rows: Mapping[str, Sequence[Encoded]]
    seed: int
    cache: InputCache | None = None

    @property
    def task(self) -> Task:
        """The task."""
        return self.encoder.task

    def label_vectors(self) -> LabelVectors | RowLabelVectors | None:
        """Label vectors to train beside the model's own values; None where label words are compared."""
        options: LabelOptions = self.options
        source = prompt_source(self.backbone, self.encoder, self.rows["train"], cache=self.cache)
        if not wants_label_vectors(PromptConfig(labels=options.labels), source):
            return None
        labels, bias = label_start(source)
        vectors = with_labels(None, labels, options.label_rate, bias)
        return vectors.to(self.backbone.device)

    def need_labels(self, what: str) -> None:
        """Refuse a task whose rows do not have exactly one label.

        Raises:
            ConfigError: rows have no label, several labels, or choices of their own.
        """
        if self.encoder.candidates is None or any(row.label is None for row in self.rows["train"]):
            raise ConfigError(
                f"{what} needs exactly one label a row",
                where="kind",
                got=self.task.kind,
                wanted="classification",
                fix="leave it out; 'head' trains label vectors for tags and ends of answers",
            )

    def calibrated(self) -> "Request":
        """The same request with rows whose label scores are calibrated, by the task's `options.calibration`.

        Raises:
            ConfigError: the kind of task cannot be calibrated.
        """
        encoder = Encoder(self.task.calibrated(), self.encoder.tokenizer, reserve=self.encoder.reserve)
        rows = {name: encoder.encode_split(name, self.splits[name]) for name in self.rows}
        return replace(self, encoder=encoder, rows=rows)

    def need_decoder(self, what: str) -> None:
        """Refuse models that do not continue a text.

        Raises:
            ConfigError: the backbone is no decoder.
        """
        kind = self.backbone.family.kind
        if kind != "decoder":
            raise ConfigError(
                f"{what} needs a decoder",
                where="backbone",
                got=f"an {kind} ({self.backbone.info.model_type})",
                fix="leave it out, or choose a decoder as --backbone",
            )


@dataclass(frozen=True, slots=True)
class Built:
    """A baseline on one task with one seed.

    Args:
        model: scores rows.
        rows: rows to score, by split; a baseline may encode them differently.
        trainee: given to the training loop; None when the model is finished.
        num_trainable: trained values.
        stored_bytes: bytes to keep beside the frozen model in order to use it again.
        facts: choices made while building, for the result.
        notices: sentences about rows that were changed by encoding; grows as more are encoded.
    """

    model: Scorer
    rows: Mapping[str, Sequence[Encoded]]
    trainee: Trainee | None = None
    num_trainable: int = 0
    stored_bytes: int = 0
    facts: Mapping[str, JsonValue] = field(default_factory=dict)
    notices: Sequence[str] = ()


class LazyRows(Mapping[str, Sequence[Encoded]]):
    """Encodes a split on first access, so that encoding test rows is not counted as building the baseline."""

    def __init__(
        self, encode: Callable[[str, Sequence[Row]], list[Encoded]], rows: Mapping[str, Sequence[Row]]
    ) -> None:
        self._encode, self._rows = encode, rows
        self._encoded: dict[str, list[Encoded]] = {}

    def __getitem__(self, split: str) -> list[Encoded]:
        """One split's rows."""
        if split not in self._encoded:
            self._encoded[split] = self._encode(split, self._rows[split])
        return self._encoded[split]

    def __iter__(self) -> Iterator[str]:
        """The splits."""
        return iter(self._rows)

    def __len__(self) -> int:
        """The number of splits."""
        return len(self._rows)


def trained(model: PromptedModel, rows: Mapping[str, Sequence[Encoded]]) -> Built:
    """A baseline that is still to be trained."""
    values = model.trainable()
    return Built(model, rows, model, num_values(values), stored_bytes(values))


def num_values(values: Mapping[str, Tensor]) -> int:
    """Number of values in all tensors."""
    return sum(value.numel() for value in values.values())


def stored_bytes(values: Mapping[str, Tensor]) -> int:
    """Bytes of all tensors in their own precision."""
    return sum(value.numel() * value.element_size() for value in values.values())
