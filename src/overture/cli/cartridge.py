"""``overture cartridge``: a long text as a prompt."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from overture.cli.options import (
    FlagValues,
    JsonOption,
    StoreOption,
    TrainSetOption,
    flag,
    open_store,
    store_root,
    with_flags,
)
from overture.cli.out import console, loading, show_notes, show_text, size_text
from overture.cli.progress import stoppable
from overture.cli.report import show_next
from overture.cli.tables import Column, show_table
from overture.cli.tune import BACKBONE, print_result
from overture.core.errors import DataError
from overture.jobs.distil.options import CartridgeConfig
from overture.jobs.run.request import TuneConfig, tune_config

if TYPE_CHECKING:
    from overture.core.records.distil import CartridgeResult

_FLAGS = ("length", "conversations", "held_out", "piece", "seed")


@with_flags(BACKBONE, *(flag(CartridgeConfig, name) for name in _FLAGS))
def command(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The text, UTF-8.")],
    flag_values: FlagValues,
    name: Annotated[
        str | None, typer.Option(help="The name under which the prompt is kept; from the file's name if not given.")
    ] = None,
    task: Annotated[
        Path | None,
        typer.Option(metavar="TASK.yaml", help="What the prompt is for; questions as in a chat if not given."),
    ] = None,
    settings: TrainSetOption = None,
    store: StoreOption = None,
    is_json: JsonOption = False,
) -> None:
    """Distil a long text into a memory of few columns, by self-study; Ctrl-C keeps the best epoch so far."""
    root = store_root(store)

    from overture.core.config import overridden, validated
    from overture.core.files import check_writable
    from overture.data.task_text import slug
    from overture.engine.options import check_source, local_source
    from overture.store.names import checked_name

    values = overridden({"train": CartridgeConfig().train.model_dump()}, settings or [])
    values |= flag_values.of(CartridgeConfig)
    config = validated(CartridgeConfig, values, "overture cartridge")
    stored_task = tune_config(task).task if task else None
    flag_given = flag_values.of(TuneConfig).get("backbone")
    source = local_source(flag_given) if flag_given else stored_task.backbone if stored_task else "smollm2"
    if not file.is_file():
        raise DataError("the text cannot be read", where=str(file), wanted="a UTF-8 file", fix="check the path")
    name = checked_name(name or slug(file.stem))
    check_source(source)
    check_writable(root)
    loading()

    from overture.jobs.distil.cartridge import cartridge, text_of

    text = text_of(file)
    with stoppable() as (show, stop):
        result = cartridge(
            text,
            open_store(store),
            name,
            config,
            backbone=source,
            task=stored_task,
            origin=file.name,
            listener=show,
            is_stop_asked=stop,
        )
    print_result(result, store, is_json, _show)


def _show(result: "CartridgeResult", flag: str) -> None:
    out = console()
    if result.status == "interrupted":
        show_text(out, "stopped" + ("; the best epoch so far is stored" if result.prompt else ""))
    if result.conversations and result.ways:
        count = result.conversations.held_out
        title = f"{result.text_tokens:,} tokens of text, {count} held-out conversations"
        ways = result.ways.values()
        columns = [
            Column("what the model has", list(result.ways), is_left=True),
            Column("perplexity", [f"{way.perplexity:.2f}" for way in ways]),
            Column("divergence a token", [f"{way.divergence:.3f}" for way in ways]),
            Column("columns", [f"{way.columns:,}" for way in ways], rank=2),
            Column("keys and values", [size_text(way.bytes) for way in ways], rank=1),
        ]
        show_table(out, columns, title)
        show_text(out, "divergence: from what the model says with the right piece of the text in front of it")
    show_notes(out, result.notices)
    if result.prompt:
        ask = f'overture predict {result.prompt}{flag} "a question about the text"'
        show_next(f"Stored as {result.prompt}. Next:", [ask])
