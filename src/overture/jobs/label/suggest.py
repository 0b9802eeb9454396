"""Suggest rows to label: those that teach a prompt most, and a random share for an honest score."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from overture.core.kept_files import kept_inputs
from overture.core.records.label import Suggestion, Suggestions
from overture.core.records.scores import Interval
from overture.core.rows import Encoded, Prediction
from overture.data.row import Row
from overture.data.rows import gold_of
from overture.engine.cache import InputCache
from overture.evaluate.host import Ask, Handle
from overture.evaluate.intervals import bootstrap
from overture.evaluate.scoring import predict
from overture.jobs.label.learner import teaching
from overture.jobs.label.options import SuggestOptions
from overture.jobs.label.pool import RANDOM, TEACHES, pool_of, sampled

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class KnownRow:
    """A row that was suggested before, or that has a label in the file of rows.

    Args:
        row: its fields.
        is_labelled: whether its label is there.
        is_random: whether chance chose it.
    """

    row: Row
    is_labelled: bool
    is_random: bool = False


def suggest(
    handle: Handle,
    rows: Sequence[Row],
    known_rows: Sequence[KnownRow],
    options: SuggestOptions,
    progress: Progress = lambda what, done, total: None,
) -> Suggestions:
    """Rows to label next.

    Args:
        handle: the prompt; its task has labels.
        rows: all rows, without labels or with.
        known_rows: rows that are labelled, or that were suggested before.
        options: how many, and how.
        progress: called with (what, done, all).
    """
    task, notices = handle.task, list[str]()
    pool = pool_of(task, rows, [entry.row for entry in known_rows], options.random_share, options.seed)
    candidates = sampled(task, pool.others, options.pool, options.seed)
    if len(candidates) < len(pool.others):
        notices.append(f"chosen among {len(candidates):,} of {len(pool.others):,} rows; --pool reads more")
    num_random = min(round(options.count * options.random_share), len(pool.apart))
    model = handle.model(InputCache(files=kept_inputs()))
    usable, encoded, num_bad = _encoded(handle, candidates)
    random_rows, apart, num_bad_apart = _encoded(handle, pool.apart[:num_random])
    if num_bad + num_bad_apart:
        notices.append(f"{num_bad + num_bad_apart} rows do not fit the model and are left out")
    model.warm(encoded, lambda done, total: progress("reading rows", done, total))
    count = options.count - num_random
    choice = teaching(
        model, encoded, task, count, options.seed, lambda done, total: progress("asking the prompt", done, total)
    )
    suggestions = [_suggestion(usable[index], guess, TEACHES) for index, guess in choice]
    guesses = predict(model, apart, task)
    suggestions += [_suggestion(row, guess, RANDOM) for row, guess in zip(random_rows, guesses, strict=True)]
    return Suggestions(
        prompt=handle.manifest.ref,
        label_field=task.label_field,
        suggested=suggestions,
        num_labelled=sum(entry.is_labelled for entry in known_rows),
        num_waiting=sum(not entry.is_labelled for entry in known_rows),
        num_left=len(pool.others) + len(pool.apart) - len(suggestions),
        score=_score(handle, [entry.row for entry in known_rows if entry.is_labelled and entry.is_random]),
        notices=[*notices, *handle.encoder.notices],
    )


def _encoded(handle: Handle, rows: Sequence[Row]) -> tuple[list[Row], list[Encoded], int]:
    """The rows that can be encoded, as tokens; and how many cannot."""
    asks = handle.host.encoded([Ask(handle, row.fields, row.line, row.file) for row in rows])
    pairs = [(row, ask.parts[0]) for row, ask in zip(rows, asks, strict=True) if ask.parts]
    return [row for row, _ in pairs], [part for _, part in pairs], len(rows) - len(pairs)


def _suggestion(row: Row, guess: Prediction, chosen_by: str) -> Suggestion:
    confidence = guess.confidence or 0.0
    assert math.isfinite(confidence), "shares are numbers"
    return Suggestion(
        where=row.where, chosen_by=chosen_by, fields=row.fields, guess=guess.text, confidence=round(confidence, 4)
    )


def _score(handle: Handle, rows: Sequence[Row]) -> Interval | None:
    usable, encoded, _ = _encoded(handle, rows)
    if not usable:
        return None
    predictions = predict(handle.model(), encoded, handle.task)
    return bootstrap("accuracy", gold_of(handle.task, usable), [prediction.said for prediction in predictions])
