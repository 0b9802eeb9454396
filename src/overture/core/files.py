"""Writes files so that a crash, a kill or a full disk leaves the old file or the new one intact."""

import errno
import fcntl
import hashlib
import json
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from overture.core.errors import DiskFull, StoreError, StoreLocked, StoreReadOnly

TEMPORARY = ".overture-tmp-"
_LOCK_POLL_S = 0.02
_REFUSALS = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR)


def cache_dir() -> Path:
    """The folder of converted models and spilled caches: ``OVERTURE_CACHE`` or the user's cache directory."""
    root = os.environ.get("OVERTURE_CACHE")
    base = Path(root) if root else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "overture"
    base.mkdir(parents=True, exist_ok=True)
    return base


def store_dir() -> Path:
    """The default folder of stored prompts: ``OVERTURE_HOME`` or ``.overture`` in the working directory."""
    return Path(os.environ.get("OVERTURE_HOME", ".overture"))


@contextmanager
def no_room_as_disk_full(path: Path) -> Iterator[None]:
    """Turn the system's "no space left" into `DiskFull`, naming the path."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(
                "the disk is full", where=str(path), fix="free some room and repeat; nothing was lost"
            ) from error
        raise


@contextmanager
def no_right_as_read_only(folder: Path) -> Iterator[None]:
    """Turn the system's refusal to make or replace a file into a `StoreReadOnly` that names the folder.

    File systems of the system's own, such as ``/proc``, refuse with "no such file" in a folder that exists.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _REFUSALS:
            fix = "get the right to write there, or name another folder"
            raise StoreReadOnly(
                "the folder cannot be written", where=str(folder), got=error.strerror or "", fix=fix
            ) from error
        raise


def fsync_dir(path: Path) -> None:
    """Make renames in a directory survive a power loss."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def replacing(path: Path, *, is_private: bool = False) -> Iterator[Path]:
    """An empty temporary file to be written, which then takes the path's place: fsync, rename, fsync of the directory.

    Args:
        path: the file that is replaced as a whole.
        is_private: nobody but the user can read the file.

    Raises:
        DiskFull: no room; the old file is intact.
        StoreReadOnly: the folder cannot be written; the old file is intact.
    """
    temporary = path.parent / f"{TEMPORARY}{os.getpid()}-{path.name}"
    try:
        with no_room_as_disk_full(path):
            with no_right_as_read_only(path.parent):
                path.parent.mkdir(parents=True, exist_ok=True)
                temporary.unlink(missing_ok=True)
                # The file is made here: a link that somebody put there is never followed.
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
                os.close(os.open(temporary, flags, 0o600 if is_private else 0o666))
            mode = temporary.stat().st_mode
            yield temporary
            with open(temporary, "rb+") as handle:
                os.fsync(handle.fileno())
            temporary.chmod(mode)
            with no_right_as_read_only(path.parent):
                os.replace(temporary, path)
            fsync_dir(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomic(path: Path, data: bytes | str) -> None:
    """Replace a file as a whole.

    Raises:
        DiskFull: no room; the old file is intact.
        StoreReadOnly: the folder cannot be written; the old file is intact.
    """
    with replacing(Path(path)) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically; NaN and infinity are refused."""
    write_atomic(path, json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False) + "\n")


def write_folder(path: Path, fill: Callable[[Path], None]) -> None:
    """Make a folder that appears complete or not at all.

    Args:
        path: the folder to make; it must not exist.
        fill: writes the contents into a temporary folder beside it.

    Raises:
        DiskFull: no room; nothing is left behind.
        StoreError: the folder exists.
        StoreReadOnly: the folder above it cannot be written.
    """
    path = Path(path)
    with no_room_as_disk_full(path), no_right_as_read_only(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=path.parent))
    try:
        with no_room_as_disk_full(path):
            fill(temporary)
            for file in temporary.rglob("*"):
                if file.is_file():
                    with open(file, "rb+") as handle:
                        os.fsync(handle.fileno())
            fsync_dir(temporary)
            temporary.chmod(0o755)
            try:
                os.rename(temporary, path)
            except OSError as error:
                if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                    raise StoreError("the folder exists already", where=str(path)) from error
                raise
            fsync_dir(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def sweep_temporaries(folder: Path, *, is_deep: bool = False) -> list[Path]:
    """Remove temporaries of killed writers in a folder, with ``is_deep`` also below it; returns the removed paths.

    Only a process that holds the folder's lock may call it: a living writer's file is no leftover.
    """
    pattern = f"**/{TEMPORARY}*" if is_deep else f"{TEMPORARY}*"
    leftovers = list(Path(folder).glob(pattern)) if Path(folder).is_dir() else []
    for entry in leftovers:
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)
    return leftovers


@contextmanager
def no_link_error(path: Path) -> Iterator[None]:
    """Turn the system's refusal to follow a link into a `StoreError` that names it."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK):
            raise StoreError(
                "a link stands where Overture writes a file of its own",
                where=str(path),
                wanted="a plain file",
                fix="remove the link",
            ) from error
        raise


def check_writable(folder: Path) -> None:
    """Refuse a folder that nothing could be written to, before the work whose result would go there.

    Args:
        folder: need not be there; then the nearest folder above it counts.

    Raises:
        StoreReadOnly: the system would let this process write nothing there.
        DiskFull: no room for any file.
    """
    nearest = Path(folder).absolute()
    while not nearest.exists() and nearest.parent != nearest:
        nearest = nearest.parent
    with no_room_as_disk_full(folder), no_right_as_read_only(folder):
        if not os.access(nearest, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(nearest))
        # The superuser has every right, even where the file system takes no files.
        tempfile.TemporaryFile(dir=nearest, prefix=TEMPORARY).close()


def append_line(path: Path, line: str) -> None:
    """Add a line to a text file; a link in its place is refused.

    Raises:
        DiskFull: no room; the earlier lines are intact.
        StoreError: the path is a link.
        StoreReadOnly: the file cannot be written.
    """
    with no_room_as_disk_full(path), no_link_error(path):
        with no_right_as_read_only(path.parent):
            number = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        with os.fdopen(number, "a", encoding="utf-8") as file:
            file.write(line + "\n")


@contextmanager
def exclusive(path: Path, what: str, wait_s: float = 0.0) -> Iterator[None]:
    """Hold a lock file while writing; a second writer gets a clear error.

    The file is never read, written or cut: a file of the user's under that name stays as it is.

    Args:
        path: the lock file; made where it is missing.
        what: what is locked, for the error.
        wait_s: how long to wait for another process to end.

    Raises:
        StoreError: another process holds it still, the path is a link, or the folder is read-only. The lock dies with
            its process, so there are no stale ones.
    """
    with no_link_error(path), no_right_as_read_only(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    try:
        deadline_s = time.monotonic() + wait_s
        while True:
            try:
                fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if time.monotonic() >= deadline_s:
                    raise StoreLocked(
                        f"another process is writing {what}", where=str(path), fix="wait for it to end, or stop it"
                    ) from error
            # Uneven pauses: writers that wait in step with each other would let one starve.
            time.sleep(random.uniform(0.2, 1.0) * _LOCK_POLL_S)
        yield
    finally:
        os.close(number)


def sha256_file(path: Path) -> str:
    """The SHA-256 of a file, as hex."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
