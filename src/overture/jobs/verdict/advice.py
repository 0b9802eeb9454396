"""One sentence of advice at the end of a comparison, or the reason why there is none."""

from collections.abc import Mapping, Sequence

from overture.core.records.compare import Advice, Cost, Pair, Score, cost_of
from overture.jobs.verdict.scores import Scores, pair_of


def advice_on(scores: Scores, pairs: Sequence[Pair], ledger: Sequence[Cost]) -> Advice:
    """The best way where it is surely the best, else why there is no advice; and whose training diverged.

    A way that diverged with any seed is never advised.

    Args:
        scores: of all ways.
        pairs: every two ways.
        ledger: costs by way and size.
    """
    size = scores.largest
    advice = _advice(scores, pairs, ledger)
    diverged = [
        f"{way} diverged with {num_lost} of {num_lost + len(scores.cells(way, size))} seeds"
        for (way, of_size), num_lost in scores.num_diverged.items()
        if of_size == size
    ]
    return advice.model_copy(update={"text": "; ".join([advice.text, *diverged]) + "."})


def _advice(scores: Scores, pairs: Sequence[Pair], ledger: Sequence[Cost]) -> Advice:
    size, places = scores.largest, scores.places()
    ranked = [scores.score(way, size if (way, size) in places else 0) for way in scores.ways if scores.cells(way, size)]
    if len(ranked) < 2:
        return Advice(way=None, text="No advice: there is only one way to look at")
    ranked.sort(key=lambda score: -score.value)
    best = ranked[0]
    against = {score.way: pair_of(pairs, best.way, score.way, size) for score in ranked[1:]}
    # Advice asks for both: the corrected test, and intervals of the single scores that do not overlap.
    rivals = [score for score in ranked[1:] if not (_is_parted(against[score.way]) and score.high < best.low)]
    steady = [score for score in ranked if (score.way, size) not in scores.num_diverged]
    # Only ways that are trained: the others are the same with every seed.
    seeds = [score.n_seeds for score in (best, *(rivals or steady)) if score.size]
    where = _where(size, best.n, seeds)
    if best not in steady:
        return _none(
            f"No advice: {_named(best)} scored highest {where}, but only where its training did not diverge", rivals
        )
    if min(seeds, default=2) < 2:
        return _none(
            f"No advice from one seed: {_named(best)} scored highest {where}, but another seed draws other rows and "
            "may turn the order",
            ranked[1:],
        )
    if rivals:
        alike = [score for score in rivals if not _is_parted(against[score.way])]
        cheap = min(
            (score for score in (best, *(alike or rivals)) if score in steady),
            key=lambda score: cost.seconds if (cost := cost_of(ledger, score.way, size)).size else 0.0,
        )
        undecided = _undecided(best, rivals, alike, against, where)
        return _none(f"No advice on quality: {undecided}; {_cheapest(cheap, best, ledger, size)}", rivals)
    second = ranked[1]
    pair = against[second.way]
    assert pair is not None
    if pair.n_seeds < 2 and (best.size or second.size):
        return _none(
            f"No advice: {_named(best)} and {_named(second)}, the two that scored highest {where}, share one seed",
            [second],
        )
    gap, cost = pair.difference, cost_of(ledger, best.way, size)
    training = f"{cost.seconds:.0f} s of training" if cost.size else "no training"
    return Advice(
        way=best.way,
        text=f"Take {_named(best)}: {where} it beats the next best, {_named(second)}, by {100 * gap.value:.1f} points "
        f"({100 * gap.low:.1f} to {100 * gap.high:.1f}, corrected p = {pair.p_corrected:.2g}"
        f"{_shared_seeds(best, second, pair)}), for {training} and {cost.stored_bytes:,} bytes kept",
    )


def _none(text: str, rivals: Sequence[Score]) -> Advice:
    return Advice(way=None, rivals=tuple(score.way for score in rivals), text=text)


def _undecided(
    best: Score,
    rivals: Sequence[Score],
    alike: Sequence[Score],
    against: Mapping[str, Pair | None],
    where: str,
) -> str:
    """The best way beside the nearest of its rivals, then its other rivals by what the paired test says of them."""
    near = (alike or rivals)[0]
    pair = against[near.way]
    relation = "cannot be told apart" if alike else "have intervals that overlap, though the paired test parts them,"
    test = f", corrected p = {pair.p_corrected:.2g}{_shared_seeds(best, near, pair)}" if pair else ""
    others = _listed("; nor {are} {names} surely behind", alike[1:])
    parted = [score for score in rivals if score not in alike and score is not near]
    others += _listed("; {names} {are} behind by the paired test alone, for intervals overlap", parted)
    return f"{_named(best)} and {_named(near)} {relation} {where}{test}{others}"


def _where(size: int, num_rows: int, seeds: Sequence[int]) -> str:
    if not size:
        return f"on {num_rows} test rows"
    if not seeds:
        return f"at {size} training rows, {num_rows} test rows"
    least, most = min(seeds), max(seeds)
    counts = f"{least} to {most}" if least < most else str(most)
    return f"at {size} training rows, {num_rows} test rows and {counts} {'seed' if most == 1 else 'seeds'}"


def _shared_seeds(best: Score, other: Score, pair: Pair) -> str:
    """The number of seeds that a pair was tested with, where the scores are means over more."""
    if all(score.n_seeds <= pair.n_seeds for score in (best, other)):
        return ""
    return f", over the {pair.n_seeds} {'seed' if pair.n_seeds == 1 else 'seeds'} that both have"


def _is_parted(pair: Pair | None) -> bool:
    """Whether the paired test, corrected, is sure that the first way is better."""
    return pair is not None and pair.verdict == "better"


def _named(score: Score) -> str:
    return f"{score.way} ({score.value:.3f}, {score.low:.3f} to {score.high:.3f})"


def _listed(sentence: str, scores: Sequence[Score]) -> str:
    """A sentence about several ways; nothing of none."""
    names = [score.way for score in scores]
    if not names:
        return ""
    listed = " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
    return sentence.format(names=listed, are="is" if len(names) == 1 else "are")


def _cheapest(cheap: Score, best: Score, ledger: Sequence[Cost], size: int) -> str:
    cost, best_cost = [cost_of(ledger, score.way, size) for score in (cheap, best)]
    if not cost.size:
        return f"{cheap.way} needs no training at all"
    if cheap.way == best.way:
        return f"{best.way} is also the cheapest of them to train ({cost.seconds:.1f} s)"
    share = cost.seconds / best_cost.seconds if best_cost.seconds else 1.0
    return (
        f"the cheapest of them to train is {cheap.way}, with {share:.0%} of the time of {best.way} "
        f"and {cost.stored_bytes:,} against {best_cost.stored_bytes:,} bytes kept"
    )
