"""Every error that Overture raises on purpose.

OvertureError
+-- UserError (also ValueError)   the caller can mend it; the CLI prints it and exits with 2
|   +-- ConfigError               an option is unknown, of the wrong type, or does not fit another
|   +-- DataError                 rows, files, templates, label words
|   +-- BackboneError             the model cannot be found, read, or is not supported
|   |   +-- NotReady              a server's model is not loaded, or its process has died
|   +-- ArtifactError             a prompt folder is damaged, unsafe, or made for another model
|   +-- StoreError                a name is taken, or a file of the store is damaged
|   |   +-- WrongName             no prompt, version or alias can be called so
|   |   +-- UnknownPrompt         there is no prompt, version or alias of this name
|   |   +-- UnknownSession        there is no labelling session of this name
|   |   +-- StoreLocked           another process writes
|   |   +-- StoreReadOnly         the system lets nobody write there
|   +-- DeviceFull                one row alone does not fit into the device's memory
+-- Diverged                      the loss became NaN or infinite; the last good prompt was kept
+-- LostProcess                   another of the processes that train together ended, or a worker did
+-- DiskFull                      nothing was lost, but nothing more can be written
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_MAX_LINES = 5


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong.

    Args:
        where: file and line, field or option.
        what: what stands there.
        fix: what should stand there, or what the user can do.
        setting: what an option of the task file can do about it; commands without a task file leave it out.
    """

    where: str
    what: str
    fix: str = ""
    setting: str = ""

    @property
    def advice(self) -> str:
        """All that the user can do."""
        return "; ".join(filter(None, (self.fix, self.setting)))

    def __str__(self) -> str:
        where = f"{self.where}: " if self.where else ""
        return f"{where}{self.what}" + (f" ({self.advice})" if self.advice else "")


def problem_lines(problems: Iterable[Problem], most: int = 20) -> list[str]:
    """A line for each mistake; rows of a file with the same one share a line.

    Args:
        problems: the mistakes.
        most: number of lines, beside one that counts the others.
    """
    alike: dict[tuple[str, str, str], list[str]] = {}
    for problem in problems:
        file, colon, line = problem.where.rpartition(":")
        alike.setdefault((file + colon or problem.where, problem.what, problem.advice), []).append(
            line if colon else ""
        )
    lines = []
    for (place, what, fix), rows in list(alike.items())[:most]:
        more = f" and {len(rows) - _MAX_LINES} more rows" if len(rows) > _MAX_LINES else ""
        where = place + ", ".join(filter(None, rows[:_MAX_LINES])) + more
        lines.append(f"- {Problem(where, what, fix)}")
    if len(alike) > most:
        lines.append(f"... and {sum(map(len, list(alike.values())[most:]))} more")
    return lines


class OvertureError(Exception):
    """An error with its place, the value there, the expected value, and a fix.

    Args:
        what: one sentence that says what is wrong.
        where: file, line, field or tensor.
        got: the value there.
        wanted: the expected value.
        fix: what the user can do.
        problems: several mistakes that are raised together.
    """

    exit_code = 1
    http_status = 500

    def __init__(
        self,
        what: str,
        *,
        where: str = "",
        got: str = "",
        wanted: str = "",
        fix: str = "",
        problems: Sequence[Problem] = (),
    ) -> None:
        self.what, self.where, self.got, self.wanted, self.fix = what, where, got, wanted, fix
        self.problems = tuple(problems)
        super().__init__(self._message())

    def _message(self, max_problems: int = 20) -> str:
        parts = {"where": self.where, "got": self.got, "wanted": self.wanted}
        lines = [self.what, *(f"  {name}: {text}" for name, text in parts.items() if text)]
        lines += [f"  {line}" for line in problem_lines(self.problems, max_problems)]
        if self.fix:
            lines.append(f"  fix: {self.fix}")
        return "\n".join(lines)

    def as_dict(self) -> dict[str, object]:
        """The error as the CLI's ``--json`` prints it."""
        fields = {"what": self.what, "where": self.where, "got": self.got, "wanted": self.wanted, "fix": self.fix}
        described: dict[str, object] = {name: text for name, text in fields.items() if text}
        if self.problems:
            described["problems"] = [str(problem) for problem in self.problems]
        return {"error": type(self).__name__, **described}


class UserError(OvertureError, ValueError):
    """The caller can mend it."""

    exit_code = 2
    http_status = 400


class ConfigError(UserError):
    """An option is unknown, of the wrong type, or does not fit another."""


class DataError(UserError):
    """Rows, files, templates or label words are wrong."""


class BackboneError(UserError):
    """The model cannot be found, read, or is not supported."""


class NotReady(BackboneError):
    """A server's model is not loaded, or its process has died."""

    http_status = 503


class ArtifactError(UserError):
    """A prompt folder is damaged, unsafe, or made for another model."""

    http_status = 409


class StoreError(UserError):
    """A name is taken, or a file of the store is damaged."""

    http_status = 409


class WrongName(StoreError):
    """No prompt, version or alias can be called so."""

    http_status = 400


class UnknownPrompt(StoreError):
    """There is no prompt, version or alias of this name."""

    http_status = 404


class UnknownSession(StoreError):
    """There is no labelling session of this name."""

    http_status = 404


class StoreLocked(StoreError):
    """Another process writes."""

    http_status = 503


class StoreReadOnly(StoreError):
    """The system lets this process write nothing there."""

    http_status = 503


class DeviceFull(UserError):
    """Not even one row at a time fits into the device's memory."""


class Diverged(OvertureError):
    """The loss became NaN or infinite."""

    exit_code = 3


class LostProcess(OvertureError):
    """A process that this one works with has ended."""


class DiskFull(OvertureError):
    """No room is left on the disk."""

    exit_code = 4
    http_status = 507


class Stopped(Exception):
    """Somebody asked to stop; what is done is kept."""
