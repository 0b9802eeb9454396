"""``overture meta``: learn a start on several tasks."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from overture.cli.options import JsonOption, StoreOption, field_help, local, stated, store_root
from overture.cli.out import console, say
from overture.cli.progress import display
from overture.cli.report import sentence, show_next, tune_from
from overture.cli.stop import StopRequest
from overture.cli.tune import BackboneOption, LengthOption, MethodOption, PlaceOption, SetOption, tell


def _help(field: str) -> Any:
    return typer.Option(help=field_help("jobs/transfer/options.py", "MetaConfig", field), show_default=False)


def command(
    tasks: Annotated[list[Path], typer.Argument(metavar="TASK.yaml...", help="The tasks to learn from, two at least.")],
    name: Annotated[str, typer.Option(help="The name under which the start is kept.")],
    steps: Annotated[int | None, _help("steps")] = None,
    inner: Annotated[int | None, _help("inner")] = None,
    rate: Annotated[float | None, _help("rate")] = None,
    algorithm: Annotated[Literal["reptile", "fomaml"] | None, _help("algorithm")] = None,
    unseen: Annotated[
        list[Path] | None, typer.Option(metavar="TASK.yaml", help="A task to measure the start on only. Repeatable.")
    ] = None,
    backbone: BackboneOption = None,
    method: MethodOption = None,
    place: PlaceOption = None,
    length: LengthOption = None,
    settings: SetOption = None,
    store: StoreOption = None,
    is_json: JsonOption = False,
) -> None:
    """Learn starting values from which a few steps on a new task go far; Ctrl-C keeps what was learnt."""
    root = store_root(store)
    flags = {"backbone": backbone and local(backbone), "method": method, "place": place, "length": length}

    from overture.core.config import validated
    from overture.jobs.run.request import TuneConfig, resolved
    from overture.jobs.transfer.options import MetaConfig
    from overture.store.store import Store

    asked = {"steps": steps, "inner": inner, "rate": rate, "algorithm": algorithm}
    config = validated(MetaConfig, stated(asked), "overture meta")
    requests = [resolved(TuneConfig, path, flags, settings or []) for path in (*tasks, *(unseen or []))]

    from overture.jobs.transfer.meta import meta

    show = display()
    with StopRequest("stopping after this visit; press Ctrl-C again to stop at once") as stop, show.live():
        found = meta(
            requests[: len(tasks)],
            Store(root, say),
            name,
            config,
            unseen=requests[len(tasks) :],
            listener=show,
            is_stop_asked=stop,
        )
    tell(found, store, is_json, _show)


def _show(found: dict[str, Any], flag: str) -> None:
    from rich.table import Table

    out = console()
    if found["status"] == "interrupted":
        out.print(f"stopped after {found['steps']} visits" + ("; what they taught is kept" if found["prompt"] else ""))
    if found["few_steps"]:
        steps = "1 step" if found["inner"] == 1 else f"{found['inner']} steps"
        table = Table(title=f"after {steps}, on validation rows", title_justify="left")
        for title in ("task", "score", "from the ordinary start", "from the learnt start", "rows"):
            table.add_column(title, justify="left" if title in ("task", "score") else "right")
        for one in found["few_steps"]:
            scores = [one[side][one["metric"]] for side in ("ordinary", "learnt")]
            title = f"{one['task']} (unseen)" if one["is_unseen"] else one["task"]
            table.add_row(title, one["metric"], *(f"{each['value']:.3f}" for each in scores), str(scores[0]["n"]))
        out.print(table)
        for one in found["few_steps"]:
            out.print(f"{one['task']}: {sentence('the ordinary start', one['compared'], 'learnt start')}")
        if not any(one["is_unseen"] for one in found["few_steps"]):
            out.print("note: these tasks taught the start; --unseen TASK.yaml measures it on another")
    for notice in found["notices"]:
        out.print(f"note: {notice}")
    if found["prompt"]:
        prompt, start = found["prompt"], found["start"]
        command = tune_from(prompt, start["method"], found["place"], found["length"], start["options"], flag)
        show_next(f"Kept as {prompt}. Start a task from it:", [command])
