"""Courses of the trainings of a comparison, and which test rows its ways answer wrongly; at the largest size."""

from collections import Counter
from collections.abc import Sequence
from statistics import fmean

from overture.core.records.cells import RowText, ScoredCell, TrainedCell
from overture.core.records.compare import Curve, Disagreement, DisputedRow, WayAnswer, WayMistakes
from overture.evaluate.confusion import confusion, label_scores
from overture.evaluate.metric import answer_text
from overture.evaluate.metrics import metric_named
from overture.jobs.verdict.scores import Scores

_MAX_ROWS, _MAX_CONFUSIONS = 20, 2


def curves_of(scores: Scores) -> tuple[Curve, ...]:
    """The losses of every training at the largest size; losses that are not finite end a curve."""
    all_cells = [cell for way in scores.ways for cell in scores.cells(way, scores.largest).values()]
    return tuple(
        Curve(
            way=cell.way,
            seed=cell.seed,
            best_epoch=cell.best_epoch,
            train_losses=tuple(float(f"{epoch.train_loss:.4g}") for epoch in cell.history),
            validation_losses=tuple(float(f"{epoch.validation_loss:.4g}") for epoch in cell.history),
        )
        for cell in all_cells
        if isinstance(cell, TrainedCell)
    )


def mistakes_of(scores: Scores, labels: Sequence[str]) -> tuple[WayMistakes, ...]:
    """Scores of each label by way, and the confusion tables of the best ways; the best way first.

    Args:
        scores: of all ways.
        labels: the task's labels in their order.
    """
    of = metric_named(scores.metric).of
    has_one_label = of == "labels" and bool(labels)
    if not (has_one_label or of in ("sets", "spans")):
        return ()
    mistakes = []
    for rank, (way, cells) in enumerate(_ranked(scores)):
        gold = scores.gold * len(cells)
        predicted = tuple(answer for cell in cells for answer in cell.predicted)
        is_shown = has_one_label and rank < _MAX_CONFUSIONS
        table = confusion(gold, predicted, [""] * len(gold), labels, max_places=0) if is_shown else None
        label_rows = label_scores(gold, predicted, of, labels)
        mistakes.append(WayMistakes(way=way, n_seeds=len(cells), labels=label_rows, confusion=table))
    return tuple(mistakes)


def disagreement_of(scores: Scores, rows: Sequence[RowText]) -> Disagreement | None:
    """How far the ways have the same rows right; None for one way, and for numbers, which are never quite right.

    Errors are sorted by their highest probability; without probabilities, by the share of all trainings that make them.

    Args:
        scores: of all ways.
        rows: place and text of each test row; may be empty.
    """
    metric, ranking = metric_named(scores.metric), _ranked(scores)
    if metric.of == "numbers" or len(ranking) < 2:
        return None
    right = {way: [metric.rows(scores.gold, cell.predicted) for cell in cells] for way, cells in ranking}
    disputed_rows, num_right, num_wrong = [], 0, 0
    for number, gold in enumerate(scores.gold):
        answers = tuple(_answer(way, cells, [seed[number] for seed in right[way]], number) for way, cells in ranking)
        wrong_answers = [answer for answer in answers if not answer.is_right]
        num_right += not wrong_answers
        num_wrong += len(wrong_answers) == len(answers)
        if 0 < len(wrong_answers) < len(answers):
            row = rows[number] if rows else RowText(where=f"test row {number + 1}", text="")
            disputed_row = DisputedRow(where=row.where, text=row.text, gold=answer_text(gold), answers=answers)
            disputed_rows.append((_certainty(answers), disputed_row))
    disputed_rows.sort(key=lambda pair: -pair[0])
    return Disagreement(
        num_right=num_right,
        num_wrong=num_wrong,
        num_disputed=len(disputed_rows),
        rows=tuple(row for _, row in disputed_rows[:_MAX_ROWS]),
    )


def _ranked(scores: Scores) -> list[tuple[str, list[ScoredCell]]]:
    """The ways with their cells at the largest size, the best first."""
    cells = {way: list(scores.cells(way, scores.largest).values()) for way in scores.ways}
    ways = [way for way in scores.ways if cells[way]]
    ways.sort(key=lambda way: -fmean(scores.resampled(way, scores.largest).values))
    return [(way, cells[way]) for way in ways]


def _answer(way: str, cells: Sequence[ScoredCell], is_right: Sequence[bool], number: int) -> WayAnswer:
    """A way's most frequent answer to a row, among the right or the wrong ones, whichever are more."""
    most = 2 * sum(is_right) > len(cells)
    seeds = [cell for cell, right in zip(cells, is_right, strict=True) if right == most]
    answer = Counter(cell.predicted[number] for cell in seeds).most_common(1)[0][0]
    confidences = [cell.confidences[number] for cell in seeds if cell.confidences and cell.predicted[number] == answer]
    return WayAnswer(
        way=way,
        answer=answer_text(answer),
        is_right=most,
        num_right=sum(is_right),
        n_seeds=len(cells),
        confidence=round(fmean(confidences), 4) if confidences else None,
    )


def _certainty(answers: Sequence[WayAnswer]) -> float:
    confidences = [answer.confidence for answer in answers if not answer.is_right and answer.confidence is not None]
    return max(confidences, default=1 - sum(a.num_right for a in answers) / sum(a.n_seeds for a in answers))
