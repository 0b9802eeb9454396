"""Answers that say how sure they are: sets of labels that hold the right one, and no answer where it may be wrong.

Both are read off rows whose right label is known, which were not trained on (`core.records.shares`). If new rows are
like those, what is promised holds for any model, however wrong its probabilities are.

- Sets: split conformal prediction with the score 1 - share of the right label (LAC). With n rows the set of a new row
  holds the right label with probability >= 1 - a if it has all labels whose score is at most the ceil((n+1)(1-a))-th
  smallest of the rows' scores.
- Abstaining: Learn then Test. A threshold's answers above it are draws of right and wrong, so a binomial test says
  whether enough of them are right. Four chains of tests begin at fixed numbers of answers and each goes on to more of
  them until a test fails; each has a quarter of the error allowed.

Source: Vovk et al. 2005; Sadinle, Lei and Wasserman 2019, "Least ambiguous set-valued classifiers with bounded error
levels"; Angelopoulos et al. 2021, "Learn then Test", section 4 (multi-start fixed sequence tests). Deviations: a set is
never empty, the likeliest label is always in it; thresholds are order statistics of the rows' confidences, the answers
counted are those strictly above.
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from overture.core.errors import ConfigError
from overture.core.records.scores import Interval
from overture.core.records.shares import WHOLE, Doubt, KeptShares, in_parts
from overture.core.records.tune import MeasuredAbstaining, MeasuredCertainty, MeasuredSets
from overture.core.rows import Prediction
from overture.data.task import Task
from overture.evaluate.intervals import wilson
from overture.store.manifest import Manifest

CONFIDENCE = 0.95
"""Of the promise that enough answers are right."""
_NUM_CHAINS, _NUM_STEPS = 4, 24


@dataclass(frozen=True, slots=True)
class Threshold:
    """Answers are given above a confidence.

    Args:
        above: the confidence, in ten-thousandths; -1 gives all answers.
        answered: of the kept rows, how many are answered.
        right: how many of these are right.
        num_rows: kept rows.
    """

    above: int
    answered: int
    right: int
    num_rows: int


@dataclass(frozen=True, slots=True)
class Certainty:
    """How answers of a prompt say that they are not sure.

    Args:
        doubt: the requested coverage and precision.
        shares: the rows that decide.
        least_share: labels of at least this share are in the set, in ten-thousandths; None without sets.
        threshold: above which an answer is given; None where all are.
    """

    doubt: Doubt
    shares: KeptShares
    least_share: int | None
    threshold: Threshold | None

    def applied(self, prediction: Prediction) -> Prediction:
        """The prediction with its set of labels, and whether it is withheld."""
        assert prediction.shares is not None, "one of several labels has shares"
        parts = in_parts(prediction.shares)
        if self.least_share is not None:
            order = sorted(range(len(parts)), key=lambda index: -prediction.shares[index])  # type: ignore[index]
            members = [index for index in order if parts[index] >= self.least_share] or order[:1]
            prediction = replace(prediction, label_set=tuple(prediction.labels[index] for index in members))
        if self.threshold is not None:
            prediction = replace(prediction, is_withheld=max(parts) <= self.threshold.above)
        return prediction

    def notes(self) -> list[str]:
        """Limits of the promise that the user must know."""
        shares, notes = self.shares, []
        coverage = self.doubt.coverage
        if coverage and shares.num_rows < rows_for_coverage(coverage):
            notes.append(
                f"{shares.num_rows} kept rows are too few for a coverage of {coverage:g}, so every set has all labels; "
                f"{rows_for_coverage(coverage)} are enough"
            )
        if shares.source == "validation":
            notes.append(
                f"the {shares.num_rows} validation rows that --coverage and --abstain go by also chose the epoch, so "
                "the promise holds approximately; overture eval PROMPT FILE --keep-shares takes rows that chose nothing"
            )
        return notes


def certainty_measured(
    certainty: Certainty, gold: Sequence[Hashable], predictions: Sequence[Prediction]
) -> MeasuredCertainty:
    """How far the promise holds on rows with known labels.

    Args:
        certainty: the promise.
        gold: the right labels.
        predictions: in the same order.
    """
    answers = [certainty.applied(prediction) for prediction in predictions]
    n, sets, abstaining = len(answers), None, None
    if certainty.least_share is not None:
        sizes = [len(answer.label_set or ()) for answer in answers]
        holding = sum(right in (answer.label_set or ()) for right, answer in zip(gold, answers, strict=True))
        sets = MeasuredSets(
            wanted=certainty.doubt.coverage or 0.0,
            least_share=certainty.least_share / WHOLE,
            covered=_share(holding, n),
            mean_size=sum(sizes) / n,
            single=_share(sizes.count(1), n),
        )
    if certainty.threshold is not None:
        hits = [right == answer.said for right, answer in zip(gold, answers, strict=True) if not answer.is_withheld]
        abstaining = MeasuredAbstaining(
            wanted=certainty.doubt.abstain or 0.0,
            above=max(0, certainty.threshold.above) / WHOLE,
            answered=_share(len(hits), n),
            precision=_share(sum(hits), len(hits)) if hits else None,
        )
    shares = certainty.shares
    return MeasuredCertainty(num_kept=shares.num_rows, source=shares.source, sets=sets, abstaining=abstaining)


def _share(count: int, n: int) -> Interval:
    low, high = wilson(count, n)
    return Interval(value=count / n, low=low, high=high, n=n, method="Wilson")


def rows_for_coverage(coverage: float) -> int:
    """How many rows sets of a coverage need."""
    return math.ceil(round(coverage / (1 - coverage), 6))


def check_doubt(task: Task, where: str) -> None:
    """Refuse doubt of answers that are not one of several labels.

    Raises:
        ConfigError: the task's kind gives other answers.
    """
    if not task.spec.is_one_of:
        raise ConfigError(
            "only answers that are one of several labels can be sets, or be withheld",
            where=where,
            got=f"kind {task.kind}",
            wanted="classification or choice",
            fix="leave --coverage and --abstain out for this prompt",
        )


def certainty_of(manifest: Manifest, task: Task, doubt: Doubt) -> Certainty | None:
    """How a prompt's answers say that they are not sure; None where nobody asks.

    Args:
        manifest: the prompt's, with the shares of rows that were kept.
        task: the prompt's, its label scores calibrated or not.
        doubt: the requested coverage and precision.

    Raises:
        ConfigError: the task has other answers, no rows were kept, or no threshold keeps the promise.
    """
    if not doubt.is_wanted:
        return None
    check_doubt(task, manifest.ref)
    shares = manifest.shares
    if shares is None:
        raise ConfigError(
            "no rows were kept with this prompt that could tell how sure it is",
            where=manifest.ref,
            wanted="label shares of rows that it was not trained on",
            fix=f"overture eval {manifest.name} FILE --keep-shares stores the next version with them",
        )
    if shares.is_calibrated != task.is_calibrated:
        raise ConfigError(
            "the kept rows were scored otherwise than the new ones would be",
            where=manifest.ref,
            got="calibrated scores" if task.is_calibrated else "scores without calibration",
            wanted="calibrated scores" if shares.is_calibrated else "scores without calibration",
            fix="leave --calibrated out" if task.is_calibrated else "",
        )
    least_share = None if doubt.coverage is None else _least_share(shares, doubt.coverage)
    return Certainty(doubt, shares, least_share, _threshold_for(manifest.ref, shares, doubt.abstain))


@lru_cache(maxsize=512)
def _least_share(shares: KeptShares, coverage: float) -> int:
    return least_share([parts[gold] for gold, parts in shares.pairs()], coverage)


def least_share(gold_shares: Sequence[int], coverage: float) -> int:
    """The share that a label must have to be in a set; 0 if there are too few rows, so that all labels are in it.

    Args:
        gold_shares: shares of the right labels, in ten-thousandths.
        coverage: share of sets that hold the right label.
    """
    n = len(gold_shares)
    # Rounded: 0.95 * 20 is a little more than 19 in binary.
    rank = math.ceil(round((n + 1) * coverage, 9))
    return 0 if rank > n else sorted(gold_shares, reverse=True)[rank - 1]


@lru_cache(maxsize=512)
def _threshold(shares: KeptShares, precision: float) -> Threshold | None:
    pairs = shares.pairs()
    return answer_threshold([(max(parts), parts.index(max(parts)) == gold) for gold, parts in pairs], precision)


def _threshold_for(ref: str, shares: KeptShares, precision: float | None) -> Threshold | None:
    if precision is None or (threshold := _threshold(shares, precision)):
        return threshold if precision is not None else None
    least = fewest_answers(precision)
    too_few = f"at least {least} kept rows" if shares.num_rows < least else "answers that are right more often"
    raise ConfigError(
        "no threshold is sure to give answers that are right so often",
        where=ref,
        got=f"{shares.num_rows} kept rows, {accuracy_of(shares):.3f} of them answered rightly",
        wanted=f"{too_few} for a precision of {precision:g} with {CONFIDENCE:.0%} confidence",
        fix=f"a lower --abstain, or more rows: overture eval {ref.partition('@')[0]} FILE --keep-shares",
    )


def accuracy_of(shares: KeptShares) -> float:
    """Share of the kept rows whose likeliest label is the right one."""
    pairs = shares.pairs()
    return sum(parts.index(max(parts)) == gold for gold, parts in pairs) / len(pairs)


def fewest_answers(precision: float, num_chains: int = _NUM_CHAINS) -> int:
    """How many answers, all right, are enough for one test."""
    return math.ceil(math.log((1 - CONFIDENCE) / num_chains) / math.log(precision))


def answer_threshold(answers: Sequence[tuple[int, bool]], precision: float) -> Threshold | None:
    """The threshold that gives most answers of those whose precision is sure; None where none is.

    Args:
        answers: confidence in ten-thousandths, and whether the answer is right.
        precision: share of right ones among the answers that are given.
    """
    n, fewest = len(answers), fewest_answers(precision)
    if n < fewest:
        return None
    by_confidence = sorted(answers, reverse=True)
    # The counts to test follow from the number of rows alone, not from which answers are right.
    counts = sorted({fewest + (n - fewest) * step // (_NUM_STEPS - 1) for step in range(_NUM_STEPS)})
    starts = {len(counts) * chain // _NUM_CHAINS for chain in range(_NUM_CHAINS)}
    best = None
    for start in starts:
        for count in counts[start:]:
            # Answers of equal confidence stay together.
            last = by_confidence[count - 1][0]
            above = next((confidence for confidence, _ in by_confidence[count:] if confidence < last), -1)
            hits = [is_right for confidence, is_right in by_confidence if confidence > above]
            if binomial_tail(sum(hits), len(hits), precision) > (1 - CONFIDENCE) / _NUM_CHAINS:
                break
            if best is None or len(hits) > best.answered:
                best = Threshold(above, len(hits), sum(hits), n)
    return best


def binomial_tail(least: int, n: int, share: float) -> float:
    """Probability of at least so many successes in n trials."""
    if least <= 0:
        return 1.0

    def term(count: int) -> float:
        choose = math.lgamma(n + 1) - math.lgamma(count + 1) - math.lgamma(n - count + 1)
        return math.exp(choose + count * math.log(share) + (n - count) * math.log1p(-share))

    return min(1.0, math.fsum(term(count) for count in range(least, n + 1)))
