"""``overture demo``: the whole job for real, on rows and a model that are here already."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from overture.cli.options import Given, JsonOption, StoreOption, flag, store_flag, store_root, with_flags
from overture.cli.out import console, emit, say
from overture.cli.pages import show_page, written_page
from overture.cli.report import show_next, show_result
from overture.cli.tune import finish, worked
from overture.core.errors import Diverged
from overture.core.records.tune import StoppedRun, TuneResult
from overture.jobs.run.request import TuneConfig, resolved

if TYPE_CHECKING:
    from overture.engine.backbone import Backbone

NAME = "demo-movie"
_SENTENCES = (
    "Two hours that fly by, and an ending that stays with you for days.",
    "The jokes fall flat, and the plot never wakes up.",
    "I expected nothing and was glad to be proved wrong.",
)


@with_flags(flag(TuneConfig, "train.epochs"))
def command(
    given: Given,
    store: StoreOption = None,
    is_json: JsonOption = False,
) -> None:
    """Tune a prompt on 256 movie reviews, measure it, and try it: about two minutes on two CPU cores."""
    root = store_root(store)
    say("loading ...")

    from importlib.resources import as_file, files

    from overture.engine.load import load_backbone
    from overture.jobs.tune.tune import tune
    from overture.store.store import Store

    with as_file(files("overture.data").joinpath("demo")) as folder:
        config = resolved(TuneConfig, Path(folder) / "movie.yaml", {"name": NAME, **given.of(TuneConfig)})
        kept = Store(root, say)
        backbone = load_backbone(config.task.backbone, notify=say)
        result = worked(lambda listener, stop: tune(config, kept, listener, stop, backbone), store, is_json)
    if isinstance(result, StoppedRun) or not result.prompt:
        finish(result, store, is_json, show_result)
        return
    answers = _answers(kept.get(result.prompt), backbone)
    page = written_page(result.run, store)
    if is_json:
        emit({**result.dump(), "predictions": answers, "page": page})
    else:
        _show(result, answers, store_flag(store))
        show_page(page)
    if result.status == "diverged":
        raise typer.Exit(Diverged.exit_code)


def _answers(prompt: Path, backbone: "Backbone") -> list[dict[str, Any]]:
    from overture.evaluate.host import Host

    handle = Host(backbone).open(prompt)
    answers = zip(_SENTENCES, handle.predict(_SENTENCES), strict=True)
    return [{"input": text, **handle.task.spec.shown(handle.task, answer)} for text, answer in answers]


def _show(result: TuneResult, answers: list[dict[str, Any]], flag: str) -> None:
    show_result(result, flag, with_next=False)
    out = console()
    out.print("\nSentences that nobody rated:")
    for answer in answers:
        share = answer["probabilities"][answer["label"]]
        out.print(f"  {answer['label']} ({share:.0%})  {answer['input']}")
    show_next(
        f"Kept as {result.prompt}. Next:",
        [
            f'overture predict {NAME}{flag} "your own sentence"',
            f"overture show {NAME}{flag}",
            "overture init your.jsonl",
            "overture tune task.yaml",
        ],
    )
