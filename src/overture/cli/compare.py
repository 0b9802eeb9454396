"""``overture compare``: measures ways to adapt a model side by side, with their costs, and writes a report."""

import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from overture.cli.mistakes import show_labels
from overture.cli.options import FlagValues, JsonOption, SetOption, StoreOption, flag, open_store, with_flags
from overture.cli.out import console, emit, is_json_only, loading, say, show_notes, show_text
from overture.cli.progress import stoppable
from overture.cli.report import show_next
from overture.cli.tables import Column, show_table
from overture.cli.tune import BACKBONE, INTERRUPTED, LENGTH, WHERE, where_of
from overture.core.errors import ConfigError
from overture.core.files import check_writable
from overture.jobs.compare.options import CompareConfig
from overture.jobs.run.request import TuneConfig, check_no_adapter, resolved

if TYPE_CHECKING:
    from rich.console import Console

    from overture.core.records.compare import Against, Summary

_INCOMPLETE = 1

_WaySettings = Annotated[
    list[str] | None,
    typer.Option(
        "--set-way",
        metavar="WAY:KEY=VALUE",
        help="Set a key for one way alone, such as late-before:prompt.options.layer=15. Repeatable.",
    ),
]
_CellOption = Annotated[
    str | None,
    typer.Option(
        "--cell", metavar="WAY:SIZE:SEED", help="Run this cell alone, again if it is there, and renew the report."
    ),
]
_OutputOption = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="DIR", help="Folder of cells and report; compare-NAME if not given."),
]


@with_flags(
    flag(CompareConfig, "ways", "--way", metavar="WAY"),
    flag(CompareConfig, "sizes", "--size", metavar="ROWS"),
    flag(CompareConfig, "seeds"),
    flag(CompareConfig, "budget", metavar="MINUTES"),
    flag(CompareConfig, "price"),
    flag(CompareConfig, "watts"),
    flag(CompareConfig, "reference", metavar="WAY"),
    flag(CompareConfig, "margin"),
    flag(CompareConfig, "min_steps"),
    flag(CompareConfig, "unrelated", metavar="FILE"),
    flag(CompareConfig, "is_rate_tuned", "--tune-rates/--default-rates"),
    BACKBONE,
    LENGTH,
    flag(TuneConfig, "train.batch_size"),
    flag(TuneConfig, "cache_gb"),
    flag(TuneConfig, "cache_dtype"),
    flag(TuneConfig, "track"),
    *WHERE,
)
def command(
    task: Annotated[Path, typer.Argument(metavar="TASK.yaml", help="The task file; `overture init` writes one.")],
    flag_values: FlagValues,
    way_settings: _WaySettings = None,
    cell: _CellOption = None,
    out: _OutputOption = None,
    settings: SetOption = None,
    store: StoreOption = None,
    is_json: JsonOption = False,
) -> None:
    """Compare ways to adapt a model over data sizes and seeds: quality, costs, forgetting, and one sentence of advice.

    Stopped with Ctrl-C, it goes on when the same command is given again. Where a way cannot be run, the others are, and
    the exit code is 1.
    """
    from overture.core.config import validated
    from overture.core.records.cells import Key
    from overture.core.records.compare import Interrupted
    from overture.jobs.compare.ways import ways_of
    from overture.jobs.run.early import check_early

    tune = resolved(TuneConfig, task, flag_values.of(TuneConfig), settings or [], prompt_use="as a model")
    check_no_adapter(tune, "compare")
    values = {**flag_values.of(CompareConfig), "settings": _settings_of_ways(way_settings or []), "tune": tune}
    config = validated(CompareConfig, values, "overture compare")
    where = where_of(flag_values)
    ways_of(config)
    folder = out or Path(f"compare-{tune.task.name}")
    if folder.exists() and not folder.is_dir():
        raise ConfigError("the report's folder is a file", where=f"--output {folder}", fix="name a folder")

    only, prompt_store = Key.parse(cell) if cell else None, open_store(store)
    check_writable(folder)
    check_early(tune, prompt_store, is_tuned=False)
    loading()

    from overture.jobs.compare.compare import compare
    from overture.report.compare_page import write_report

    words = shlex.join(["overture", *_words()])
    with stoppable() as (show, stop):
        portable_words = shlex.join(["overture", *map(_portable, _words())])
        result = compare(config, folder, prompt_store, show, stop, only=only, command=portable_words, where=where)
    if isinstance(result, Interrupted):
        if is_json or is_json_only():
            emit({**result.dump(), "resume": words})
        else:
            say(f"stopped; finished cells are kept in {result.folder}; go on with: {words}")
        raise typer.Exit(INTERRUPTED)
    page = write_report(result, folder)
    if is_json:
        emit({**result.dump(), "report": str(page)})
    else:
        show_comparison(console(), result, page)
    if result.failed:
        raise typer.Exit(_INCOMPLETE)


def _words() -> Sequence[str]:
    """The command line as it was typed; under a test runner, only that it was this command."""
    words = sys.argv[1:]
    return words if words[:1] == ["compare"] else ["compare"]


def _portable(word: str) -> str:
    """A word of the command line without the folders of this machine, for the report."""
    name, equals, value = word.rpartition("=")
    path = Path(value)
    if not path.is_absolute():
        return word
    return f"{name}{equals}{path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path.name}"


def _settings_of_ways(assignments: Sequence[str]) -> dict[str, list[str]]:
    settings: dict[str, list[str]] = {}
    for text in assignments:
        # A way's name may contain a colon; the key is behind the last one before the equals sign.
        target, equals, value = text.partition("=")
        name, colon, key = target.rpartition(":")
        if not (equals and colon and name and key):
            raise ConfigError("cannot read a way's setting", where="--set-way", got=text, wanted="WAY:KEY=VALUE")
        settings.setdefault(name, []).append(f"{key}={value}")
    return settings


def show_comparison(out: "Console", result: "Summary", page: Path) -> None:
    """Print the ways with their scores and costs, what sets them apart, and the advice."""
    from overture.core.records.compare import cost_of
    from overture.report.units import bytes_text, count_text, energy_text, seconds_text

    scores = sorted(result.at_largest, key=lambda score: -score.value)
    costs = [cost_of(result.ledger, score.way, score.size) for score in scores]
    pairs = list(zip(scores, costs, strict=True))
    columns = [
        Column("way", [score.way for score in scores], is_left=True),
        Column(result.metric, [f"{score.value:.3f}" for score in scores]),
        Column("95% interval", [f"{score.low:.3f} to {score.high:.3f}" for score in scores], rank=1),
        Column("seeds", [str(score.n_seeds) if score.size else "-" for score in scores], rank=5),
        Column("training", [seconds_text(cost.seconds) if score.size else "-" for score, cost in pairs], rank=2),
        Column("trained values", [f"{cost.trainable:,}" for cost in costs], rank=3),
        Column("energy (Wh)", [energy_text(c.kwh, c.energy) if s.size else "-" for s, c in pairs], rank=6),
        Column("stored", [bytes_text(cost.stored_bytes) for cost in costs], rank=4),
        Column("a request", [f"{count_text(cost.serving_flops_per_row)} operations" for cost in costs], rank=7),
    ]
    show_table(out, columns, f"{result.task}, {result.largest} training rows, test rows")
    if result.mistakes:
        best = result.mistakes[0]
        out.print()
        seeds = f" over {best.n_seeds} seeds" if best.n_seeds > 1 else ""
        show_labels(out, best.labels, best.way + seeds)
        out.print()
    for line in _findings(result):
        show_text(out, line)
    show_notes(out, result.notices)
    show_text(out, f"\n{result.advice.what}", style="bold")
    show_text(out, f"Why: {result.advice.why}")
    show_text(out, f"What next: {result.advice.next}")
    show_next("The report:", [str(page)], out)


def _findings(result: "Summary") -> Iterator[str]:
    """Sentences on disagreement, differences between ways, worth in rows, and cells that are missing."""
    from overture.report.units import failed_text, times_text, worth_text

    if rows := result.disagreement:
        yield (
            f"Of {result.scores[0].n} test rows all ways answer {rows.num_right} rightly and {rows.num_wrong} wrongly; "
            f"on {rows.num_disputed} they disagree (the report shows them)."
        )
    for pair in result.against:
        gap = pair.difference
        yield (
            f"{pair.way} against {pair.reference}: {pair.verdict} ({100 * gap.value:+.1f} points, "
            f"95% interval {100 * gap.low:+.1f} to {100 * gap.high:+.1f}){_shares_text(result, pair)}"
        )
    for worth in result.worth:
        if worth.rows is not None:
            yield f"{worth.way} is worth {worth_text(worth)} rows of {worth.reference}, {times_text(worth)} times"
    yield from (f"failed: {failed_text(failure)}" for failure in result.failed)
    if result.failed:
        yield "the same command tries again what failed"
    yield from (f"left out: {text}" for text in result.left_out)


def _shares_text(result: "Summary", pair: "Against") -> str:
    """A way's costs of training beside those of the reference, where both train values."""
    from overture.core.records.compare import cost_of
    from overture.report.units import share_text

    way, reference = (cost_of(result.ledger, name, result.largest) for name in (pair.way, pair.reference))
    if not way.trainable:
        return "; no training"
    if not reference.trainable:
        return ""
    time, values = share_text(pair.shares.seconds), share_text(pair.shares.trainable)
    return f"; {time} of its training time, {values} of its trained values"
