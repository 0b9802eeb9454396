"""Instructions of a file: a text a line, or JSON lines with ``text`` and, if wanted, ``place``."""

import json
from pathlib import Path

from overture.core.errors import DataError, Problem
from overture.core.records.hard import Candidate
from overture.hard.proposer import Ask


class File:
    """Wordings from a file.

    Args:
        path: the file.

    Raises:
        DataError: it cannot be read, or a line is no wording.
    """

    def __init__(self, path: Path) -> None:
        self.wordings = read_wordings(path)

    def propose(self, ask: Ask) -> list[Candidate]:
        """All wordings of the file; the search skips those that it has scored."""
        return [ask.leader.model_copy(update={**wording, "origin": "file"}) for wording in self.wordings]


def read_wordings(path: Path) -> list[dict[str, str]]:
    """The wordings of a file.

    Raises:
        DataError: it cannot be read, is empty, or a line is no wording.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError("the wordings cannot be read", where=str(path), got=str(error)) from None
    wordings, problems = [], []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        place, text = "after", f"\n{line.strip()}"
        if line.lstrip().startswith("{"):
            try:
                values = json.loads(line)
                text, place = values["text"], values.get("place", "after")
            except (ValueError, KeyError, TypeError) as error:
                problems.append(Problem(f"{path}:{number}", f"no wording: {error!r}", 'write {"text": "..."}'))
                continue
            if not isinstance(text, str) or place not in ("before", "after"):
                problems.append(Problem(f"{path}:{number}", "no wording", "text is a string, place before or after"))
                continue
        wordings.append({"text": text, "place": place})
    if problems or not wordings:
        raise DataError("the file holds no wordings" if not wordings else "lines are no wordings", where=str(path),
                        wanted="a text a line, or JSON lines with text and place", problems=problems)  # fmt: skip
    return wordings
