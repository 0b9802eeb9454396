"""Notices about a task's data: counted, with the first place, merged into a few sentences."""

from collections.abc import Iterable

from pydantic import Field

from overture.core.records.base import Record

_MAX_SUBJECTS = 10


class DataNotice(Record):
    """Something in the data that is no error: what it is, how often it occurs, where first, and what was done."""

    kind: str = Field(description="what was noticed; notices of one kind are shown together")
    subject: str = Field("", description="what it was noticed in: a field, a label, a file")
    count: int = Field(0, description="how many there are; 0 where nothing is counted")
    unit: str = Field("row", description="what is counted, in the singular")
    first: str = Field("", description="the first one, as file:line")
    done: str = Field("", description="what was done about it, or what can be done")
    setting: str = Field("", description="what an option of the task file can do about it")

    @property
    def text(self) -> str:
        """The notice as a sentence."""
        return notice_texts([self])[0]


def notice_texts(notices: Iterable[DataNotice]) -> list[str]:
    """One sentence for each kind: ``empty text: Subject 32 rows, Body 13 rows, first a.csv:17 (left out)``."""
    groups: dict[tuple[str, str], list[DataNotice]] = {}
    for notice in notices:
        done = "; ".join(filter(None, (notice.done, notice.setting)))
        groups.setdefault((notice.kind, done), []).append(notice)
    texts = []
    for (kind, done), members in groups.items():
        parts = [_part(notice) for notice in members[:_MAX_SUBJECTS]]
        if len(members) > _MAX_SUBJECTS:
            parts.append(f"and {len(members) - _MAX_SUBJECTS} more")
        first = next((notice.first for notice in members if notice.first), "")
        parts += [f"first {first}"] if first else []
        about = ", ".join(part for part in parts if part)
        texts.append(kind + (f": {about}" if about else "") + (f" ({done})" if done else ""))
    return texts


def _part(notice: DataNotice) -> str:
    count = f"{notice.count:,} {notice.unit}{'' if notice.count == 1 else 's'}" if notice.count else ""
    return " ".join(part for part in (notice.subject, count) if part)
