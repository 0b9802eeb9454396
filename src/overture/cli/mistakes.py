"""Wrong answers, scores of each label, and the confusion table, in as many columns as the screen has."""

import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from overture.cli.out import show_text, wrapped
from overture.cli.tables import Column, show_table
from overture.core.records.scores import Confusion, LabelScore, Mistakes, WrongRow

if TYPE_CHECKING:
    from rich.console import Console

_MAX_TABLE_LABELS = 12
_OTHERS = "(others)"
_MIN_TEXT, _BORDERS = 24, 3
"""Least width of a row's text beside its answer; width of a table's borders and padding in each column."""
_FIGURES_WIDTH = 26
"""Columns of the screen that the figures of a label need: recall, F1 and rows."""
_MOST_LINES = 3
"""Lines of the screen that the right and the given answer of a row may have."""


def show_mistakes(out: "Console", mistakes: Mistakes, num_rows: int, split: str, ref: str | None = None) -> None:
    """Print the scores of each label, which labels are taken for which, and the worst answers.

    Args:
        out: where to print.
        mistakes: of a split.
        num_rows: number of its rows.
        split: its name.
        ref: the prompt whose wrong answers `overture errors` shows, with the flag for its store.
    """
    if mistakes.labels:
        out.print()
        show_labels(out, mistakes.labels)
    if mistakes.confusion and mistakes.num_wrong:
        out.print()
        show_confusion(out, mistakes.confusion)
    if mistakes.wrong:
        show_text(
            out,
            f"\nWrong answers: {mistakes.num_wrong} of {num_rows} {split} rows (right -> predicted, worst and most "
            "confident first):",
        )
        for line in wrong_lines(mistakes.wrong, out.width):
            out.print(line, soft_wrap=True)
        if ref:
            show_text(out, f"  all of them: overture errors {ref}")


def show_labels(out: "Console", scores: Sequence[LabelScore], way: str = "") -> None:
    """Print precision, recall and F1 of each label, by a way if named; of many labels those with the lowest F1."""
    visible_scores = list(scores)
    if len(scores) > _MAX_TABLE_LABELS:
        worst = sorted(scores, key=lambda score: (score.f1 is None, score.f1))[:_MAX_TABLE_LABELS]
        visible_scores = [score for score in scores if score in worst]
    title = (
        "labels"
        if len(visible_scores) == len(scores)
        else f"the {len(visible_scores)} of {len(scores)} labels with the lowest F1"
    )
    figures = [
        ["-" if value is None else f"{value:.2f}" for value in (score.precision, score.recall, score.f1)]
        for score in visible_scores
    ]
    names = in_lines([score.label for score in visible_scores], out.width - _FIGURES_WIDTH)
    columns = [
        Column("label", names, is_left=True),
        Column("precision", [row[0] for row in figures], rank=1),
        Column("recall", [row[1] for row in figures]),
        Column("F1", [row[2] for row in figures]),
        Column("rows", [str(score.num_gold) for score in visible_scores]),
        Column("predicted", [str(score.num_predicted) for score in visible_scores], rank=2),
    ]
    show_table(out, columns, f"{way}: {title}" if way else title)


def show_confusion(out: "Console", confusion: Confusion) -> None:
    """Print which labels are taken for which, and the most frequent errors."""
    num_digits = max(len(str(count)) for row in confusion.counts for count in row)
    column_width = max(num_digits, 2) + _BORDERS
    name_width = min(max(map(len, confusion.labels)) + 3, out.width // 3)
    most = min(_MAX_TABLE_LABELS, (out.width - 1 - _BORDERS - name_width) // column_width)
    labels, table_rows = _most_confused(confusion, max(most, 2))
    names, columns = in_lines(labels, name_width), list(labels)
    room = (out.width - 1 - _BORDERS - name_width) // len(labels) - _BORDERS
    if max(map(len, columns)) > room:
        # Names of so many columns would be cut.
        columns = [str(number) for number in range(1, len(labels) + 1)]
        names = in_lines([f"{number} {label}" for number, label in enumerate(labels, 1)], name_width)
    cells = [[str(count) for count in column] for column in zip(*table_rows, strict=True)]
    counts = [Column(name, column) for name, column in zip(columns, cells, strict=True)]
    title = "right label (rows) against predicted label (columns)"
    if len(labels) < len(confusion.labels):
        title += f"; the {len(labels) - 1} of {len(confusion.labels)} labels with most errors, all others as one"
    show_table(out, [Column("", names, is_left=True), *counts], title)
    if confusion.errors:
        show_text(out, "\nmost frequent errors:")
    for error in confusion.errors[:5]:
        places = ", ".join(map(_short_place, error.where[:3])) + (", ..." if error.count > len(error.where[:3]) else "")
        show_text(
            out,
            f"  {error.gold} -> {error.predicted}: {error.count} {'time' if error.count == 1 else 'times'}, "
            f"{error.share:.0%} of {error.gold}: {places}",
        )


def in_lines(labels: Sequence[str], width: int) -> list[str]:
    """Labels in lines of at most so many characters, broken between words; a longer word stays whole."""
    return ["\n".join(textwrap.wrap(label, max(width, 8), break_long_words=False)) or label for label in labels]


def _most_confused(confusion: Confusion, most: int) -> tuple[list[str], list[list[int]]]:
    """Labels and counts of the table to print: of many labels those with most errors, the others added up."""
    labels, counts = list(confusion.labels), confusion.counts
    if len(labels) <= most:
        return labels, [list(row) for row in counts]
    numbers = range(len(labels))
    errors = {n: sum(counts[n]) + sum(row[n] for row in counts) - 2 * counts[n][n] for n in numbers}
    worst = sorted((n for n in numbers if errors[n]), key=lambda n: -errors[n])
    worst_numbers = sorted(worst[: most - 1])
    groups = [[n] for n in worst_numbers] + [[n for n in numbers if n not in worst_numbers]]
    folded = [[sum(counts[row][column] for row in rows for column in columns) for columns in groups] for rows in groups]
    return [*(labels[n] for n in worst_numbers), _OTHERS], folded


def wrong_lines(rows: Sequence[WrongRow], width: int, most: int = 3) -> Iterator[str]:
    """The worst answers, each with its place, the right answer, the one given and the row's text.

    Args:
        wrong: wrong answers, the worst first.
        width: of the screen.
        most: number of answers.
    """
    for row in rows[:most]:
        parts = {"missed": row.missed, "made up": row.made_up}
        span_errors = [f"{what} {'; '.join(texts)}" for what, texts in parts.items() if texts]
        sure = "" if row.confidence is None else f" {row.confidence:.0%}"
        answer = " | ".join(span_errors) or f"{_on_a_line(row.gold)} -> {_on_a_line(row.predicted)}{sure}"
        head = f"  {_short_place(row.where)}  {answer}"
        room = width - len(head) - 2
        if room >= _MIN_TEXT:
            yield f"{head}  {_quoted(row.text, room)}"
        else:
            # Labels are never cut; answers of many lines are.
            most = _MOST_LINES * width
            yield from wrapped(head if len(head) <= most else f"{head[:most]}…", width).split("\n")
            yield f"    {_quoted(row.text, width - 4)}"


def _short_place(where: str) -> str:
    """The name of the file, without its folder, and the line."""
    return Path(where).name


def _on_a_line(text: str) -> str:
    return " ".join(text.split()) or '""'


def _quoted(text: str, width: int) -> str:
    line = " ".join(text.split())
    return f'"{line}"' if len(line) + 2 <= width else f'"{line[: max(width - 3, 1)]}…"'
