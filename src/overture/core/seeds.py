"""Random numbers by name: each use has its own stream, so adding one never shifts another."""

import hashlib
import random


def derived_seed(seed: int, *names: str | int) -> int:
    """A seed for one named use of a run's seed; the same on every machine.

    Args:
        seed: the run's seed.
        names: the use of the numbers, such as ``"order", epoch``.
    """
    text = "/".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def named_random(seed: int, *names: str | int) -> random.Random:
    """A Python generator for one named use of a seed."""
    return random.Random(derived_seed(seed, *names))
