"""``overture tune``, and functions that all commands that make a run share."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import typer

from overture.cli.options import (
    FlagValues,
    JsonOption,
    SetOption,
    StoreOption,
    flag,
    open_store,
    store_flag,
    with_flags,
)
from overture.cli.out import emit, loading, remark, say, seconds_text, show_error
from overture.cli.pages import show_page, written_page
from overture.cli.progress import display
from overture.cli.report import show_result
from overture.cli.stop import StopRequest
from overture.core.config import validated
from overture.core.errors import DiskFull, Diverged
from overture.core.files import check_writable
from overture.core.launch import launched
from overture.core.records.events import Event, Listener, ProgressEvent, StageEvent, StartEvent, StepEvent
from overture.core.records.runs import Outcome, RunResult
from overture.core.records.tune import StoppedRun
from overture.jobs.run.request import TuneConfig, resolved
from overture.jobs.run.where import Where, check_ray

T = TypeVar("T", bound=Outcome)
Result = TypeVar("Result", bound=RunResult)

INTERRUPTED = 130


BACKBONE = flag(TuneConfig, "task.backbone")
METHOD = flag(TuneConfig, "prompt.method")
PLACE = flag(TuneConfig, "prompt.place")
LENGTH = flag(TuneConfig, "prompt.length")
WHERE = (flag(Where, "on", metavar="RAY"), flag(Where, "workers"))
"""Flags of commands whose jobs may run elsewhere."""


@with_flags(
    BACKBONE,
    METHOD,
    PLACE,
    LENGTH,
    flag(TuneConfig, "train.lr"),
    flag(TuneConfig, "train.epochs"),
    flag(TuneConfig, "train.batch_size"),
    flag(TuneConfig, "adapter.kind", "--adapter"),
    flag(TuneConfig, "seed"),
    flag(TuneConfig, "seeds"),
    flag(TuneConfig, "baselines", "--baselines/--no-baselines"),
    flag(TuneConfig, "task.name"),
    flag(TuneConfig, "cache_gb"),
    flag(TuneConfig, "cache_dtype"),
    flag(TuneConfig, "cache_on_disk", "--cache-on-disk/--no-cache-on-disk"),
    flag(TuneConfig, "tensor_parallel"),
    flag(TuneConfig, "shard", "--shard/--no-shard"),
    flag(TuneConfig, "track"),
    *WHERE,
)
def tune_command(
    task: Annotated[Path, typer.Argument(metavar="TASK.yaml", help="The task file; `overture init` writes one.")],
    flag_values: FlagValues,
    settings: SetOption = None,
    engine: Annotated[
        Literal["vllm"] | None,
        typer.Option("--for", help="Choose a place and a length with which this server can answer under the prompt."),
    ] = None,
    store: StoreOption = None,
    is_json: JsonOption = False,
) -> None:
    """Tune a prompt for a task, measure it against no prompt and examples, and keep it."""
    from overture.jobs.run.early import check_early
    from overture.jobs.run.vllm import fitted_to_vllm

    def change(values: dict[str, Any]) -> None:
        if engine == "vllm":
            fitted_to_vllm(values, lambda text: remark(f"note: {text}"))

    config = resolved(TuneConfig, task, flag_values.of(TuneConfig), settings or [], change=change)
    prompt_store = open_store(store)
    where = where_of(flag_values)
    check_writable(prompt_store.root)
    check_early(config, prompt_store)
    loading()

    from overture.jobs.tune.tune import tune

    result = result_of(
        lambda listener, stop: tune(config, prompt_store, listener, stop, file=str(task), where=where), store, is_json
    )
    finish(result, store, is_json, show_result)


def where_of(flag_values: FlagValues) -> Where:
    """Where a command's jobs run.

    Raises:
        ConfigError: the place cannot be read, or Ray is missing.
    """
    where = validated(Where, flag_values.of(Where), "--on")
    if where.on:
        # Checked now, before the model is loaded.
        check_ray()
    return where


def result_of(
    work: Callable[[Listener, Callable[[], bool]], Result], store: Path | None, is_json: bool, run: str = ""
) -> Result | StoppedRun:
    """Run the work of a run with its progress on screen; Ctrl-C stops it where it can be resumed.

    Args:
        work: called with a listener and a function that tells whether to stop.
        store: as the user gave it.
        is_json: how a full disk is told.
        run: the run's name, when it is known already.

    Returns:
        The result; `StoppedRun` where Ctrl-C came before training.
    """
    result: Result | StoppedRun
    screen, name, is_training, has_begun = display(), run, False, False
    started = time.monotonic()
    with StopRequest("stopping after this step; press Ctrl-C again to stop at once") as stop:

        def listen(event: Event) -> None:
            nonlocal name, is_training, has_begun
            has_begun = True
            name = event.run if isinstance(event, StartEvent) else name
            # Each step of the plan begins without training.
            is_training = (is_training and not isinstance(event, StageEvent)) or isinstance(event, StepEvent)
            screen(event)
            # Before training nothing is lost by stopping here; in training the loop stops after its step.
            if stop.is_asked and isinstance(event, ProgressEvent) and not is_training:
                raise KeyboardInterrupt

        try:
            with screen.live():
                result = work(listen, stop)
        except KeyboardInterrupt:
            if not name:
                raise
            result = StoppedRun(run=name)
        except (DiskFull, Diverged) as error:
            more = {"resume": resume_line(name, store)} if name and isinstance(error, DiskFull) else {}
            show_error(error, is_json, **more)
            raise typer.Exit(error.exit_code) from None
    # A run that had ended before tells nothing but its result.
    if has_begun:
        remark(f"{result.run}: {result.status} after {seconds_text(time.monotonic() - started)}")
    return result


def resume_line(run: str, store: Path | None) -> str:
    """The command that goes on with a run."""
    return f"overture resume {run}{store_flag(store)}"


def print_result(result: T, store: Path | None, is_json: bool, show: Callable[[T, str], None]) -> None:
    """Print a command's result, also one of a command that was stopped; exit with its code.

    Args:
        result: what the command found.
        store: as the user gave it.
        is_json: print the result alone.
        show: prints it for people, with the flag for the store.
    """
    if is_json:
        emit(result.dump())
    else:
        show(result, store_flag(store))
    if result.status == "interrupted":
        raise typer.Exit(INTERRUPTED)


def finish(result: Result | StoppedRun, store: Path | None, is_json: bool, show: Callable[[Result, str], None]) -> None:
    """Print a run's result and where its page is, and exit with its code.

    Args:
        result: of the run.
        store: as the user gave it.
        is_json: print the result alone.
        show: prints a result that is whole, with the flag for the store.
    """
    if isinstance(result, StoppedRun) or result.status == "interrupted":
        command = resume_line(result.run, store)
        if is_json:
            emit({**result.dump(), "resume": command})
        else:
            if result.prompt:
                say(f"the best so far is stored as {result.prompt}")
            say(f"stopped; go on with: {command}")
        raise typer.Exit(INTERRUPTED)
    if not launched().is_first:
        raise typer.Exit(Diverged.exit_code if result.status == "diverged" else 0)
    page = written_page(result.run, store)
    if is_json:
        emit({**result.dump(), "page": page})
    else:
        show(result, store_flag(store))
        show_page(page)
    if result.status == "diverged":
        raise typer.Exit(Diverged.exit_code)
