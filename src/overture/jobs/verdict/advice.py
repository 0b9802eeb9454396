"""One sentence of advice at the end of a comparison, or why there is none."""

from collections.abc import Mapping, Sequence
from typing import Any

from overture.core.records.compare import cost_of
from overture.jobs.verdict.scores import Scores, pair_of


def advice_on(found: Scores, pairs: Sequence[dict[str, Any]], ledger: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One sentence: the best way where it is surely the best, else why there is no advice; and whose training diverged.

    A way that diverged with some seed is never advised.
    """
    advice = _judged(found, pairs, ledger)
    told = [
        f"{way} diverged with {lost} of {lost + len(found.cells(way, size))} seeds"
        for (way, size), lost in found.num_diverged.items()
        if size == found.largest
    ]
    return {**advice, "text": "; ".join([advice["text"], *told]) + "."}


def _judged(found: Scores, pairs: Sequence[dict[str, Any]], ledger: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    size = found.largest
    scores = [found.score(way, size if (way, size) in found.each() else 0) for way in found.ways
              if found.cells(way, size)]  # fmt: skip
    if len(scores) < 2:
        return _none("No advice: there is only one way to look at")
    scores.sort(key=lambda score: -score["value"])
    best = scores[0]
    against = {score["way"]: pair_of(pairs, best["way"], score["way"], size) for score in scores[1:]}
    rivals = [score for score in scores[1:] if not _is_beaten(best, score, against[score["way"]])]
    steady = [score for score in scores if (score["way"], size) not in found.num_diverged]
    # Of ways that are trained: the others are the same with every seed.
    seeds = [score["n_seeds"] for score in (best, *(rivals or steady)) if score["size"]]
    where = _where(size, best["n"], seeds)
    if best not in steady:
        told = f"No advice: {_said(best)} scored highest {where}, but only where its training did not diverge"
        return _none(told, rivals)
    if min(seeds, default=2) < 2:
        told = f"No advice from one seed: {_said(best)} scored highest {where}, but another seed draws other rows "
        return _none(told + "and may turn the order", scores[1:])
    if rivals:
        alike = [score for score in rivals if not _is_parted(against[score["way"]])]
        cheap = min(
            (score for score in (best, *(alike or rivals)) if score in steady),
            key=lambda score: _training_seconds(cost_of(ledger, score["way"], size)),
        )
        told = f"No advice on quality: {_undecided(best, rivals, alike, against, where)}"
        return _none(f"{told}; {_cheapest(cheap, best, ledger, size)}", rivals)
    pair = against[scores[1]["way"]]
    assert pair is not None
    if pair["n_seeds"] < 2 and (best["size"] or scores[1]["size"]):
        told = f"No advice: {_said(best)} and {_said(scores[1])}, the two that scored highest {where}, share one seed"
        return _none(told, scores[1:2])
    gap = pair["difference"]
    cost = cost_of(ledger, best["way"], size)
    training = f"{cost['seconds']:.0f} s of training" if cost["size"] else "no training"
    return {
        "way": best["way"],
        "rivals": [],
        "text": f"Take {_said(best)}: {where} it beats the next best, {_said(scores[1])}, by "
        f"{100 * gap['value']:.1f} points ({100 * gap['low']:.1f} to {100 * gap['high']:.1f}, corrected p = "
        f"{pair['p_corrected']:.2g}{_shared(best, scores[1], pair)}), for {training} and "
        f"{cost['stored_bytes']:,} bytes kept",
    }


def _none(text: str, rivals: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    return {"way": None, "rivals": [score["way"] for score in rivals], "text": text}


def _undecided(
    best: Mapping[str, Any],
    rivals: Sequence[Mapping[str, Any]],
    alike: Sequence[Mapping[str, Any]],
    against: Mapping[str, Mapping[str, Any] | None],
    where: str,
) -> str:
    """That the best cannot be told from the nearest of its rivals, nor from the others; or only by the paired test."""
    near = (alike or rivals)[0]
    pair = against[near["way"]]
    said = "cannot be told apart" if alike else "have intervals that overlap, though the paired test parts them,"
    told = f", corrected p = {pair['p_corrected']:.2g}{_shared(best, near, pair)}" if pair else ""
    others = _listed("; nor {are} {names} surely behind", alike[1:])
    parted = [score for score in rivals if score not in alike and score is not near]
    others += _listed("; {names} {are} behind by the paired test alone, for intervals overlap", parted)
    return f"{_said(best)} and {_said(near)} {said} {where}{told}{others}"


def _where(size: int, num_rows: int, seeds: Sequence[int]) -> str:
    if not size:
        return f"on {num_rows} test rows"
    if not seeds:
        return f"at {size} training rows, {num_rows} test rows"
    least, most = min(seeds), max(seeds)
    counted = f"{least} to {most}" if least < most else str(most)
    return f"at {size} training rows, {num_rows} test rows and {counted} {'seed' if most == 1 else 'seeds'}"


def _shared(best: Mapping[str, Any], other: Mapping[str, Any], pair: Mapping[str, Any]) -> str:
    """The seeds that a pair was tested with, where the scores are means over more."""
    if all(score["n_seeds"] <= pair["n_seeds"] for score in (best, other)):
        return ""
    return f", over the {pair['n_seeds']} {'seed' if pair['n_seeds'] == 1 else 'seeds'} that both have"


def _is_beaten(best: Mapping[str, Any], other: Mapping[str, Any], pair: Mapping[str, Any] | None) -> bool:
    """Surely worse than the best: by the paired test, corrected, and by intervals that do not overlap.

    Paired tests may be sure where intervals of the single scores overlap; advice asks for both.
    """
    return _is_parted(pair) and other["high"] < best["low"]


def _is_parted(pair: Mapping[str, Any] | None) -> bool:
    """Surely worse by the paired test, corrected."""
    return bool(pair and pair["verdict"] == "better")


def _said(score: Mapping[str, Any]) -> str:
    return f"{score['way']} ({score['value']:.3f}, {score['low']:.3f} to {score['high']:.3f})"


def _listed(sentence: str, scores: Sequence[Mapping[str, Any]]) -> str:
    """A sentence about several ways; nothing of none."""
    names = [score["way"] for score in scores]
    if not names:
        return ""
    listed = " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
    return sentence.format(names=listed, are="is" if len(names) == 1 else "are")


def _training_seconds(cost: Mapping[str, Any]) -> float:
    return float(cost["seconds"]) if cost["size"] else 0.0


def _cheapest(cheap: Mapping[str, Any], best: Mapping[str, Any], ledger: Sequence[Mapping[str, Any]], size: int) -> str:
    ours, theirs = [cost_of(ledger, score["way"], size) for score in (cheap, best)]
    if not ours["size"]:
        return f"{cheap['way']} needs no training at all"
    if cheap["way"] == best["way"]:
        return f"{best['way']} is also the cheapest of them to train ({ours['seconds']:.1f} s)"
    share = ours["seconds"] / theirs["seconds"] if theirs["seconds"] else 1.0
    return (
        f"the cheapest of them to train is {cheap['way']}, with {share:.0%} of the time of {best['way']} "
        f"and {ours['stored_bytes']:,} against {theirs['stored_bytes']:,} bytes kept"
    )
