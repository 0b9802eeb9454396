"""``overture explain``: explains a stored prompt on a page."""

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from overture.cli.options import (
    DriftOption,
    FlagValues,
    JsonOption,
    PromptArgument,
    StoreOption,
    flag,
    open_store,
    store_root,
    with_flags,
)
from overture.cli.out import console, emit, loading, seconds_text, show_notes, show_text
from overture.cli.report import sentence, verdict_style
from overture.core.errors import ConfigError, StoreReadOnly
from overture.core.files import check_writable
from overture.core.records.data import DataNotice, notice_texts
from overture.core.records.events import NoticeEvent, as_notices, as_progress
from overture.jobs.wording.options import ExplainConfig, check_explained

if TYPE_CHECKING:
    from overture.core.records.explain import Explanation


@with_flags(
    flag(ExplainConfig, "rows"), flag(ExplainConfig, "texts"), flag(ExplainConfig, "dtype"), flag(ExplainConfig, "seed")
)
def command(
    prompt: PromptArgument,
    flag_values: FlagValues,
    data: Annotated[
        Path | None,
        typer.Argument(metavar="FILE", help="Rows to look at instead of those of the prompt's own run."),
    ] = None,
    page: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="The page to write; PROMPT-explained.html if not given.")
    ] = None,
    store: StoreOption = None,
    allow_drift: DriftOption = False,
    is_json: JsonOption = False,
) -> None:
    """Show what a prompt says, which of its parts matter, and which rows it changes; write one HTML page."""
    root = store_root(store)

    from overture.cli.stored import stored_prompt
    from overture.core.config import validated

    config = validated(ExplainConfig, flag_values.of(ExplainConfig), "overture explain")
    prompt_store = open_store(store)
    folder, manifest, task = stored_prompt(prompt_store, prompt)
    check_explained(manifest, task.kind)
    target = page or Path(f"{manifest.name}-explained.html")
    if target.is_dir() or not target.absolute().parent.is_dir():
        raise ConfigError("the page cannot be written", where="--page", got=str(target), wanted="a file's path")
    check_writable(target.parent)

    from overture.cli.progress import live_display
    from overture.data.task_rows import rows_of_file
    from overture.evaluate.scored_rows import check_scorable, rows_of_run

    notices: list[DataNotice] = []
    if data:
        split = "data"
        rows, notices = rows_of_file(task, data)
    else:
        split, rows = rows_of_run(prompt_store, manifest, "", "explain")
    check_scorable(task, rows)
    loading()

    from overture.engine.load import load_backbone
    from overture.evaluate.host import Host
    from overture.jobs.wording.explain import explain, other_seeds_of
    from overture.report.explain_page import write_page
    from overture.store.explanations import explanation_path
    from overture.store.names import is_path, ref_of

    with live_display() as show:
        for text in notice_texts(notices):
            show(NoticeEvent(text=text))
        model, notify = manifest.backbone, as_notices(show)
        backbone = load_backbone(model.id, revision=model.revision, dtype=config.dtype, notify=notify)
        handle = Host(backbone, allow_drift=allow_drift, notify=notify).open(folder)
        result = explain(handle, rows, split, config, as_progress(show), other_seeds_of(handle, prompt_store))
        result = result.model_copy(update={"notices": [*notice_texts(notices), *result.notices]})
    write_page(result, target)
    if not is_path(prompt):
        # The page of the prompt in `overture ui` shows it; a store that cannot be written goes without.
        with suppress(StoreReadOnly):
            check_writable(root)
            write_page(result, explanation_path(root, ref_of(folder)))
    if is_json:
        emit({**result.dump(), "page": str(target)})
        return
    _show(result)
    show_text(console(), f"Page: {target} ({seconds_text(result.seconds)})")


def _show(result: "Explanation") -> None:
    out = console()
    show_text(out, sentence("no-prompt", result.compared, "prompt"), style=verdict_style(result.compared))
    if result.raised:
        words = ", ".join(f"{word.word.strip()} ({word.change:+.1f})" for word in result.raised[:8])
        show_text(out, f"Words that become likelier at the answer: {words}")
    for shift in result.labels:
        before, after = shift.without[shift.label], shift.with_prompt[shift.label]
        show_text(
            out, f"  rows of {shift.label}: probability of the right label {before:.2f} without, {after:.2f} with it"
        )
    if result.parts:
        show_text(out, "Parts that matter most, by how much the answers change without them:")
    for part in sorted(result.parts, key=lambda part: -part.change.value)[:5]:
        change, effect = part.change, "" if part.effect == "unclear" else f", {part.effect}"
        interval = f"({change.low:.3f} to {change.high:.3f})"
        show_text(out, f"  {part.kind} {part.name:.60}: {change.value:.3f} nats {interval}{effect}")
    total = result.flips[0]
    show_text(out, f"Rows fixed: {total.fixed}, broken: {total.broken}, of {result.rows}")
    sure = [item for item in result.slices if item.q_value < 0.05]
    for item in sure[:5]:
        kind = "rare" if item.is_rare else "frequent"
        counts = f"{item.hits} of the {item.rows_with} rows with it, of {item.group} in the group"
        show_text(out, f"  {item.word!r} is {kind} among rows {item.among}: {counts}, q = {item.q_value:.2g}")
    for check in result.checks:
        verdict = "passed" if check.passed else "not done" if check.passed is None else "FAILED"
        show_text(out, f"check {check.name}: {verdict}; {check.text}")
    if failed_checks := [check.name for check in result.checks if check.passed is False]:
        one_of = f"{len(failed_checks)} of {len(result.checks)} checks failed ({', '.join(failed_checks)})"
        show_text(out, f"{one_of}: do not trust the order of the parts above.", style="yellow")
    show_notes(out, result.notices)
