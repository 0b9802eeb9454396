"""The record that describes a kind of task; everything else in Overture works on this alone.

A kind stands between a row and a few primitives of the engine: label scores where one token is read, label scores at
many tokens, likelihoods of a row's own choices, and written answers within what is allowed. It says which of these a
row becomes (`examples`), what the model is asked of it (`question`), and what the reply means (`read`). It never calls
the model, so rows of several tasks can be asked together.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from overture.core.config import Config
from overture.core.contracts import Question, TextTokenizer
from overture.core.decoding import Decoding
from overture.core.errors import Problem
from overture.core.rows import Allowed, Candidates, Encoded, Marks, Prediction
from overture.data.row import Row
from overture.data.template import column_of
from overture.data.values import as_text


class TaskFile(Protocol):
    """The parts of a task file that a kind may read."""

    @property
    def template(self) -> Any:
        """A text or messages."""
        ...

    @property
    def labels(self) -> Any:
        """Labels with their words; None where there are none."""
        ...

    @property
    def words(self) -> dict[str, tuple[str, ...]]:
        """Each label's words."""
        ...

    def label_named(self, text: str) -> str | None:
        """The label of a spelling; None where there is none."""
        ...

    @property
    def label_field(self) -> str:
        """The field that holds the label."""
        ...

    @property
    def answer_field(self) -> str | None:
        """The field that holds the answer."""
        ...

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields that the template shows."""
        ...

    @property
    def media(self) -> Mapping[str, str]:
        """Fields that hold images or sounds, with what they hold."""
        ...

    @property
    def has_mask(self) -> bool:
        """Whether the template has a mask."""
        ...

    @property
    def read(self) -> Any:
        """Where an encoder's label is read, if the file says."""
        ...

    @property
    def max_new_tokens(self) -> int:
        """Most tokens of an answer."""
        ...

    @property
    def stop(self) -> list[str]:
        """Texts at which an answer ends."""
        ...

    @property
    def decoding(self) -> Decoding:
        """How answers are written."""
        ...

    @property
    def kind_options(self) -> Any:
        """The kind's own options, as its `Options`."""
        ...


@dataclass(frozen=True, slots=True)
class Pick:
    """Characters of a field at which labels are scored, by the first token of each.

    Places that the marks have already stand in front of these.
    """

    field: str
    spans: tuple[tuple[int, int], ...]
    marks: Marks


@dataclass(frozen=True, slots=True)
class Example:
    """A row, or a part of one, as it is put to the model.

    Args:
        texts: the texts of the template's fields.
        answer_ids: tokens of the right answer, the end token with them; None when unknown or when nothing is written.
        label: index of the right label or choice.
        shares: how much each label applies, instead of a label.
        candidates: the row's own choices; the task's labels when None.
        pick: where labels are scored, instead of one place that is read.
        allowed: gives the tokens that may come next.
        source: facts with which the kind reads the model's reply.
        blanks: texts without content, by which label scores are corrected.
        can_say: whether the right answer is one that the kind can read from a reply.
        cut: the example of shortened texts, where more than its texts depends on them.
        messages: role and content of each, with fields of their own, instead of the task's template.
    """

    texts: Mapping[str, str]
    answer_ids: tuple[int, ...] | None = None
    label: int | None = None
    shares: tuple[float, ...] | None = None
    candidates: Candidates | None = None
    pick: Pick | None = None
    allowed: Allowed | None = None
    source: Any = None
    blanks: tuple[Mapping[str, str], ...] = ()
    can_say: bool = True
    cut: "Callable[[Mapping[str, str]], Example] | None" = None
    messages: tuple[tuple[str, str], ...] | None = None


@dataclass(frozen=True, slots=True)
class Tools:
    """Tools with which a kind makes examples.

    Args:
        tokenizer: the backbone's.
        candidates: the task's labels as tokens; None where it has none.
        over: by how many tokens an example is over the limit; not above 0 if it fits.
    """

    tokenizer: TextTokenizer
    candidates: Candidates | None
    over: Callable[[Example], int]

    def ended(self, ids: Sequence[int]) -> tuple[int, ...]:
        """Tokens with the end token behind, where the model has one."""
        end = self.tokenizer.eos_id
        return (*ids, end) if ids and end is not None else tuple(ids)


class NoOptions(Config):
    """A kind without options of its own."""


def no_check(task: TaskFile) -> None:
    """Accept any task file."""
    del task


def no_problems(task: TaskFile, row: Row) -> list[Problem]:
    """Accept any row."""
    del task, row
    return []


def no_candidates(task: TaskFile, tokenizer: TextTokenizer) -> tuple[Candidates | None, list[str]]:
    """No candidates: answers are not labels."""
    del task, tokenizer
    return None, []


def no_group(task: TaskFile, row: Row) -> str:
    """One group for all rows: samples are drawn without regard to labels."""
    del task, row
    return ""


SAMPLE_FILES = {"image": "some.png", "audio": "some.wav"}
"""Names of files in made-up rows, by what they hold."""


def some_texts(task: TaskFile) -> dict[str, Any]:
    """A text for every field of the template, and lists long enough for the entries that it shows."""
    texts: dict[str, Any] = {}
    for column, entry in map(column_of, task.fields):
        earlier = texts.get(column)
        count = max(entry + 1, len(earlier) if isinstance(earlier, list) else 0) if entry is not None else 0
        words = SAMPLE_FILES.get(task.media.get(column, ""), "some text")
        texts[column] = [words] * count or words
    return texts


def no_shots(task: TaskFile, row: Row) -> str | None:
    """Such rows cannot stand in a text as examples."""
    del task, row
    return None


def plain_text(task: TaskFile, name: str, value: Any) -> str | None:
    """A field that holds text or a number."""
    del task, name
    return as_text(value)


def best_part(task: TaskFile, parts: Sequence[Prediction]) -> Prediction:
    """Of the parts of one row the one that the model is surest of."""
    del task
    return max(parts, key=lambda part: part.score)


def label_part(task: TaskFile, row: Row, part: Any) -> str:
    """A label, one of several that an answer is made of."""
    del task, row
    return str(part)


def answer_shown(task: TaskFile, prediction: Prediction) -> dict[str, Any]:
    """The answer as ``predict`` prints it."""
    del task
    return {"answer": prediction.text}


@dataclass(frozen=True, slots=True)
class TaskKind:
    """One kind of task.

    Args:
        name: as the task file has it.
        title: in a few words.
        metrics: those a run may choose by; the first is the default. All are reported.
        reported: metrics that are reported besides.
        target_fields: the fields that hold what the model must find.
        gold: a row's right answer, as the metrics compare it.
        examples: what is put to the model for a row, with its answer if that is known.
        question: what the model is asked of an encoded row, by the row's target.
        read: the prediction from the model's reply, and from the replies to the row's blanks, if it has any.
        options: the kind's own options.
        check: raises ConfigError, with the field, if the task file does not fit.
        check_model: raises DataError if the model does not.
        input_problems: what is wrong with a row, its answer aside.
        problems: what is wrong with its answer.
        corrections: what of its answer is read otherwise than the row has it, in words that are the same for like rows.
        candidates: labels as tokens, and what is odd about them.
        group: what keeps its share where rows are drawn; the label.
        stopped: an answer that generation would end at one of the task's stop texts; None where it does not.
        beside: what the model sees of a row beside the template's fields.
        stop: texts at which an answer ends if the task file does not say.
        optional_fields: fields that the task file names and that rows may lack.
        shot: the answer as it stands behind an in-context example; None where examples cannot be shown.
        field_text: a field's value as text; None if it is none.
        wanted: what a field should be, for messages.
        merged: one prediction from those of a row's parts.
        shown: a prediction as ``predict`` prints it.
        answer_key: the key of the answer in what `shown` gives.
        max_written: tokens of an answer at most, where answers are written; None where `Example.can_say` covers them.
        part: one part of an answer in words, such as a span's label and text; None where answers are not sets of parts.
        writes: whether answers are written, so that room is kept for them.
        is_shown_as_written: whether a prediction's text is what was written, so that it can be shown while it grows.
        for_encoders: whether an encoder, which writes nothing, can give the answers.
        is_one_of: whether an answer is one of several labels with a probability each.
        sample: a made-up row without its answer, to show what `predict` wants.
        reads_with_prompt: whether texts are read with the prompt in front of them (place `memory`) if no place is
            given, since that was measured to answer better; else they are read once for all prompts (place `after`).
    """

    name: str
    title: str
    metrics: tuple[str, ...]
    target_fields: Callable[[TaskFile], tuple[str, ...]]
    problems: Callable[[TaskFile, Row], list[Problem]]
    gold: Callable[[TaskFile, Row], Hashable]
    examples: Callable[[TaskFile, Row, Mapping[str, str], Tools, bool], list[Example]]
    question: Callable[[TaskFile, Encoded], Question[Any]]
    read: Callable[[TaskFile, Encoded, Any, Sequence[Any]], Prediction]
    reported: tuple[str, ...] = ()
    options: type[Config] = NoOptions
    check: Callable[[TaskFile], None] = no_check
    check_model: Callable[[TaskFile, TextTokenizer], None] = lambda task, tokenizer: None
    input_problems: Callable[[TaskFile, Row], list[Problem]] = no_problems
    candidates: Callable[[TaskFile, TextTokenizer], tuple[Candidates | None, list[str]]] = no_candidates
    group: Callable[[TaskFile, Row], str] = no_group
    corrections: Callable[[TaskFile, Row], tuple[str, ...]] = lambda task, row: ()
    stopped: Callable[[TaskFile, Row], str | None] = lambda task, row: None
    beside: Callable[[TaskFile, Row], Hashable] = lambda task, row: None
    stop: tuple[str, ...] = ("\n",)
    optional_fields: Callable[[TaskFile], tuple[str, ...]] = lambda task: ()
    shot: Callable[[TaskFile, Row], str | None] = no_shots
    field_text: Callable[[TaskFile, str, Any], str | None] = plain_text
    wanted: str = "wanted text or a number"
    merged: Callable[[TaskFile, Sequence[Prediction]], Prediction] = best_part
    shown: Callable[[TaskFile, Prediction], dict[str, Any]] = answer_shown
    answer_key: str = "answer"
    max_written: Callable[[TaskFile], int | None] = lambda task: task.max_new_tokens
    part: Callable[[TaskFile, Row, Any], str] | None = None
    writes: bool = False
    is_shown_as_written: bool = False
    for_encoders: Callable[[TaskFile], bool] = lambda task: False
    is_one_of: bool = False
    sample: Callable[[TaskFile], dict[str, Any]] = some_texts
    reads_with_prompt: bool = False

    @property
    def has_classes(self) -> bool:
        """Whether each row has exactly one of the task's labels."""
        return self.group is not no_group

    @property
    def has_shots(self) -> bool:
        """Whether rows can be shown as in-context examples."""
        return self.shot is not no_shots
