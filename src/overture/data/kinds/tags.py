"""BIO tags and spans: ``B-x I-x O`` and ``(x, first token, token behind the last)``."""

from collections.abc import Sequence


def split_tag(tag: str) -> tuple[str, str]:
    """A tag as prefix and type; O has no type.

    Raises:
        ValueError: it is no BIO tag.
    """
    prefix, dash, name = tag.partition("-")
    if tag == "O":
        return "O", ""
    if prefix not in ("B", "I") or not dash or not name:
        raise ValueError(f"{tag!r} is no BIO tag")
    return prefix, name


def spans_of(tags: Sequence[str]) -> list[tuple[str, int, int]]:
    """The spans that tags spell, strictly: one begins at its B alone, and I without its B is nothing."""
    found: list[tuple[str, int, int]] = []
    for number, tag in enumerate(tags):
        prefix, name = split_tag(tag)
        if prefix == "B":
            found.append((name, number, number + 1))
        elif prefix == "I" and found and found[-1][0] == name and found[-1][2] == number:
            found[-1] = (name, found[-1][1], number + 1)
    return found


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
    split = [split_tag(name) for name in names]

    def may_follow(tag: int, before: int | None) -> bool:
        prefix, name = split[tag]
        return prefix != "I" or (before is not None and split[before][0] != "O" and split[before][1] == name)

    best = [value if may_follow(tag, None) else float("-inf") for tag, value in enumerate(scores[0])]
    came: list[list[int]] = []
    for row in scores[1:]:
        last = [
            max((b for b in range(len(names)) if may_follow(tag, b)), key=lambda b: best[b])
            for tag in range(len(names))
        ]
        best = [best[last[tag]] + value for tag, value in enumerate(row)]
        came.append(last)
    path = [max(range(len(names)), key=lambda tag: best[tag])]
    for last in reversed(came):
        path.append(last[path[-1]])
    return [names[tag] for tag in reversed(path)]
