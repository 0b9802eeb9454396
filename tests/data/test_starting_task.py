import re

import pytest
import yaml

from overture.core.errors import DataError
from overture.data.encode import Encoder
from overture.data.init_task import starting_task
from overture.data.splits import load_splits
from overture.data.task import Task


def loaded(path, folder):
    text, notes = starting_task(path, folder)
    file = folder / "task.yaml"
    file.write_text(text)
    return Task.load(file), notes, text


def labelled(count=20, **more):
    names = ("Very_Good", "no", "3")
    return [{"text": f"some longer text number {i}", "label": names[i % 3], **more} for i in range(count)]


def test_a_labelled_file(tmp_path, jsonl, tokenizer):
    task, notes, text = loaded(jsonl(labelled(), "My Films.jsonl"), tmp_path)
    assert task.template == "{text}\nLabel:"
    assert task.words == {"3": (" 3",), "Very_Good": (" very good",), "no": (" no",)}
    assert task.name == "my-films"
    assert "path: " in text
    assert f"# {Task.model_fields['template'].description}" in text
    assert any("'label'" in note and "'text'" in note for note in notes)
    encoder = Encoder(task, tokenizer)
    assert encoder.notices == []
    assert len(encoder.encode(load_splits(task).train)) == 12


def test_the_task_file_may_stand_elsewhere(tmp_path, jsonl):
    folder = tmp_path / "tasks" / "deep"
    folder.mkdir(parents=True)
    task, _, text = loaded(jsonl(labelled()), folder)
    assert '"../../rows.jsonl"' in text
    assert len(load_splits(task).train) == 12


def test_names_win_over_few_values_and_long_texts_are_kept(tmp_path, jsonl):
    rows = [
        {"id": f"r{i}", "lang": "en" if i % 2 else "de", "premise": "p" * 50 + str(i), "hypothesis": "h" * 9 + str(i)}
        | {"Intent": f"i{i % 4}"}
        for i in range(20)
    ]
    task, _, _ = loaded(jsonl(rows), tmp_path)
    assert task.label_field == "Intent"
    assert task.fields == ("premise", "hypothesis")
    assert task.template == "Premise: {premise}\nHypothesis: {hypothesis}\nIntent:"


def test_without_a_known_name_the_field_with_the_fewest_values(tmp_path, jsonl):
    rows = [{"a": f"t{i}", "b": f"b{i % 5}", "c": f"c{i % 2}"} for i in range(20)]
    task, _, _ = loaded(jsonl(rows), tmp_path)
    assert (task.label_field, task.fields) == ("c", ("a",))


def test_splits_that_stand_beside_each_other(tmp_path, jsonl):
    for name in ("train", "dev", "test"):
        jsonl(labelled(), f"{name}.jsonl")
    for path in (tmp_path, tmp_path / "train.jsonl"):
        task, notes, _ = loaded(path, tmp_path)
        assert [p and p.name for p in (task.data.train, task.data.validation, task.data.test)] == [
            "train.jsonl",
            "dev.jsonl",
            "test.jsonl",
        ]
        assert not any("drawn" in note for note in notes)


def test_alpaca(tmp_path, jsonl, tokenizer):
    rows = [{"instruction": f"do {i}", "input": "" if i % 2 else "x", "output": f"line\nline {i}"} for i in range(10)]
    task, _, _ = loaded(jsonl(rows), tmp_path)
    assert task.answer_field == "output"
    assert task.fields == ("instruction", "input")
    assert task.stop == []
    assert task.metric == "exact_match"
    assert len(Encoder(task, tokenizer).encode(load_splits(task).train)) == 6


def test_numbers_as_labels_ask_for_words(tmp_path, jsonl):
    task, notes, _ = loaded(jsonl([{"text": f"t{i}", "label": i % 2} for i in range(8)]), tmp_path)
    assert set(task.words) == {"0", "1"}
    assert any("numbers" in note for note in notes)


def test_odd_label_texts_are_quoted(tmp_path):
    labels = ["null", "1e3", "a: b", "# c", "Yes", "\U0001f600", "\u00e9\x7f", "'\"", "A", "a"]
    path = tmp_path / "a.csv"
    quoted = [label.replace('"', '""') for label in labels]
    path.write_text("text,label\n" + "".join(f'text {i},"{quoted[i % 10]}"\n' for i in range(30)))
    task, _, _ = loaded(path, tmp_path)
    assert set(task.words) == set(labels)
    assert task.words["A"] != task.words["a"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"text": f"t{i}"} for i in range(10)], "no field looks like a label"),
        ([{"n": i, "label": "ab"[i % 2]} for i in range(10)], "no field holds text"),
        ([{"text": f"t{i}", "label": "same"} for i in range(10)], "no field looks like a label"),
        ([], "cannot be read"),
    ],
)
def test_unusable_data(jsonl, rows, message):
    with pytest.raises(DataError, match=message):
        starting_task(jsonl(rows))


def test_a_folder_without_training_rows(tmp_path):
    with pytest.raises(DataError, match="no training rows in the folder"):
        starting_task(tmp_path)


def test_yaml_is_plain_yaml(tmp_path, jsonl):
    text, _ = starting_task(jsonl(labelled()), tmp_path)
    assert list(yaml.safe_load(text)) == ["name", "data", "template", "label_field", "labels", "metric"]


def conversation(number, system=""):
    turns = [("system", system)] if system else []
    turns += [("user", f"Question {number}?"), ("assistant", f"First.\nThen {number}.")]
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


@pytest.mark.parametrize(
    ("systems", "first"),
    [(("",), None), (("Be {brief}.",), "Be {{brief}}."), (("Be brief.", "Be long."), "{system}")],
    ids=["none", "always the same", "different"],
)
def test_messages_become_a_chat_template(tmp_path, jsonl, tokenizer, systems, first):
    rows = [conversation(number, systems[number % len(systems)]) for number in range(10)]
    task, notes, text = loaded(jsonl(rows), tmp_path)
    said = [(message.role, message.content) for message in task.template]
    assert said == [*([("system", first)] if first else []), ("user", "{user}")]
    assert (task.answer_field, task.stop, task.data.format) == ("assistant", [], "messages")
    assert "read as OpenAI messages: rows.jsonl (data.format: messages)" in notes
    assert f"# {Task.model_fields['template'].description}" in text
    encoded = Encoder(task, tokenizer).encode(load_splits(task).train)
    shown = tokenizer.decode(encoded[0].input_ids)
    assert any((system or "Default.") in shown for system in systems)
    assert re.search(r"Question \d\?$", shown)


def test_sharegpt_and_longer_conversations(tmp_path, jsonl):
    rows = [
        {"conversations": [{"from": "human", "value": f"q{i}"}, {"from": "gpt", "value": f"a{i}"}]} for i in range(10)
    ]
    task, _, _ = loaded(jsonl(rows), tmp_path)
    assert task.data.format == "sharegpt"
    assert load_splits(task).train[0].fields["assistant"].startswith("a")
    rows[3]["conversations"] *= 2
    task, notes, _ = loaded(jsonl(rows), tmp_path)
    assert (task.kind, task.data.format) == ("chat", "sharegpt")
    assert any("kind chat" in note for note in notes)
    assert len(load_splits(task).train[0].fields["messages"]) in (2, 4)


@pytest.mark.parametrize(
    ("row", "kind", "options"),
    [
        ({"tokens": ["Ada", "saw", "Rome"], "tags": ["B-PER", "O", "B-LOC"]}, "tagging", {}),
        ({"context": "Ada saw Rome.", "question": "Who?", "answers": ["Ada"]}, "qa", {}),
        (
            {"context": "Ada.", "question": "Who?", "answers": {"text": ["Ada"], "answer_start": [0]}},
            "qa",
            {"starts_field": "answer_starts"},
        ),
        ({"context": "Ada.", "question": "Who?", "answers": ["She"]}, "qa", {"mode": "generative"}),
        ({"question": "Sky?", "choices": ["blue", "red"], "answer": 0}, "choice", {}),
        ({"text": "sun", "labels": ["good", "odd"]}, "multilabel", {}),
        ({"input": "x", "target": "y", "references": ["y", "z"]}, "generation", {"references_field": "references"}),
    ],
    ids=["tagging", "qa", "squad", "free qa", "choice", "multilabel", "references"],
)
def test_fields_tell_the_kind_of_task(tmp_path, jsonl, row, kind, options):
    def numbered(key, value, number):
        return f"{value} {number}" if isinstance(value, str) and key != "context" else value

    rows = [{key: numbered(key, value, number) for key, value in row.items()} for number in range(10)]
    task, notes, _ = loaded(jsonl(rows), tmp_path)
    assert (task.kind, task.options) == (kind, options)
    assert kind == "generation" or any(f"kind {kind}" in note for note in notes)
    splits = load_splits(task)
    assert all(task.spec.gold(task, row) for row in splits.train)


def test_questions_without_an_answer_are_seen(tmp_path, jsonl):
    rows = [{"context": f"Ada {n}.", "question": "Who?", "answers": ["Ada"] if n % 2 else []} for n in range(10)]
    task, _, _ = loaded(jsonl(rows), tmp_path)
    assert task.options == {"no_answer": "no answer"}
    assert {task.spec.gold(task, row) for row in load_splits(task).train} == {(), ("Ada",)}
