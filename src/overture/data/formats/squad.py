"""SQuAD 1.1 and 2.0 (Rajpurkar et al. 2016, 2018): articles of paragraphs of questions; or one question a record.

Rows have `id`, `title`, `context`, `question`, `answers` (texts, empty where there is none) and `answer_starts`
(characters into the context), and in version 2 `is_impossible`. Rows are numbered by question.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from overture.core.errors import Problem
from overture.data.formats.form import Problems, Record, Shape
from overture.data.values import kind


def _is_like(record: Record) -> bool:
    return isinstance(record.get("paragraphs"), list) or _is_flat(record)


def _is_flat(record: Record) -> bool:
    """One question a record, as the Hub has it: answers by column."""
    answers = record.get("answers")
    return isinstance(answers, dict) and "text" in answers and "question" in record and "context" in record


def _rows(record: Record, where: str, problems: Problems) -> Sequence[Record]:
    if _is_flat(record):
        answers = record["answers"]
        texts, starts = answers["text"], answers.get("answer_start", [])
        columns = [list(column) if isinstance(column, list | tuple) else [column] for column in (texts, starts)]
        return _checked({**record, "answers": columns[0], "answer_starts": columns[1]}, where, problems)
    if not isinstance(record.get("paragraphs"), list):
        problems.append(Problem(where, "an article without paragraphs", f"known: {', '.join(record)}"))
        return []
    return [row for question in _questions(record, where, problems) for row in _checked(question, where, problems)]


def _questions(article: Mapping[str, Any], where: str, problems: Problems) -> Iterator[Record]:
    for number, paragraph in enumerate(article["paragraphs"], 1):
        questions = paragraph.get("qas") if isinstance(paragraph, dict) else None
        if not isinstance(questions, list) or not isinstance(paragraph.get("context"), str):
            problems.append(Problem(where, f"paragraph {number} has no context with questions", "wanted context, qas"))
            continue
        for question in questions:
            answers = question.get("answers", []) if isinstance(question, dict) else None
            if not isinstance(answers, list) or not all(isinstance(answer, dict) for answer in answers):
                problems.append(Problem(where, f"paragraph {number} has a question without a list of answers"))
                continue
            row = {"id": question.get("id", ""), "title": article.get("title", ""), "context": paragraph["context"]}
            row |= {"question": question.get("question"), "answers": [answer.get("text") for answer in answers]}
            row |= {"answer_starts": [answer["answer_start"] for answer in answers if "answer_start" in answer]}
            yield row | ({"is_impossible": bool(question["is_impossible"])} if "is_impossible" in question else {})


def _checked(row: Record, where: str, problems: Problems) -> Sequence[Record]:
    name = f"question {row.get('id', '')!r}"
    num_before = len(problems)
    for field in ("question", "context"):
        if not isinstance(row.get(field), str):
            problems.append(Problem(where, f"{name}: {field!r} is {kind(row.get(field))}", "wanted text"))
    if not all(isinstance(text, str) for text in row["answers"]):
        problems.append(Problem(where, f"{name}: an answer is no text"))
    starts = row["answer_starts"]
    if len(starts) not in (0, len(row["answers"])) or not all(type(start) is int for start in starts):
        problems.append(Problem(where, f"{name}: answer_start must be a number for each answer"))
    return [row] if len(problems) == num_before else []


SQUAD = Shape("squad", "SQuAD", _is_like, _rows, has_several=True)
