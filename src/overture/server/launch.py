"""Runs started from pages, each in a process of its own that continues when the browser or the server ends."""

import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from pydantic import Field

from overture.core.files import write_json
from overture.core.records.base import Record, read_record
from overture.core.records.runs import RunStatus
from overture.server.errors import Refused
from overture.store.runs import STATUS, Run, newest_runs, read_if_whole

COMMAND, OUTPUT = "command.json", "output.log"
_MAX_RUNNING = 2
_MAX_LOOKED_AT = 20
_TAIL_BYTES = 6000


class Launch(Record):
    """``command.json``: how a run was started from a page."""

    words: tuple[str, ...] = Field(description="the command line, without the name of the program")
    pid: int = Field(description="the process")
    created: str = Field(description="when it began, UTC, ISO 8601")
    makes: str = Field("", description="the comparison that it makes; empty where it makes a run")


class Launcher:
    """Starts, stops and watches runs.

    Args:
        root: the store's folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, words: Sequence[str], makes: str = "") -> str:
        """Start a command that makes a run or a comparison.

        Args:
            words: the command line, without the name of the program.
            makes: the comparison's name; empty where it makes a run.

        Returns:
            A name for the start, until the run has one.

        Raises:
            Refused: as many runs as may run at once are running.
        """
        start = secrets.token_hex(8)
        folder = self.root / "started" / start
        self._check_room()
        folder.mkdir(parents=True)
        process = self._process([*words, "--store", str(self.root)], folder / OUTPUT, start)
        created = datetime.now(UTC).isoformat(timespec="seconds")
        write_json(folder / COMMAND, Launch(words=tuple(words), pid=process.pid, created=created, makes=makes).dump())
        return start

    def resume(self, run: Run) -> None:
        """Go on with a run; its output goes on in its folder.

        Raises:
            Refused: it is running or finished, or too many others are running.
        """
        if run.is_finished or run.is_held:
            what = "the run is finished" if run.is_finished else "the run is running already"
            raise Refused(409, "run_not_stopped", what, where="run", got=run.name)
        self._check_room()
        self._process(["resume", run.name, "--store", str(self.root)], run.folder / OUTPUT, run.name)

    def stop(self, run: Run) -> None:
        """Ask a run to stop after its step, as Ctrl-C does.

        Raises:
            Refused: nobody works on it.
        """
        status = read_if_whole(run, STATUS, RunStatus)
        if status is None or not run.is_held:
            raise Refused(409, "run_not_running", "the run is not running", where="run", got=run.name)
        try:
            os.kill(status.pid, signal.SIGTERM)
        except OSError as error:
            what = "the process of the run cannot be reached"
            raise Refused(409, "run_not_running", what, where="run", got=f"process {status.pid}: {error}") from None

    def launch(self, start: str) -> Launch:
        """How something was started that has no run yet.

        Raises:
            Refused: nothing of that name was started.
        """
        folder = self.root / "started" / start
        launch = read_record(Launch, folder / COMMAND) if start.isalnum() else None
        if launch is None:
            raise Refused(404, "not_found", "nothing was started under this name", where="start", got=start)
        return launch

    def run_of(self, start: str) -> str | None:
        """The run that a started command made, or None; moves the command's output into the run's folder.

        Raises:
            Refused: as `launch`.
        """
        launch, folder = self.launch(start), self.root / "started" / start
        for name in newest_runs(self.root / "runs")[:_MAX_LOOKED_AT]:
            run = Run(self.root / "runs" / name)
            status = read_if_whole(run, STATUS, RunStatus)
            if status and status.pid == launch.pid and run.request().created >= launch.created:
                for file in (COMMAND, OUTPUT):
                    (folder / file).rename(run.folder / file)
                folder.rmdir()
                return name
        return None

    def is_alive(self, start: str) -> bool:
        """Whether the process of a start works."""
        process = self._processes.get(start)
        if process is not None:
            return process.poll() is None
        try:
            os.kill(self.launch(start).pid, 0)
        except OSError:
            return False
        return True

    def is_resuming(self, run: Run) -> bool:
        """Whether a process was started that goes on with a run."""
        process = self._processes.get(run.name)
        return process is not None and process.poll() is None

    def output(self, start: str) -> str:
        """The end of what a start has written so far."""
        return tail(self.root / "started" / start / OUTPUT)

    def _check_room(self) -> None:
        self._processes = {name: process for name, process in self._processes.items() if process.poll() is None}
        if len(self._processes) >= _MAX_RUNNING:
            what, fix = "too many runs are running already", "wait until one has ended, or stop one"
            raise Refused(409, "too_many_runs", what, where="run", wanted=f"{_MAX_RUNNING} at once", fix=fix)

    def _process(self, words: Sequence[str], output: Path, name: str) -> "subprocess.Popen[bytes]":
        with output.open("ab") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "overture", *words],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                # Ctrl-C in the server's terminal is not meant for the run.
                start_new_session=True,
            )
        self._processes[name] = process
        return process


def tail(path: Path) -> str:
    """The last lines of a file; empty where there is none."""
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
        text = file.read().decode(errors="replace")
    return text if len(text) < _TAIL_BYTES else text.partition("\n")[2]
