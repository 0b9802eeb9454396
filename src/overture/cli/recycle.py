"""``overture recycle``: a prompt of one model as a start, or a makeshift, for another."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from overture.cli.options import (
    FlagValues,
    JsonOption,
    PromptArgument,
    StoreOption,
    flag,
    store_flag,
    store_root,
    with_flags,
)
from overture.cli.out import console, emit, loading, show_text
from overture.cli.progress import display
from overture.cli.report import interval_text, sentence, show_next, verdict_style
from overture.cli.tables import Column, show_table
from overture.engine.options import local_source
from overture.jobs.transfer.options import RecycleConfig, check_recyclable, same_model

if TYPE_CHECKING:
    from rich.console import Console

    from overture.core.records.scores import SplitScores
    from overture.core.records.transfer import RecycleResult
    from overture.core.records.tune import Evaluation


@with_flags(flag(RecycleConfig, "tokens"))
def command(
    prompt: PromptArgument,
    backbone: Annotated[
        str, typer.Option(metavar="MODEL", help="The other model: a known name, a Hub id, a folder or a file.")
    ],
    flag_values: FlagValues,
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

    from overture.cli.stored import checked_store
    from overture.core.config import validated
    from overture.engine.options import check_source
    from overture.store.artifact import read_manifest, tensor_names
    from overture.store.manifest import check_answers

    config = validated(RecycleConfig, flag_values.of(RecycleConfig), "overture recycle")
    check_source(local_source(backbone))
    prompt_store = checked_store(root, prompt, name, task)
    folder = prompt_store.get(prompt)
    manifest = read_manifest(folder)
    check_answers(manifest)
    check_recyclable(manifest, tensor_names(folder, manifest))
    if local_source(backbone) == manifest.backbone.id and manifest.backbone.revision is None:
        raise same_model(backbone)
    loading()

    from overture.jobs.transfer.recycle import recycle

    show = display()
    with show.live():
        result = recycle(
            prompt, prompt_store, backbone=local_source(backbone), name=name, task=task, config=config, listener=show
        )
    if is_json:
        emit(result.dump())
    else:
        _show(result, task, store_flag(store))


def _show(result: "RecycleResult", task: Path | None, flag: str) -> None:
    out = console()
    show_text(
        out,
        f"{result.recycled_from} of {result.old_backbone} is now {result.prompt} of {result.backbone}: "
        f"{result.length} vectors at {result.place}",
    )
    show_text(
        out,
        f"The map was fitted on {result.map.tokens:,} common tokens; on held-out tokens the mean cosine of "
        f"mapped and real vectors is {result.map.cosine:.3f} (1 is perfect).",
    )
    if result.evaluation:
        _show_scores(out, result, result.evaluation)
        for compared in (result.evaluation.compared or {}).values():
            show_text(out, sentence("no-prompt", compared, "recycled prompt"), style=verdict_style(compared))
    start = f"--set prompt.init=prompt --set prompt.init_prompt={result.prompt}"
    way = f"--backbone {result.backbone} --method vectors --place {result.place} --length {result.length}"
    where = "TASK.yaml" if task is None else str(task)
    show_next("Train it from here on the new model:", [f"overture tune {where} {way} {start}{flag}"])


def _show_scores(out: "Console", result: "RecycleResult", evaluation: "Evaluation") -> None:
    split, metric = evaluation.split, evaluation.metric
    scores = {"recycled prompt": evaluation.metrics[split][metric]}
    if evaluation.no_prompt:
        scores = {"no-prompt": evaluation.no_prompt.metrics[split][metric], **scores}
    old_scores: SplitScores | None = getattr(result.old_metrics, split, None)
    if old_scores and metric in old_scores.scores:
        scores["prompt on the old model"] = old_scores[metric]
    columns = [
        Column("", list(scores), is_left=True),
        Column(metric, [f"{score.value:.3f}" for score in scores.values()]),
        Column("95% interval", list(map(interval_text, scores.values())), rank=1),
        Column("rows", [str(score.n) for score in scores.values()], rank=2),
    ]
    show_table(out, columns, f"{result.prompt}, {split} rows")
