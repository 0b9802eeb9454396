"""Encoders that may find no answer: the row's first token stands for it (SQuAD 2.0)."""

import pytest
import torch
from kind_samples import SAMPLES, rows_of, task_of
from test_kinds import prompted

from fakes import Case, backbone_of
from overture.core.config import validated
from overture.core.errors import ConfigError, DataError
from overture.data.encode import Encoder
from overture.data.kinds import answering
from overture.data.rows import gold_of
from overture.data.task import Task
from overture.evaluate.scoring import grouped, predict, score

ROWS = [
    {"context": "Ada saw Rome in spring.", "question": "What?", "answers": ["Rome"]},
    {"context": "Zoë met a ☃ today.", "question": "Who?", "answers": []},
    {"context": "It is so.", "question": "Is it?", "answers": ["so"]},
]
OPTIONS = {"max_answer_tokens": 20, "no_answer": "none"}


def encoder_of(**options) -> Encoder:
    task = task_of(SAMPLES["qa"], template="{question} {context}", options=OPTIONS | options)
    return Encoder(task, backbone_of("bert").text.tokenizer)


def test_the_first_token_is_right_where_nothing_is():
    encoded = encoder_of().encode(rows_of(ROWS))
    words = [row.source.words for row in encoded]
    assert [row.target.marks.at[0] for row in encoded] == [0, 0, 0]
    assert [len(row.target.marks.at) for row in encoded] == [len(own) + 1 for own in words]
    # "Rome" is the third word and "so" the third, each behind the first token's place.
    assert [row.target.marks.gold for row in encoded] == [(3, 3), (0, 0), (3, 3)]
    assert all(row.target.marks.gold is None for row in encoder_of().encode_fields([dict(row) for row in ROWS]))


def test_windows_without_the_answer_are_taught_to_be_silent():
    long = {**ROWS[0], "context": ROWS[0]["context"] + " and more of it" * 40}
    parts = grouped(encoder_of().encode(rows_of([long])))[0]
    assert len(parts) > 2
    assert parts[0].target.marks.gold == (3, 3)
    assert all(part.target.marks.gold == (0, 0) for part in parts[1:])


def test_answers_and_none_are_learnt_and_a_threshold_moves_between_them():
    backbone, encoder = backbone_of("bert"), encoder_of()
    rows = rows_of(ROWS)
    encoded = encoder.encode(rows)
    model = prompted(backbone, encoder, Case("prefix", "memory"))
    optimiser = torch.optim.Adam(model.trainable().values(), lr=0.05)
    for _ in range(150):
        optimiser.zero_grad()
        model.loss(encoded).backward()
        optimiser.step()
    found = score(model, encoded, encoder.task, gold_of(encoder.task, rows))
    assert found.predicted == ("Rome", "", "so")
    assert found.value(encoder.task) == 1.0
    assert {name: own.value for name, own in found.metrics(encoder.task).items()} == {
        "squad_f1": 1,
        "squad_em": 1,
        "squad_f1_answerable": 1,
        "no_answer_accuracy": 1,
    }
    said = predict(model, encoded, encoder.task)
    assert said[0].score > 0 > said[1].score
    for threshold, wanted in ((-1e6, 3), (1e6, 0)):
        other = encoder_of(no_answer_threshold=threshold)
        answers = [one.said for one in predict(model, other.encode(rows), other.task)]
        assert sum(answer != "" for answer in answers) == wanted


def test_the_best_span_against_the_first_token_by_hand():
    source = answering._Source("a b c", ((0, 1), (2, 3), (4, 5)))
    own = answering.Options(no_answer="none", max_answer_tokens=2)
    # First and last: none 1 + 2; a 4, 0; b 0.5, 1; c 0, 9. "a b c" is too long, so "b c" with 9.5.
    scores = [(1.0, 2.0), (4.0, 0.0), (0.5, 1.0), (0.0, 9.0)]
    found = answering._best_span(own, source, scores)
    assert (found.said, found.score) == ("b c", pytest.approx(9.5 - 3))
    strict = own.model_copy(update={"no_answer_threshold": 6.5})
    assert answering._best_span(strict, source, scores).said == ""
    assert answering._best_span(own, answering._Source("", ()), scores[:1]).said == ""


def test_a_threshold_is_for_encoders_that_may_find_none():
    task = {"name": "x", "data": {"path": "rows.jsonl"}, "kind": "qa", "template": "{context} {question}"}
    with pytest.raises(ConfigError, match="goes with no_answer"):
        validated(Task, {**task, "options": {"no_answer_threshold": 1.0}}, "task.yaml")
    both = validated(Task, {**task, "options": OPTIONS | {"no_answer_threshold": 1.0}}, "task.yaml")
    with pytest.raises(DataError, match="no_answer_threshold"):
        Encoder(both, backbone_of("llama").text.tokenizer)
    free = validated(Task, {**task, "options": {"mode": "generative"}}, "task.yaml")
    with pytest.raises(DataError, match="a piece of the context"):
        Encoder(free, backbone_of("bert").text.tokenizer)
