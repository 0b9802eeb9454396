"""The rows of a search for words in their order, its control with shuffled labels, and what it may spend."""

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

from overture.core.errors import ConfigError
from overture.core.records.hard import HardPlan, Wording
from overture.core.seeds import named_random
from overture.data.row import Row
from overture.data.rows import row_problems
from overture.data.splits import Splits
from overture.data.task import Task
from overture.hard.proposers.words import READINGS as WORDS_READINGS
from overture.hard.proposers.words import ROWS as WORDS_ROWS
from overture.hard.race import balanced_order, row_scores
from overture.hard.scorer import TextScorer
from overture.jobs.wording.options import HardConfig

BEAM = 6
"""Candidates that go on from one race to the next."""
FINALISTS = 6
"""Candidates that are scored on all validation rows."""
SCALING_ROWS = 128
"""Training rows that finalists' temperatures and biases are fitted to."""


def shuffled(splits: Splits, task: Task, seed: int) -> Splits:
    """The same rows with answers dealt out by chance within each split: nothing can be learnt from them.

    Labels are dealt equally often. Were their shares kept, a prompt that always gives the commonest label would truly
    be better than one that always gives a rare one. Answers that are no labels change places.

    Raises:
        ConfigError: answers that belong to their rows' texts, such as pieces of them.
    """

    def dealt(name: str) -> list[Row]:
        rows = list(getattr(splits, name))
        answers = [{field: row.fields[field] for field in task.target_fields if field in row.fields} for row in rows]
        of_group = {task.spec.group(task, row): answer for row, answer in zip(rows, answers, strict=True)}
        if len(of_group) > 1:
            of_labels = [answer for _, answer in sorted(of_group.items())]
            answers = [of_labels[number % len(of_labels)] for number in range(len(rows))]
        named_random(seed, "shuffled labels", name).shuffle(answers)
        dealt_rows = [replace(row, fields={**row.fields, **answer}) for row, answer in zip(rows, answers, strict=True)]
        if problems := [problem for row in dealt_rows for problem in row_problems(task, row)]:
            raise ConfigError(
                "answers that belong to their texts cannot be shuffled", where="hard.shuffle_labels", problems=problems
            )
        return dealt_rows

    return replace(splits, train=dealt("train"), validation=dealt("validation"), test=dealt("test"))


def race_order(task: Task, rows: Sequence[Row], seed: int) -> list[int]:
    """Numbers of rows in the order in which races use them: by chance, with labels in their shares throughout."""
    return balanced_order([task.spec.group(task, row) for row in rows], named_random(seed, "race rows"))


def plan_of(options: HardConfig, scorer: TextScorer, num_validation: int, speed: float) -> HardPlan:
    """The budget that was given, or what the stages take at the sizes that were asked for."""
    rows = scorer.encoded(Wording(), False).rows["validation"]
    whole = fmean(row.num_tokens for row in rows)
    anchor = fmean(row.num_tokens - row.num_input for row in rows)
    limit = min(options.race_rows, num_validation)

    def pairs(count: int, rounds: int) -> int:
        return rounds * row_scores(-(-count // rounds) + BEAM, limit, options.first_rows) if count else 0

    tokens = options.max_tokens
    if options.minutes is not None:
        tokens = 60 * options.minutes * speed
    if tokens is None:
        tokens = num_validation * whole
        tokens += pairs(options.structures, 2) * whole
        if "words" in options.chosen:
            tokens += WORDS_READINGS * min(WORDS_ROWS, len(scorer.splits["train"])) * whole
        tokens += pairs(options.example_sets, options.rounds) * whole + 4 * options.example_sets * whole
        # Behind examples an instruction is scored with the whole row.
        shown_tokens = options.room / 2 + (whole if options.example_sets and "examples" in options.chosen else anchor)
        tokens += pairs(options.wordings, options.rounds) * shown_tokens
        tokens += FINALISTS * num_validation * shown_tokens + 2 * limit * whole
        if options.scaled and scorer.can_scale:
            tokens += min(SCALING_ROWS, len(scorer.splits["train"])) * (whole + FINALISTS * shown_tokens)
    return HardPlan(tokens=round(tokens), minutes=tokens / speed / 60, tokens_per_second=speed)
