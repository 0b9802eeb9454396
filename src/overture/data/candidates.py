"""Label words as tokens."""

from overture.core.contracts import TextTokenizer
from overture.core.errors import DataError, Problem
from overture.core.rows import Candidates
from overture.data.kind import TaskFile


def candidates_of(task: TaskFile, tokenizer: TextTokenizer) -> tuple[Candidates | None, list[str]]:
    """The task's label words as tokens, with notices on odd ones; None for free-text tasks.

    Raises:
        DataError: a word has no tokens, or two words have the same.
    """
    if not task.labels:
        return None, []
    texts = [(label, word) for label, words in task.words.items() for word in words]
    # Without words nothing is compared with a label's word: its number stands for it.
    ids = [
        tuple(tokenizer.encode_plain(word)) if tokenizer.has_words else (number,)
        for number, (_, word) in enumerate(texts)
    ]
    problems = []
    first: dict[tuple[int, ...], tuple[str, str]] = {}
    for (label, word), tokens in zip(texts, ids, strict=True):
        if not tokens:
            problems.append(Problem(f"labels.{label}", f"the word {word!r} has no tokens"))
        elif tokens in first:
            other_label, other_word = first[tokens]
            problems.append(
                Problem(f"labels.{label}", f"{word!r} has the tokens of {other_word!r} of label {other_label!r}")
            )
        else:
            first[tokens] = (label, word)
    if problems:
        raise DataError("the label words cannot be told apart", where="labels", problems=problems)
    labels = tuple(task.words)
    candidates = Candidates(labels, tuple(ids), tuple(labels.index(label) for label, _ in texts))
    # An encoder's words are read at its mask, or stand for nothing but their label.
    if tokenizer.is_encoder:
        return candidates, []
    notices = [
        f"label word {word!r} is the beginning of {longer!r} of label {other_label!r}"
        for (label, word), tokens in zip(texts, ids, strict=True)
        for (other_label, longer), more in zip(texts, ids, strict=True)
        if other_label != label and len(more) > len(tokens) and more[: len(tokens)] == tokens
    ]
    # Where a decoder of its own writes, nothing stands in front of the words.
    return candidates, notices if tokenizer.start_ids else notices + _space_notices(task)


def _space_notices(task: TaskFile) -> list[str]:
    """Words that would be glued to the template, or stand two spaces away from it."""
    if not isinstance(task.template, str):
        return []
    ends_with_space = task.template[-1].isspace()
    odd = [word for words in task.words.values() for word in words if word[0].isspace() == ends_with_space]
    if not odd:
        return []
    first_words = ", ".join(map(repr, odd[:5]))
    if ends_with_space:
        return [f"the template ends with a space and so does the beginning of {first_words}: two spaces between them"]
    return [f"no space between the template's end and {first_words}; write the words with their leading space"]
