"""A folder of cached files, of which the least recently used make room for new ones.

There is no index. A file's name is its key and its time of change says when it was last used, so that any number of
processes may read, write and remove, and a kill leaves whole files behind. Nobody but the user can read the folder.
"""

import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from overture.core.errors import ConfigError
from overture.core.files import TEMPORARY, cache_dir

LIMIT = "OVERTURE_CACHE_LIMIT"
"""The environment variable that limits kept inputs, in GB; 0 keeps none."""

_MOST_BYTES = 8 * 10**9
_SHARE_OF_DISK = 10
_WRITING_S = 3600.0
"""An older temporary file belongs to no living writer."""


@dataclass(frozen=True, slots=True)
class KeptFile:
    """A file of the folder: its size, and when it was last used, in seconds since 1970."""

    path: Path
    size_bytes: int
    used_at: float


class KeptFiles:
    """Files by key, up to a limit.

    Args:
        folder: made when the first file is written.
        limit_bytes: of all files together; 0 where nothing is to be kept.

    Attributes:
        is_full: the disk had no room; nothing more is written.
    """

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self.folder, self.limit_bytes = folder, limit_bytes
        self.is_full = False
        # A file system's clock may lag behind the system's by some milliseconds.
        self._began = time.time() - 0.1

    def files(self) -> list[KeptFile]:
        """The files, least recently used first; unfinished ones of killed writers are among them."""
        files = []
        try:
            with os.scandir(self.folder) as entries:
                for entry in entries:
                    try:
                        stat = entry.stat(follow_symlinks=False)
                    except FileNotFoundError:
                        # Another process has removed it.
                        continue
                    files.append(KeptFile(Path(entry.path), stat.st_size, stat.st_mtime))
        except FileNotFoundError:
            return []
        return sorted(files, key=lambda file: file.used_at)

    def path_of(self, key: str) -> Path:
        """The path of a key's file, there or not."""
        return self.folder / f"{key}.safetensors"

    def use(self, key: str) -> Path | None:
        """The path of a key's file, which was used now; None where there is none."""
        path = self.path_of(key)
        try:
            os.utime(path)
        except OSError:
            return None
        return path

    def make_room(self, size_bytes: int) -> bool:
        """Remove the least recently used files until a new one fits.

        Files that were used since this object was made stay: otherwise a run on more texts than fit would remove each
        file shortly before the next run needs it.

        Returns:
            Whether the new one fits.
        """
        if self.is_full or size_bytes > self.limit_bytes:
            return False
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o700)
        files = self.files()
        excess = sum(file.size_bytes for file in files) + size_bytes - self.limit_bytes
        for file in files:
            is_temporary = file.path.name.startswith(TEMPORARY)
            is_old = file.used_at < (time.time() - _WRITING_S if is_temporary else self._began)
            if is_old and (is_temporary or excess > 0):
                file.path.unlink(missing_ok=True)
                excess -= file.size_bytes
        return excess <= 0

    def clear(self) -> tuple[int, int]:
        """Remove all files; returns their number and bytes."""
        files = self.files()
        for file in files:
            file.path.unlink(missing_ok=True)
        return len(files), sum(file.size_bytes for file in files)


def kept_inputs() -> KeptFiles:
    """The inputs of earlier runs, kept as files in the user's cache directory.

    Raises:
        ConfigError: the limit of the environment is no number.
    """
    files = KeptFiles(cache_dir() / "inputs", 0)
    limit = os.environ.get(LIMIT)
    if limit is None:
        size = sum(file.size_bytes for file in files.files())
        files.limit_bytes = min(_MOST_BYTES, (shutil.disk_usage(cache_dir()).free + size) // _SHARE_OF_DISK)
        return files
    try:
        files.limit_bytes = int(float(limit) * 1e9)
    except (ValueError, OverflowError):
        files.limit_bytes = -1
    if files.limit_bytes < 0:
        raise ConfigError(
            "the limit of kept inputs is no size", where=LIMIT, got=limit, wanted="GB, such as 2; 0 for none"
        )
    return files
