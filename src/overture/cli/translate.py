"""``overture translate``: a soft prompt as words."""

from typing import TYPE_CHECKING, Annotated

import typer

from overture.cli.options import (
    FlagValues,
    JsonOption,
    PromptArgument,
    RowsTaskArgument,
    StoreOption,
    flag,
    store_flag,
    store_root,
    with_flags,
)
from overture.cli.out import console, emit, loading, seconds_text, show_notes, show_text
from overture.cli.report import interval_text, predict_line, show_next
from overture.cli.tables import Column, show_table
from overture.jobs.wording.options import TranslateConfig

if TYPE_CHECKING:
    from overture.core.records.hard import TranslateResult

_SIZES = ("room", "wordings", "example_sets", "structures", "rows", "max_tokens", "measured_rows")
_FLAGS = (*_SIZES, "scaled", "baselines", "second_model", "seed")


@with_flags(
    flag(TranslateConfig, "sources", "--from", metavar="PROPOSER"),
    *(flag(TranslateConfig, name) for name in _FLAGS),
)
def command(
    prompt: PromptArgument,
    flag_values: FlagValues,
    task: RowsTaskArgument = None,
    name: Annotated[str | None, typer.Option(help="The new prompt's name; PROMPT-words if not given.")] = None,
    store: StoreOption = None,
    is_json: JsonOption = False,
) -> None:
    """Find words that make the model answer as a soft prompt does; measure how much of it they keep."""
    root = store_root(store)

    from overture.cli.stored import checked_store
    from overture.core.config import validated
    from overture.hard.proposers.registry import check_source

    config = validated(TranslateConfig, flag_values.of(TranslateConfig), "overture translate")
    for source in config.chosen:
        check_source(source)
    prompt_store = checked_store(root, prompt, name, task)
    loading()

    from overture.cli.progress import live_display
    from overture.jobs.wording.translate import translate

    with live_display() as show:
        result = translate(prompt, prompt_store, config, task=task, name=name, listener=show)
    if is_json:
        emit(result.dump())
    else:
        _show(result, store_flag(store))


def _show(result: "TranslateResult", store_text: str) -> None:
    out, items = console(), result.fidelity
    agreements = [item.agreement_where_changed for item in items]
    columns = [
        Column("words", [item.what for item in items], is_left=True),
        Column("tokens", [str(item.tokens) for item in items], rank=3),
        Column("KL explained", [f"{item.explained.value:.2f} ({interval_text(item.explained)})" for item in items]),
        Column("agreement", [f"{item.agreement.value:.3f}" for item in items], rank=1),
        Column(
            "where it changed", [f"{score.value:.3f} of {score.n}" if score else "-" for score in agreements], rank=4
        ),
        Column("accuracy", [f"{item.accuracy.value:.3f}" for item in items]),
        Column("gain kept", ["-" if i.accuracy_kept is None else f"{i.accuracy_kept:.0%}" for i in items], rank=2),
        Column("perplexity", ["-" if i.perplexity is None else f"{i.perplexity:.1f}" for i in items], rank=5),
    ]
    show_table(out, columns, f"{result.translated_from} as words, {result.rows['measured']} {result.split} rows")
    explained = items[0].explained
    verdict = (
        f"The words explain {explained.value:.2f} of what the prompt does to the answers ({interval_text(explained)})."
        if explained.low > 0
        else "It could not be shown that the words explain anything of what the prompt does to the answers: "
        f"{explained.value:.2f}, and the interval, {interval_text(explained)}, holds 0."
    )
    show_text(out, verdict, style="green" if explained.low > 0 else "yellow")
    lengths = [f"{item.tokens} tokens {item.explained.value:.2f}" for item in result.curve]
    show_text(out, f"KL explained by length: {', '.join(lengths)}.")
    show_text(out, f"The soft prompt: accuracy {result.soft.value:.3f}; no-prompt: {result.none.value:.3f}.")
    for item in result.fidelity:
        show_text(out, f"{item.what}: {item.text!r}")
    if result.transfer:
        transfer = result.transfer
        show_text(
            out,
            f"On {transfer.backbone}: accuracy {transfer.accuracy.value:.3f} with the words, "
            f"{transfer.without.value:.3f} without.",
        )
    show_notes(out, result.notices)
    show_text(out, f"{result.tokens:,.0f} live tokens, {seconds_text(result.seconds)}.")
    commands = [predict_line(result.prompt, result.folder, store_text), f"overture explain {result.prompt}{store_text}"]
    show_next(f"Stored as {result.prompt}. Next:", commands)
