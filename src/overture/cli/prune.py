"""``overture prune``: keep what a prompt needs, train it again from its start."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from overture.cli.options import (
    Given,
    JsonOption,
    PromptArgument,
    StoreOption,
    flag,
    store_flag,
    store_root,
    with_flags,
)
from overture.cli.out import console, emit, loading, say
from overture.cli.progress import display
from overture.cli.report import asking, interval_text, sentence, show_next
from overture.jobs.distil.options import PruneConfig
from overture.jobs.run.request import tune_config

if TYPE_CHECKING:
    from overture.core.records.distil import PruneResult


@with_flags(flag(PruneConfig, "keep", metavar="SHARE"), flag(PruneConfig, "pieces"))
def command(
    prompt: PromptArgument,
    given: Given,
    task: Annotated[
        Path | None,
        typer.Argument(metavar="TASK.yaml", help="Says where the rows are; the prompt's own run says it if not given."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="The pruned prompt's name; PROMPT-pruned if not given.")] = None,
    store: StoreOption = None,
    is_json: JsonOption = False,
) -> None:
    """Drop the tokens, and pieces of tokens, that a prompt of vectors does not need; train the rest again."""
    root = store_root(store)

    from overture.core.config import validated
    from overture.store.names import checked_name
    from overture.store.store import Store

    config = validated(PruneConfig, given.of(PruneConfig), "overture prune")
    kept = Store(root, say)
    kept.get(prompt)
    if name:
        checked_name(name)
    if task:
        tune_config(task)
    loading()

    from overture.jobs.distil.prune import prune

    show = display()
    with show.live():
        result = prune(prompt, kept, config, task=task, name=name, listener=show)
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
