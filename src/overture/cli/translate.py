"""``overture translate``: a soft prompt as words."""

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
from overture.cli.out import console, emit, say, seconds_text
from overture.cli.report import asking, interval_text, show_next
from overture.jobs.run.request import tune_config
from overture.jobs.wording.options import TranslateConfig

if TYPE_CHECKING:
    from overture.core.records.hard import TranslateResult

_FLAGS = ("room", "wordings", "example_sets", "rows", "measured_rows", "second_model", "seed")


@with_flags(
    flag(TranslateConfig, "sources", "--from", metavar="PROPOSER"),
    *(flag(TranslateConfig, name) for name in _FLAGS),
)
def command(
    prompt: PromptArgument,
    given: Given,
    task: Annotated[
        Path | None,
        typer.Argument(
            metavar="[TASK.yaml]", help="Says where the rows are; the prompt's own run says it if not given."
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="The new prompt's name; PROMPT-words if not given.")] = None,
    store: StoreOption = None,
    is_json: JsonOption = False,
) -> None:
    """Find words that make the model answer as a soft prompt does; measure how much of it they keep."""
    root = store_root(store)

    from overture.core.config import validated
    from overture.hard.proposers.registry import check_source
    from overture.store.store import Store

    config = validated(TranslateConfig, given.of(TranslateConfig), "overture translate")
    for source in config.chosen:
        check_source(source)
    kept = Store(root, say)
    kept.get(prompt)
    if task:
        tune_config(task)

    from overture.cli.progress import display
    from overture.jobs.wording.translate import translate

    show = display()
    with show.live():
        result = translate(prompt, kept, config, task=task, name=name, listener=show)
    if is_json:
        emit(result.dump())
    else:
        _show(result, store_flag(store))


def _show(result: "TranslateResult", store_text: str) -> None:
    from rich.table import Table

    out = console()
    table = Table(
        title=f"{result.translated_from} as words, {result.rows['measured']} {result.split} rows", title_justify="left"
    )
    for head in ("", "tokens", "KL explained", "agreement", "where it changed", "accuracy", "gain kept", "perplexity"):
        table.add_column(head, justify="right" if head else "left")
    for item in result.fidelity:
        changed, kept = item.agreement_where_changed, item.accuracy_kept
        table.add_row(
            item.what,
            str(item.tokens),
            f"{item.explained.value:.2f} ({interval_text(item.explained)})",
            f"{item.agreement.value:.3f}",
            f"{changed.value:.3f} of {changed.n}" if changed else "-",
            f"{item.accuracy.value:.3f}",
            "-" if kept is None else f"{kept:.0%}",
            "-" if item.perplexity is None else f"{item.perplexity:.1f}",
        )
    out.print(table)
    out.print(f"The soft prompt: accuracy {result.soft.value:.3f}; no prompt: {result.none.value:.3f}.")
    for item in result.fidelity:
        out.print(f"{item.what}: {item.text!r}", soft_wrap=True)
    if result.transfer:
        moved = result.transfer
        out.print(
            f"On {moved.backbone}: accuracy {moved.accuracy.value:.3f} with the words, "
            f"{moved.without.value:.3f} without."
        )
    for notice in result.notices:
        out.print(f"note: {notice}")
    out.print(f"{result.tokens:,.0f} live tokens, {seconds_text(result.seconds)}.")
    commands = [asking(result.prompt, result.folder, store_text), f"overture explain {result.prompt}{store_text}"]
    show_next(f"Kept as {result.prompt}. Next:", commands)
