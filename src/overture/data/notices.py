"""Notices of a task's data, collected while files are read and rows are checked."""

from collections.abc import Iterable

from overture.core.records.data import DataNotice


class Notices:
    """Collects notices; those of one kind and subject are counted together."""

    def __init__(self, notices: Iterable[DataNotice] = ()) -> None:
        self._counts: dict[tuple[str, str, str, str, str], int] = {}
        self._firsts: dict[tuple[str, str, str, str, str], str] = {}
        self.extend(notices)

    def add(
        self,
        kind: str,
        subject: str = "",
        *,
        count: int = 0,
        unit: str = "row",
        first: str = "",
        done: str = "",
        setting: str = "",
    ) -> None:
        """Add a notice; see `DataNotice` for the arguments."""
        key = (kind, subject, unit, done, setting)
        self._counts[key] = self._counts.get(key, 0) + count
        if not self._firsts.get(key):
            self._firsts[key] = first

    def extend(self, notices: Iterable[DataNotice]) -> None:
        """Add notices that were collected elsewhere."""
        for notice in notices:
            self.add(**dict(notice))

    def records(self) -> list[DataNotice]:
        """The notices, in the order in which they were first added."""
        return [
            DataNotice(
                kind=kind,
                subject=subject,
                count=count,
                unit=unit,
                first=self._firsts[kind, subject, unit, done, setting],
                done=done,
                setting=setting,
            )
            for (kind, subject, unit, done, setting), count in self._counts.items()
        ]
