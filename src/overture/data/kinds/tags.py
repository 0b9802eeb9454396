"""Tags and spans: ``B-x I-x O`` and ``(x, first token, token behind the last)``."""

from collections.abc import Sequence

_INSIDE, _LAST = "IMEL", "ELSU"


def split_tag(tag: str) -> tuple[str, str]:
    """A tag as B, I or O, and its type; O has no type. Tags of other schemes, such as E-x and S-x, become B and I.

    Raises:
        ValueError: it is no tag of BIO, BIOES, BILOU or BMES.
    """
    prefix, dash, name = tag.partition("-")
    if tag == "O":
        return "O", ""
    if len(prefix) != 1 or prefix not in "BSU" + _INSIDE or not dash or not name:
        raise ValueError(f"{tag!r} is no tag of a span")
    return "I" if prefix in _INSIDE else "B", name


def may_follow(tag: str, before: str) -> bool:
    """Whether a tag may stand behind another: what is inside a span follows its beginning, and nothing its end."""
    prefix, name = split_tag(tag)
    before_prefix, before_name = split_tag(before)
    return prefix != "I" or (before_prefix != "O" and before_name == name and before[0] not in _LAST)


def spans_of(tags: Sequence[str]) -> list[tuple[str, int, int]]:
    """The spans that tags spell, strictly: one begins at its B alone, and I without its B is nothing."""
    spans: list[tuple[str, int, int]] = []
    for number, tag in enumerate(tags):
        prefix, name = split_tag(tag)
        if prefix == "B":
            spans.append((name, number, number + 1))
        elif prefix == "I" and spans and spans[-1][0] == name and spans[-1][2] == number:
            spans[-1] = (name, spans[-1][1], number + 1)
    return spans


def tags_of(spans: Sequence[tuple[str, int, int]], count: int) -> list[str]:
    """Spans as tags of so many tokens; where spans overlap the first has it."""
    tags = ["O"] * count
    for name, start, end in spans:
        if all(tag == "O" for tag in tags[start:end]):
            tags[start:end] = [f"B-{name}", *[f"I-{name}"] * (end - start - 1)]
    return tags


def best_tags(scores: Sequence[Sequence[float]], names: Sequence[str]) -> list[str]:
    """The tags with the highest sum of scores in which every I follows its B or I.

    Source: Viterbi 1967.
    """
    # The tags that may stand before each.
    before = [[b for b, previous in enumerate(names) if may_follow(name, previous)] for name in names]
    best = [value if may_follow(names[tag], "O") else float("-inf") for tag, value in enumerate(scores[0])]
    steps_back: list[list[int]] = []
    for row in scores[1:]:
        last = [max(candidates, key=lambda tag: best[tag]) for candidates in before]
        best = [best[last[tag]] + value for tag, value in enumerate(row)]
        steps_back.append(last)
    path = [max(range(len(names)), key=lambda tag: best[tag])]
    for last in reversed(steps_back):
        path.append(last[path[-1]])
    return [names[tag] for tag in reversed(path)]
