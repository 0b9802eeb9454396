"""The six things that every kind of task must bear: bad rows, empty answers, unicode, very long input, an answer longer
than the room, and missing references. Very long input and wrong fields stand in `test_kinds.py`.
"""

import json
import math
from typing import Any

import pytest
import torch
from kind_samples import CASES, CHAT, SAMPLES, Sample, rows_of, task_of
from test_kinds import bare

from fakes import backbone_of
from overture.core.contracts import Answers, LabelScores, MarkScores
from overture.core.errors import BackboneError, DataError
from overture.core.rows import Written
from overture.data.encode import Encoder
from overture.data.kinds.registry import KINDS
from overture.data.rows import gold_of, shown_rows
from overture.data.task import Task
from overture.evaluate.scoring import grouped, predict, score
from overture.evaluate.wrong import wrong_rows

# What is taken for an answer: nothing, in all the ways that a file can say it.
NOTHING: dict[str, dict[str, Any]] = {
    "null": {"value": None},
    "empty": {"value": ""},
    "blank": {"value": " "},
    "object": {"value": {}},
    "list of nothing": {"value": [""]},
    "list of null": {"value": [None]},
    "not a number": {"value": float("nan")},
    "half a character": {"value": "\ud800"},
}
TARGETS = {
    "classification": "label",
    "multilabel": "label",
    "regression": "label",
    "choice": "label",
    "tagging": "tags",
    "qa": "answers",
    "generation": "short",
    "transcription": "short",
    "chat": "messages",
}
# Beyond the basic plane, joined, combining, from right to left, without spaces, and control characters.
STRANGE = [
    "\U0001f469\u200d\U0001f469\u200d\U0001f467",
    "e\u0301",
    "\u0645\u0631\u062d\u0628\u0627",
    "\u6771\u4eac\u90fd",
    "\u0130",
    "\ufb01",
    "a\u200bb",
    "\ufffd",
    "\U0001d518",
]
# A change of the task file, one of the row, and what is told.
TOO_LONG: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "classification": ({"labels": {"good": " w" * 200, "bad": " x", "odd": " y"}}, {}, "too long"),
    "multilabel": ({"max_new_tokens": 3}, {"label": ["good", "bad", "odd"]}, "longer than the 3 tokens"),
    "regression": ({"labels": {1: " w" * 200, 5: " x"}}, {"label": 2}, "too long"),
    "choice": ({}, {"choices": ["w " * 200, "x"], "label": 0}, "too long"),
    "tagging": ({"max_new_tokens": 3}, {}, "longer than the 3 tokens"),
    "qa": ({"options": {"max_answer_tokens": 2}}, {}, "longer than may be written"),
    "generation": ({"max_new_tokens": 3}, {"short": " a very long answer"}, "longer than the 3 tokens"),
    "transcription": ({"max_new_tokens": 3}, {"short": " a very long answer"}, "longer than the 3 tokens"),
    "chat": ({"max_new_tokens": 3}, {"messages": [*CHAT[1:4], {**CHAT[4], "content": "a long answer"}]}, "than the 3"),
}


class Teacher:
    """Says of each row what it was taught, or nothing at all."""

    def __init__(self, tokenizer: Any, is_silent: bool = False) -> None:
        self.tokenizer, self.is_silent = tokenizer, is_silent

    def ask(self, rows: Any, question: Any) -> list[Any]:
        ways = {Answers: self._written, LabelScores: self._label_scores, MarkScores: self._mark_scores}
        return [ways[type(question)](row) if type(question) in ways else torch.zeros(()) for row in rows]

    def _written(self, row: Any) -> Written:
        ids = () if self.is_silent else row.answer_ids or ()
        kept = tuple(token for token in ids if token != self.tokenizer.eos_id)
        return Written(self.tokenizer.decode(kept).strip(), kept, 0.0)

    def _label_scores(self, row: Any) -> torch.Tensor:
        """The right label, or shares; when silent, all alike."""
        count = len(row.target.candidates.labels)
        if self.is_silent:
            return torch.full((count,), 1.0 / count).log()
        shares = torch.tensor(row.target.shares) if row.target.shares else torch.eye(count)[row.target.label]
        return shares.clamp(min=1e-9).log()

    def _mark_scores(self, row: Any) -> torch.Tensor:
        """What is right at each mark, high above the rest; when silent, all alike."""
        marks = row.target.marks
        scores = torch.zeros(len(marks.at), len(row.target.candidates.labels))
        if self.is_silent or marks.gold is None:
            return scores
        if marks.over == "each":
            scores -= 10
            scores[0, list(marks.gold)] = 10
        elif marks.over == "labels":
            scores[range(len(scores)), list(marks.gold)] = 10
        else:
            scores[list(marks.gold), range(len(marks.gold))] = 10
        return scores


def strange(sample: Sample, text: str) -> dict[str, Any]:
    """A row with a strange text in its input and, where the answer is text, in that."""
    kind, row = sample.task["kind"], sample.rows[0]
    return {
        "classification": {**row, "text": text},
        "multilabel": {**row, "text": text},
        "regression": {**row, "text": text},
        "choice": {**row, "text": text, "choices": [text, f"{text} and {text}"], "label": 1},
        "tagging": {"tokens": ["Ada", text, "and", text], "tags": ["O", "B-per", "O", "B-loc"]},
        "qa": {"context": f"So {text} met {text} there.", "question": text, "answers": [f"{text} met {text}"]},
        "generation": {"text": text, "short": f" {text}"},
        "transcription": {"text": text, "short": f" {text}"},
        "chat": {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": text}]},
    }[kind]


def test_no_kind_is_left_out():
    assert set(SAMPLES) == set(TARGETS) == set(TOO_LONG) == set(KINDS)
    for sample in SAMPLES.values():
        assert sample.bad
        assert sample.long in sample.rows[0]
        assert set(strange(sample, "x"))


# -- bad rows and empty answers


@pytest.mark.parametrize("nothing", NOTHING)
def test_nothing_is_no_answer(sample, encoder, nothing):
    row = {**sample.rows[0], TARGETS[sample.task["kind"]]: NOTHING[nothing]["value"]}
    with pytest.raises(DataError, match=r"rows.jsonl:2: ") as caught:
        encoder.encode(rows_of([sample.rows[1], row]))
    assert "rows.jsonl:1: " not in str(caught.value)
    # What is wrong can be written down.
    json.dumps(caught.value.as_dict()).encode()


def test_an_empty_list_is_no_label_but_nothing_else(sample, encoder):
    row = {**sample.rows[0], TARGETS[sample.task["kind"]]: []}
    if sample.task["kind"] == "multilabel":
        (found,) = encoder.encode(rows_of([row]))
        assert gold_of(encoder.task, rows_of([row])) == ((),)
        assert found.target.is_known
        return
    with pytest.raises(DataError, match=r"rows.jsonl:1: "):
        encoder.encode(rows_of([row]))


def test_half_a_character_in_the_text_is_told(sample, encoder):
    with pytest.raises(DataError, match="surrogate"):
        encoder.encode(rows_of([strange(sample, "ab\ud800")]))


@pytest.mark.parametrize("label", ["AB", "", "BCD", "Z", -1, 2, 1e300])
def test_a_choice_is_one_letter_or_number(label):
    sample = SAMPLES["choice"]
    encoder = Encoder(task_of(sample), backbone_of("llama").text.tokenizer)
    with pytest.raises(DataError, match="none of the choices"):
        encoder.encode(rows_of([{**sample.rows[0], "label": label}]))


def test_a_model_that_says_nothing_is_scored(sample, encoder, backbone):
    rows = rows_of(sample.rows)
    silent: Any = Teacher(backbone.text.tokenizer, is_silent=True)
    found = score(silent, encoder.encode(rows), encoder.task, gold_of(encoder.task, rows))
    for value in found.metrics(encoder.task).values():
        assert math.isfinite(value.value)
        assert value.low <= value.value <= value.high
    wrong = wrong_rows(encoder.task.metric, found.gold, found.predicted, shown_rows(encoder.task, rows))
    json.dumps([row.model_dump() for row in wrong])
    for one in predict(silent, encoder.encode(rows), encoder.task):
        json.dumps(encoder.task.spec.shown(encoder.task, one))


# -- unicode


@pytest.mark.parametrize("text", STRANGE)
def test_what_is_taught_is_what_is_read_back(sample, backbone, text):
    """Rows go in, right answers come out: nothing on the way may touch a character."""
    # The tiny tokenizers write bytes.
    room = {"options": {"max_answer_tokens": 60}} if sample.task["kind"] == "qa" else {}
    encoder = Encoder(task_of(sample, **room), backbone.text.tokenizer)
    rows = rows_of([strange(sample, text), *sample.rows])
    teacher: Any = Teacher(backbone.text.tokenizer)
    found = score(teacher, encoder.encode(rows), encoder.task, gold_of(encoder.task, rows))
    kind = encoder.task.kind
    if kind == "regression":
        assert found.predicted == pytest.approx(found.gold, abs=1e-4)
        return
    assert found.value(encoder.task) == pytest.approx(1.0), (found.gold, found.predicted)
    said, right = found.predicted[0], found.gold[0]
    assert said == right or said in (right if isinstance(right, tuple) else (str(right).strip(),))


@pytest.mark.parametrize("text", STRANGE)
def test_strange_characters_reach_the_model_whole(sample, backbone, text):
    encoder = Encoder(task_of(sample), backbone.text.tokenizer)
    first = encoder.encode(rows_of([strange(sample, text)]))[0]
    assert text in backbone.text.tokenizer.decode([*first.input_ids, *first.anchor_ids])


# -- an answer longer than the room


def test_an_answer_longer_than_the_room_is_told_and_nothing_breaks(sample, backbone):
    if backbone.text.tokenizer.is_encoder:
        pytest.skip("an encoder writes nothing")
    changes, change, told = TOO_LONG[sample.task["kind"]]
    encoder = Encoder(task_of(sample, **changes), backbone.text.tokenizer)
    good, long = sample.rows[1], {**sample.rows[0], **change}
    rows = rows_of([good if not changes.get("labels") else {**good, **change}, long])
    if told == "too long":
        with pytest.raises(DataError, match=r"rows.jsonl:(1, )?2: too long"):
            encoder.encode(rows)
        return
    encoded = encoder.encode(rows)
    assert any(told in notice and "rows.jsonl:" in notice for notice in encoder.notices), encoder.notices
    found = score(bare(backbone, encoder), encoded, encoder.task, gold_of(encoder.task, rows))
    assert len(found.predicted) == 2


@pytest.mark.parametrize("name", [name for name, family in CASES if family == "bert" and name != "qa"])
def test_an_encoder_writes_nothing_and_needs_no_room_for_it(name):
    changes, change, _ = TOO_LONG[name]
    sample, backbone = SAMPLES[name].read_by("bert"), backbone_of("bert")
    encoder = Encoder(task_of(sample, **changes), backbone.text.tokenizer, reserve=3)
    rows = rows_of([{**sample.rows[0], **change}])
    found = score(bare(backbone, encoder), encoder.encode(rows), encoder.task, gold_of(encoder.task, rows))
    assert not encoder.notices
    assert math.isfinite(found.loss)


@pytest.mark.parametrize("name", [name for name, family in CASES if family == "bert mask"])
def test_a_word_longer_than_a_mask_is_refused(name):
    changes, change, _ = TOO_LONG[name]
    sample, backbone = SAMPLES[name].read_by("bert mask"), backbone_of("bert")
    encoder = Encoder(task_of(sample, **changes), backbone.text.tokenizer)
    encoded = encoder.encode(rows_of([{**sample.rows[0], **change}]))
    with pytest.raises(BackboneError, match="one token"):
        bare(backbone, encoder).check(encoded)


def test_an_answer_of_more_words_than_an_encoder_may_say_is_told():
    sample, backbone = SAMPLES["qa"].read_by("bert"), backbone_of("bert")
    encoder = Encoder(task_of(sample, options={"max_answer_tokens": 2}), backbone.text.tokenizer, reserve=3)
    rows = rows_of([sample.rows[1], {**sample.rows[0], "answers": ["saw Rome in"]}])
    encoded = encoder.encode(rows)
    (told,) = encoder.notices
    assert "of 1 rows" in told
    assert "cannot be given" in told
    assert "rows.jsonl:2" in told
    teacher: Any = Teacher(backbone.text.tokenizer)
    found = score(teacher, encoded, encoder.task, gold_of(encoder.task, rows))
    assert found.predicted[0] == sample.rows[1]["answers"]
    assert found.predicted[1] != "saw Rome in"


@pytest.mark.parametrize("family", ["llama", "t5", "bert"])
def test_an_answer_that_no_window_holds_is_told(family):
    sample, backbone = SAMPLES["qa"], backbone_of(family)
    changes = sample.encoder if family == "bert" else {}
    encoder = Encoder(task_of(sample, **changes), backbone.text.tokenizer)
    long = {**sample.rows[0], "context": "word " * 300, "answers": ["word " * 250 + "word"]}
    rows = rows_of([sample.rows[1], long])
    encoded = encoder.encode(rows)
    assert not any(part.target.is_known for part in grouped(encoded)[1])
    (told,) = [notice for notice in encoder.notices if "nothing is learnt" in notice]
    assert "1 rows" in told
    assert "rows.jsonl:2" in told
    # Where no answers are asked for there is nothing to tell.
    unasked = Encoder(task_of(sample, **changes), backbone.text.tokenizer)
    unasked.encode_fields([{"context": long["context"], "question": "What?"}])
    assert not [notice for notice in unasked.notices if "nothing is learnt" in notice]


# -- missing references


def test_missing_references_are_told_for_training_and_not_needed_for_answers(sample, encoder, backbone):
    kind = sample.task["kind"]
    target = TARGETS[kind]
    if kind == "chat":
        unanswered = [{"messages": row["messages"][:-1]} for row in sample.rows]
        wanted = "not the assistant's"
    else:
        dropped = (target, "more")
        unanswered = [{name: value for name, value in row.items() if name not in dropped} for row in sample.rows]
        wanted = f"no field '{target}'"
    with pytest.raises(DataError, match=wanted) as caught:
        encoder.encode(rows_of(unanswered))
    assert {problem.where for problem in caught.value.problems} == {f"rows.jsonl:{line}" for line in (1, 2, 3)}
    assert len(predict(bare(backbone, encoder), encoder.encode_fields(unanswered), encoder.task)) == 3


@pytest.mark.parametrize("more", [None, [], "absent"])
def test_further_references_may_be_missing(more):
    sample = SAMPLES["generation"]
    task: Task = task_of(sample)
    row = {"text": "x", "short": " y"} | ({} if more == "absent" else {"more": more})
    assert gold_of(task, rows_of([row])) == (" y",)
    for bad in ([None], {}, ["a", {}]):
        with pytest.raises(DataError, match="'more'"):
            Encoder(task, backbone_of("llama").text.tokenizer).encode(rows_of([{**row, "more": bad}]))
