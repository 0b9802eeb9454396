"""A kind of task that is one object, entered in the registry under a name, runs from the task file to predictions."""

import json
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import pytest
import yaml
from pydantic import Field

from fakes import backbone_of, make_inner_tokenizer, make_model
from overture.core.config import Config
from overture.core.contracts import LabelScores
from overture.core.errors import ConfigError, DataError, Problem
from overture.core.rows import Candidates, Encoded, Prediction
from overture.data.encode import Encoder
from overture.data.kind import Example, TaskFile, TaskKind, Tools
from overture.data.kinds.registry import KINDS
from overture.data.row import Row, missing_field
from overture.data.rows import gold_of
from overture.data.shots import row_text
from overture.data.task import Task
from overture.engine.prompted import PromptedModel
from overture.evaluate.scoring import score
from overture.jobs.api import load, tune


class Options(Config):
    """Options of the toy kind."""

    words: tuple[str, str] = Field((" odd", " even"), description="What is said of odd and of even numbers.")


def _problems(task: TaskFile, row: Row) -> list[Problem]:
    if "number" not in row.fields:
        return [missing_field("number", row.where, list(row.fields))]
    found = row.fields["number"]
    return [] if isinstance(found, int) else [Problem(row.where, f"{found!r} is no whole number")]


def _gold(task: TaskFile, row: Row) -> Hashable:
    return task.kind_options.words[row.fields["number"] % 2 == 0].strip()


def _examples(task: TaskFile, row: Row, texts: Mapping[str, str], tools: Tools, with_answer: bool) -> list[Example]:
    words: tuple[str, str] = task.kind_options.words
    ids = tuple(tuple(tools.tokenizer.encode_plain(word)) for word in words)
    label = int(row.fields["number"] % 2 == 0) if with_answer else None
    return [Example(texts, label=label, candidates=Candidates(words, ids, (0, 1), is_own=True))]


def _read(task: TaskFile, row: Encoded, reply: Any, blank_replies: Sequence[Any]) -> Prediction:
    shares = tuple(reply.exp().tolist())
    return Prediction(
        task.kind_options.words[shares[1] > shares[0]].strip(),
        shares,
        score=max(shares),
        labels=task.kind_options.words,
    )


PARITY = TaskKind(
    name="parity",
    title="whether a number that is not shown is odd",
    metrics=("accuracy",),
    target_fields=lambda task: ("number",),
    problems=_problems,
    gold=_gold,
    examples=_examples,
    question=lambda task, row: LabelScores(),
    read=_read,
    options=Options,
    shot=lambda task, row: f" {_gold(task, row)}",
)
TASK: dict[str, Any] = {"name": "toy", "kind": "parity", "template": "{text}\nSo:", "prompt": {"length": 3}}


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    monkeypatch.setitem(KINDS, "parity", PARITY)


def rows_of(count, start=0):
    return [{"text": f"{('one', 'two')[n % 2]} {n}", "number": n + 1} for n in range(start, start + count)]


@pytest.fixture
def file(tmp_path):
    """The task file, its rows and a tiny model in a folder."""
    make_model("llama", "sdpa").save_pretrained(tmp_path / "tiny")
    make_inner_tokenizer("llama").save_pretrained(tmp_path / "tiny")
    for number, (name, count) in enumerate({"train": 16, "validation": 8, "test": 8}.items()):
        rows = rows_of(count, 100 * number)
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {name: f"{name}.jsonl" for name in ("train", "validation", "test")}
    train = {"epochs": 30, "batch_size": 4, "lr": 0.1, "patience": 30}
    values = {**TASK, "backbone": str(tmp_path / "tiny"), "data": data, "shots": 2, "train": train}
    (tmp_path / "task.yaml").write_text(yaml.safe_dump(values))
    return tmp_path / "task.yaml"


def test_a_new_kind_is_encoded_and_scored(file):
    values = {key: value for key, value in yaml.safe_load(file.read_text()).items() if key in ("data", *TASK)}
    task = Task.model_validate({key: value for key, value in values.items() if key != "prompt"})
    assert task.metric == "accuracy"
    backbone = backbone_of("llama")
    rows = [Row(fields, number, "here") for number, fields in enumerate(rows_of(6), 1)]
    encoder = Encoder(task, backbone.text.tokenizer)
    encoded = encoder.encode(rows)
    assert [row.label for row in encoded] == [0, 1] * 3
    found = score(PromptedModel(backbone), encoded, task, gold_of(task, rows))
    assert set(found.predicted) <= {"odd", "even"}
    assert found.gold == ("odd", "even") * 3
    assert row_text(encoder, rows[0]) == "one 0\nSo: odd"
    with pytest.raises(DataError, match="here:1: 'x' is no whole number"):
        encoder.encode([Row({"text": "a", "number": "x"}, 1, "here")])


def test_a_new_kind_is_tuned_kept_and_predicts(file, tmp_path):
    result = tune(file, store=tmp_path / "store")
    prompt = load(result.prompt, store=tmp_path / "store")
    assert (prompt.task.kind, prompt.task.metric) == ("parity", "accuracy")
    # A tiny model learns the rows by heart.
    said = [one.said for one in prompt.predict([{"text": row["text"]} for row in rows_of(16)])]
    assert said == ["odd", "even"] * 8


def test_its_options_are_checked_as_any_kinds(file):
    with pytest.raises(ConfigError, match=r"options.wrods: unknown key \(did you mean 'words'"):
        tune(file, options={"wrods": [" a", " b"]})
    with pytest.raises(ConfigError, match="did you mean 'parity'"):
        tune(file, kind="party")
