"""``overture predict``: predictions for rows under stored prompts."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from overture.cli.options import (
    DOUBT_FLAGS,
    CalibratedOption,
    DriftOption,
    FlagValues,
    JsonOption,
    StoreOption,
    open_store,
    stored_names,
    with_flags,
)
from overture.cli.out import emit, loading, remark, say, seconds_text
from overture.core.errors import ConfigError, DataError, Problem, problem_lines

if TYPE_CHECKING:
    from overture.cli.inputs import Inputs
    from overture.cli.predicted import Outcome, Predicted
    from overture.core.records.shares import Doubt
    from overture.data.task import Task
    from overture.evaluate.doubt import Certainty
    from overture.evaluate.host import Handle
    from overture.evaluate.inquiry import Reply
    from overture.store.manifest import Manifest

OnError = Literal["null", "skip", "fail"]
_FEWEST_ROWS, _MOST_ROWS = 32, 1024
_CHUNK_SECONDS = 5.0
"""Seconds that a group of rows may take, about: small groups lose less when stopped, large ones save padding."""


@with_flags(*DOUBT_FLAGS)
def command(
    flag_values: FlagValues,
    prompt: Annotated[
        str | None,
        typer.Argument(
            metavar="PROMPT",
            help="A prompt: its name, name@version, or its folder; none with --prompt.",
            autocompletion=stored_names,
        ),
    ] = None,
    texts: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="FILE | TEXT",
            help="A data file; image or sound files, or folders of them; or texts, or JSON objects with the "
            "template's fields; - reads lines of standard input.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="OUT",
            help="Write a .csv, .tsv, .jsonl or .parquet file: the rows' own columns, and the predictions.",
        ),
    ] = None,
    on_error: Annotated[
        OnError,
        typer.Option(
            help="Rows that cannot be predicted: null keeps them, without an answer and with the reason; skip leaves "
            "them out; fail stops before anything is written."
        ),
    ] = "null",
    prompts: Annotated[
        list[str] | None,
        typer.Option("--prompt", metavar="PROMPT", help="Several prompts on the same rows: repeat it."),
    ] = None,
    is_forced: Annotated[bool, typer.Option("--force", help="Replace an output file that exists.")] = False,
    calibrated: CalibratedOption = False,
    store: StoreOption = None,
    allow_drift: DriftOption = False,
    is_json: JsonOption = False,
) -> None:
    """Predict texts or the rows of a file, under one prompt or several.

    Without -o, each prediction is a line of JSON as soon as it is there; --json collects all in one object. A text that
    begins with a dash stands behind --.
    """
    from overture.cli.inputs import inputs_of_arguments

    texts = texts or []
    if prompts:
        texts = [*([] if prompt is None else [prompt]), *texts]
    refs = prompts or [_checked_ref(prompt)]
    repeated = sorted({ref for ref in refs if refs.count(ref) > 1})
    if repeated:
        raise ConfigError("a prompt is named twice", where="--prompt", got=", ".join(repeated), fix="name each once")
    from overture.cli.stored import stored_prompt
    from overture.core.config import validated
    from overture.core.records.shares import Doubt
    from overture.data.write import check_output
    from overture.engine.options import check_source

    # Everything that can be wrong is looked at before the model is loaded.
    prompt_store = open_store(store)
    if prompts and prompt in prompt_store.names():
        say(
            f"note: --prompt names the prompts, so {prompt!r} is read as a text; --prompt {prompt} asks that prompt too"
        )
    folders, manifests, stored_tasks = zip(*(stored_prompt(prompt_store, ref) for ref in refs), strict=True)
    tasks = list(stored_tasks)
    check_source(manifests[0].backbone.id)
    if calibrated:
        tasks = [task.calibrated() for task in tasks]
    certainties = _certainties(manifests, tasks, validated(Doubt, flag_values.of(Doubt), "overture predict"))
    inputs, file = inputs_of_arguments(texts, tasks)
    if output:
        check_output(output, is_forced, [file] if file else [])
    for notice in inputs.notices:
        say(f"note: {notice}")
    inputs.raise_if_bad(is_any_too_many=on_error == "fail")

    loading()
    from overture.cli.predicted import Predicted
    from overture.evaluate.host import Host

    host = Host(allow_drift=allow_drift, notify=say)
    handles = [host.open(folder) for folder in folders]
    if calibrated:
        handles = [handle.calibrated() for handle in handles]
    versions = [handle.manifest.ref for handle in handles]
    head = {"prompts": dict(zip(refs, versions, strict=True))} if prompts else {"prompt": versions[0]}
    predicted = Predicted(inputs, tasks, refs if prompts else [], on_error)
    rows = _Rows(handles, certainties, inputs, on_error, shows_progress=bool(output) or not sys.stdout.isatty())
    if output:
        summary = _write(output, rows, predicted)
        if is_json:
            emit({**head, **summary})
    elif is_json:
        emit({**head, "predictions": [predicted.line(index, outcomes) for index, outcomes in rows.outcomes()]})
    else:
        for index, outcomes in rows.outcomes():
            emit(predicted.line(index, outcomes))
    rows.tell_problems()


def _certainties(manifests: "Sequence[Manifest]", tasks: "Sequence[Task]", doubt: "Doubt") -> "list[Certainty | None]":
    """The certainty rule of each prompt, if coverage or abstaining is requested; prints its notes."""
    from overture.evaluate.doubt import certainty_of

    certainties = [certainty_of(manifest, task, doubt) for manifest, task in zip(manifests, tasks, strict=True)]
    for note in dict.fromkeys(note for certainty in certainties if certainty for note in certainty.notes()):
        say(f"note: {note}")
    return certainties


def _checked_ref(prompt: str | None) -> str:
    """Check that the first argument names a prompt.

    Raises:
        ConfigError: a text or a file stands where the name should.
    """
    usage = "overture predict PROMPT TEXT, or PROMPT FILE; overture list shows the prompts"
    if prompt is None:
        raise ConfigError("no prompt is named", fix=usage)
    path = Path(prompt)
    if any(map(str.isspace, prompt)) or path.is_file() or prompt == "-":
        what = "a data file" if path.is_file() else "a text"
        raise ConfigError("no prompt is named", got=f"{what}: {prompt!r:.60}", wanted="a prompt, first", fix=usage)
    return prompt


class _Rows:
    """Predicts the rows group by group, and counts those that cannot be predicted.

    Args:
        handles: the prompts, of one host.
        certainties: how each tells that it is not sure.
        inputs: the rows.
        on_error: what happens to rows that cannot be predicted.
        shows_progress: whether a bar moves; lines that are printed one by one show it themselves.
    """

    def __init__(
        self,
        handles: Sequence["Handle"],
        certainties: Sequence["Certainty | None"],
        inputs: "Inputs",
        on_error: OnError,
        shows_progress: bool,
    ) -> None:
        self.handles, self.inputs, self.on_error, self.shows_progress = handles, inputs, on_error, shows_progress
        self.certainties = certainties
        self.problems: dict[int, list[Problem]] = {}
        self.num_done, self.num_unanswered, self.seconds = 0, 0, 0.0

    def outcomes(self) -> Iterator[tuple[int, list["Outcome"]]]:
        """Each row's index and its outcome under each prompt, in the rows' order; without rows that are skipped.

        Raises:
            DataError: a row cannot be predicted, and that is to stop all; or none can.
            KeyboardInterrupt: Ctrl-C, after a group.
        """
        from overture.cli.progress import display
        from overture.cli.stop import StopRequest
        from overture.core.records.events import ProgressEvent

        show = display()
        started, total = time.monotonic(), len(self.inputs.rows)

        def progress(done: float) -> None:
            if self.shows_progress:
                speed = done / max(time.monotonic() - started, 1e-3)
                show(ProgressEvent(what="predicting", done=int(done), total=total, detail=f"{speed:.3g} rows/s"))

        with (
            StopRequest("stopping after these rows; press Ctrl-C again to stop at once") as stop,
            show.live() if self.shows_progress else contextlib.nullcontext(),
        ):
            size, first = _FEWEST_ROWS, 0
            progress(0)
            while first < total:
                group_started = time.monotonic()
                indices = range(first, min(first + size, total))
                outcomes = self._outcomes_of_group(indices, progress)
                for index, under_prompts in outcomes.items():
                    # A row that some prompt answers is not left out.
                    is_unanswered = all(isinstance(outcome, list) for outcome in under_prompts)
                    self.num_unanswered += is_unanswered
                    if not (is_unanswered and self.on_error == "skip"):
                        yield index, under_prompts
                first = self.num_done = indices.stop
                seconds = max(time.monotonic() - group_started, 1e-3)
                size = max(_FEWEST_ROWS, min(_MOST_ROWS, 2 * size, int(size * _CHUNK_SECONDS / seconds)))
                progress(first)
                if stop.is_asked and first < total:
                    raise KeyboardInterrupt
        self.seconds = time.monotonic() - started
        if self.num_unanswered == total:
            raise DataError(
                "no row could be predicted",
                problems=[p for row_problems in self.problems.values() for p in row_problems],
            )
        for notice in dict.fromkeys(notice for handle in self.handles for notice in handle.encoder.notices):
            say(f"note: {notice}")

    def _outcomes_of_group(self, indices: range, progress: Callable[[float], None]) -> dict[int, list["Outcome"]]:
        from overture.evaluate.host import Ask

        host, rows = self.handles[0].host, self.inputs.rows
        predictable = [index for index in indices if index not in self.inputs.problems]
        requests = [
            Ask(handle, rows[index].fields, rows[index].line, rows[index].file, rows[index].root)
            for index in predictable
            for handle in self.handles
        ]
        replies = iter(
            host.answer(requests, lambda done, total: progress(indices.start + len(indices) * done / max(total, 1)))
        )
        outcomes: dict[int, list[Outcome]] = {}
        for index in indices:
            problems = self.inputs.problems.get(index)
            outcomes[index] = [
                problems or _outcome(next(replies), certainty, rows[index].where) for certainty in self.certainties
            ]
            bad = [outcome for outcome in outcomes[index] if isinstance(outcome, list)]
            if bad:
                self.problems[index] = list(dict.fromkeys(problem for some in bad for problem in some))
                if self.on_error == "fail":
                    raise DataError(
                        "a row cannot be predicted", problems=self.problems[index], fix="--on-error skip or null"
                    )
        return outcomes

    def tell_problems(self) -> None:
        """Print how many rows could not be predicted, and the reasons of the first ones."""
        if not self.problems:
            return
        outcome = "left out" if self.on_error == "skip" else "without an answer"
        say(f"{len(self.problems)} of {self.num_done} rows could not be predicted, {outcome}:")
        for line in problem_lines(
            (problem for row_problems in self.problems.values() for problem in row_problems), most=10
        ):
            say(f"  {line}")


def _outcome(reply: "Reply", certainty: "Certainty | None", where: str) -> "Outcome":
    if reply.problem is None:
        return certainty.applied(reply.result()) if certainty else reply.result()
    return list(reply.problem.problems) or [Problem(where, reply.problem.what, reply.problem.fix)]


def _write(output: Path, rows: _Rows, predicted: "Predicted") -> dict[str, Any]:
    """Write the predictions to a file; returns its name and the numbers of rows.

    Raises:
        typer.Exit: Ctrl-C; what was predicted is in a file of its own.
    """
    from overture.data.write import partial_path, written_rows

    num_written = 0
    try:
        with contextlib.ExitStack() as stack:
            sink = None
            pending: list[dict[str, Any]] = []
            for index, outcomes in rows.outcomes():
                pending.append(predicted.record(index, outcomes, output.suffix.lower()))
                if sink is None and predicted.has_all_columns:
                    sink = stack.enter_context(written_rows(output, predicted.columns(), predicted.own_rows))
                if sink is not None:
                    sink.write(pending)
                    num_written += len(pending)
                    pending = []
            if sink is None:
                sink = stack.enter_context(written_rows(output, predicted.columns(), predicted.own_rows))
            sink.write(pending)
            num_written += len(pending)
    except KeyboardInterrupt:
        if num_written:
            partial = partial_path(output)
            say(f"stopped: the first {num_written} of {len(predicted.inputs.rows)} rows are in {partial}")
        raise
    for notice in predicted.notices():
        say(f"note: {notice}")
    speed = num_written / max(rows.seconds, 1e-3)
    remark(f"wrote {output}: {num_written} rows in {seconds_text(rows.seconds)}, {speed:.3g} rows/s")
    return {
        "output": str(output),
        "rows": len(predicted.inputs.rows),
        "written": num_written,
        "failed": len(rows.problems),
        "seconds": round(rows.seconds, 3),
    }
