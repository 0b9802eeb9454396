"""``overture words``: label words that the model itself would write."""

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from overture.cli.options import FlagValues, JsonOption, SetOption, flag, with_flags
from overture.cli.out import console, emit, loading, seconds_text, show_notes, show_text
from overture.cli.report import interval_text, show_next
from overture.cli.tables import Column, show_table
from overture.cli.tune import BACKBONE
from overture.core.records.events import as_notices, as_progress
from overture.jobs.run.request import TuneConfig, resolved
from overture.jobs.search.options import WordsConfig

if TYPE_CHECKING:
    from overture.core.records.search import WordsResult

_SHOWN_WORDS = 6
_OF_TASK = "task file"
"""The name of the task's own words."""


@with_flags(BACKBONE, flag(WordsConfig, "words"), flag(WordsConfig, "pool"))
def command(
    task: Annotated[Path, typer.Argument(metavar="TASK.yaml", help="The task file, with labels.")],
    flag_values: FlagValues,
    settings: SetOption = None,
    is_json: JsonOption = False,
) -> None:
    """Propose label words from the training rows; measure them on validation rows, without training."""
    from overture.cli.progress import live_display
    from overture.core.config import validated
    from overture.engine.options import check_source
    from overture.jobs.run.early import read_early

    config = validated(WordsConfig, flag_values.of(WordsConfig), "overture words")
    flags = flag_values.of(TuneConfig)
    request = resolved(TuneConfig, task, flags, settings or [], prompt_use="unused")

    check_source(request.task.backbone)
    read_early(request.task, is_tuned=False)
    loading()

    from overture.jobs.search import words as study

    with live_display() as show:
        result = study.words(request.task, config, progress=as_progress(show), notify=as_notices(show))
    if is_json:
        emit(result.dump())
    else:
        best = result.wordings[0]
        more = [] if best.name == _OF_TASK else [f"labels={json.dumps(best.labels, ensure_ascii=False)}"]
        _show(result, _tune_command(task, flags.get("backbone"), [*(settings or []), *more]))


def _tune_command(task: Path, backbone: str | None, settings: list[str]) -> str:
    words = ["overture", "tune", str(task), *(["--backbone", backbone] if backbone else [])]
    words += [word for setting in settings for word in ("--set", setting)]
    return shlex.join(words)


def _show(result: "WordsResult", command_line: str) -> None:
    out, metric = console(), result.metric
    proposed = [
        ", ".join(
            f"{item.word.strip()} ({item.log_likelihood:.1f}, {item.ratio:+.1f})" for item in words[:_SHOWN_WORDS]
        )
        for words in result.labels.values()
    ]
    show_table(
        out,
        [
            Column("label", list(result.labels), is_left=True),
            Column(
                "words (mean log-likelihood, and how far above other labels)", proposed, is_left=True, is_prose=True
            ),
        ],
        f"{result.task}: the words that tell each label best",
    )
    scores = [wording.metrics[metric] for wording in result.wordings]
    joined = [
        ", ".join(
            "/".join(word.strip() for word in ([words] if isinstance(words, str) else words))
            for words in wording.labels.values()
        )
        for wording in result.wordings
    ]
    out.print()
    columns = [
        Column("words", [wording.name for wording in result.wordings], is_left=True),
        Column(metric, [f"{score.value:.3f}" for score in scores]),
        Column("95% interval", [interval_text(score) for score in scores]),
        Column("loss", [f"{wording.loss:.3f}" for wording in result.wordings], rank=1),
        Column("words of the labels", joined, is_left=True, is_prose=True),
    ]
    show_table(out, columns, f"without training, on {result.rows['validation']} validation rows")
    show_text(out, f"{result.rows['train']} training rows, {seconds_text(result.seconds)}.")
    show_notes(out, result.notices)
    show_text(out, "The best words of the table are chosen on these rows, so their score is a little too good.")
    is_task_file = result.wordings[0].name == _OF_TASK
    show_next(
        "Next:" if is_task_file else "These scores are without training. What the words are worth after it:",
        [command_line],
    )
