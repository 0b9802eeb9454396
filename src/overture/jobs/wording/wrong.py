"""Training rows that a candidate answers wrong, as proposers that write are shown them."""

from collections.abc import Sequence

from overture.core.records.hard import Candidate
from overture.data.row import Row
from overture.data.rows import gold_of, texts_of
from overture.hard.proposer import WrongRow
from overture.hard.scaling import fitted, rescaled
from overture.hard.scorer import TextScorer, shares_of


def wrong_rows(scorer: TextScorer, rows: Sequence[Row], leader: Candidate, is_scaled: bool) -> list[WrongRow]:
    """Rows that a candidate answers wrong; of written answers all, those first that it finds least likely.

    Args:
        scorer: has the task.
        rows: the first of its training rows.
        leader: the candidate.
        is_scaled: whether its label scores are read under a temperature and biases fitted to these rows.
    """
    task, numbers = scorer.task, range(len(rows))
    if scorer.has_labels:
        scores_JBC = scorer.scores([leader], "train", numbers)
        if is_scaled:
            shares_BC = shares_of(scorer.rows(leader, "train")[: len(rows)], scores_JBC.shape[2])
            scores_JBC = rescaled(scores_JBC, fitted(scores_JBC, shares_BC))
        answers, order = [list(task.words)[index] for index in scores_JBC[0].argmax(-1).tolist()], list(numbers)
    else:
        losses = scorer.losses([leader], "train", numbers)[0].tolist()
        answers, order = [""] * len(rows), sorted(numbers, key=lambda number: -losses[number])
    mistakes = []
    for number in order:
        row, (gold,) = rows[number], gold_of(task, [rows[number]])
        if gold != answers[number]:
            right = gold if isinstance(gold, str) else (task.spec.shot(task, row) or "").strip() or str(gold)
            mistakes.append(WrongRow(" ".join(texts_of(task, row).values()), right, answers[number]))
    return mistakes
