"""Results of `overture tune` and `overture eval`."""

from collections.abc import Iterator
from typing import Literal

from pydantic import ConfigDict, Field

from overture.core.injection import Pooled
from overture.core.notebook import ShortForm, Shown
from overture.core.records.base import Answers, Options, Record, optional
from overture.core.records.prompt import OpenGates
from overture.core.records.scores import Comparison, Interval, Mistakes, SplitScores, Spread
from overture.core.records.shares import KeptShares
from overture.core.records.training import EpochRecord

Status = Literal["finished", "stopped early", "interrupted", "diverged", "dropped"]


class StoppedRun(Record):
    """A run that was stopped before it had anything to show."""

    status: Literal["interrupted"] = "interrupted"
    run: str = Field(description="the run's name")
    prompt: None = Field(None, description="none yet")
    metrics: dict[str, SplitScores] = Field({}, description="none yet")


class Measured(Record):
    """A model scored on a task's rows."""

    shots: int | None = optional("examples in front of the row")
    metrics: dict[str, SplitScores] = Field(description="split -> scores")
    trainable: int | None = optional("number of trained values")
    seconds: float = Field(description="seconds of training, or of scoring where nothing was trained")
    peak_bytes: int = Field(description="peak memory in bytes")
    predicted: dict[str, Answers] | None = optional("split -> the answers given")
    confidences: dict[str, tuple[float, ...]] | None = optional("split -> probability of each answer given")

    @property
    def plain_name(self) -> str:
        """Its name as a model without a prompt: one without words answers by a probe, whose values are trained."""
        return "linear probe" if self.trainable else "no-prompt"


class ProbeFacts(Record):
    """A linear probe that was chosen on validation rows."""

    layer: int = Field(description="after how many layers it reads", gt=0)
    num_layers: int = Field(description="layers of the model", gt=0)
    features: Pooled = Field(description="the state that the label is read from, the mean of all, or both")
    penalty: float = Field(description="inverse strength of its L2 penalty")


class Kept(Record):
    """The choice between a prompt and the linear probe beside it."""

    what: Literal["prompt", "probe"] = Field(description="which of the two the stored prompt is")
    why: str = Field(description="the reason, in words")
    probe: ProbeFacts = Field(description="the probe")
    compared: Comparison = Field(description="paired test of the prompt against the probe")


class Controls(Record):
    """The models that a tuned prompt is compared with, on the same rows."""

    no_prompt: Measured | None = optional("the model without a prompt; under a linear probe where it has no words")
    in_context: Measured | None = optional("the model with examples in front of the row")
    probe: ProbeFacts | None = optional("that probe, where it was chosen on validation rows")
    probe_shares: KeptShares | None = optional("its label shares of the validation rows")

    def named(self) -> Iterator[tuple[str, Measured]]:
        """Those that were measured, by name."""
        for name in ("no_prompt", "in_context"):
            if measured := getattr(self, name):
                yield name, measured


class SeedResult(Measured):
    """One seed of a run; without metrics where no epoch ended with a finite loss."""

    seed: int = Field(description="the seed")
    status: Status = Field(description="how its training ended")
    lr: float = Field(description="the learning rate")
    trainable: int = Field(description="number of trained values")
    best_epoch: int = Field(description="the epoch of the best validation score, from 0; -1 before the first")
    history: list[EpochRecord] = Field(description="its epochs")
    shares: KeptShares | None = optional("label shares of the validation rows")


class SeedScore(Record):
    """One seed's scores by the task's metric."""

    seed: int = Field(description="the seed")
    status: Status = Field(description="how its training ended")
    validation: float = Field(description="on validation rows")
    test: float | None = optional("on test rows")


class SeedSpread(Record):
    """How the score varies over the seeds of a run."""

    validation: Spread = Field(description="on validation rows")
    test: Spread | None = optional("on test rows")
    each: list[SeedScore] = Field(description="the seeds")
    mean_seconds: float = Field(description="mean seconds of training")


class TuneResult(Shown, SeedResult, Mistakes):
    """The result of a run: its best seed by validation, compared with the controls."""

    run: str = Field(description="the run's name")
    prompt: str | None = Field(None, description="the stored prompt, as name@version; none while seeds are missing")
    folder: str | None = optional("the stored prompt's folder")
    task: str = Field(description="the task's name")
    metric: str = Field(description="the metric that the task is judged by")
    method: str = Field(description="how the prompt's values are parameterised")
    place: str = Field(description="where the prompt enters the model")
    length: int = Field(description="prompt length in tokens")
    adapter: Options | None = optional("the adapter that was trained with the prompt")
    cache_dtype: str | None = optional("precision of the cached texts, where it was not the model's")
    rows: dict[str, int] = Field(description="split -> number of encoded rows")
    no_prompt: Measured | None = optional("the model without a prompt")
    in_context: Measured | None = optional("the model with examples in front of the row")
    compared: dict[str, Comparison] = Field(description="control -> paired test of the prompt against it")
    kept: Kept | None = optional("whether the prompt was kept or the linear probe beside it, for models without words")
    seeds: SeedSpread = Field(description="the scores of all seeds")
    total_seconds: float = Field(description="seconds of training of all seeds")
    notices: list[str] = Field(description="sentences that the user should know")
    gates: OpenGates | None = optional("what the prompt's gates leave open")
    peft_gap: str | None = optional("why the prompt cannot become an adapter of peft; none where it can")

    @property
    def split(self) -> str:
        """The split of the final scores."""
        return "test" if "test" in self.metrics else "validation"

    def short_form(self) -> ShortForm:
        """The scores of the prompt and of its controls."""
        split, scores = self.split, []
        if self.no_prompt:
            name = self.no_prompt.plain_name.replace("-", " ")
            scores.append((name, self.no_prompt.metrics[split][self.metric].text))
        if self.in_context:
            scores.append((f"{self.in_context.shots} examples", self.in_context.metrics[split][self.metric].text))
        tuned = self.metrics[split][self.metric]
        notes = [f"{self.num_wrong} of {tuned.n} rows wrong"] if self.num_wrong is not None else []
        return ShortForm(
            f"{self.prompt or self.run}: {self.method} {self.place}, {self.metric} on {tuned.n} {split} rows",
            [*scores, ("tuned prompt", tuned.text)],
            [*notes, *([f"overture.load({self.prompt!r}).predict(...) uses it"] if self.prompt else [])],
        )


class Calibration(Record):
    """A prompt scored with and without contextual calibration."""

    model_config = ConfigDict(serialize_by_alias=True, validate_by_name=True, validate_by_alias=True)

    without: Measured = Field(description="without it")
    with_it: Measured = Field(alias="with", description="with it")
    stored: Literal["with", "without"] = Field(description="which of the two the stored prompt is")
    compared: Comparison = Field(description="paired test of with against without")


class MeasuredSets(Record):
    """Sets of labels that are to hold the right one."""

    wanted: float = Field(description="share of sets that are to hold the right label")
    least_share: float = Field(description="probability that a label of a set has at least; 0 gives all labels")
    covered: Interval = Field(description="share of sets that hold it")
    mean_size: float = Field(description="mean number of labels in a set")
    single: Interval = Field(description="share of sets of one label")


class MeasuredAbstaining(Record):
    """Answers that are given only where enough of them are right."""

    wanted: float = Field(description="share of right ones among the answers that are given")
    above: float = Field(description="confidence above which an answer is given")
    answered: Interval = Field(description="share of rows that are answered")
    precision: Interval | None = Field(description="share of right answers among them; none where none is given")


class MeasuredCertainty(Record):
    """How far answers keep what they promise."""

    num_kept: int = Field(description="rows kept with the prompt, from which the promise comes")
    source: Literal["validation", "file"] = Field(description="where those rows come from")
    sets: MeasuredSets | None = optional("sets of labels")
    abstaining: MeasuredAbstaining | None = optional("answers that are withheld")


class Evaluation(Shown, Measured, Mistakes):
    """A stored prompt scored again, and its model without one."""

    prompt: str = Field(description="the stored prompt, as name@version")
    metric: str = Field(description="the metric that the task is judged by")
    split: str = Field(description="what the rows are called")
    trainable: int = Field(description="number of trained values")
    calibration: Calibration | None = optional("with and without contextual calibration")
    no_prompt: Measured | None = optional("the model without a prompt")
    compared: dict[str, Comparison] | None = optional("control -> paired test of the prompt against it")
    certainty: MeasuredCertainty | None = optional("how far sets of labels and withheld answers keep their promise")
    kept_as: str | None = optional("the version that holds the label shares of these rows, as name@version")
    notices: list[str] = Field([], description="what was assumed or left out of the rows")

    def short_form(self) -> ShortForm:
        """The scores of the prompt and of its model without one."""
        score = self.metrics[self.split][self.metric]
        plain = [("no prompt", self.no_prompt.metrics[self.split][self.metric].text)] if self.no_prompt else []
        return ShortForm(
            f"{self.prompt}: {self.metric} on {score.n} {self.split} rows",
            [*plain, ("tuned prompt", score.text)],
            [f"{self.num_wrong} of {score.n} rows wrong"] if self.num_wrong is not None else [],
        )
