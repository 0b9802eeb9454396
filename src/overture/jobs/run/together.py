"""A run on which several processes work: the first one keeps its folder, the others a copy that goes when they end.

All processes do the same work and read the same files, so that no step needs to know how many there are. What a
process other than the first writes is thrown away.
"""

import json
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import TypeVar

from pydantic import TypeAdapter

from overture.engine import ranks as engine_ranks
from overture.engine.ranks import Ranks
from overture.jobs.run.request import TuneConfig
from overture.store.runs import EVENT_LINES, Run

T = TypeVar("T")
_NOT_COPIED = {".lock", EVENT_LINES, "trackers.json", "tensorboard"}
"""Files that no work reads."""


def joined(config: TuneConfig) -> AbstractContextManager[Ranks | None]:
    """The processes that work on a request together; see `engine.ranks.joined`."""
    return engine_ranks.joined(config.tensor_parallel, config.shard, config.device)


def losses_named(ranks: Ranks | None) -> AbstractContextManager[None]:
    """Name a process that is lost, so that the run's folder says so; see `engine.ranks.lost_process_named`."""
    return nullcontext() if ranks is None else engine_ranks.lost_process_named(ranks.launch)


def is_first(ranks: Ranks | None) -> bool:
    """Whether this process writes and speaks."""
    return ranks is None or ranks.is_first


def agreed(ranks: Ranks | None, kind: TypeAdapter[T], make: Callable[[], T]) -> T:
    """A value that the first process makes, in all processes.

    Args:
        ranks: the processes; None where this is the only one.
        kind: of the value.
        make: called in the first process alone.
    """
    if ranks is None:
        return make()
    value: list[T] = []

    def dumped() -> bytes:
        value.append(make())
        return kind.dump_json(value[0])

    text = ranks.bytes_from_first(dumped)
    return value[0] if value else kind.validate_json(text)


@contextmanager
def shared_run(ranks: Ranks | None, open_run: Callable[[], Run]) -> Iterator[Run]:
    """A run's folder in the first process, a copy of it in the others.

    Args:
        ranks: the processes; None where this is the only one.
        open_run: called in the first process alone.
    """
    if ranks is None:
        yield open_run()
        return
    runs: list[Run] = []

    def files() -> bytes:
        runs.append(open_run())
        folder = runs[0].folder
        paths = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
        copied_paths = [path for path in paths if path.parts[0] not in _NOT_COPIED]
        contents = {path.as_posix(): b64encode((folder / path).read_bytes()).decode() for path in copied_paths}
        return json.dumps([runs[0].name, contents]).encode()

    name, contents = json.loads(ranks.bytes_from_first(files))
    if runs:
        yield runs[0]
        return
    with TemporaryDirectory(prefix="overture-") as scratch:
        folder = Path(scratch) / name
        for path, content in contents.items():
            file = folder / PurePosixPath(path)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(b64decode(content))
        yield Run(folder)
