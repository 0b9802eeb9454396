"""Examples: training rows with their answers in front of the row, drawn in balance, added one by one, dropped, ordered.

Greedy addition, dropping and ordering are judged by the race on validation rows. Orders: Lu et al. 2022, "Fantastically
ordered prompts and where to find them"; they rank by entropy on sampled rows, the race by likelihood on real ones.
"""

from collections.abc import Sequence
from random import Random

from overture.core.records.hard import Candidate
from overture.core.seeds import named_random
from overture.data.row import Row
from overture.data.task import Task
from overture.hard.proposer import Ask

_MOST = 8


class Examples:
    """Sets of examples around the leader's."""

    def propose(self, ask: Ask) -> list[Candidate]:
        """Balanced sets if the leader has no examples; else one example more, one fewer, and other orders, in turn."""
        rows, task = ask.scorer.splits["train"], ask.scorer.task
        if not task.has_shots:
            return []
        shots = ask.leader.shots
        groups: dict[str, list[int]] = {}
        for number, row in enumerate(rows):
            groups.setdefault(task.spec.group(task, row), []).append(number)
        proposals: list[list[int]] = []
        if not shots:
            sizes = [size for size in (len(groups), _MOST, _MOST // 2, 1) if 0 < size <= _MOST]
            proposals = [_balanced(groups, sizes[turn % len(sizes)], ask.random) for turn in range(ask.count)]
        for turn in range(ask.count if shots else 0):
            kind = ("add", "drop", "order", "add")[turn % 4]
            if kind == "add" and len(shots) < _MOST:
                (number,) = _balanced(groups, 1, ask.random)
                proposals.append([*shots, number] if turn % 8 < 4 else [number, *shots])
            elif kind == "drop" and len(shots) > 1:
                place = ask.random.randrange(len(shots))
                proposals.append([*shots[:place], *shots[place + 1 :]])
            else:
                proposals.append(ask.random.sample(shots, len(shots)))
        return [
            ask.leader.model_copy(update={"shots": numbers, "origin": "examples"})
            for numbers in proposals
            if len(set(numbers)) == len(numbers)
        ]


def balanced_examples(task: Task, rows: Sequence[Row], count: int, seed: int) -> list[int]:
    """Numbers of rows drawn by seed, as many of each label as possible."""
    groups: dict[str, list[int]] = {}
    for number, row in enumerate(rows):
        groups.setdefault(task.spec.group(task, row), []).append(number)
    return _balanced(groups, count, named_random(seed, "shots"))


def _balanced(groups: dict[str, list[int]], count: int, random: Random) -> list[int]:
    """As many rows of each label as possible, in random order."""
    labels = random.sample(sorted(groups), len(groups))
    pools = {label: random.sample(groups[label], len(groups[label])) for label in labels}
    turns = [pools[label][turn] for turn in range(count) for label in labels if turn < len(pools[label])]
    return random.sample(turns[:count], min(count, len(turns)))
