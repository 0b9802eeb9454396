"""SQuAD 1.1 and 2.0 (Rajpurkar et al. 2016, 2018): articles of paragraphs of questions; or one question a record.

Rows have `id`, `title`, `context`, `question`, `answers` (texts, empty where there is none) and `answer_starts`
(characters into the context), and in version 2 `is_impossible`. Rows are numbered by question.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from overture.core.errors import Problem
from overture.data.formats.form import Problems, Row, Shape
from overture.data.values import kind


def _is_like(record: Row) -> bool:
    return isinstance(record.get("paragraphs"), list) or _is_flat(record)


def _is_flat(record: Row) -> bool:
    """One question a record, as the Hub has it: answers by column."""
    answers = record.get("answers")
    return isinstance(answers, dict) and "text" in answers and "question" in record and "context" in record


def _rows(record: Row, where: str, problems: Problems) -> Sequence[Row]:
    if _is_flat(record):
        answers = record["answers"]
        texts, starts = answers["text"], answers.get("answer_start", [])
        columns = [list(found) if isinstance(found, list | tuple) else [found] for found in (texts, starts)]
        return _checked({**record, "answers": columns[0], "answer_starts": columns[1]}, where, problems)
    if not isinstance(record.get("paragraphs"), list):
        problems.append(Problem(where, "an article without paragraphs", f"known: {', '.join(record)}"))
        return []
    return [row for found in _questions(record, where, problems) for row in _checked(found, where, problems)]


def _questions(article: Mapping[str, Any], where: str, problems: Problems) -> Iterator[Row]:
    for number, paragraph in enumerate(article["paragraphs"], 1):
        asked = paragraph.get("qas") if isinstance(paragraph, dict) else None
        if not isinstance(asked, list) or not isinstance(paragraph.get("context"), str):
            problems.append(Problem(where, f"paragraph {number} has no context with questions", "wanted context, qas"))
            continue
        for each in asked:
            given = each.get("answers", []) if isinstance(each, dict) else None
            if not isinstance(given, list) or not all(isinstance(one, dict) for one in given):
                problems.append(Problem(where, f"paragraph {number} has a question without a list of answers"))
                continue
            row = {"id": each.get("id", ""), "title": article.get("title", ""), "context": paragraph["context"]}
            row |= {"question": each.get("question"), "answers": [one.get("text") for one in given]}
            row |= {"answer_starts": [one["answer_start"] for one in given if "answer_start" in one]}
            yield row | ({"is_impossible": bool(each["is_impossible"])} if "is_impossible" in each else {})


def _checked(row: Row, where: str, problems: Problems) -> Sequence[Row]:
    name = f"question {row.get('id', '')!r}"
    found = len(problems)
    for field in ("question", "context"):
        if not isinstance(row.get(field), str):
            problems.append(Problem(where, f"{name}: {field!r} is {kind(row.get(field))}", "wanted text"))
    if not all(isinstance(text, str) for text in row["answers"]):
        problems.append(Problem(where, f"{name}: an answer is no text"))
    starts = row["answer_starts"]
    if len(starts) not in (0, len(row["answers"])) or not all(type(start) is int for start in starts):
        problems.append(Problem(where, f"{name}: answer_start must be a number for each answer"))
    return [row] if len(problems) == found else []


SQUAD = Shape("squad", "SQuAD", _is_like, _rows, has_several=True)
