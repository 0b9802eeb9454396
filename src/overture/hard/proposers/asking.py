"""The request to a language model that proposes instructions, and the reading of its answer."""

import re

from overture.core.records.hard import Candidate
from overture.hard.proposer import Ask

_TAGGED = re.compile(r"<instruction>(.*?)</instruction>", re.DOTALL | re.IGNORECASE)
_SHOWN_ROWS, _SHOWN_TEXTS = 4, 5
_LONGEST_TEXT = 300


def request_of(ask: Ask) -> str:
    """The request: the task, the best instructions with their scores, rows that go wrong, the form of an answer."""
    task = ask.scorer.task_of(ask.leader.wording)
    labels = ", ".join(f"{label} ({words[0].strip()})" for label, words in task.words.items())
    template = task.template if isinstance(task.template, str) else "\n".join(m.content for m in task.template)
    lines = ["A small language model answers rows of this form:", template]
    lines += [f"The right answers are: {labels}."] if labels else []
    lines.append("An instruction may stand behind the row's text. The best ones so far, with mean log-likelihoods:")
    for standing in ask.best[:_SHOWN_TEXTS]:
        lines.append(f"{standing.log_likelihood:.3f}: {standing.candidate.text.strip() or '(no instruction)'}")
    if ask.wrong:
        lines.append("Rows that it gets wrong, or finds the right answer unlikely for:")
        for row in ask.wrong[:_SHOWN_ROWS]:
            answer = f", it says {row.said}" if row.said else ""
            lines.append(f"- {row.text[:_LONGEST_TEXT]!r}: right is {row.gold}{answer}")
    lines.append(
        f"Write {min(ask.count, 8)} better instructions of at most {ask.scorer.room} tokens. Do not copy rows. "
        "Put each between <instruction> and </instruction>."
    )
    return "\n".join(lines)


def candidates_in(answer: str, ask: Ask, origin: str) -> list[Candidate]:
    """The instructions of an answer, between their tags; all else is left out."""
    texts = [" ".join(text.split()) for text in _TAGGED.findall(answer)]
    leader = ask.leader.model_copy(update={"place": "after"})
    return [ask.worded(f"\n{text}", origin, leader) for text in texts if text]
