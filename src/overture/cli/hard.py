"""``overture search --form hard``: a prompt of words, found without training."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from overture.cli.options import store_root
from overture.cli.out import console, say, seconds_text, show_notes, show_text
from overture.cli.report import asking, interval_text, show_next
from overture.cli.tables import Column, show_table
from overture.cli.tune import finish, worked
from overture.core.errors import ConfigError
from overture.jobs.wording.options import HardRequest

if TYPE_CHECKING:
    from overture.core.records.hard import Claim, HardResult


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
    from overture.store.store import Store

    for source in config.hard.chosen:
        check_source(source)
    kept = Store(store_root(store), say)

    from overture.jobs.wording.search import search_words

    result = worked(lambda listen, stop: search_words(config, kept, listen, stop), store, is_json)
    finish(result, store, is_json, show_words)


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
            f"By luck alone the best of {luck.candidates} equal candidates looks up to {100 * luck.points:.1f} points "
            f"better on {luck.rows} validation rows; test scores are free of this.",
        )
    show_text(
        out, f"Spent: {result.tokens:,.0f} live tokens of {result.plan.tokens:,}, {seconds_text(result.seconds)}."
    )
    show_notes(out, result.notices)
    if result.has_shuffled_labels:
        show_text(out, "Labels were shuffled: any gain claimed above is a false positive. Nothing was stored.")
    elif result.prompt and result.folder:
        commands = [
            asking(result.prompt, result.folder, flag),
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
    yield from (f"{name}: {value}" for name, value in result.winner.wording.dump().items() if value)


def _claim_line(claim: "Claim", metric: str) -> str:
    difference = claim.compared.difference
    points = f"{100 * difference.value:+.1f} points ({100 * difference.low:.1f} to {100 * difference.high:.1f})"
    verdict = "better" if claim.is_better else "no gain could be shown"
    return (
        f"against {claim.control} ({metric} {claim.control_score.value:.3f}): {points}, corrected p = "
        f"{claim.p_corrected:.3g}: {verdict}"
    )
