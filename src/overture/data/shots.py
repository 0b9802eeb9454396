"""Rows with their answers as in-context examples, as text and as tokens."""

from collections.abc import Sequence

from overture.core.errors import DataError
from overture.core.rows import text_ids
from overture.data.encode import Encoder
from overture.data.row import Row
from overture.data.rows import row_problems, texts_of
from overture.data.template import ANSWER, Slot
from overture.data.tokens import parts_of, text_of, tokens_of, values_of


def row_text(encoder: Encoder, row: Row) -> str:
    """The row as text, template and answer included; of several label words the first.

    Raises:
        DataError: the row lacks a field, a label or an answer.
    """
    answer = _answers(encoder, [row])[0]
    values = values_of(texts_of(encoder.task, row))
    return "".join(text_of(piece, values) for piece in encoder.row_pieces) + answer


def shot_ids(encoder: Encoder, rows: Sequence[Row]) -> list[int]:
    """Rows with their answers as in-context examples, from the start of the sequence.

    What follows must be encoded with ``bos=False``, by an encoder that knows how many tokens it is behind. An example
    is its input, its anchor and its first label word or answer; then an empty line, or the end of the chat's turn. It
    is shortened as a row is.

    Raises:
        DataError: a row lacks a field, a label or an answer; the chat template does not fit examples.
    """
    values: dict[Slot, str] = {}
    for shot, (row, answer) in enumerate(zip(rows, _answers(encoder, rows), strict=True)):
        values |= values_of(encoder.fitting(texts_of(encoder.task, row)), shot)
        values[Slot(ANSWER, shot)] = answer
    parts = parts_of(encoder.template.shots(len(rows)), encoder.tokenizer)
    return [*encoder.tokenizer.bos_ids, *text_ids(tokens_of(parts, values, encoder.tokenizer).ids)]


def _answers(encoder: Encoder, rows: Sequence[Row]) -> list[str]:
    task = encoder.task
    problems = [problem for row in rows for problem in row_problems(task, row)]
    if problems:
        raise DataError("rows cannot be shown as examples", problems=problems)
    answers = [task.spec.shot(task, row) if task.has_shots else None for row in rows]
    if None in answers:
        kind_name = task.input if task.media else task.kind
        raise DataError(f"rows of kind {kind_name} cannot be shown as examples", where=rows[0].where)
    return [answer or "" for answer in answers]
