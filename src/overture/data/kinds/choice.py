"""One of a row's own choices, by the likelihood of each behind the template."""

from collections.abc import Hashable, Mapping, Sequence
from string import ascii_uppercase
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from overture.core.config import Config
from overture.core.contracts import LabelScores, TextTokenizer
from overture.core.errors import ConfigError, DataError, Problem
from overture.core.rows import Candidates, Encoded, OneOf, Prediction
from overture.data.kind import Example, TaskFile, TaskKind, Tools, some_texts
from overture.data.kinds.labels import label_fields, lead, no_mask, shares_shown
from overture.data.row import Row, broken_text, missing_field
from overture.data.values import as_text, kind, label_text

if TYPE_CHECKING:
    from torch import Tensor


class Options(Config):
    """Options of choice."""

    choices_field: str = Field("choices", min_length=1, description="A row's choices, a list of texts.")
    likelihood: Literal["mean", "sum"] = Field(
        "mean", description="A choice's log-likelihood per token, or the sum, at which long choices are worse off."
    )


def _check(task: TaskFile) -> None:
    if task.labels is not None or task.answer_field is not None:
        raise ConfigError(
            "the rows hold their own choices; labels and answer_field are for other kinds",
            where="labels" if task.labels else "answer_field",
        )
    no_mask(task)


def _check_model(task: TaskFile, tokenizer: TextTokenizer) -> None:
    del task
    if tokenizer.is_encoder:
        raise DataError(
            "an encoder gives no likelihood of a text", where="kind", got="choice", fix="choose a decoder as --backbone"
        )


def _choices(task: TaskFile, row: Row) -> tuple[str, ...]:
    options: Options = task.kind_options
    choices = row.fields.get(options.choices_field)
    if isinstance(choices, dict):
        # As ARC and CommonsenseQA have it: labels beside texts.
        choices = choices.get("text")
    return tuple(as_text(text) or "" for text in choices) if isinstance(choices, list) else ()


def _input_problems(task: TaskFile, row: Row) -> list[Problem]:
    options: Options = task.kind_options
    if options.choices_field not in row.fields:
        return [missing_field(options.choices_field, row.where, list(row.fields))]
    choices = _choices(task, row)
    if len(choices) < 2:
        kind_of = kind(row.fields[options.choices_field])
        return [
            Problem(row.where, f"field {options.choices_field!r} holds {len(choices)} choices, {kind_of}", "wanted two")
        ]
    if not all(choice.strip() for choice in choices):
        return [Problem(row.where, f"empty choice in {options.choices_field!r}")]
    if options.choices_field in task.fields and len(choices) > len(ascii_uppercase):
        return [Problem(row.where, f"{len(choices)} choices", f"wanted {len(ascii_uppercase)} at most to show them")]
    repeated_choices = sorted({choice for choice in choices if choices.count(choice) > 1})
    if repeated_choices:
        return [Problem(row.where, f"the choice {repeated_choices[0]!r:.60} stands there twice")]
    return [problem for choice in choices for problem in broken_text(options.choices_field, choice, row)]


def _problems(task: TaskFile, row: Row) -> list[Problem]:
    if task.label_field not in row.fields:
        return [missing_field(task.label_field, row.where, list(row.fields))]
    if _input_problems(task, row) or _right(task, row) is not None:
        return []
    answer = row.fields[task.label_field]
    return [Problem(row.where, f"{answer!r:.60} is none of the choices", "wanted its text, number from 0, or letter")]


def _right(task: TaskFile, row: Row) -> int | None:
    """The number of the right choice: by its own key, its text, its number from 0, or its letter.

    A number that is no text is first of all the choice's number: choices may be numbers too.
    """
    options: Options = task.kind_options
    choices, label = _choices(task, row), label_text(row.fields[task.label_field])
    if label is None:
        return None
    whole = row.fields[options.choices_field]
    choice_keys = whole.get("label") if isinstance(whole, dict) else None
    keys = [label_text(key) for key in choice_keys] if isinstance(choice_keys, list) else []
    numbers = list(map(str, range(len(choices))))
    is_number = isinstance(row.fields[task.label_field], int)
    names: list[Sequence[str | None]] = [keys, *((numbers, choices) if is_number else (choices, numbers))]
    names.append(list(ascii_uppercase))
    right = next((candidates.index(label) for candidates in names if label in candidates), None)
    return right if right is not None and right < len(choices) else None


def _gold(task: TaskFile, row: Row) -> Hashable:
    return _choices(task, row)[_right(task, row) or 0]


def _field_text(task: TaskFile, name: str, value: Any) -> str | None:
    options: Options = task.kind_options
    if name != options.choices_field:
        return as_text(value)
    choices = _choices(task, Row({name: value}, 0, ""))
    return "\n".join(f"{letter}. {text}" for letter, text in zip(ascii_uppercase, choices, strict=False)) or None


def _examples(task: TaskFile, row: Row, texts: Mapping[str, str], tools: Tools, with_answer: bool) -> list[Example]:
    options: Options = task.kind_options
    choices = _choices(task, row)
    words = tuple(tuple(tools.tokenizer.encode_plain(lead(task) + choice)) for choice in choices)
    candidates = Candidates(choices, words, tuple(range(len(choices))), options.likelihood == "mean", True)
    return [Example(texts, label=_right(task, row) if with_answer else None, candidates=candidates)]


def _read(task: TaskFile, row: Encoded, scores: "Tensor", blank_scores: Sequence["Tensor"]) -> Prediction:
    del task, blank_scores
    assert isinstance(row.target, OneOf)
    shares = tuple(scores.exp().tolist())
    best = max(range(len(shares)), key=shares.__getitem__)
    choices = row.target.candidates.labels
    return Prediction(choices[best], shares, score=shares[best], labels=choices, confidence=shares[best])


def _shown(task: TaskFile, prediction: Prediction) -> dict[str, Any]:
    del task
    return {"answer": None if prediction.is_withheld else prediction.text, **shares_shown(prediction)}


def _shot(task: TaskFile, row: Row) -> str | None:
    return lead(task) + _choices(task, row)[_right(task, row) or 0]


def _sample(task: TaskFile) -> dict[str, Any]:
    options: Options = task.kind_options
    texts = some_texts(task)
    count = max(2, len(texts[options.choices_field]) if isinstance(texts.get(options.choices_field), list) else 0)
    return {**texts, options.choices_field: [f"choice {number}" for number in range(1, count + 1)]}


KIND = TaskKind(
    name="choice",
    title="one of a row's own choices",
    metrics=("accuracy",),
    reported=("ece",),
    options=Options,
    check=_check,
    check_model=_check_model,
    target_fields=label_fields,
    input_problems=_input_problems,
    problems=_problems,
    gold=_gold,
    examples=_examples,
    question=lambda task, row: LabelScores(),
    read=_read,
    shot=_shot,
    field_text=_field_text,
    beside=_choices,
    shown=_shown,
    sample=_sample,
    is_one_of=True,
)
