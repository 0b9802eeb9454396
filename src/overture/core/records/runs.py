"""The request and the state of a run, as its folder keeps them."""

from typing import Any, Literal, Protocol

from pydantic import Field, RootModel

from overture.core.records.base import Options, Record, optional

RunKind = Literal["tune", "search", "hard", "forms"]
RunState = Literal["running", "stopped", "interrupted", "diverged", "finished"]


class SplitFacts(Record):
    """The rows of one split: how many, and their fingerprints."""

    count: int = Field(description="number of rows")
    in_order: str = Field(description="SHA-256 over the rows in their order")
    in_any_order: str = Field(description="SHA-256 over the rows as a set")


class RunRequest(Record):
    """``run.json``: what was asked for, on which rows and model, and with which software."""

    kind: RunKind = Field("tune", description="the command that made it")
    config: Options = Field(description="the resolved request")
    file: str = Field("TASK.yaml", description="the task file, for commands that use it again")
    rows: dict[str, SplitFacts] = Field({}, description="split -> its rows; empty in runs of older versions")
    model: Options | None = Field(None, description="fingerprints of the model; none in runs of older versions")
    versions: dict[str, str] = Field(description="versions of what decides the numbers")
    created: str = Field(description="when it began, UTC, ISO 8601")


class RunStatus(Record):
    """``status.json``: how the run stands."""

    status: RunState = Field(description="running, or how it ended")
    pid: int = Field(description="the process that works or worked on it")
    why: str | None = optional("the error that ended it")
    fix: str | None = optional("what the user must do before it can go on; none where nothing must be done")


class Outcome(Protocol):
    """The facts that the result of every command has that can be stopped."""

    @property
    def status(self) -> str:
        """How the work ended."""
        ...

    def dump(self) -> dict[str, Any]:
        """The result as JSON holds it."""
        ...


class RunResult(Outcome, Protocol):
    """The facts that the result of every run has."""

    @property
    def run(self) -> str:
        """The run's name."""
        ...

    @property
    def prompt(self) -> str | None:
        """A stored prompt, as name@version."""
        ...


class Notices(RootModel[dict[str, list[str]]]):
    """``notices.json``: task -> sentences that the user should know."""


class UnfinishedRun(Record):
    """A run without a result."""

    run: str = Field(description="the run's name")
    state: str = Field(description="running, killed, stopped, interrupted, diverged, or not started")
    started: str = Field(description="when it began, UTC, ISO 8601")
    why: str = Field(description="why it ended, in one line; empty when that is not known")


class Finding(Record):
    """One thing that is wrong with a run, or explains its result."""

    name: str = Field(description="its name, for programs")
    what: str = Field(description="what is wrong, in one sentence")
    evidence: str = Field(description="the figures that show it")
    fix: str = Field(description="what to do")
    seed: int | None = Field(None, description="the seed whose training shows it; none for the whole run")
