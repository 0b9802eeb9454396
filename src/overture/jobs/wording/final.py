"""The end of a search: a winner among the finalists, and what can be claimed of it on rows that nobody chose by.

Shape letters: J candidates, B rows, C labels, F fitted values: inverse temperature, then biases.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from overture.core.records.events import ProgressEvent
from overture.core.records.hard import Candidate, Claim, Luck
from overture.core.seeds import named_random
from overture.data.rows import gold_of
from overture.data.splits import Splits
from overture.data.task import Task
from overture.engine.prompted import PromptedModel
from overture.evaluate.intervals import paired_test
from overture.evaluate.over_seeds import holm
from overture.evaluate.scoring import Scored, score
from overture.hard.race import balanced_order, luck_of
from overture.hard.scaling import fitted, scaling_of
from overture.hard.scorer import TextScorer, shares_of
from overture.jobs.wording.book import divergences_from
from overture.jobs.wording.plan import SCALING_ROWS
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
    corrected_p = holm([test.p_value for test in tests.values()])
    return [
        Claim(
            control=name,
            control_score=controls[name].metrics(task)[task.metric],
            compared=test,
            p_corrected=p_corrected,
            is_better=p_corrected < SURE and test.difference.value > 0,
        )
        for (name, test), p_corrected in zip(tests.items(), corrected_p, strict=True)
    ]


def with_scaling(candidate: Candidate, values_F: Tensor, task: Task) -> Candidate:
    """A candidate whose label scores are read under these values."""
    wording = candidate.wording.model_copy(update={"scaling": scaling_of(values_F, list(task.words))})
    return candidate.model_copy(update={"wording": wording})


@dataclass(frozen=True, slots=True)
class Final:
    """Scores candidates by the task's metric.

    Args:
        run: hears of progress.
        scorer: shows candidates to the model.
        splits: the rows with their answers.
        seed: draws the training rows that scores are fitted to.
    """

    run: Run
    scorer: TextScorer
    splits: Splits
    seed: int

    def scored(self, candidate: Candidate, split: str) -> Scored:
        """A candidate's answers to a split's rows, with what is right."""
        task = self.scorer.task_of(candidate.wording)
        model = PromptedModel(self.scorer.backbone, self.scorer.injection(candidate), self.scorer.answerer.cache)
        gold, what = gold_of(task, getattr(self.splits, split)), f"scoring {split} rows: {candidate.title}"
        return score(model, self.scorer.parts(candidate, split), task, gold, progress=lambda done, total: (
            self.run.event(ProgressEvent(what=what, done=done, total=total))))  # fmt: skip

    def scaled(self, candidates: Sequence[Candidate]) -> tuple[list[Candidate], Tensor]:
        """Candidates with temperature and biases that fit training rows, and these values, [J, F].

        A row that a candidate shows as an example does not count for it.
        """
        task, train = self.scorer.task, self.splits.train
        order = balanced_order([task.spec.group(task, row) for row in train], named_random(self.seed, "scaling rows"))
        numbers = order[:SCALING_ROWS]
        self.scorer.order("train", numbers)
        what = f"fitting temperature and biases of {len(candidates)} candidates to {len(numbers)} training rows"
        self.run.event(ProgressEvent(what=what, done=0, total=1))
        scores_JBC = self.scorer.scores(candidates, "train", numbers)
        rows = self.scorer.rows(Candidate(), "train")
        shares_BC = shares_of([rows[number] for number in numbers], scores_JBC.shape[2])
        of_candidates, values = list[Candidate](), list[Tensor]()
        for candidate, scores_BC in zip(candidates, scores_JBC, strict=True):
            is_other_B = torch.tensor([number not in candidate.shots for number in numbers])
            (values_F,) = fitted(scores_BC[None, is_other_B], shares_BC[is_other_B])
            of_candidates.append(with_scaling(candidate, values_F, task))
            values.append(values_F)
        self.run.event(ProgressEvent(what=what, done=1, total=1))
        return of_candidates, torch.stack(values)

    def winner(
        self, finalists: Sequence[Candidate], scores_JBC: Tensor, shares_BC: Tensor, num_candidates: int
    ) -> tuple[Candidate, Luck | None]:
        """The likeliest finalist on all validation rows, and what luck alone gives.

        Likelihood chooses better than accuracy on so few rows, which many finalists answer alike. Written answers have
        no luck of a share of right rows.

        Args:
            finalists: at least one.
            scores_JBC: log-probabilities of the labels on all validation rows, in their order.
            shares_BC: the shares that the rows are judged by.
            num_candidates: all that raced.
        """
        losses_JB = divergences_from(shares_BC, scores_JBC)
        winner = finalists[int(losses_JB.mean(1).argmin())]
        if not self.scorer.has_labels:
            return winner, None
        rights_JB = scores_JBC.argmax(2) == shares_BC.argmax(1)
        return winner, luck_of(num_candidates, rights_JB.tolist(), losses_JB.tolist(), len(self.splits.test))
