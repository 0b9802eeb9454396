"""A task of every kind with good rows, and what may be wrong with them."""

from dataclasses import dataclass, field, replace
from typing import Any

from overture.data.row import Row
from overture.data.task import Task

CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi, who are you?"},
    {"role": "assistant", "content": "ab"},
    {"role": "user", "content": "Since when?"},
    {"role": "assistant", "content": "cd"},
]


@dataclass(frozen=True)
class Sample:
    """A kind's task file, good rows, the field of a long text, and rows that are wrong with words of the message.

    What the file says otherwise for an encoder stands in `encoder`, and in `mask` where it predicts a word at a mask.
    """

    task: dict[str, Any]
    rows: list[dict[str, Any]]
    long: str
    bad: list[tuple[dict[str, Any], str]] = field(default_factory=list)
    encoder: dict[str, Any] = field(default_factory=dict)
    mask: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.task["kind"]

    def read_by(self, family: str) -> "Sample":
        """The sample as a family of models reads it."""
        changes = {"bert": self.encoder, "bert mask": self.mask}.get(family, {})
        return replace(self, task={**self.task, **changes})


LABELS = {"good": " fine", "bad": " poor", "odd": " odd"}
SAMPLES = {
    "classification": Sample(
        {"template": "{text}\nMood:", "labels": LABELS},
        [{"text": "sun", "label": "good"}, {"text": "rain", "label": "bad"}, {"text": "snöw ☃", "label": "odd"}],
        "text",
        [({"label": "fair"}, "unknown label 'fair'"), ({"label": None}, "null"), ({"text": ""}, "empty text")],
        {"template": "{text}"},
        # A mask stands for one token, and the tiny tokenizers' are bytes.
        {"template": "{text}\nMood: {mask}.", "labels": {"good": "g", "bad": "b", "odd": "o"}},
    ),
    "multilabel": Sample(
        {"template": "{text}\nMoods:", "labels": LABELS},
        [{"text": "sun", "label": ["odd", "good"]}, {"text": "rain", "label": []}, {"text": "☃", "label": ["bad"]}],
        "text",
        [({"label": ["fair"]}, "unknown label"), ({"label": "good"}, "separator"), ({"label": [None]}, "null")],
        {"template": "{text}"},
    ),
    "regression": Sample(
        {"template": "{text}\nScore:", "labels": {1: " low", 3: " mid", 5: " high"}},
        [{"text": "sun", "label": 4.5}, {"text": "rain", "label": 1}, {"text": "snöw ☃", "label": "3"}],
        "text",
        [({"label": 7}, "beyond the labels"), ({"label": "x"}, "finite number"), ({"label": 10**400}, "finite number")],
        {"template": "{text}"},
        {"template": "{text}\nScore: {mask}.", "labels": {1: "l", 3: "m", 5: "h"}},
    ),
    "choice": Sample(
        {"template": "{text}\nAnswer:"},
        [
            {"text": "sky?", "choices": ["blue", "a deep green"], "label": 0},
            {"text": "sea?", "choices": ["wet", "dry", "out of order"], "label": "C"},
            {"text": "ü?", "choices": {"text": ["ö", "ä"], "label": ["1", "2"]}, "label": "2"},
        ],
        "text",
        [
            ({"label": 5}, "none of the choices"),
            ({"choices": ["blue"]}, "1 choices"),
            ({"choices": ["blue", " "]}, "empty choice"),
            ({"choices": ["a", "a"]}, "twice"),
        ],
    ),
    "tagging": Sample(
        {"template": "{tokens}\nNames:", "labels": {"per": " person", "loc": " place"}, "max_new_tokens": 60},
        [
            {"tokens": ["Ada", "Lovelace", "saw", "Rome"], "tags": ["B-per", "I-per", "O", "B-loc"]},
            {"tokens": ["no", "one", "."], "tags": ["O", "O", "O"]},
            {"tokens": ["Zoë", "☃", "Ada", "Ada"], "tags": ["B-per", "O", "B-per", "B-per"]},
        ],
        "tokens",
        [
            ({"tags": ["O"]}, "1 tags for 4 words"),
            ({"tags": ["B-org", "O", "O", "O"]}, "unknown type 'org'"),
            ({"tags": ["O", "I-per", "O", "O"]}, "follows 'O'"),
            ({"tags": ["X", "O", "O", "O"]}, "is no tag"),
            ({"tokens": ["a b", "c", "d", "e"]}, "is no word"),
            ({"tokens": "Ada"}, "a list of words"),
            ({"tags": None}, "null"),
        ],
        {"template": "{tokens}"},
    ),
    "qa": Sample(
        {"template": "{context}\nQ: {question}\nA:", "options": {"max_answer_tokens": 20}, "max_new_tokens": 20},
        [
            {"context": "Ada saw Rome in (late) spring.", "question": "What?", "answers": ["Rome", "Rome in (late)"]},
            {"context": "Zoë met a ☃ today.", "question": "Who?", "answers": "a ☃"},
            {"context": "It is so.", "question": "Is it?", "answers": {"text": ["so"], "answer_start": [6]}},
        ],
        "context",
        [
            ({"answers": []}, "empty answer"),
            ({"answers": ["Paris"]}, "not in the context"),
            ({"answers": {"text": ["Rome"], "answer_start": [19]}}, "at 19 the context has"),
            ({"answers": None}, "null"),
        ],
        {"template": "{question} {context}"},
    ),
    "generation": Sample(
        {"template": "{text}\nShort:", "answer_field": "short", "options": {"references_field": "more"}},
        [
            {"text": "a long story", "short": " story", "more": [" tale", " story"]},
            {"text": "snöw ☃", "short": " ☃", "more": None},
            {"text": "x", "short": [" y", " z"]},
        ],
        "text",
        [({"short": ""}, "empty answer"), ({"short": []}, "empty answer"), ({"more": {}}, "an object")],
    ),
    "chat": Sample(
        {"template": "{messages}"},
        [
            {"messages": CHAT},
            {"messages": CHAT[1:3]},
            {"messages": [{"role": "user", "content": "☃ ü"}, {"role": "assistant", "content": "ö"}]},
        ],
        "messages",
        [
            ({"messages": CHAT[:2]}, "not the assistant's"),
            ({"messages": []}, "at least one"),
            ({"messages": [*CHAT[1:3], CHAT[2]]}, "take turns"),
            ({"messages": [{"role": "bot", "content": "x"}]}, "role 'bot'"),
            ({"messages": [{"role": "user", "content": " "}]}, "empty"),
            ({"messages": ["hi"]}, "role and content"),
            ({"messages": [CHAT[1], CHAT[2], CHAT[0]]}, "system"),
        ],
    ),
}
# Words that are said are written as any others.
SAMPLES["transcription"] = replace(SAMPLES["generation"], task=dict(SAMPLES["generation"].task))
for _name, _sample in SAMPLES.items():
    _sample.task["kind"] = _name
CASES = [(name, family) for name in SAMPLES for family in ("llama", "t5")]
CASES += [(name, "bert") for name, sample in SAMPLES.items() if sample.encoder]
CASES += [(name, "bert mask") for name, sample in SAMPLES.items() if sample.mask]


def task_of(sample: Sample, **changes: Any) -> Task:
    values = {"name": "x", "data": {"path": "rows.jsonl"}, "max_new_tokens": 12, **sample.task}
    return Task.model_validate(values | changes)


def rows_of(rows: list[dict[str, Any]]) -> list[Row]:
    return [Row(fields, number, "rows.jsonl") for number, fields in enumerate(rows, 1)]
