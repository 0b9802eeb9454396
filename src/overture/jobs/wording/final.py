"""The end of a search: a winner among the finalists, and what can be claimed of it on rows that nobody chose by."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from overture.core.records.events import ProgressEvent
from overture.core.records.hard import Candidate, Claim, Luck
from overture.data.rows import gold_of
from overture.data.splits import Splits
from overture.data.task import Task
from overture.engine.prompted import PromptedModel
from overture.evaluate.intervals import paired_test
from overture.evaluate.over_seeds import holm
from overture.evaluate.scoring import Scored, score
from overture.hard.race import luck_of
from overture.hard.scorer import TextScorer
from overture.store.runs import Run

SURE = 0.05
"""Level of the tests."""


def claims_of(winner: Scored, controls: Mapping[str, Scored], task: Task) -> list[Claim]:
    """A winner against each control by a paired test, corrected for all of them (Holm).

    Args:
        winner: its answers.
        controls: name -> answers to the same rows.
        task: says the metric.
    """
    tests = {
        name: paired_test(winner.gold, winner.predicted, control.predicted, task.metric)
        for name, control in controls.items()
    }
    corrected = holm([test.p_value for test in tests.values()])
    return [
        Claim(
            control=name,
            control_score=controls[name].metrics(task)[task.metric],
            compared=test,
            p_corrected=p_corrected,
            is_better=p_corrected < SURE and test.difference.value > 0,
        )
        for (name, test), p_corrected in zip(tests.items(), corrected, strict=True)
    ]


@dataclass(frozen=True, slots=True)
class Final:
    """Scores candidates by the task's metric.

    Args:
        run: hears of progress.
        scorer: shows candidates to the model.
        splits: the rows with their answers.
    """

    run: Run
    scorer: TextScorer
    splits: Splits

    def scored(self, candidate: Candidate, split: str) -> Scored:
        """A candidate's answers to a split's rows, with what is right."""
        task = self.scorer.task_of(candidate.wording)
        model = PromptedModel(self.scorer.backbone, self.scorer.injection(candidate), self.scorer.answerer.cache)
        gold, what = gold_of(task, getattr(self.splits, split)), f"scoring {split} rows: {candidate.title}"
        return score(model, self.scorer.parts(candidate, split), task, gold, progress=lambda done, total: (
            self.run.event(ProgressEvent(what=what, done=done, total=total))))  # fmt: skip

    def winner(
        self, finalists: Sequence[Candidate], losses: Sequence[Sequence[float]], num_candidates: int
    ) -> tuple[Candidate, Luck | None]:
        """The likeliest finalist on all validation rows, and what luck alone gives.

        Likelihood chooses better than accuracy on so few rows, which many finalists answer alike. Written answers have
        no luck of a share of right rows.

        Args:
            finalists: at least one.
            losses: of each on all validation rows, in their order.
            num_candidates: all that raced.
        """
        best = min(range(len(finalists)), key=lambda index: fmean(losses[index]))
        if not self.scorer.has_labels:
            return finalists[best], None
        scored = [self.scored(candidate, "validation") for candidate in finalists]
        rights = [[g == p for g, p in zip(some.gold, some.predicted, strict=True)] for some in scored]
        return finalists[best], luck_of(num_candidates, rights, losses, len(self.splits.test))
