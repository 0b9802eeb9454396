"""``overture multi``: one prompt for several tasks."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from overture.cli.options import JsonOption, StoreOption, field_help, local, stated, store_root
from overture.cli.out import console, say
from overture.cli.progress import display
from overture.cli.report import asking, sentence, show_next
from overture.cli.stop import StopRequest
from overture.cli.tune import BackboneOption, LengthOption, PlaceOption, SetOption, tell


def _help(field: str) -> Any:
    return typer.Option(help=field_help("jobs/transfer/options.py", "MultiConfig", field), show_default=False)


def command(
    tasks: Annotated[list[Path], typer.Argument(metavar="TASK.yaml...", help="The tasks, two at least.")],
    name: Annotated[str, typer.Option(help="The shared prompt is kept as NAME, each task's as NAME-TASK.")],
    method: Annotated[
        str, typer.Option(help="mpt: a shared prompt, scaled by each task; attempt: shared attention over stored ones.")
    ] = "mpt",
    teacher: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PROMPT", help="A task's own stored prompt, in the order of the tasks; tuned if none is given."
        ),
    ] = None,
    logits: Annotated[float | None, _help("logits")] = None,
    hidden: Annotated[float | None, _help("hidden")] = None,
    temperature: Annotated[float | None, _help("temperature")] = None,
    mixing: Annotated[Literal["drawn", "all"] | None, _help("mixing")] = None,
    backbone: BackboneOption = None,
    place: PlaceOption = None,
    length: LengthOption = None,
    settings: SetOption = None,
    store: StoreOption = None,
    is_json: JsonOption = False,
) -> None:
    """Train prompts for several tasks that share values, beside one for each alone.

    Ctrl-C keeps what is finished; the run itself cannot be resumed, but --teacher takes the prompts tuned alone.
    """
    root = store_root(store)
    flags = {"backbone": backbone and local(backbone), "method": method, "place": place, "length": length}

    from overture.core.config import validated
    from overture.jobs.run.request import TuneConfig, resolved
    from overture.jobs.transfer.options import MultiConfig
    from overture.store.store import Store

    asked = {"logits": logits, "hidden": hidden, "temperature": temperature, "mixing": mixing}
    config = validated(MultiConfig, stated(asked), "overture multi")
    requests = [resolved(TuneConfig, path, flags, settings or []) for path in tasks]

    from overture.jobs.transfer.multi import multi

    show = display()
    with StopRequest("stopping after this step; press Ctrl-C again to stop at once") as stop, show.live():
        found = multi(
            requests, Store(root, say), name, config, teachers=teacher or [], listener=show, is_stop_asked=stop
        )
    tell(found, store, is_json, _show)


def _show(found: dict[str, Any], flag: str) -> None:
    out = console()
    done = [one for one in found["tasks"] if "multi" in one]
    if found["status"] == "interrupted":
        kept = [one["single"]["prompt"] for one in found["tasks"] if one["single"].get("prompt")]
        out.print("stopped" + (f"; kept: {', '.join(kept)}" if kept else ""))
    if done:
        _show_scores(found, done)
    for notice in found["notices"]:
        out.print(f"note: {notice}")
    if found["prompt"]:
        way = " ".join(f"--{name} {found[name]}" for name in ("method", "place", "length"))
        start = f"{way} --set prompt.options.source={found['prompt']}"
        show_next(
            f"Shared prompt kept as {found['prompt']}. Start a task from it:",
            [f"overture tune TASK.yaml {start}{flag}"],
        )
    if done:
        show_next("Next:", [asking(one["multi"], flag) for one in done])


def _show_scores(found: dict[str, Any], done: list[dict[str, Any]]) -> None:
    from rich.table import Table

    out, values = console(), found["values"]
    table = Table(title=f"{found['method']} at {found['place']}, {len(done)} tasks", title_justify="left")
    for title in ("task", "score", "rows", "alone", "together", "values alone", "own values together"):
        table.add_column(title, justify="left" if title in ("task", "score", "rows") else "right")
    for one in done:
        scores = [one[side]["metrics"][one["split"]][one["metric"]] for side in ("single", "multi")]
        told = [f"{score['value']:.3f}" for score in scores]
        sizes = [f"{one['single']['trainable']:,}", f"{one['own_values']:,}"]
        table.add_row(one["task"], one["metric"], f"{scores[0]['n']} {one['split']}", *told, *sizes)
    out.print(table)
    out.print(
        f"values: {values['alone']:,} for all tasks alone, {values['together']:,} together, "
        f"{values['shared']:,} of them shared"
    )
    for one in done:
        out.print(f"{one['task']}: {sentence('the prompt tuned alone', one['compared'], 'multi-task prompt')}")
