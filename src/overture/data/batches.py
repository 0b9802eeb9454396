"""Batches: shuffled by seed for training, cut to a token budget for memory, sorted by length for scoring."""

from collections.abc import Callable, Mapping, Sequence

from overture.core.rows import Encoded
from overture.core.seeds import named_random

_BATCHES_PER_BUCKET = 8


def epoch_batches(rows: Sequence[Encoded], batch_size: int, seed: int, epoch: int) -> list[list[Encoded]]:
    """An epoch's batches: every row once, rows of like length together, the same for the same seed and epoch."""
    assert batch_size >= 1
    random = named_random(seed, "order", epoch)
    order = list(rows)
    random.shuffle(order)
    batches: list[list[Encoded]] = []
    for start in range(0, len(order), batch_size * _BATCHES_PER_BUCKET):
        bucket = sorted(order[start : start + batch_size * _BATCHES_PER_BUCKET], key=_length)
        batches += [bucket[i : i + batch_size] for i in range(0, len(bucket), batch_size)]
    random.shuffle(batches)
    return batches


def task_batches(
    rows: Sequence[Encoded], batch_size: int, seed: int, epoch: int, *, task_of: Callable[[Encoded], int]
) -> list[list[Encoded]]:
    """An epoch's batches of several tasks: every row once, each batch from a number of tasks that is drawn anew.

    The tasks of a batch share it as they share the rows that are left; where they run out, others fill it up.

    Args:
        rows: of all tasks.
        batch_size: rows of a batch.
        seed: of the run.
        epoch: from 0.
        task_of: the number of a row's task.

    Source: Wang et al. 2023, "Multitask Prompt Tuning", section 3 (stochastic task sampling).
    """
    random = named_random(seed, "tasks", epoch)
    rows_by_task: dict[int, list[Encoded]] = {}
    for row in rows:
        rows_by_task.setdefault(task_of(row), []).append(row)
    for task_rows in rows_by_task.values():
        random.shuffle(task_rows)
    batches: list[list[Encoded]] = []
    while any(rows_by_task.values()):
        open_tasks = [task for task, task_rows in rows_by_task.items() if task_rows]
        random.shuffle(open_tasks)
        batch_tasks = open_tasks[: random.randint(min(2, len(open_tasks)), len(open_tasks))]
        pool = [task for task in batch_tasks for _ in rows_by_task[task]]
        batch = [rows_by_task[task].pop() for task in random.sample(pool, min(batch_size, len(pool)))]
        for task in open_tasks:
            while rows_by_task[task] and len(batch) < batch_size:
                batch.append(rows_by_task[task].pop())
        batches.append(batch)
    return batches


def micro_batches(batch: Sequence[Encoded], max_tokens: int) -> list[list[Encoded]]:
    """A batch cut, in order, so that rows times the longest row stay within the budget; one row at least."""
    return [part[0] for part in _cut({0: batch}, max_tokens)]


def shared_batches(batches: Mapping[int, Sequence[Encoded]], max_tokens: int) -> list[dict[int, list[Encoded]]]:
    """Several members' batches cut together, each part of the same rows' numbers for all of them.

    Args:
        batches: by member.
        max_tokens: of a part: rows of all members times the longest row; where one row of each is too much, not all
            members are in a part.
    """
    longest = max(_length(row) for batch in batches.values() for row in batch)
    num_parts = -(-len(batches) // max(1, max_tokens // max(1, longest)))
    size = -(-len(batches) // num_parts)
    members = list(batches)
    parts = [members[start : start + size] for start in range(0, len(members), size)]
    return [cut for part in parts for cut in _cut({member: batches[member] for member in part}, max_tokens)]


def _cut(batches: Mapping[int, Sequence[Encoded]], max_tokens: int) -> list[dict[int, list[Encoded]]]:
    cut: list[dict[int, list[Encoded]]] = []
    longest = num_rows = 0
    for index in range(max(map(len, batches.values()))):
        rows = {member: batch[index] for member, batch in batches.items() if index < len(batch)}
        longest = max(longest, *map(_length, rows.values()))
        num_rows += len(rows)
        if not cut or num_rows * longest > max_tokens:
            cut.append({})
            longest, num_rows = max(map(_length, rows.values())), len(rows)
        for member, row in rows.items():
            cut[-1].setdefault(member, []).append(row)
    return cut


def scoring_batches(rows: Sequence[Encoded], max_tokens: int) -> list[list[Encoded]]:
    """All rows sorted by length and cut to the token budget; the order does not depend on the rows' order."""
    return micro_batches(sorted(rows, key=lambda row: (_length(row), row.row)), max_tokens)


def num_padded(batch: Sequence[Encoded]) -> int:
    """Padded tokens of a batch."""
    return len(batch) * max(map(_length, batch))


def _length(row: Encoded) -> int:
    return row.num_tokens
