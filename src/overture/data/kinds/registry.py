"""The kinds by name. A new kind is one file and one line here."""

import difflib

from overture.data.kind import TaskKind
from overture.data.kinds import (
    answering,
    chat,
    choice,
    classification,
    generation,
    multilabel,
    regression,
    tagging,
    transcription,
)

KINDS: dict[str, TaskKind] = {
    kind.KIND.name: kind.KIND
    for kind in (classification, multilabel, regression, choice, tagging, answering, generation, transcription, chat)
}


def kind_named(name: str) -> TaskKind:
    """A kind by its name.

    Raises:
        ValueError: there is none; the nearest is told.
    """
    if name not in KINDS:
        near = difflib.get_close_matches(name, KINDS, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(KINDS)}"
        raise ValueError(f"no such kind of task: {name!r}; {hint}")
    return KINDS[name]
