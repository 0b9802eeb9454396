"""Files of images and sounds that were decoded once without a fault, remembered on disk for later runs.

One line of JSON for each file, appended, so that a run that is killed loses at most its last line. A file is taken for
the one that was decoded if its size, its times and its inode are the same; what it holds is compared with its digest
when it is opened.
"""

import json
import time
from pathlib import Path

from overture.core.files import cache_dir

State = tuple[str, str, int, int, int, int]
"""State of a file: modality, path, size, times of modification and change in nanoseconds, inode."""
_MOST_BYTES = 64 << 20
_SETTLED_S = 2.0


class CheckedFiles:
    """The memo of one process.

    Args:
        file: where it lies; in the user's cache when None.
    """

    def __init__(self, file: Path | None = None) -> None:
        self._file, self._known = file, dict[State, tuple[str, int | None]]()
        self._is_read = False

    @property
    def file(self) -> Path:
        """Where it lies."""
        return self._file or cache_dir() / "checked-media.jsonl"

    def get(self, state: State) -> tuple[str, int | None] | None:
        """A file's digest and, of a sound, its rate; None where it was not decoded yet."""
        if not self._is_read:
            self._is_read = True
            self._read()
        return self._known.get(state)

    def add(self, state: State, digest: str, rate: int | None) -> None:
        """Remember a file, unless it may be written again within one tick of the file system's clock."""
        if time.time() - max(state[3], state[4]) / 1e9 < _SETTLED_S:
            return
        self._known[state] = (digest, rate)
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with self.file.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps([*state, digest, rate]) + "\n")
        except OSError:
            # A cache that cannot be written costs time alone.
            return

    def _read(self) -> None:
        try:
            if self.file.stat().st_size > _MOST_BYTES:
                self.file.unlink()
            lines = self.file.read_text(encoding="utf-8").splitlines()
        except OSError:
            return
        for line in lines:
            try:
                modality, path, size, modified_ns, changed_ns, inode, digest, rate = json.loads(line)
            except ValueError:
                # The last line of a run that was killed.
                continue
            self._known[modality, path, size, modified_ns, changed_ns, inode] = (digest, rate)
