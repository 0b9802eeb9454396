"""Some validation rows whose answers a run tells after each epoch, so that its page shows what the prompt says now."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from overture.core.records.events import Sample
from overture.data.row import Row
from overture.data.rows import ShownRow, shown_rows
from overture.data.task import Task
from overture.evaluate.metric import Answers, Metric, answer_text
from overture.evaluate.scoring import Scored
from overture.evaluate.wrong import shortened

_MAX_ROWS = 4


@dataclass(frozen=True, slots=True)
class SampleRows:
    """The same rows in every epoch and under every seed.

    Args:
        numbers: of the rows, in their split.
        shown: the rows for people.
    """

    numbers: tuple[int, ...]
    shown: tuple[ShownRow, ...]

    @classmethod
    def of(cls, task: Task, rows: Sequence[Row], gold: Answers) -> "SampleRows":
        """The first row of each right answer, and then the first of the others, up to four.

        Args:
            task: of the rows.
            rows: a split.
            gold: its right answers.
        """
        firsts = {answer: number for number, answer in reversed(list(enumerate(gold)))}
        numbers = tuple(sorted(sorted(range(len(rows)), key=lambda number: firsts[gold[number]] != number)[:_MAX_ROWS]))
        return cls(numbers, tuple(shown_rows(task, [rows[number] for number in numbers])))

    def samples(self, scored: Scored, metric: Metric) -> list[Sample]:
        """The rows with the answers that a prompt gives them.

        Args:
            scored: all rows of the split.
            metric: that the prompt is judged by; it says which answers are right.
        """
        samples = []
        # A text that is not the right one word for word, and a number beside the right one, may be good.
        is_either = metric.is_right is not None or metric.of not in ("texts", "numbers")
        for number, view in zip(self.numbers, self.shown, strict=True):
            right, answer = scored.gold[number], scored.predicted[number]
            (is_right,) = metric.rows((right,), (answer,))
            share = scored.confidence[number] if scored.confidence else math.nan
            samples.append(
                Sample(
                    text=shortened(view.text),
                    gold=shortened(answer_text(right, view.part)),
                    predicted=shortened(answer_text(answer, view.part)),
                    confidence=round(share, 4) if math.isfinite(share) else None,
                    is_right=is_right if is_right or is_either else None,
                )
            )
        return samples
