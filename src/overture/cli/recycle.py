"""``overture recycle``: a prompt of one model as a start, or a makeshift, for another."""

from pathlib import Path
from typing import Annotated, Any

import typer

from overture.cli.options import (
    Given,
    JsonOption,
    PromptArgument,
    StoreOption,
    flag,
    local,
    store_flag,
    store_root,
    with_flags,
)
from overture.cli.out import console, emit, say
from overture.cli.progress import display
from overture.cli.report import interval_text, sentence, show_next
from overture.jobs.run.request import tune_config
from overture.jobs.transfer.options import RecycleConfig


@with_flags(flag(RecycleConfig, "tokens"))
def command(
    prompt: PromptArgument,
    backbone: Annotated[str, typer.Option(help="The other model: a known name, a Hub id, a folder or a file.")],
    given: Given,
    task: Annotated[
        Path | None,
        typer.Argument(metavar="TASK.yaml", help="Says where rows are; the new prompt is measured on them."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="The new prompt's name; PROMPT-recycled if not given.")] = None,
    store: StoreOption = None,
    is_json: JsonOption = False,
) -> None:
    """Map a prompt of vectors to another model, without training there."""
    root = store_root(store)

    from overture.core.config import validated
    from overture.store.store import Store

    config = validated(RecycleConfig, given.of(RecycleConfig), "overture recycle")
    kept = Store(root, say)
    kept.get(prompt)
    if task:
        tune_config(task)

    from overture.jobs.transfer.recycle import recycle

    show = display()
    with show.live():
        found = recycle(prompt, kept, backbone=local(backbone), name=name, task=task, config=config, listener=show)
    if is_json:
        emit(found)
    else:
        _show(found, task, store_flag(store))


def _show(found: dict[str, Any], task: Path | None, flag: str) -> None:
    from rich.table import Table

    out, fit = console(), found["map"]
    out.print(
        f"{found['recycled_from']} of {found['old_backbone']} is now {found['prompt']} of {found['backbone']}: "
        f"{found['length']} vectors at {found['place']}",
        soft_wrap=True,
    )
    out.print(
        f"The map was fitted on {fit['tokens']:,} common tokens; others it meets with a mean cosine of "
        f"{fit['cosine']:.3f} (1 is perfect).",
        soft_wrap=True,
    )
    if "metrics" in found:
        split, metric = found["split"], found["metric"]
        sides = {"no prompt": found.get("no_prompt"), "recycled prompt": found}
        columns = {title: side["metrics"][split][metric] for title, side in sides.items() if side}
        old = found.get("old_metrics", {}).get(split, {}).get(metric)
        if isinstance(old, dict) and "low" in old:
            columns["prompt on the old model"] = old
        table = Table(title=f"{found['prompt']}, {split} rows", title_justify="left")
        for title in ("", *columns):
            table.add_column(title, justify="right" if title else "left")
        table.add_row(metric, *(f"{score['value']:.3f}" for score in columns.values()))
        table.add_row("95% interval", *map(interval_text, columns.values()))
        table.add_row("rows", *(str(score["n"]) for score in columns.values()))
        out.print(table)
        for compared in found.get("compared", {}).values():
            out.print(sentence("no prompt", compared, "recycled prompt"))
    start = f"--set prompt.init=prompt --set prompt.init_prompt={found['prompt']}"
    way = f"--backbone {found['backbone']} --method vectors --place {found['place']} --length {found['length']}"
    where = "TASK.yaml" if task is None else str(task)
    show_next("Train it from here on the new model:", [f"overture tune {where} {way} {start}{flag}"])
