"""The command that a stored prompt is shown with is one that its task takes."""

import json
import shlex

import pytest

from overture.cli.inputs import inputs_of
from overture.data.rows import row_problems
from overture.data.task import Task
from overture.store.usage import predict_command, sample_input

DATA = {"train": "rows.jsonl"}
TASKS = {
    "one field": {"template": "{text}\nType:", "labels": {"a": " a", "b": " b"}},
    "two fields": {"template": "{context}\nQuestion: {question}\nAnswer:", "answer_field": "answer"},
    "choice": {"kind": "choice", "template": "{question}\nAnswer:"},
    "chat": {"kind": "chat", "template": "{messages}"},
    "tagging": {"kind": "tagging", "template": "{tokens}\nNames:", "labels": {"person": " person", "place": " place"}},
}


@pytest.mark.parametrize("name", TASKS)
def test_the_command_s_row_is_one_that_the_task_takes(name):
    task = Task(name="it", data=DATA, **TASKS[name])
    *words, asked = shlex.split(predict_command("it@1", task.dump(), " --store there"))
    assert words == ["overture", "predict", "it@1", "--store", "there"]
    inputs = inputs_of(None, [asked], [task])
    assert inputs.problems == {}
    (row,) = inputs.rows
    assert row_problems(task, row, with_answer=False) == []


def test_a_plain_text_is_enough_for_one_field():
    assert sample_input(Task(name="it", data=DATA, **TASKS["one field"]).dump()) == "some text"
    assert set(json.loads(sample_input(Task(name="it", data=DATA, **TASKS["two fields"]).dump()))) == {
        "context",
        "question",
    }


def test_a_prompt_without_a_task_is_asked_with_a_text():
    assert predict_command("it@1", {}) == 'overture predict it@1 "some text"'
