"""The command that a stored prompt is shown with is one that its task takes."""

import base64
import json
import random
import shlex
import subprocess

import pytest

from overture.cli.inputs import inputs_of
from overture.data.rows import row_problems
from overture.data.task import Task
from overture.store.usage import curl_command, predict_command, sample_input

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


@pytest.mark.parametrize(("media", "file"), [("image", "some.png"), ("audio", "some.wav")])
def test_a_server_is_sent_the_bytes_of_a_file_and_not_its_name(media, file, tmp_path):
    task = Task(name="it", data=DATA, input=media, labels={"a": " a", "b": " b"})
    # More than one argument of a command may hold.
    content = random.Random(0).randbytes(300_000)
    (tmp_path / file).write_bytes(content)
    body = f'{{"prompt": "100%s", "inputs": [{sample_input(task.dump())}]}}'
    command = curl_command("sh -c cat curl", body)
    sent = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, check=True).stdout
    assert json.loads(sent)["prompt"] == "100%s"
    start, comma, encoded = json.loads(sent)["inputs"][0][media].partition(",")
    assert start + comma == f"data:{media}/{file[-3:]};base64,"
    assert base64.b64decode(encoded) == content


def test_a_server_is_sent_texts_as_they_are():
    assert shlex.split(curl_command("curl it", '{"inputs": ["some text"]}'))[2:] == ["-d", '{"inputs": ["some text"]}']
