"""``overture search --form hard`` finds a prompt of words without training; ``--form any`` compares the forms."""

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from overture.cli.options import open_store
from overture.cli.out import console, loading, seconds_text, show_notes, show_text
from overture.cli.report import interval_text, predict_line, scaling_text, show_next
from overture.cli.tables import Column, show_table
from overture.cli.tune import finish, result_of
from overture.core.errors import ConfigError
from overture.core.files import check_writable
from overture.jobs.wording.options import HardRequest

if TYPE_CHECKING:
    from overture.core.records.hard import Claim, FormsResult, HardResult


def search_words_command(config: HardRequest, soft_flags: Sequence[str], store: Path | None, is_json: bool) -> None:
    """Search for a prompt of words and print what was found.

    Raises:
        ConfigError: flags that only a soft prompt's search has, an unknown proposer, or a task without labels.
    """
    if soft_flags:
        raise ConfigError(
            "these flags are for trained prompts", got=", ".join(soft_flags), fix="leave them out, or --form soft"
        )
    from overture.hard.proposers.registry import check_source
    from overture.jobs.run.early import check_early

    for source in config.hard.chosen:
        check_source(source)
    prompt_store = open_store(store)
    check_writable(prompt_store.root)
    check_early(config, prompt_store)
    loading()

    from overture.jobs.wording.search import search_words

    result = result_of(lambda listen, stop: search_words(config, prompt_store, listen, stop), store, is_json)
    finish(result, store, is_json, show_words)


def search_forms_command(config: HardRequest, task: Path, store: Path | None, is_json: bool) -> None:
    """Search trained prompts and prompts of words, and print which form won.

    Raises:
        ConfigError: what either search cannot do.
    """
    from overture.core.config import validated
    from overture.jobs.run.early import check_early
    from overture.jobs.search.options import SearchRequest
    from overture.jobs.search.space import requested_pairs, wordings

    prompt_store = open_store(store)
    soft = validated(SearchRequest, config.model_dump(exclude_unset=True, exclude={"hard"}), str(task))
    requested_pairs(soft)
    wordings(soft)
    check_writable(prompt_store.root)
    check_early(soft, prompt_store)
    loading()

    from overture.jobs.wording.forms import search_forms

    file = shlex.quote(str(task))
    result = result_of(lambda listen, stop: search_forms(config, prompt_store, listen, stop, file=file), store, is_json)
    finish(result, store, is_json, show_forms)


def show_forms(result: "FormsResult", flag: str) -> None:
    """Print the best of each form side by side, the tests, and which one won."""
    out, forms = console(), result.forms
    validations = [form.validation.text for form in forms]
    columns = [
        Column("form", [form.form for form in forms], is_left=True),
        Column("prompt", [form.prompt or "-" for form in forms], is_left=True, rank=1),
        Column("what", [form.what for form in forms], is_left=True, is_prose=True, rank=3),
        Column("tokens a request", [str(form.serving) for form in forms], rank=2),
        Column(f"validation {result.metric}", validations, rank=4),
        Column(f"test {result.metric}", [form.test.text if form.test else "-" for form in forms]),
        Column("result", ["winner" if form.is_winner else "" for form in forms], is_left=True),
    ]
    show_table(out, columns, f"{result.task}: the best of each form, on the same rows", good=[0])
    for claim in result.claims:
        show_text(out, _claim_line(claim, result.metric))
    show_notes(out, result.notices)
    runs = ", ".join(f"{form} in run {run}" for form, run in result.runs.items())
    show_text(out, f"What each search tried: {runs}.")
    if result.prompt and result.folder:
        show_next(
            f"{forms[0].what} won, {result.prompt}. To use it:", [predict_line(result.prompt, result.folder, flag)]
        )
    else:
        show_text(out, "No prompt was worth its cost: the model without a prompt won.")


def show_words(result: "HardResult", flag: str) -> None:
    """Print a search for words: its stages, the winner, what can be claimed, what luck gives."""
    out, metric = console(), result.metric
    stages = result.stages
    columns = [
        Column("stage", [stage.stage for stage in stages], is_left=True),
        Column("candidates", [str(stage.proposed) for stage in stages], rank=1),
        Column("refused", [str(sum(stage.refused.values())) for stage in stages], rank=2),
        Column("row scores", [f"{stage.row_scores:,}" for stage in stages], rank=3),
        Column("best mean log-likelihood", [f"{stage.best[0].log_likelihood:.3f}" for stage in stages]),
        Column("best", [stage.best[0].candidate.title for stage in stages], is_left=True, is_prose=True),
    ]
    show_table(out, columns, f"{result.task}: what was tried, on validation rows")
    for line in _winner_lines(result):
        show_text(out, line)
    for split, scores in result.metrics.items():
        show_text(out, f"{split}: {metric} {scores[metric].value:.3f}, 95% interval {interval_text(scores[metric])}")
    for claim in result.claims:
        show_text(out, _claim_line(claim, metric))
    if result.luck:
        luck = result.luck
        show_text(
            out,
            f"By luck alone the best of {luck.finalists} equal finalists looks about {100 * luck.points:.1f} points "
            f"better on {luck.rows} validation rows; test scores are free of this.",
        )
        if luck.most is not None:
            show_text(
                out,
                "In four of five searches among equal finalists the validation score is at most "
                f"{100 * luck.most:.1f} points above the test score.",
            )
    show_text(
        out, f"Spent: {result.tokens:,.0f} live tokens of {result.plan.tokens:,}, {seconds_text(result.seconds)}."
    )
    show_notes(out, result.notices)
    if result.has_shuffled_labels:
        show_text(out, "Labels were shuffled: any gain claimed above is a false positive. Nothing was stored.")
    elif result.prompt and result.folder:
        commands = [
            predict_line(result.prompt, result.folder, flag),
            f"overture export {result.prompt}{flag} -o DIR --to text",
        ]
        show_next(f"Stored as {result.prompt}. To use it:", commands)
    else:
        show_text(out, "No prompt of words was better than the task file's own template, so none was stored.")


def _winner_lines(result: "HardResult") -> Iterator[str]:
    for stage in result.stages:
        for reason, count in stage.refused.items():
            yield f"refused in stage {stage.stage}: {count}, {reason}"
    yield f"The winner: {result.winner.title}"
    texts = {"in front of the input": result.text.before, "after the input": result.text.after} if result.text else {}
    yield from (f"{where}: {text!r}" for where, text in texts.items() if text)
    wording = result.winner.wording
    yield from (f"{name}: {value}" for name, value in wording.dump().items() if value and name != "scaling")
    if scaling := wording.scaling:
        yield f"label scores: {scaling_text(scaling.temperature, scaling.label_bias)}"


def _claim_line(claim: "Claim", metric: str) -> str:
    difference = claim.compared.difference
    points = f"{100 * difference.value:+.1f} points ({100 * difference.low:.1f} to {100 * difference.high:.1f})"
    verdict = "better" if claim.is_better else "no gain could be shown"
    return (
        f"against {claim.control} ({metric} {claim.control_score.value:.3f}): {points}, corrected p = "
        f"{claim.p_corrected:.3g}: {verdict}"
    )
