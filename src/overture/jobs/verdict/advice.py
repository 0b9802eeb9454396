"""The verdict of a comparison in three parts: what came out, the figures that show it, what to do next."""

import math
from collections.abc import Mapping, Sequence

from overture.core.records.compare import Advice, Cost, Pair, Score, cost_of
from overture.jobs.verdict.scores import Scores, pair_of

_SAME_COST = 0.9
_MANY_TIMES = 20
"""The advice asks for at most so many times the test rows that there are."""


def advice_on(scores: Scores, pairs: Sequence[Pair], ledger: Sequence[Cost], margin: float) -> Advice:
    """The best way where it was shown to be the best, else why none is recommended, and what would help.

    A way that diverged with any seed is never recommended.

    Args:
        scores: of all ways.
        pairs: every two ways.
        ledger: costs by way and size.
        margin: largest difference that counts as none.
    """
    advice = _advice(scores, pairs, ledger, margin)
    divergences = [
        f"{way} diverged with {num_lost} of {num_lost + len(scores.cells(way, size))} seeds."
        for (way, size), num_lost in scores.num_diverged.items()
        if size == scores.largest
    ]
    return advice.model_copy(update={"why": " ".join([advice.why, *divergences])})


def _advice(scores: Scores, pairs: Sequence[Pair], ledger: Sequence[Cost], margin: float) -> Advice:
    size, places = scores.largest, scores.places()
    order = [scores.score(way, size if (way, size) in places else 0) for way in scores.ways if scores.cells(way, size)]
    order.sort(key=lambda score: -score.value)
    if len(order) < 2:
        only = f"{_named(order[0])}." if order else "No cell has a score."
        return Advice(way=None, what="There is only one way to look at.", why=only, next="Add others with --way.")
    best, *others = order
    against = {score.way: pair_of(pairs, best.way, score.way, size) for score in others}
    # A recommendation asks for both: the corrected test, and intervals of the single scores that do not overlap.
    rivals = [score for score in others if not (_is_behind(against[score.way]) and score.high < best.low)]
    steady = [score for score in order if (score.way, size) not in scores.num_diverged]
    # Only ways that are trained: the others are the same with every seed.
    seeds = [score.n_seeds for score in (best, *(rivals or steady)) if score.size]
    where = _where(size, best.n, seeds)
    if best not in steady:
        return _none(
            others,
            f"No recommendation: {best.way} scored highest, but not all of its trainings ended well.",
            f"{where}: {_named(best)}.",
            f"Give it a smaller learning rate: --set-way {best.way}:train.lr=...",
        )
    if min(seeds, default=2) < 2:
        return _none(
            others,
            f"No recommendation from one seed: {best.way} scored highest, but another seed may change the order.",
            f"{where}: {_named(best)}, then {_named(others[0])}. Each seed draws other rows and another start.",
            "Run at least 3 seeds: --seeds 3.",
        )
    if rivals:
        return _undecided(best, rivals, steady, against, ledger, size, where, margin)
    pair = against[others[0].way]
    assert pair is not None
    if pair.n_seeds < 2 and (best.size or others[0].size):
        return _none(
            others[:1],
            f"No recommendation: {best.way} and {others[0].way} have only one seed in common.",
            f"{where}: {_named(best)} and {_named(others[0])} scored highest.",
            "Run the missing cells again: the same command does it.",
        )
    gap, cost = pair.difference, cost_of(ledger, best.way, size)
    price = f"{cost.cpu_seconds:,.0f} s of processor time to train" if cost.size else "no training"
    return Advice(
        way=best.way,
        what=f"Take {best.way}: it is better than every other way here.",
        why=f"{where}, {_named(best)} is ahead of the next best, {_named(others[0])}, by {100 * gap.value:.1f} points "
        f"(95% interval {100 * gap.low:.1f} to {100 * gap.high:.1f}, corrected p = {pair.p_corrected:.2g}"
        f"{_shared_seeds(best, others[0], pair)}).",
        next=f"Train it on all your rows. Here it took {price} and {cost.stored_bytes:,} bytes to keep.",
    )


def _none(rivals: Sequence[Score], what: str, why: str, then: str) -> Advice:
    return Advice(way=None, rivals=tuple(score.way for score in rivals), what=what, why=why, next=then)


def _undecided(
    best: Score,
    rivals: Sequence[Score],
    steady: Sequence[Score],
    against: Mapping[str, Pair | None],
    ledger: Sequence[Cost],
    size: int,
    where: str,
    margin: float,
) -> Advice:
    """A best way that was not shown to be better than its rivals: who scores alike, the cheapest, what would help."""
    near = [score for score in rivals if best.value - score.value <= margin and not _is_behind(against[score.way])]
    equals = [best, *near]
    by_test = [score for score in rivals if _is_behind(against[score.way])]
    far = [score for score in rivals if score not in near and score not in by_test]
    if near:
        what = f"{_listed(equals)} score alike; none of them was shown to be better."
    elif not far:
        what = f"{best.way} is ahead, but not clearly: its interval overlaps with {_listed(rivals)}."
    else:
        what = f"{best.way} scored highest, but was not shown to be better than {_listed(far, 'or')}."
    why = [f"{where}: {_named(best)}" + "".join(f", {_named(score)}" for score in near) + "."]
    nearest = (near or far or by_test)[0]
    if pair := against[nearest.way]:
        gap = pair.difference
        why.append(
            f"{best.way} is ahead of {nearest.way} by {100 * gap.value:.1f} points, 95% interval {100 * gap.low:+.1f} "
            f"to {100 * gap.high:+.1f}, corrected p = {pair.p_corrected:.2g}{_shared_seeds(best, nearest, pair)}."
        )
    if near and far:
        why.append(f"The tests do not show that {_listed(far)} {_are(far)} worse.")
    if by_test:
        why.append(f"{_listed(by_test)} {_are(by_test)} worse by the paired test, though the intervals overlap.")
    then = []
    if near:
        cheap = min(
            (score for score in equals if score in steady),
            key=lambda score: cost_of(ledger, score.way, size).cpu_seconds if score.size else 0.0,
        )
        then.append(_cheapest(cheap, best, ledger, size))
    else:
        then.append(f"Prefer {best.way}, unless it costs too much.")
    then.append(_rows_hint(best, nearest, against[nearest.way]))
    return _none(rivals, what, " ".join(why), " ".join(then))


def _cheapest(cheap: Score, best: Score, ledger: Sequence[Cost], size: int) -> str:
    if not cheap.size:
        return f"Take {cheap.way}, which needs no training."
    cost, best_cost = cost_of(ledger, cheap.way, size), cost_of(ledger, best.way, size)
    if cheap.way == best.way or cost.cpu_seconds > _SAME_COST * best_cost.cpu_seconds:
        seconds = f"{best_cost.cpu_seconds:,.0f} s of processor time"
        return f"Take {best.way}, which is also the cheapest of them to train ({seconds})."
    share = cost.cpu_seconds / best_cost.cpu_seconds
    return (
        f"Take {cheap.way}, the cheapest of them: {share:.0%} of the processor time of {best.way}, "
        f"{cost.stored_bytes:,} bytes to keep against {best_cost.stored_bytes:,}."
    )


def _rows_hint(best: Score, other: Score, pair: Pair | None) -> str:
    """How many test rows would tell two ways apart, if the difference stays as it is."""
    if pair is None or pair.verdict != "undecided" or not pair.difference.value:
        return "More test rows and seeds make every interval narrower."
    half = (pair.difference.high - pair.difference.low) / 2
    times = (half / abs(pair.difference.value)) ** 2
    if times > _MANY_TIMES:
        return f"More test rows would hardly tell {best.way} from {other.way}: the difference is too small."
    rows = math.ceil(max(1.1, times) * best.n / 100) * 100
    return f"To tell {best.way} from {other.way}, use about {rows:,} test rows, and more seeds."


def _where(size: int, num_rows: int, seeds: Sequence[int]) -> str:
    if not size:
        return f"On {num_rows} test rows"
    if not seeds:
        return f"At {size} training rows, on {num_rows} test rows"
    least, most = min(seeds), max(seeds)
    counts = f"{least} to {most}" if least < most else str(most)
    return f"At {size} training rows, on {num_rows} test rows, over {counts} {'seed' if most == 1 else 'seeds'}"


def _shared_seeds(best: Score, other: Score, pair: Pair) -> str:
    """The number of seeds that a pair was tested with, where the scores are means over more."""
    if all(score.n_seeds <= pair.n_seeds for score in (best, other)):
        return ""
    return f", over the {pair.n_seeds} {'seed' if pair.n_seeds == 1 else 'seeds'} that both have"


def _is_behind(pair: Pair | None) -> bool:
    """Whether the paired test, corrected, shows that the best way is better than the other."""
    return pair is not None and pair.verdict == "better"


def _named(score: Score) -> str:
    return f"{score.way} {score.value:.3f} ({score.low:.3f} to {score.high:.3f})"


def _listed(scores: Sequence[Score], word: str = "and") -> str:
    names = [score.way for score in scores]
    return f" {word} ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _are(scores: Sequence[Score]) -> str:
    return "is" if len(scores) == 1 else "are"
