"""An answer in free text: data to text, summaries, rewriting, code. The loss is on the answer alone."""

from collections.abc import Hashable, Mapping, Sequence

from pydantic import Field

from overture.core.config import Config
from overture.core.contracts import Answers, Question
from overture.core.errors import ConfigError, Problem
from overture.core.rows import Encoded, Prediction, Written
from overture.data.kind import Example, TaskFile, TaskKind, Tools
from overture.data.kinds.labels import lead, no_mask
from overture.data.row import Row, answer_problems, answer_texts


class Options(Config):
    """Options of generation."""

    references_field: str | None = Field(
        None, min_length=1, description="A field with more texts that count as right; none is trained on."
    )


def _check(task: TaskFile) -> None:
    if task.labels is not None or task.answer_field is None:
        raise ConfigError("exactly one of labels and answer_field must be given", where="answer_field")
    no_mask(task)


def target_fields(task: TaskFile) -> tuple[str, ...]:
    """The field that holds the answer; a row that is only predicted may lack it."""
    return (task.answer_field or "answer",)


def problems(task: TaskFile, row: Row) -> list[Problem]:
    """An answer must be text; further texts too, where there are any."""
    faults = answer_problems(target_fields(task)[0], row)
    extra = task.kind_options.references_field
    if extra and row.fields.get(extra) is not None:
        faults += answer_problems(extra, row, may_be_empty=True)
    return faults


def gold(task: TaskFile, row: Row) -> Hashable:
    """The one text that is right, or all of them."""
    extra = task.kind_options.references_field
    texts = [*answer_texts(row.fields[target_fields(task)[0]]), *answer_texts(row.fields.get(extra) if extra else [])]
    right_texts = tuple(dict.fromkeys(texts))
    return right_texts[0] if len(right_texts) == 1 else right_texts


def _answer(task: TaskFile, row: Row) -> str:
    """The answer that is trained on."""
    return answer_texts(row.fields[target_fields(task)[0]])[0]


def _optional_fields(task: TaskFile) -> tuple[str, ...]:
    return (task.kind_options.references_field,) if task.kind_options.references_field else ()


def _shot(task: TaskFile, row: Row) -> str:
    """The answer behind the row; one that goes on with a field, or begins with a space itself, follows at once."""
    answer = _answer(task, row)
    goes_on = isinstance(task.template, str) and any(task.template.endswith(f"{{{name}}}") for name in task.fields)
    return answer if goes_on or answer[:1].isspace() else lead(task) + answer


def _examples(task: TaskFile, row: Row, texts: Mapping[str, str], tools: Tools, with_answer: bool) -> list[Example]:
    if not with_answer:
        return [Example(texts)]
    # Where the answer is not written behind the row, nothing stands between them.
    text = _answer(task, row) if tools.tokenizer.start_ids else _shot(task, row)
    return [Example(texts, answer_ids=tools.ended(tools.tokenizer.encode_plain(text)))]


def question(task: TaskFile, row: Encoded) -> Question[Written]:
    """An answer as the task's decoding writes it."""
    del row
    return Answers(task.max_new_tokens, tuple(task.stop), task.decoding)


def read(task: TaskFile, row: Encoded, reply: Written, blank_replies: Sequence[Written]) -> Prediction:
    """The answer as it was written."""
    del task, row, blank_replies
    return Prediction(reply.text, score=reply.log_likelihood)


KIND = TaskKind(
    name="generation",
    title="an answer in free text",
    metrics=("exact_match", "exact_text", "bleu", "chrf", "rouge_1", "rouge_2", "rouge_l", "squad_f1"),
    options=Options,
    check=_check,
    target_fields=target_fields,
    problems=problems,
    gold=gold,
    examples=_examples,
    question=question,
    read=read,
    shot=_shot,
    stopped=_answer,
    optional_fields=_optional_fields,
    writes=True,
    is_shown_as_written=True,
    reads_with_prompt=True,
)
