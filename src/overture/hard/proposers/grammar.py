"""Structure: how the input is introduced, and how the question is put behind it.

Source of the idea that formats of one meaning score far apart: Sclar et al. 2024, "Quantifying language models'
sensitivity to spurious features in prompt design" (FormatSpread). Ours changes names, separators, casing and the end.
"""

from itertools import product

from overture.core.records.hard import Candidate, Wording
from overture.data.template import Slot, parse
from overture.hard.proposer import Ask

_GAPS = ("\n", "\n\n", " ", " => ")
_QUESTIONS = ("Answer:", "Label:", "Category:", "It is", "This is about", "The answer is")
_NAMES = ("", "Text: ", "Input: ")


class Grammar:
    """Templates of the same fields."""

    def propose(self, ask: Ask) -> list[Candidate]:
        """The task file's template first, then other templates in random order."""
        leader = ask.leader
        template = leader.wording.template or ask.scorer.task.template
        templates = _templates(template) if isinstance(template, str) else []
        ask.random.shuffle(templates)
        wordings = [Wording(template=text, labels=leader.wording.labels) for text in [None, *templates]]
        return [leader.model_copy(update={"wording": wording, "origin": "grammar"}) for wording in wordings]


def _templates(template: str) -> list[str]:
    pieces = parse(template)
    last = max(number for number, piece in enumerate(pieces) if isinstance(piece, Slot))
    is_plain = all(isinstance(piece, str | Slot) for piece in pieces)
    if not is_plain or "{{" in template or "}}" in template:
        return []
    head, field, end = (
        "".join(f"{{{piece.name}}}" if isinstance(piece, Slot) else str(piece) for piece in part)
        for part in (pieces[:last], pieces[last : last + 1], pieces[last + 1 :])
    )
    question = end.strip()
    questions = dict.fromkeys([question, question.upper(), question.lower(), *_QUESTIONS])
    ends = [gap + text for gap, text in product(_GAPS, questions) if text]
    # A head with other fields stays; names vary only where the input is one field.
    heads = dict.fromkeys([head, *(_NAMES if last <= 1 and "{" not in head else ())])
    inputs = [(name, field) for name in heads] + [(head, f'"{field}"')]
    return [name + value + end for (name, value), end in product(inputs, ends) if name + value + end != template]
