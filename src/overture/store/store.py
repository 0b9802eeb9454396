"""A store: named, numbered prompts under one folder.

``ROOT/prompts/NAME/vN/`` holds version N of a prompt, ``ROOT/prompts/NAME/.aliases.json`` the names of its versions,
``ROOT/runs/`` the runs, ``ROOT/index.sqlite`` a cache.
"""

import difflib
import gc
import logging
import os
import shutil
import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field, ValidationError

from overture.core.config import Config
from overture.core.errors import ArtifactError, StoreError, UnknownPrompt, WrongName
from overture.core.files import TEMPORARY, exclusive, fsync_dir, sweep_temporaries, write_atomic
from overture.core.records.base import FROM_JSON, Record, read_record
from overture.store.artifact import MANIFEST_FILE, read_manifest, read_manifest_json, save_artifact
from overture.store.explanations import explanation_path
from overture.store.index import Index, Key
from overture.store.manifest import Manifest
from overture.store.names import Ref, checked_alias, checked_name, is_name, is_path, parsed_ref, version_of

if TYPE_CHECKING:
    import torch

    from overture.store.diff import PromptDiff

_log = logging.getLogger(__name__)

_LAST_VERSION, _ALIASES = ".last-version", ".aliases.json"
_LOCK_WAIT_S, _MEND_WAIT_S = 60.0, 1.0
_MAX_COMPARED = 2000
_MIN_AGE_S = 1.0
"""A folder that changed later than this ago is read again: file systems count time in steps, some of a second."""


class Entry(Config):
    """One version of one prompt, as a list shows it."""

    name: str = Field(description="the prompt's name")
    version: int = Field(description="its version")
    folder: Path = Field(description="where it lies")
    manifest: Manifest | None = Field(description="what it is; none when it cannot be read")
    problem: str = Field(default="", description="why it cannot be read; empty when it can")


Entries = list[Entry]


class Page(Config):
    """A stretch of the list of prompts."""

    entries: Entries = Field(description="the versions of its prompts, by name and version")
    after: str = Field(description="the last name looked at: the next page begins behind it; empty on the last page")
    num_names: int = Field(description="names in the whole list")


class _Aliases(Record):
    """The names that versions of one prompt have."""

    versions: dict[str, int] = Field({}, description="alias -> version")


class Store:
    """Prompts by name and version.

    Opening takes the same time whatever the number of prompts. What killed writers left is swept when its folder is
    next read by `list`, `page` or `add`; a damaged index is set aside. A store that does not exist yet is empty; the
    first `add` makes it.

    Args:
        root: the store's folder.
        notice: called with one sentence about anything that was mended; writes to the log by default.

    Example:
        >>> store = Store(Path(".overture"))
        >>> folder = store.add(manifest, tensors)  # doctest: +SKIP
    """

    def __init__(self, root: Path, notice: Callable[[str], None] = _log.warning) -> None:
        self.root = Path(root)
        self.prompts = self.root / "prompts"
        self.runs = self.root / "runs"
        lock, what = self.root / ".lock", "to this store"
        self._index = Index(self.root / "index.sqlite", lambda: exclusive(lock, what, _MEND_WAIT_S), notice)
        self._names: tuple[int, tuple[str, ...]] = (-1, ())
        if self.root.is_dir():
            self._sweep([self.root])
            self._index.mend()

    def add(self, manifest: Manifest, tensors: "dict[str, torch.Tensor] | bytes") -> Path:
        """Keep a prompt as the next version of its name.

        Args:
            manifest: its ``version`` is ignored: the store counts.
            tensors: the prompt's values; or a safetensors file's bytes, which are checked without torch.

        Returns:
            The new folder; its manifest tells the version.

        Raises:
            StoreError: the name is wrong, or another process keeps the store locked.
            ArtifactError: the tensors cannot be kept.
            DiskFull: no room; what was there is intact.
        """
        checked_name(manifest.name)
        with self._writing():
            parent = self._named(manifest.name)
            parent.mkdir(parents=True, exist_ok=True)
            sweep_temporaries(parent)
            fsync_dir(self.prompts)
            fsync_dir(self.root)
            version = max([*_versions(parent), _last_version(parent)]) + 1
            save_artifact(parent / f"v{version}", manifest.model_copy(update={"version": version}), tensors)
        return parent / f"v{version}"

    def get(self, ref: str | Path, *, named_only: bool = False) -> Path:
        """The folder of a prompt.

        Args:
            ref: ``name`` for the latest version, ``name@2``, or a folder's path.
            named_only: refuse paths; for callers that pass on what strangers typed.

        Raises:
            StoreError: no such prompt; the error names similar ones.
        """
        if not named_only and is_path(ref):
            path = Path(ref)
            if "\0" in str(path) or not (path / MANIFEST_FILE).is_file():
                raise UnknownPrompt(
                    "this is no prompt's folder",
                    got=f"{str(path)!r:.200}",
                    wanted=f"a folder that holds {MANIFEST_FILE}",
                )
            return path
        return self._version_folder(self._with_version(parsed_ref(str(ref))))

    def check_can_add(self, name: str) -> None:
        """Refuse, before long work, a prompt that could not be kept at its end.

        Args:
            name: what the prompt will be called.

        Raises:
            StoreError: the name is wrong, leads outside the store, or a folder of the store cannot be written.
        """
        self._named(name)
        for folder in (self.prompts, self.runs):
            there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
            if not os.access(there, os.W_OK | os.X_OK):
                fix = "get the right to write there, or name another store with --store"
                raise StoreError("the store cannot be written", where=str(there), fix=fix)

    def pinned(self, ref: str) -> str:
        """A reference that names the same prompt when there are later versions; a path is one already.

        Raises:
            StoreError: no such prompt.
        """
        return ref if is_path(ref) else str(self._with_version(parsed_ref(ref)))

    def names(self) -> tuple[str, ...]:
        """The names of all prompts, in order, those among them whose versions were all removed.

        One folder is read, and only when names were added to it.
        """
        if not self.prompts.is_dir():
            return ()
        stamp_ns = self.prompts.stat().st_mtime_ns
        if self._names[0] != stamp_ns:
            with os.scandir(self.prompts) as entries:
                names = tuple(sorted(e.name for e in entries if is_name(e.name) and e.is_dir(follow_symlinks=False)))
            # A name added within the same step of the clock would leave the stamp as it is.
            is_settled = time.time_ns() - stamp_ns > _MIN_AGE_S * 1e9
            self._names = (stamp_ns if is_settled else -1, names)
        return self._names[1]

    def versions(self, name: str) -> tuple[int, ...]:
        """The versions of a prompt, in order; none of an unknown one."""
        return tuple(_versions(self._named(name)))

    def aliases(self, name: str) -> dict[str, int]:
        """The versions of a prompt that have names, by these.

        Raises:
            StoreError: the name is wrong, or the file is damaged.
        """
        record = read_record(_Aliases, self._named(name) / _ALIASES)
        return dict(record.versions) if record else {}

    def move_alias(self, ref: str, alias: str) -> str:
        """Give a version a name, which moves from the version that had it in one step; readers see the old or the new.

        Args:
            ref: ``name@2``, ``name`` for the latest version, or another alias.
            alias: the name, such as ``prod``.

        Returns:
            The version, as ``name@2``.

        Raises:
            StoreError: no such prompt, the alias is wrong, or another process keeps the store locked.
        """
        checked_alias(alias)
        with self._writing():
            version_ref = self._with_version(parsed_ref(ref))
            self._write_aliases(version_ref.name, {**self.aliases(version_ref.name), alias: version_ref.version or 0})
        return str(version_ref)

    def remove_alias(self, ref: str) -> str:
        """Take a version's name away; the version stays.

        Args:
            ref: ``name@alias``.

        Returns:
            The version that had it.

        Raises:
            StoreError: no such alias, or another process keeps the store locked.
        """
        alias_ref = parsed_ref(ref)
        if not alias_ref.alias:
            raise WrongName("this is no alias", got=ref, wanted="name@alias, such as movie@prod")
        with self._writing():
            version_ref, aliases = self._with_version(alias_ref), self.aliases(alias_ref.name)
            self._write_aliases(version_ref.name, {name: aliases[name] for name in aliases if name != alias_ref.alias})
        return str(version_ref)

    def _write_aliases(self, name: str, versions: dict[str, int]) -> None:
        write_atomic(self._named(name) / _ALIASES, _Aliases(versions=versions).model_dump_json(indent=1) + "\n")

    def list(self) -> Entries:
        """Every version of every prompt, by name and version; one that cannot be read is listed with its problem."""
        return self._entries(self.names(), is_whole=True) if self.root.is_dir() else []

    def page(self, after: str = "", limit: int = 100, match: str = "") -> Page:
        """A stretch of the list, for stores of very many prompts; only its own folders are read.

        Args:
            after: the name behind which it begins; empty for the first page.
            limit: names on a page, from 1; those whose versions were all removed count, and show nothing.
            match: only names that contain this text.
        """
        if not self.root.is_dir():
            return Page(entries=[], after="", num_names=0)
        names = [name for name in self.names() if match in name] if match else self.names()
        begin = bisect_right(names, after)
        page_names = names[begin : begin + max(1, limit)]
        # Between two matching names there are others: the index is asked for each stretch without gaps.
        stretches = [[name] for name in page_names] if match else [page_names]
        entries = [entry for stretch in stretches for entry in self._entries(stretch, is_whole=False)]
        last = page_names[-1] if begin + len(page_names) < len(names) else ""
        return Page(entries=entries, after=last, num_names=len(names))

    def _entries(self, names: Sequence[str], is_whole: bool) -> Entries:
        manifests: dict[Key, Manifest] = {}
        with _no_collection():
            rows = self._index.rows(self._stamps(names), partial(self._read, manifests=manifests), is_whole=is_whole)
            entries = [self._entry(*row, manifests.get(row[:2])) for row in rows]
        # A prompt that was removed while it was read is not damaged, it is gone.
        return [entry for entry in entries if not entry.problem or entry.folder.exists()]

    def show(self, ref: str | Path) -> Entry:
        """One prompt's entry; the tensors are not read.

        Raises:
            StoreError: no such prompt.
            ArtifactError: it cannot be read.
        """
        folder = self.get(ref)
        manifest = read_manifest(folder)
        if is_path(ref):
            return Entry(name=manifest.name, version=manifest.version, folder=folder, manifest=manifest)
        version_ref = self._with_version(parsed_ref(str(ref)))
        return Entry(name=version_ref.name, version=version_ref.version or 0, folder=folder, manifest=manifest)

    def remove(self, ref: str) -> tuple[str, ...]:
        """Remove one version (``name@2``) or all of them (``name``).

        Returns:
            What was removed, as ``name@version``.

        Raises:
            StoreError: no such prompt, a single version that an alias names, or another process keeps the store locked.
        """
        target = parsed_ref(ref)
        with self._writing():
            self._with_version(target)
            folder = self._named(target.name)
            versions = _versions(folder) if target.version is None else [target.version]
            aliases = self.aliases(target.name)
            naming = [target.alias] if target.alias else [name for name in aliases if aliases[name] == target.version]
            if naming:
                alias = f"{target.name}@{naming[0]}"
                fix = f"move it with `overture alias REF {naming[0]}`, or take it away with `overture alias {alias} -r`"
                raise StoreError("a version that an alias names is not removed", got=alias, fix=fix)
            folders = [self._version_folder(Ref(target.name, version)) for version in versions]
            # A number is never given twice: logs and servers may still name it. So the folder with it stays.
            last = max([*_versions(folder), _last_version(folder)])
            write_atomic(folder / _LAST_VERSION, f"{last}\n")
            if target.version is None:
                (folder / _ALIASES).unlink(missing_ok=True)
            _vanish(folders)
            for version in versions:
                explanation_path(self.root, Ref(target.name, version)).unlink(missing_ok=True)
        return tuple(str(Ref(target.name, version)) for version in versions)

    def diff(self, a: str | Path, b: str | Path) -> "PromptDiff":
        """The differences between two prompts in configuration, scores and tensors.

        Raises:
            StoreError: no such prompt.
            ArtifactError: one cannot be read.
        """
        from overture.store.diff import difference

        return difference(self.get(a), self.get(b))

    def _writing(self) -> AbstractContextManager[None]:
        # Trainings that end together must not lose one of them, however many they are.
        return exclusive(self.root / ".lock", "to this store", _LOCK_WAIT_S)

    def _sweep(self, folders: Iterable[Path]) -> None:
        folders = [folder for folder in folders if any(folder.glob(f"{TEMPORARY}*"))]
        if not folders:
            # Many readers must not keep a writer waiting for a lock that they take for nothing.
            return
        # Under the lock only: a temporary folder of a writer that lives is no orphan.
        try:
            with exclusive(self.root / ".lock", "to this store"):
                for folder in folders:
                    sweep_temporaries(folder)
        except (StoreError, OSError):
            # A writer is at work, or the store is read-only: another opening will sweep.
            return

    def _named(self, name: str) -> Path:
        """The folder of a name; a link there could lead anywhere, so it is refused."""
        folder = self.prompts / checked_name(name)
        # A name has no parts, so nothing else than these two can lead elsewhere.
        if os.path.islink(folder) or os.path.islink(self.prompts):
            raise StoreError("a prompt's folder leads outside the store", where=str(folder), fix="remove the link")
        return folder

    def _with_version(self, ref: Ref) -> Ref:
        """The reference with its version: the one asked for, or the latest."""
        versions = _versions(self._named(ref.name))
        if not versions:
            # Of very many names only those beside it in the order of the alphabet are compared.
            names = self.names()
            begin = max(0, bisect_right(names, ref.name) - _MAX_COMPARED // 2)
            near = difflib.get_close_matches(ref.name, names[begin : begin + _MAX_COMPARED], 9)
            raise self._unknown(ref, [name for name in near if _versions(self.prompts / name)])
        if ref.version is None and not ref.alias:
            return Ref(ref.name, versions[-1])
        version = self.aliases(ref.name).get(ref.alias) if ref.alias else ref.version
        if version not in versions:
            candidates = [Ref(ref.name, None, alias) for alias in self.aliases(ref.name)]
            raise self._unknown(ref, list(map(str, [*candidates, *(Ref(ref.name, number) for number in versions)])))
        return Ref(ref.name, version)

    def _unknown(self, ref: Ref, candidates: Sequence[str]) -> UnknownPrompt:
        near = difflib.get_close_matches(str(ref), candidates, 3)
        fix = f"did you mean {', '.join(near)}?" if near else "`overture list` shows what is there"
        return UnknownPrompt("no such prompt", where=str(self.root), got=str(ref), fix=fix)

    def _version_folder(self, ref: Ref) -> Path:
        folder = self._named(ref.name) / f"v{ref.version}"
        if os.path.islink(folder):
            raise StoreError("a prompt's folder is a link", where=str(folder), fix="remove the link")
        return folder

    def _stamps(self, names: Sequence[str]) -> dict[Key, str]:
        """The versions of prompts, each with a text that changes when its manifest is replaced."""
        stamps, leftovers = dict[Key, str](), list[Path]()
        for name in names:
            folder = os.path.join(self.prompts, name)
            versions, has_leftovers = _listed(folder)
            stamps |= {(name, version): _stamp(f"{folder}/v{version}") for version in versions}
            if has_leftovers:
                leftovers.append(Path(folder))
        self._sweep(leftovers)
        return stamps

    def _read(self, key: Key, manifests: dict[Key, Manifest] | None = None) -> tuple[str, str]:
        try:
            manifest, text = read_manifest_json(self._version_folder(Ref(*key)))
        except ArtifactError as error:
            return "", str(error)
        if manifests is not None:
            manifests[key] = manifest
        return text, ""

    def _entry(self, name: str, version: int, manifest: str, problem: str, fresh: Manifest | None = None) -> Entry:
        folder = self.prompts / name / f"v{version}"
        if problem or fresh is not None:
            return Entry(name=name, version=version, folder=folder, manifest=fresh, problem=problem)
        try:
            indexed = Manifest.model_validate_json(manifest, context=FROM_JSON)
            return Entry(name=name, version=version, folder=folder, manifest=indexed)
        except ValidationError:
            # The index was edited, or written by an Overture whose manifests differ: ask the folder.
            manifest, problem = self._read((name, version))
            read_again = Manifest.model_validate_json(manifest) if manifest else None
            return Entry(name=name, version=version, folder=folder, manifest=read_again, problem=problem)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Look for no cycles while many manifests are made: they have none, and the search is half of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            # This moves the new objects to the oldest generation: else the collector would search all of them now.
            gc.freeze()
            gc.unfreeze()
            gc.enable()


def _versions(folder: Path) -> Sequence[int]:
    return _listed(folder)[0]


def _listed(folder: Path | str) -> tuple[Sequence[int], bool]:
    """The versions in a name's folder, and whether writers that were killed left something there."""
    try:
        with os.scandir(folder) as listing:
            entries = list(listing)
    except (FileNotFoundError, NotADirectoryError):
        return [], False
    numbers = ((version_of(entry.name), entry) for entry in entries)
    versions = sorted(number for number, entry in numbers if number and entry.is_dir(follow_symlinks=False))
    return versions, any(entry.name.startswith(TEMPORARY) for entry in entries)


def _stamp(folder: str) -> str:
    try:
        stat = os.lstat(f"{folder}/{MANIFEST_FILE}")
    except OSError:
        return "missing"
    return f"{stat.st_mtime_ns}-{stat.st_ctime_ns}-{stat.st_size}-{stat.st_ino}"


def _last_version(folder: Path) -> int:
    """The highest version that was ever given and then removed, or 0."""
    try:
        return int((folder / _LAST_VERSION).read_text())
    except (OSError, ValueError):
        return 0


def _vanish(folders: Sequence[Path]) -> None:
    # Renamed first: a reader sees a folder whole or not at all, and a killed removal is swept later.
    aside = [folder.with_name(f"{TEMPORARY}removed-{os.getpid()}-{folder.name}") for folder in folders]
    for folder, target in zip(folders, aside, strict=True):
        folder.rename(target)
        fsync_dir(folder.parent)
    for target in aside:
        shutil.rmtree(target)
