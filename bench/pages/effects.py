"""What the methods' papers say of them, as orderings that cells of this size can show, and whether ours do.

A method is `reproduced` when an ordering of its paper is seen in our cells: on one task at least the 95% interval of
the paired difference, over seeds and test rows, lies on the paper's side, and on none does it lie on the other.
Otherwise it is `experimental`: measured without the effect, or not measured. One seed's interval is over test rows
alone, and the page says so.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import stdev, variance
from typing import Any

from scipy.stats import f as f_distribution

from overture.core.records.cells import NO_PROMPT
from overture.core.records.scores import Paired
from overture.evaluate.over_seeds import Difference, difference_over_seeds, resampled
from overture.prompt.methods import METHODS
from page_parts import points, table

Cells = Sequence[dict[str, Any]]
Found = Paired | Difference
Studies = Mapping[str, Mapping[str, Paired]]
"""Differences that a study of its own found, by method and task."""

MARGIN = 0.03
"""Accuracy that a smaller prompt may lose at the worse end of the interval and still be said to keep it."""


@dataclass(frozen=True)
class Claim:
    """One ordering that a method's paper reports.

    Args:
        method: the method.
        text: the ordering, in a few words.
        way: the cells that shall be ahead, or as good.
        against: the cells they are held against: the same task and seed.
        keeps: as good with fewer trained values is claimed, not better.
    """

    method: str
    text: str
    way: str
    against: str
    keeps: bool = False

    def is_seen(self, differences: Sequence[Found]) -> bool:
        """Whether the differences, one for each task, show it."""
        if self.keeps:
            return all(result.difference.low > -MARGIN for result in differences)
        ahead, behind = (
            (result.difference.low > 0 for result in differences),
            (result.difference.high < 0 for result in differences),
        )
        return any(ahead) and not any(behind)


CLAIMS = (
    Claim("vectors", "better than asking the model (section 3)", "vectors-after", NO_PROMPT),
    Claim("prefix", "activations in every layer beat embeddings (section 7.2)", "prefix-after", "vectors-after"),
    Claim("deep", "prompts in every layer beat those in front alone (section 4)", "deep-after", "vectors-after"),
    Claim("p_tuning", "an encoder makes better vectors than free ones", "p_tuning-after", "vectors-after"),
    Claim("residual", "the residual perceptron makes better vectors", "residual-after", "vectors-after"),
    Claim("low_rank", "low rank keeps the accuracy", "low_rank-after", "vectors-after", keeps=True),
    Claim("ulpt", "a few numbers for each vector keep the accuracy", "ulpt-after", "vectors-after", keeps=True),
    Claim("gated", "gates over layers and columns beat a prefix without", "gated-after", "prefix-after"),
    Claim("warp", "trained label vectors beat label words", "warp-after", "vectors-after"),
    Claim(
        "cpt", "labelled examples as vectors (72 on trec, 124 on movie) beat ten others", "cpt-before", "vectors-before"
    ),
    Claim("cpt", "trained examples beat examples as they are", "cpt-before", "in-context"),
    Claim("dept", "short vectors with an offset beat vectors", "dept-before", "vectors-before"),
    Claim("late", "vectors half way up beat vectors in front", "late-before", "vectors-before"),
    Claim("idpg", "vectors made for each row beat shared ones", "idpg-after", "vectors-after"),
    Claim("lopa", "vectors gated for each row beat shared ones", "lopa-after", "vectors-after"),
    Claim("split", "a learnt position beats the front", "split-around", "vectors-before"),
    Claim("mpt", "task factors on a shared prompt beat free vectors", "mpt-after", "vectors-after"),
    Claim("attempt", "stored prompts, mixed, beat new vectors", "attempt-after", "vectors-after"),
    Claim("cartridge", "self-study holds more of a text than its beginning", "overture cartridge", "the beginning"),
    Claim("pruned", "a third of the values keeps the accuracy", "overture prune", "the whole prompt", keeps=True),
)


def differences(claim: Claim, cells: Cells, studies: Studies) -> Mapping[str, Found]:
    """For each task, what a study found, or what the cells say."""
    return studies.get(claim.method) or gaps(claim.way, claim.against, cells)


def gaps(way: str, against: str, cells: Cells) -> dict[str, Difference]:
    """What a way gains on another, by task: over the seeds that both have, paired by seed and test row."""
    by_way: dict[str, dict[tuple[str, int], str]] = defaultdict(dict)
    for cell in cells:
        by_way[cell["way"]][cell["task"], cell["seed"]] = cell["test"]["right"]
    ours, theirs = by_way[way], by_way[against]
    pairs: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for task, seed in sorted(ours):
        # Asking the model has one cell: it has no seed.
        other = theirs.get((task, seed)) or (theirs.get((task, 0)) if against == NO_PROMPT else None)
        if other is not None:
            pairs[task].append((ours[task, seed], other))
    return {task: _difference(*zip(*scores, strict=True)) for task, scores in pairs.items()}


def _difference(ours: Sequence[str], theirs: Sequence[str]) -> Difference:
    """Of digits, one for each test row and 1 where it is right, for each seed; where no seed changes, one is enough."""
    gold = "1" * len(ours[0])
    a, b = (resampled("accuracy", gold, rights if len(set(rights)) > 1 else rights[:1]) for rights in (ours, theirs))
    return difference_over_seeds(a, b)


def standings(cells: Cells, studies: Studies) -> dict[str, str]:
    """`reproduced` or `experimental` for every method there is."""
    all_found = {claim: differences(claim, cells, studies) for claim in CLAIMS}
    seen = {
        claim.method
        for claim, differences_by_task in all_found.items()
        if differences_by_task and claim.is_seen([*differences_by_task.values()])
    }
    return {name: "reproduced" if name in seen else "experimental" for name in METHODS}


def effects_text(cells: Cells, studies: Studies) -> str:
    """One line for each claim that was measured, and which methods were not."""
    rows, measured = [], set()
    for claim in CLAIMS:
        if by_task := differences(claim, cells, studies):
            measured.add(claim.method)
            said = "; ".join(f"{task} {points(difference)}{_seeds(difference)}" for task, difference in by_task.items())
            rows.append([claim.method, claim.text, claim.way, claim.against, said, _answer(claim, by_task)])
    head = ["method", "its paper says", "way", "against", "difference in points (95% interval)", "seen"]
    note = (
        "Differences are paired by seed and test row, and their intervals are over both (`t`, Satterthwaite's degrees "
        "of freedom); of one seed, over the test rows alone: another seed may turn it. Every way has five epochs and "
        "the rate of the table above. Where the paper says that accuracy is kept, we ask that even the worse end of "
        f"the interval loses no more than {MARGIN:.0%}."
    )
    without = sorted(set(METHODS) - measured)
    rest = f"Not measured this way: {', '.join(f'`{name}`' for name in without)}." if without else ""
    return "\n\n".join(filter(None, [table(head, rows, are_numbers=False), note, spread_text(cells), rest]))


def _answer(claim: Claim, by_task: Mapping[str, Found]) -> str:
    if not claim.is_seen([*by_task.values()]):
        return "no"
    return "yes, one seed" if all(_seeds(difference) for difference in by_task.values()) else "yes"


def _seeds(difference: Found) -> str:
    return ", one seed" if isinstance(difference, Difference) and difference.n_seeds == 1 else ""


STEADIER = ("residual-after", "vectors-after")
"""A perceptron around the vectors shall make them steadier over seeds (Razdaibiedina et al. 2023)."""


def spread_text(cells: Cells) -> str:
    """How much the two ways' accuracies differ from seed to seed, and what so few seeds say of it."""
    shares: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for cell in cells:
        if cell["way"] in STEADIER:
            shares[cell["task"]][cell["way"]].append(cell["test"]["right"].count("1") / len(cell["test"]["right"]))
    lines = []
    for task, task_shares in sorted(shares.items()):
        ours, theirs = (task_shares[way] for way in STEADIER)
        if min(len(ours), len(theirs)) < 2 or not variance(theirs):
            continue
        ratio = variance(ours) / variance(theirs)
        freedom = len(ours) - 1, len(theirs) - 1
        low, high = (ratio / f_distribution.ppf(tail, *freedom) for tail in (0.975, 0.025))
        lines.append(
            f"{task} {100 * stdev(ours):.1f} beside {100 * stdev(theirs):.1f} points (ratio of variances {ratio:.2g}, "
            f"{low:.2g} to {high:.3g}, {len(ours)} and {len(theirs)} seeds)"
        )
    if not lines:
        return ""
    return f"Standard deviation over seeds, `{STEADIER[0]}` beside `{STEADIER[1]}`: {'; '.join(lines)}."
