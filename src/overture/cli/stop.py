"""Ctrl-C: the first asks the work to stop where it can go on later, the second ends it at once."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from overture.cli.out import say


class StopRequest:
    """Within the block, the first SIGINT or SIGTERM only sets a flag; calling the object returns the flag.

    Args:
        advice: what the user is told when it comes.
    """

    def __init__(self, advice: str) -> None:
        self.advice = advice
        self.is_asked = False
        self._before: dict[int, Any] = {}

    def __call__(self) -> bool:
        """Whether to stop."""
        return self.is_asked

    def __enter__(self) -> "StopRequest":
        # Only the main thread may set handlers; elsewhere nobody presses keys.
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        self.is_asked = True
        signal.signal(number, signal.default_int_handler)
        say(self.advice)
