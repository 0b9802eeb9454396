"""In-context examples: training rows with their answers in front of each row, the model untouched.

The examples run once; their keys and values are memory before every row, so k examples cost no live tokens.
"""

from collections.abc import Sequence

from overture.core.errors import DataError
from overture.core.seeds import named_random
from overture.core.types import Injection, Memory
from overture.data import Encoder, Task
from overture.data.rows import Row
from overture.engine import Backbone


def chosen_shots(task: Task, rows: Sequence[Row], count: int, seed: int) -> list[Row]:
    """Examples drawn by seed, as many of each label as possible, in random order."""
    random = named_random(seed, "shots")
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(task.spec.group(task, row), []).append(row)
    for members in groups.values():
        random.shuffle(members)
    labels = sorted(groups)
    random.shuffle(labels)
    turns = (groups[label][turn] for turn in range(count) for label in labels if turn < len(groups[label]))
    chosen = [row for row, _ in zip(turns, range(count), strict=False)]
    random.shuffle(chosen)
    return chosen


def in_context_prompt(
    backbone: Backbone, task: Task, train: Sequence[Row], scored: Sequence[Row], count: int, seed: int
) -> tuple[Injection, Encoder, int]:
    """Examples as memory, and the encoder for the rows that follow them.

    Examples that leave no room for the longest row are left out.

    Returns:
        The memory, an encoder whose rows are encoded with ``bos=False``, and how many examples fit.

    Raises:
        DataError: not one example fits.
    """
    encoder = Encoder(task, backbone.tokenizer)
    shots = chosen_shots(task, train, count, seed)
    while shots:
        ids = encoder.shots(shots)
        following = Encoder(task, backbone.tokenizer, reserve=len(ids))
        try:
            following.encode(scored, bos=False)
        except DataError:
            shots = shots[:-1]
            continue
        return Injection(memory=Memory(backbone.memory_of_tokens(ids), "memory")), following, len(shots)
    raise DataError(
        "no in-context example fits in front of the rows",
        wanted=f"at most {encoder.limit} tokens",
        fix="--set shots=0 leaves this comparison out",
    )
