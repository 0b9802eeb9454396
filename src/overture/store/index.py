"""The index: an SQLite cache of the manifests, so that a long list needs one file.

The folders are the truth, and the file is not believed: each row has a digest of its own. Nothing is lost with it:
whatever is wrong, the file is set aside and filled again, and where it cannot be used, a copy in memory serves.
"""

import hashlib
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from pathlib import Path

from overture.core.errors import StoreError

SCHEMA_VERSION = 3
_COLUMNS = ("name", "version", "stamp", "manifest", "problem", "digest")
_CREATE = """CREATE TABLE prompts (name TEXT NOT NULL, version INTEGER NOT NULL, stamp TEXT NOT NULL,
    manifest TEXT NOT NULL, problem TEXT NOT NULL, digest TEXT NOT NULL, PRIMARY KEY (name, version))"""
_NOT_DAMAGE = (
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_AUTH,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_NOMEM,
)
"""Primary result codes that say something about the machine or about other processes, and not about the file."""
_LOCK_WAIT_S = 1.0

Key = tuple[str, int]
Row = tuple[str, int, str, str]
Read = Callable[[Key], tuple[str, str]]


class _Damaged(Exception):
    """The file holds something that was never written into it."""


_ERRORS = (sqlite3.Error, _Damaged, UnicodeDecodeError)


class Index:
    """The cache file.

    Args:
        path: where it lies.
        lock: taken while the file is set aside.
        notice: told, in one sentence, when the file had to be set aside or could not be used.
    """

    def __init__(
        self, path: Path, lock: Callable[[], AbstractContextManager[None]], notice: Callable[[str], None]
    ) -> None:
        self._path, self._lock, self._notice = path, lock, notice

    def mend(self) -> bool:
        """Set the file aside if it is no index of this schema; returns whether it was. Rows are checked when read."""
        return bool(self._fault(is_whole=False)) and self._set_aside()

    def rows(self, stamps: Mapping[Key, str], read: Read, *, is_whole: bool = True) -> list[Row]:
        """Rows of prompts, after the index has been brought up to date for them.

        Args:
            stamps: what exists now, with a text that changes when the manifest does.
            read: gives (manifest as JSON, problem) of one prompt; called only for the new and the changed.
            is_whole: these are all prompts; otherwise those between the first and the last name, and no others change.

        Returns:
            (name, version, manifest, problem), in order of name and version.
        """
        for _ in range(2):
            try:
                if self._path.is_symlink():
                    # SQLite would follow it, and make the file that it leads to.
                    raise _Damaged("a link")
                return _rows_of(str(self._path), stamps, read, is_whole)
            except _ERRORS as error:
                reason = error
            if not _is_damage(reason) or not self._set_aside():
                break
        self._notice(f"the index {self._path} cannot be used ({reason}): the prompts were read one by one")
        return _rows_of(":memory:", stamps, read, is_whole)

    def _fault(self, is_whole: bool) -> str:
        if self._path.is_symlink():
            return "a link"
        if not self._path.exists():
            return ""
        try:
            with closing(_connected(str(self._path))) as database:
                if not (fault := _fault_in(database, is_whole)) and is_whole:
                    _checked(database)
                return fault
        except _ERRORS as error:
            # Locked or not readable: no reason to throw it away. `rows` serves from memory if that lasts.
            return f"damaged ({error})" if _is_damage(error) else ""

    def _set_aside(self) -> bool:
        """Rename the file if it is still damaged; returns whether it could."""
        try:
            with self._lock():
                # Another process may have mended it while this one waited.
                if fault := self._fault(is_whole=True):
                    number = 1
                    while (backup := self._path.with_name(f"{self._path.name}.bak-{number}")).is_symlink() or (
                        backup.exists()
                    ):
                        number += 1
                    self._path.rename(backup)
                    self._notice(f"{self._path} was {fault}: kept as {backup.name}, filled again from the prompts")
        except (StoreError, OSError):
            # A busy or read-only store: `rows` serves from memory.
            return False
        return True


def _is_damage(error: Exception) -> bool:
    # Errors that Python's own module raises have no code: text that is no UTF-8 is one.
    code = getattr(error, "sqlite_errorcode", None)
    return code is None or code & 0xFF not in _NOT_DAMAGE


def _connected(path: str) -> sqlite3.Connection:
    database = sqlite3.connect(path, timeout=_LOCK_WAIT_S, isolation_level=None)
    try:
        # No WAL: older SQLite can damage it, and one small write needs no readers beside it.
        database.execute("PRAGMA journal_mode=DELETE")
        database.execute("PRAGMA synchronous=FULL")
    except sqlite3.Error:
        database.close()
        raise
    return database


def _fault_in(database: sqlite3.Connection, is_whole: bool) -> str:
    # Every page is read: 100 MB for a hundred thousand prompts, so not at each opening.
    if is_whole and (check := database.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
        return f"damaged ({check})"
    schema = database.execute("PRAGMA user_version").fetchone()[0]
    columns = tuple(row[1] for row in database.execute("PRAGMA table_info(prompts)"))
    is_empty = database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
    if is_empty or (schema == SCHEMA_VERSION and columns == _COLUMNS):
        return ""
    return f"of schema {schema}, wanted {SCHEMA_VERSION}"


def _rows_of(path: str, stamps: Mapping[Key, str], read: Read, is_whole: bool) -> list[Row]:
    with closing(_connected(path)) as database:
        if not database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            database.execute("BEGIN IMMEDIATE")
            database.execute(_CREATE)
            database.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
            database.execute("COMMIT")
        if is_whole and (fault := _fault_in(database, is_whole)):
            raise _Damaged(fault)
        names = [name for name, _ in stamps]
        indexed_rows = _checked(database) if is_whole or not names else _checked(database, min(names), max(names))
        removed_keys = [key for key in indexed_rows if key not in stamps]
        # Read first: the write lock is held only while writing.
        fresh = {
            key: (*key, stamp, *read(key))
            for key, stamp in stamps.items()
            if key not in indexed_rows or indexed_rows[key][2] != stamp
        }
        if removed_keys or fresh:
            database.execute("BEGIN IMMEDIATE")
            database.executemany("DELETE FROM prompts WHERE name = ? AND version = ?", removed_keys)
            database.executemany(
                "INSERT OR REPLACE INTO prompts VALUES (?, ?, ?, ?, ?, ?)",
                [(*row, _digest(row)) for row in fresh.values()],
            )
            database.execute("COMMIT")
        rows = indexed_rows | fresh
        return [(name, version, *rows[name, version][3:]) for name, version in sorted(stamps)]


def _checked(
    database: sqlite3.Connection, first: str = "", last: str | None = None
) -> dict[Key, tuple[str, int, str, str, str]]:
    """The rows by name and version, those from one name to another.

    Raises:
        _Damaged: one of them is not the one that was written; SQLite itself checks pages, and not what they say.
    """
    rows = {}
    query, bounds = f"SELECT {', '.join(_COLUMNS)} FROM prompts WHERE name >= ?", [first]
    if last is not None:
        query, bounds = f"{query} AND name <= ?", [first, last]
    for *row, digest in database.execute(query, bounds):
        if digest != _digest(row):
            raise _Damaged(f"the row of {str(row[0])!r:.80} has changed")
        name, version, stamp, manifest, problem = row
        rows[name, version] = (name, version, stamp, manifest, problem)
    return rows


def _digest(row: Sequence[object]) -> str:
    # No column before the last one can hold the separator: JSON escapes it.
    return hashlib.sha256("\0".join(map(str, row)).encode(errors="surrogatepass")).hexdigest()
