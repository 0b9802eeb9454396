"""``overture prune``: removes tokens and pieces from a prompt, and trains it again from its start."""

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
from overture.cli.out import console, emit, loading, show_notes, show_text
from overture.cli.progress import live_display
from overture.cli.report import interval_text, predict_line, sentence, show_next, verdict_style
from overture.cli.tables import Column, show_table
from overture.jobs.distil.options import PruneConfig

if TYPE_CHECKING:
    from overture.core.records.distil import PruneResult


@with_flags(flag(PruneConfig, "keep", metavar="SHARE"), flag(PruneConfig, "pieces"))
def command(
    prompt: PromptArgument,
    flag_values: FlagValues,
    task: RowsTaskArgument = None,
    name: Annotated[str | None, typer.Option(help="The pruned prompt's name; PROMPT-pruned if not given.")] = None,
    store: StoreOption = None,
    is_json: JsonOption = False,
) -> None:
    """Drop the tokens, and pieces of tokens, that a prompt of vectors does not need; train the rest again."""
    root = store_root(store)

    from overture.cli.stored import checked_store
    from overture.core.config import validated

    config = validated(PruneConfig, flag_values.of(PruneConfig), "overture prune")
    prompt_store = checked_store(root, prompt, name, task)
    loading()

    from overture.jobs.distil.prune import prune

    with live_display() as show:
        result = prune(prompt, prompt_store, config, task=task, name=name, listener=show)
    if is_json:
        emit(result.dump())
    else:
        _show(result, store_flag(store))


def _show(result: "PruneResult", flag: str) -> None:
    out, metric, candidates = console(), result.metric, result.candidates
    columns = [
        Column("kept", [f"{candidate.share:.0%} of the {candidate.level}" for candidate in candidates], is_left=True),
        Column("tokens", [str(len(candidate.tokens)) for candidate in candidates], rank=1),
        Column("trained values", [f"{candidate.trainable:,}" for candidate in candidates], rank=2),
        Column(
            metric, ["diverged" if candidate.score is None else f"{candidate.score:.3f}" for candidate in candidates]
        ),
        Column(
            "loss", ["-" if candidate.loss is None else f"{candidate.loss:.3f}" for candidate in candidates], rank=3
        ),
        Column("seconds", [f"{candidate.seconds:.1f}" for candidate in candidates], rank=4),
    ]
    show_table(out, columns, "tried, on validation rows")
    compared = result.compared["whole"]
    out.print()
    scores = [splits[compared.split][metric] for splits in (result.whole.metrics, result.metrics)]
    rows = {
        metric: [f"{score.value:.3f}" for score in scores],
        "95% interval": list(map(interval_text, scores)),
        "rows": [str(score.n) for score in scores],
        "tokens": [str(result.whole.length), str(result.length)],
        "trained values": [f"{result.whole.trainable:,}", f"{result.trainable:,}"],
    }
    columns = [Column("", list(rows), is_left=True)]
    columns += [Column(name, [row[n] for row in rows.values()]) for n, name in enumerate(("whole", "pruned"))]
    show_table(out, columns, f"{result.pruned_from}, {compared.split} rows", good=[0])
    show_text(out, sentence("the whole prompt", compared, "pruned prompt"), style=verdict_style(compared))
    show_notes(out, result.notices)
    show_next(
        f"Stored as {result.prompt}. Next:",
        [predict_line(result.prompt, result.folder, flag), f"overture diff {result.pruned_from} {result.prompt}{flag}"],
    )
