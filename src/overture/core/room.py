"""Fits work to a device's memory: parts of a token budget, which is halved where memory runs out."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from overture.core.errors import DeviceFull

Part = TypeVar("Part")
T = TypeVar("T")
SHARE = 0.8
"""Share of the tokens that fit by a trial; the rest is for longer prompts, other rows and fragmentation."""


class Room:
    """A budget of tokens for one forward pass.

    Args:
        max_tokens: at first.
        notify: called when memory ran out and passes became smaller.
    """

    def __init__(self, max_tokens: int, notify: Callable[[str], None] = lambda text: None) -> None:
        self.max_tokens, self.notify = max_tokens, notify

    def run(
        self,
        cut: Callable[[int], Sequence[Part]],
        work: Callable[[Sequence[Part]], T],
        num_tokens: Callable[[Part], int],
    ) -> T:
        """The result of work on all parts; it is repeated with parts half as large whenever memory runs out.

        Args:
            cut: the parts for a budget.
            work: its result must not depend on the cut, and each call must start anew.
            num_tokens: padded tokens of a part.

        Raises:
            DeviceFull: the parts cannot be cut any smaller.
        """
        from torch import OutOfMemoryError

        while True:
            parts = cut(self.max_tokens)
            try:
                return work(parts)
            except OutOfMemoryError as error:
                # Only its text: the error holds frames, and they hold the tensors that must be freed.
                reason = str(error).strip().partition("\n")[0][:200]
            self._shrink(cut, parts, max(map(num_tokens, parts)), reason)

    def _shrink(self, cut: Callable[[int], Sequence[Part]], parts: Sequence[Part], most: int, reason: str) -> None:
        from torch import cuda

        if most < 2 or cut(most // 2) == parts:
            raise DeviceFull(
                "not even one row at a time fits into the device's memory",
                got=reason,
                fix="--set train.gradient_checkpointing=true, shorter rows (max_length), or a smaller backbone",
            )
        self.max_tokens = most // 2
        cuda.empty_cache()
        self.notify(
            f"the device's memory does not hold {most:,} tokens of one pass; from now on passes have at most "
            f"{self.max_tokens:,} (the results are the same)"
        )


def fitted_tokens(num_tokens: int, needed_bytes: int, free_bytes: int) -> int:
    """The number of tokens that a pass may have, from a trial pass.

    Args:
        num_tokens: tokens of the trial pass.
        needed_bytes: its peak memory, beyond what was in use before.
        free_bytes: memory for a pass.
    """
    return max(1, int(SHARE * free_bytes / max(1, needed_bytes) * num_tokens))
