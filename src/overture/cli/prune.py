"""``overture prune``: keep what a prompt needs, train it again from its start."""

from pathlib import Path
from typing import Annotated, Any

import typer

from overture.cli.options import JsonOption, PromptArgument, StoreOption, field_help, stated, store_flag, store_root
from overture.cli.out import console, emit, say
from overture.cli.progress import display
from overture.cli.report import asking, interval_text, sentence, show_next


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
        found = prune(prompt, Store(root, say), config, task=task, name=name, listener=show)
    if is_json:
        emit(found)
    else:
        _show(found, store_flag(store))


def _show(found: dict[str, Any], flag: str) -> None:
    from rich.table import Table

    out = console()
    tried = Table(title="tried, on validation rows", title_justify="left")
    for name in ("kept", "tokens", "trained values", found["metric"], "loss", "seconds"):
        tried.add_column(name, justify="left" if name == "kept" else "right")
    for one in found["candidates"]:
        shown = ["diverged", "-"] if one["loss"] is None else [f"{one['score']:.3f}", f"{one['loss']:.3f}"]
        facts = [f"{one['share']:.0%} of the {one['level']}", str(len(one["tokens"])), f"{one['trainable']:,}"]
        tried.add_row(*facts, *shown, f"{one['seconds']:.1f}")
    out.print(tried)
    compared = found["compared"]["whole"]
    sides: tuple[dict[str, Any], ...] = (found["whole"], found)
    table = Table(title=f"{found['pruned_from']}, {compared['split']} rows", title_justify="left")
    for name in ("", "whole prompt", "pruned prompt"):
        table.add_column(name, justify="right" if name else "left")
    scores = [side["metrics"][compared["split"]][found["metric"]] for side in sides]
    table.add_row(found["metric"], *(f"{score['value']:.3f}" for score in scores))
    table.add_row("95% interval", *map(interval_text, scores))
    table.add_row("rows", *(str(score["n"]) for score in scores))
    table.add_row("tokens", *(str(side["length"]) for side in sides))
    table.add_row("trained values", *(f"{side['trainable']:,}" for side in sides))
    out.print(table)
    out.print(sentence("the whole prompt", compared, "pruned prompt"))
    for notice in found["notices"]:
        out.print(f"note: {notice}")
    show_next(
        f"Kept as {found['prompt']}. Next:",
        [
            asking(found["prompt"], found["folder"], flag),
            f"overture diff {found['pruned_from']} {found['prompt']}{flag}",
        ],
    )
