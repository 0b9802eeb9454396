"""The number of this process among several, from `torchrun`'s environment variables; imports no torch."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from overture.core.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Launch:
    """A process among those that were started together.

    Args:
        rank: its number among all, from 0; the first one writes and speaks.
        size: how many there are.
        local_rank: its number on this machine.
        local_size: how many there are on this machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether it writes and speaks."""
        return self.rank == 0


def launched(environment: Mapping[str, str] | None = None) -> Launch:
    """This process's number from the environment; that of a single process where nothing is set.

    Args:
        environment: that of the process when None.

    Raises:
        ConfigError: the environment says something impossible.
    """
    variables = os.environ if environment is None else environment
    if "RANK" not in variables or "WORLD_SIZE" not in variables:
        return Launch()
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    defaults = {"LOCAL_RANK": variables["RANK"], "LOCAL_WORLD_SIZE": variables["WORLD_SIZE"]}
    texts = {name: variables.get(name, defaults.get(name, "")) for name in names}
    try:
        launch = Launch(*map(int, texts.values()))
    except ValueError:
        launch = Launch(-1)
    if not (0 <= launch.rank < launch.size and 0 <= launch.local_rank < launch.local_size <= launch.size):
        raise ConfigError(
            "the environment does not say which of several processes this is",
            where="RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE",
            got=", ".join(f"{name}={text}" for name, text in texts.items()),
            wanted="0 <= rank < size",
            fix="start with torchrun, or unset RANK and WORLD_SIZE",
        )
    return launch


def check_processes(is_for_several: bool, command: str) -> None:
    """Refuse a command that several processes would each run on their own.

    Raises:
        ConfigError: this is one of several.
    """
    launch = launched()
    if launch.size > 1 and not is_for_several:
        raise ConfigError(
            f"overture {command} runs in one process",
            where="WORLD_SIZE",
            got=f"{launch.size} processes",
            fix="start it without torchrun; overture tune trains one prompt in several processes",
        )
