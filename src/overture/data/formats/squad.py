"""SQuAD 1.1 and 2.0 (Rajpurkar et al. 2016, 2018): articles of paragraphs of questions; or one question a record.

Rows have `id`, `title`, `context`, `question`, `answers` (texts, empty where there is none) and `answer_starts`
(characters into the context), and in version 2 `is_impossible`. Rows of articles are numbered by question.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from overture.core.errors import Problem
from overture.data.formats.form import Item, Problems, Record, Shape, Source, is_list_with
from overture.data.values import kind


def _is_like(record: Record) -> bool:
    is_unanswered = record.get("answers") == [] and "answer_starts" not in record
    is_unanswered = is_unanswered and "question" in record and "context" in record
    return isinstance(record.get("paragraphs"), list) or _is_flat(record) or is_unanswered


def _is_flat(record: Record) -> bool:
    """One question a record: answers by column, as the Hub has it, a list of answers, or one with its place."""
    if "question" not in record or "context" not in record:
        return False
    answers = record.get("answers")
    if isinstance(answers, dict):
        return "text" in answers
    if is_list_with(answers, "text"):
        return True
    return "answers" not in record and isinstance(record.get("answer"), str) and "answer_start" in record


def _read(items: Sequence[Item], source: Source) -> list[Item]:
    rows: list[Item] = []
    for item in items:
        for row in _rows(item.fields, source.place(item.line), source.problems):
            # An article holds many questions, which have numbers of their own.
            rows.append(Item(row, len(rows) + 1 if "paragraphs" in item.fields else item.line, item.split))
    return rows


def _rows(record: Record, where: str, problems: Problems) -> Sequence[Record]:
    if _is_flat(record):
        return _checked({**record, **_answers_of(record)}, where, problems)
    if isinstance(record.get("answers"), list) and not record["answers"] and "question" in record:
        return _checked({**record, "answer_starts": []}, where, problems)
    if not isinstance(record.get("paragraphs"), list):
        problems.append(Problem(where, "an article without paragraphs", f"known: {', '.join(record)}"))
        return []
    return [row for question in _questions(record, where, problems) for row in _checked(question, where, problems)]


def _answers_of(record: Record) -> Record:
    """The texts and the places of a flat record's answers."""
    answers = record.get("answers")
    if isinstance(answers, list):
        starts = [answer["answer_start"] for answer in answers if "answer_start" in answer]
        return {"answers": [answer["text"] for answer in answers], "answer_starts": starts}
    if answers is None:
        return {"answers": [record["answer"]], "answer_starts": [record["answer_start"]]}
    columns = answers["text"], answers.get("answer_start", [])
    texts, starts = (list(column) if isinstance(column, list | tuple) else [column] for column in columns)
    return {"answers": texts, "answer_starts": starts}


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
            yield row | ({"is_impossible": question["is_impossible"]} if "is_impossible" in question else {})


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
    impossible = row.get("is_impossible", False)
    if str(impossible).lower() not in ("true", "false", "0", "1"):
        problems.append(Problem(where, f"{name}: 'is_impossible' is {impossible!r:.40}", "wanted true or false"))
    if "is_impossible" in row:
        row["is_impossible"] = str(impossible).lower() in ("true", "1")
    return [row] if len(problems) == num_before else []


SQUAD = Shape("squad", "SQuAD", _is_like, _read)
