"""``overture prune``: keep what a prompt needs, train it again from its start."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from overture.cli.options import JsonOption, PromptArgument, StoreOption, field_help, stated, store_flag, store_root
from overture.cli.out import console, emit, say
from overture.cli.progress import display
from overture.cli.report import asking, interval_text, sentence, show_next

if TYPE_CHECKING:
    from overture.core.records.distil import PruneResult


def command(
    prompt: PromptArgument,
    task: Annotated[
        Path | None,
        typer.Argument(metavar="TASK.yaml", help="Says where the rows are; the prompt's own run says it if not given."),
    ] = None,
    keep: Annotated[
        list[float] | None,
        typer.Option(
            help=field_help("jobs/distil/options.py", "PruneConfig", "keep") + " Repeatable.",
            show_default=False,
        ),
    ] = None,
    pieces: Annotated[
        int | None, typer.Option(help=field_help("jobs/distil/options.py", "PruneConfig", "pieces"), show_default=False)
    ] = None,
    name: Annotated[str | None, typer.Option(help="The pruned prompt's name; PROMPT-pruned if not given.")] = None,
    store: StoreOption = None,
    is_json: JsonOption = False,
) -> None:
    """Drop the tokens, and pieces of tokens, that a prompt of vectors does not need; train the rest again."""
    root = store_root(store)

    from overture.core.config import validated
    from overture.jobs.distil.options import PruneConfig
    from overture.jobs.distil.prune import prune
    from overture.store.store import Store

    asked = {"keep": tuple(keep) if keep else None, "pieces": pieces}
    config = validated(PruneConfig, stated(asked), "overture prune")
    show = display()
    with show.live():
        result = prune(prompt, Store(root, say), config, task=task, name=name, listener=show)
    if is_json:
        emit(result.dump())
    else:
        _show(result, store_flag(store))


def _show(result: "PruneResult", flag: str) -> None:
    from rich.table import Table

    out, metric = console(), result.metric
    tried = Table(title="tried, on validation rows", title_justify="left")
    for head in ("kept", "tokens", "trained values", metric, "loss", "seconds"):
        tried.add_column(head, justify="left" if head == "kept" else "right")
    for candidate in result.candidates:
        tried.add_row(
            f"{candidate.share:.0%} of the {candidate.level}",
            str(len(candidate.tokens)),
            f"{candidate.trainable:,}",
            "diverged" if candidate.score is None else f"{candidate.score:.3f}",
            "-" if candidate.loss is None else f"{candidate.loss:.3f}",
            f"{candidate.seconds:.1f}",
        )
    out.print(tried)
    compared = result.compared["whole"]
    sides = (result.whole, result)
    scores = [side.metrics[compared.split][metric] for side in sides]
    table = Table(title=f"{result.pruned_from}, {compared.split} rows", title_justify="left")
    for head in ("", "whole prompt", "pruned prompt"):
        table.add_column(head, justify="right" if head else "left")
    table.add_row(metric, *(f"{score.value:.3f}" for score in scores))
    table.add_row("95% interval", *(interval_text(score) for score in scores))
    table.add_row("rows", *(str(score.n) for score in scores))
    table.add_row("tokens", *(str(side.length) for side in sides))
    table.add_row("trained values", *(f"{side.trainable:,}" for side in sides))
    out.print(table)
    out.print(sentence("the whole prompt", compared, "pruned prompt"))
    for notice in result.notices:
        out.print(f"note: {notice}")
    show_next(
        f"Kept as {result.prompt}. Next:",
        [asking(result.prompt, result.folder, flag), f"overture diff {result.pruned_from} {result.prompt}{flag}"],
    )
