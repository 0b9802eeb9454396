"""The index: an SQLite cache of the manifests, so that a long list needs one file.

The folders are the truth. Nothing is lost with the index: whatever is wrong with it, it is set aside and filled again,
and where it cannot be written, a copy in memory serves.
"""

import sqlite3
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, closing
from pathlib import Path

from overture.core.errors import StoreError

SCHEMA_VERSION = 1
_COLUMNS = ("name", "version", "stamp", "manifest", "problem")
_CREATE = """CREATE TABLE IF NOT EXISTS prompts (name TEXT NOT NULL, version INTEGER NOT NULL, stamp TEXT NOT NULL,
    manifest TEXT NOT NULL, problem TEXT NOT NULL, PRIMARY KEY (name, version))"""
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_LOCK_WAIT_S = 5.0

Key = tuple[str, int]
Row = tuple[str, int, str, str]
Read = Callable[[Key], tuple[str, str]]


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
        """Check the file; set it aside when it is damaged or of another schema. Returns whether it was."""
        if not self._fault():
            return False
        try:
            with self._lock():
                # Another process may have mended it while this one waited.
                if fault := self._fault():
                    backup = self._set_aside()
                    self._notice(f"{self._path} was {fault}: kept as {backup.name}, filled again from the prompts")
        except (StoreError, OSError):
            # A busy or read-only store: `rows` serves from memory.
            return False
        return True

    def rows(self, stamps: Mapping[Key, str], read: Read) -> list[Row]:
        """Every prompt's row, after the index has been brought up to date.

        Args:
            stamps: what exists now, with a text that changes when the manifest does.
            read: gives (manifest as JSON, problem) of one prompt; called only for the new and the changed.

        Returns:
            (name, version, manifest, problem), in order of name and version.
        """
        try:
            return _rows_of(str(self._path), stamps, read)
        except sqlite3.DatabaseError as error:
            reason: sqlite3.DatabaseError = error
        try:
            if self.mend():
                return _rows_of(str(self._path), stamps, read)
        except sqlite3.DatabaseError as error:
            reason = error
        self._notice(f"the index {self._path} cannot be used ({reason}): the prompts were read one by one")
        return _rows_of(":memory:", stamps, read)

    def _fault(self) -> str:
        if not self._path.exists():
            return ""
        try:
            with closing(_connected(str(self._path))) as database:
                return _fault_in(database)
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorcode in _DAMAGED:
                return f"damaged ({error})"
            # Locked or not readable: no reason to throw it away. `rows` serves from memory if that lasts.
            return ""

    def _set_aside(self) -> Path:
        number = 1
        while (backup := self._path.with_name(f"{self._path.name}.bak-{number}")).exists():
            number += 1
        self._path.rename(backup)
        return backup


def _connected(path: str) -> sqlite3.Connection:
    database = sqlite3.connect(path, timeout=_LOCK_WAIT_S, isolation_level=None)
    try:
        # No WAL: older SQLite can damage it, and one small write needs no readers beside it.
        database.execute("PRAGMA journal_mode=DELETE")
        database.execute("PRAGMA synchronous=FULL")
    except sqlite3.DatabaseError:
        database.close()
        raise
    return database


def _fault_in(database: sqlite3.Connection) -> str:
    check = database.execute("PRAGMA quick_check(1)").fetchone()[0]
    if check != "ok":
        return f"damaged ({check})"
    schema = database.execute("PRAGMA user_version").fetchone()[0]
    columns = tuple(row[1] for row in database.execute("PRAGMA table_info(prompts)"))
    is_empty = database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
    if is_empty or (schema == SCHEMA_VERSION and columns == _COLUMNS):
        return ""
    return f"of schema {schema}, wanted {SCHEMA_VERSION}"


def _rows_of(path: str, stamps: Mapping[Key, str], read: Read) -> list[Row]:
    with closing(_connected(path)) as database:
        if not database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            _create(database)
        _update(database, stamps, read)
        return database.execute(
            "SELECT name, version, manifest, problem FROM prompts ORDER BY name, version"
        ).fetchall()


def _create(database: sqlite3.Connection) -> None:
    database.execute("BEGIN IMMEDIATE")
    database.execute(_CREATE)
    database.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
    database.execute("COMMIT")


def _update(database: sqlite3.Connection, stamps: Mapping[Key, str], read: Read) -> None:
    kept = {
        (name, version): stamp for name, version, stamp in database.execute("SELECT name, version, stamp FROM prompts")
    }
    gone = [key for key in kept if key not in stamps]
    changed = [key for key, stamp in stamps.items() if kept.get(key) != stamp]
    if not gone and not changed:
        return
    # Read first: the write lock is held only while writing.
    fresh = [(*key, stamps[key], *read(key)) for key in changed]
    database.execute("BEGIN IMMEDIATE")
    database.executemany("DELETE FROM prompts WHERE name = ? AND version = ?", gone)
    database.executemany("INSERT OR REPLACE INTO prompts VALUES (?, ?, ?, ?, ?)", fresh)
    database.execute("COMMIT")
