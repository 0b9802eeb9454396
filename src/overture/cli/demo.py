"""``overture demo``: a whole tuning run on built-in rows and the embedded model."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from overture.cli.options import (
    FlagValues,
    JsonOption,
    StoreOption,
    flag,
    open_store,
    store_flag,
    store_root,
    with_flags,
)
from overture.cli.out import console, emit, loading, remark, show_text
from overture.cli.pages import show_page, written_page
from overture.cli.report import show_next, show_result
from overture.cli.tune import finish, result_of
from overture.core.errors import Diverged
from overture.core.files import check_writable
from overture.core.records.tune import StoppedRun, TuneResult
from overture.jobs.run.request import TuneConfig, resolved

if TYPE_CHECKING:
    from overture.engine.backbone import Backbone

NAME = "demo-bank"
TASK_FILE = "bank.yaml"
EPOCHS = 4
"""As the demo's task file has it; reading that for the help would import YAML."""
SENTENCES = {
    "I ordered a new card two weeks ago and it still has not come.": "cards",
    "The cash machine took my request but gave me only half of the money.": "cash",
    "I sent money to my sister yesterday, why has the transfer not arrived?": "transfers",
}
"""Messages that are in no data, and the team that should answer each."""
_PLAN = (
    "This demo tunes a prompt that sorts customers' messages to a bank by the team that should answer: it learns from "
    "300 messages, then answers 300 others, beside the same model without a prompt and with examples. The model, "
    "SmolLM2-135M-Instruct, stays as it is. It takes about three minutes on two CPU cores, and half a minute more the "
    "first time. Ctrl-C stops it; nothing is sent anywhere."
)


@with_flags(flag(TuneConfig, "train.epochs", shown_default=str(EPOCHS)))
def command(
    flag_values: FlagValues,
    store: StoreOption = None,
    is_json: JsonOption = False,
) -> None:
    """Tune a prompt that sorts messages to a bank, measure it, and try it: about three minutes on two CPU cores."""
    root = store_root(store)
    check_writable(root)
    remark(_PLAN)
    loading()

    from importlib.resources import as_file, files

    from overture.engine.load import load_backbone
    from overture.jobs.tune.tune import tune

    with as_file(files("overture.data").joinpath("demo")) as folder:
        config = resolved(TuneConfig, Path(folder) / TASK_FILE, {"name": NAME, **flag_values.of(TuneConfig)})
        prompt_store = open_store(store)
        backbone = load_backbone(config.task.backbone, notify=remark)
        result = result_of(lambda listener, stop: tune(config, prompt_store, listener, stop, backbone), store, is_json)
    if isinstance(result, StoppedRun) or not result.prompt:
        finish(result, store, is_json, show_result)
        return
    answers = _answers(prompt_store.get(result.prompt), backbone)
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

    handle, texts = Host(backbone).open(prompt), list(SENTENCES)
    answers = zip(texts, handle.predict(texts), strict=True)
    return [{"input": text, **handle.task.spec.shown(handle.task, answer)} for text, answer in answers]


def _show(result: TuneResult, answers: list[dict[str, Any]], flag: str) -> None:
    show_result(result, flag, with_next=False)
    out = console()
    show_text(out, "\nMessages that it has never seen:")
    for answer in answers:
        share = answer["probabilities"][answer["label"]]
        show_text(out, f"  {answer['label']} ({share:.0%})  {answer['input']}")
    show_next(
        f"Stored as {result.prompt}. Next:",
        [
            f'overture predict {NAME}{flag} "a message of your own"',
            f"overture errors {NAME}{flag}",
            "overture init your.csv",
            "overture tune task.yaml",
        ],
    )
