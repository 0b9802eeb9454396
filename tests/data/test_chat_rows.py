"""What a conversation says besides roles and contents."""

import pytest
from reading import noticed, problems_of, table_of_file

from data_fixtures import FakeTokenizer
from overture.data.encode import Encoder
from overture.data.splits import load_splits
from overture.data.task import Task


def said(role, content, **more):
    return {"role": role, "content": content, **more}


TALK = [said("user", "Hi"), said("assistant", "WRONG"), said("user", "Where?"), said("assistant", "There.")]


def with_weights(*weights, flag="weight"):
    answers = iter(weights)
    return [turn | ({flag: next(answers)} if turn["role"] == "assistant" else {}) for turn in TALK]


@pytest.mark.parametrize(
    ("flag", "off", "on"), [("weight", 0, 1), ("train", False, True), ("loss", False, True), ("trainable", 0, None)]
)
def test_turns_of_weight_0_are_context_only(tmp_path, flag, off, on):
    table = table_of_file(tmp_path, "a.jsonl", [{"messages": with_weights(off, on, flag=flag)}] * 8)
    assert [turn.get("weight") for turn in table.rows[0]["messages"]] == [None, 0, None, None]
    assert noticed(table)["turns of the assistant with weight 0"] == 8
    task = Task(
        name="talk", kind="chat", template="{messages}", data={"path": tmp_path / "a.jsonl", "drop": ["repeats"]}
    )
    (row, *_) = load_splits(task.model_copy(update={"data": task.data.model_copy(update={"drop": []})})).train
    encoded = Encoder(task, FakeTokenizer()).encode([row])
    answers = [FakeTokenizer().decode(item.target.ids) for item in encoded]
    assert len(answers) == 1
    assert "There." in answers[0]


def test_what_follows_the_last_turn_that_is_learnt_is_left_out(tmp_path):
    rows = [{"messages": with_weights(1, 0)}, {"messages": with_weights(0, 0)}, {"messages": TALK}]
    table = table_of_file(tmp_path, "a.jsonl", rows)
    assert [len(row["messages"]) for row in table.rows] == [2, 4]
    assert table.rows[0]["assistant"] == "WRONG"
    counts = noticed(table)
    assert counts["conversations that end with weight 0"] == 1
    assert counts["conversations without a turn to learn"] == 1
    ((_where, what),) = problems_of(tmp_path, "b.jsonl", [{"messages": with_weights(0.5, 1)}])
    assert "0.5" in what


def test_a_text_with_a_call_is_refused_as_a_call_alone_is(tmp_path):
    rows = [
        {"messages": [said("user", "x"), said("assistant", content, tool_calls=[{}])]} for content in ("I call", None)
    ]
    assert [what for _, what in problems_of(tmp_path, "a.jsonl", rows)] == ["message 2 calls a tool"] * 2
    fine = [{"messages": [said("user", "x"), said("assistant", "y", tool_calls=[])]}]
    assert table_of_file(tmp_path, "b.jsonl", fine).rows[0]["assistant"] == "y"


def test_a_loss_mask(tmp_path):
    turns = [{"from": {"user": "human"}.get(turn["role"], "gpt"), "value": turn["content"]} for turn in TALK]
    table = table_of_file(tmp_path, "a.jsonl", [{"conversations": turns, "loss_mask": [0, 0, 0, 1]}])
    assert [turn.get("weight") for turn in table.rows[0]["messages"]] == [None, 0, None, None]
    ((_, what),) = problems_of(tmp_path, "b.jsonl", [{"conversations": turns, "loss_mask": [1]}])
    assert "loss_mask" in what


def test_two_system_texts_are_told(tmp_path):
    turns = [{"from": "system", "value": "S"}, {"from": "human", "value": "x"}, {"from": "gpt", "value": "y"}]
    table = table_of_file(tmp_path, "a.jsonl", [{"system": "T", "conversations": turns}])
    assert table.rows[0]["messages"][0]["content"] == "S"
    assert noticed(table)["two system texts"] == 1
    assert "two system texts" not in noticed(
        table_of_file(tmp_path, "b.jsonl", [{"system": "S", "conversations": turns}])
    )


ALPACA = {"instruction": "Ship?", "input": "Norway", "output": "Yes."}


def test_alpaca_with_system_and_history(tmp_path):
    rows = [{**ALPACA, "system": "Shop.", "history": [["Hi", "Hello"]]}, {**ALPACA, "input": None}]
    table = table_of_file(tmp_path, "a.json", rows)
    assert table.rows[0]["messages"] == [
        said("system", "Shop."),
        said("user", "Hi"),
        said("assistant", "Hello"),
        said("user", "Ship?\nNorway"),
        said("assistant", "Yes."),
    ]
    assert "user" not in table.rows[0]
    assert (table.rows[1]["user"], table.rows[1]["system"]) == ("Ship?", "")
    for wrong in ({"history": [["alone"]]}, {"history": "x"}, {"system": 3}):
        ((where, _),) = problems_of(tmp_path, "b.json", [{**ALPACA, "system": "s"}, {**ALPACA, **wrong}])
        assert where == "b.json:2"


def test_what_the_template_does_not_show_is_told(tmp_path):
    rows = [{**ALPACA, "instruction": f"Ship {i}?", "system": "Shop.", "history": [["Hi", "Hello"]]} for i in range(8)]
    table_of_file(tmp_path, "a.json", rows)
    common = {"name": "x", "data": {"path": tmp_path / "a.json"}}

    def unshown(**values):
        return [n.kind for n in load_splits(Task(**common, **values)).noticed if "does not see" in n.kind]

    assert len(unshown(template="{instruction}", answer_field="output")) == 2
    assert len(unshown(template="{system}\n{instruction}", answer_field="output")) == 1
    messages = [{"role": "system", "content": "Shop."}, {"role": "user", "content": "{instruction}"}]
    assert len(unshown(template=messages, answer_field="output")) == 1
    assert unshown(template="{messages}", kind="chat") == []


def test_descriptions_of_tools_are_told(tmp_path):
    turns = [{"from": "human", "value": "x"}, {"from": "gpt", "value": "y"}]
    rows = [{"conversations": [{**turn, "value": f"{i}"} for turn in turns], "tools": "[{...}]"} for i in range(8)]
    table_of_file(tmp_path, "a.json", rows)
    task = Task(name="x", kind="chat", template="{messages}", data={"path": tmp_path / "a.json"})
    assert [n.count for n in load_splits(task).noticed if "tools" in n.kind] == [8]
