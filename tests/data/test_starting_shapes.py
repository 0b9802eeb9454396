"""A first task file from rows of every shape, of every kind of task, and from files of every form."""

import contextlib
import json
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from reading import labelled, loaded

from overture.core.errors import DataError
from overture.data.encode import Encoder
from overture.data.init_task import starting_task
from overture.data.splits import load_splits

FIELDS = ("text", "label", "labels", "id", "", "tokens", "tags", "spans", "context", "question", "answers", "choices")
FIELDS += ("messages", "system", "instruction", "input", "output", "score", "x[0]", "mask", "label_text", "references")


VALUES = (
    None,
    "",
    " ",
    "a",
    "b",
    "some longer text",
    0,
    1,
    2.5,
    3.0,
    True,
    [],
    ["a"],
    ["a", "b"],
    [1, 2],
    ["B-PER", "O"],
)
VALUES += ([[0, 3, "PER"]], [{"start": 9, "end": 99, "label": "PER", "text": "zz"}], {"text": ["a"]}, {"a": 1}, "a#b")
VALUES += (
    [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}],
    "nan",
    "x\ny",
    "2024-01-01",
    10**30,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.dictionaries(st.sampled_from(FIELDS), st.sampled_from(VALUES), max_size=5), min_size=1, max_size=9))
def test_any_rows_are_refused_or_become_a_file_that_loads(tmp_path, jsonl, rows):
    with contextlib.suppress(DataError):
        loaded(jsonl(rows), tmp_path)


@pytest.mark.parametrize("name", ["chat", "generation", "choice"])
def test_an_encoder_writes_nothing(tmp_path, jsonl, name):
    rows = [SHAPES[name][0](i) for i in range(20)]
    with pytest.raises(DataError) as caught:
        starting_task(jsonl(rows), tmp_path, "some-encoder", lambda words: "vectors")
    assert "decoder" in caught.value.fix


def turns(number, *texts):
    roles = ("user", "assistant")
    return [{"role": roles[n % 2], "content": f"{text} {number}"} for n, text in enumerate(texts)]


NAMES = ("Ada", "Bob", "Zoë")


CITIES = ("Rome", "Oslo", "Cork")


def span_row(number):
    name, city = NAMES[number % 3], CITIES[number % 3]
    text = f"💩 {name} went to {city} on day {number}."
    return text, [(name, "person"), (city, "place")]


def spans_in(text, parts):
    return [[text.index(said), text.index(said) + len(said), label] for said, label in parts]


def korean(number):
    text = f"{number}년에 서울에서 첫 도서관이 문을 열었다."
    return {"context": text, "question": f"어디에서 열었나 {number}?", "answers": ["서울"]}


LABELS = (["billing"], ["refund"], ["billing", "refund"], ["delay"])


SHAPES = {
    "classification": (lambda i: {"text": f"a text {i}", "label": "ab"[i % 2]}, "classification", {}),
    "one label in a list": (lambda i: {"text": f"a text {i}", "label": ["ab"[i % 2]]}, "classification", {}),
    "truth values": (lambda i: {"text": f"a text {i}", "label": i % 2 == 0}, "classification", {}),
    "yes or no": (
        lambda i: {"passage": f"a text {i}", "question": "is it so", "answer": i % 2 == 0},
        "classification",
        {},
    ),
    "regression": (lambda i: {"sentence1": f"a b {i}", "sentence2": "c d", "score": i / 4}, "regression", {}),
    "lists of labels": (lambda i: {"text": f"a text {i}", "labels": LABELS[i % 4]}, "multilabel", {}),
    "labels with a sign": (
        lambda i: {"text": f"a text {i}", "label": "#".join(LABELS[i % 4])},
        "multilabel",
        {"separator": "#"},
    ),
    "labels in columns": (
        lambda i: {
            "id": i,
            "comment_text": f"a text here {i}",
            "toxic": i % 2,
            "threat": i % 3 == 0,
            "odd": i % 5 // 4,
        },
        "multilabel",
        {"one_hot": True},
    ),
    "tags": (lambda i: {"tokens": ["Ada", "saw", "Rome"], "tags": ["B-PER", "O", "S-LOC"]}, "tagging", {}),
    "numbers of tags": (
        lambda i: {"tokens": ["Ada", "saw", "Rome"], "tags": [1, 0, 3]},
        "tagging",
        {"tag_names": ["O", "B-type_1", "I-type_1", "B-type_2", "I-type_2"]},
    ),
    "spans": (
        lambda i: {"text": span_row(i)[0], "spans": spans_in(*span_row(i))},
        "tagging",
        {"text_field": "text"},
    ),
    "qa": (korean, "qa", {}),
    "free qa": (
        lambda i: {"context": f"Ada {i}.", "question": "Who?", "answers": ["She"]},
        "qa",
        {"mode": "generative"},
    ),
    "questions without an answer": (
        lambda i: {"context": f"Ada {i}.", "question": "Who?", "answers": ["Ada"] if i % 2 else []},
        "qa",
        {"no_answer": "no answer"},
    ),
    "answers within words": (
        lambda i: {"context": f"Budapesten {i}.", "question": "Hol?", "answers": ["Budapest"]},
        "qa",
        {"within_words": True},
    ),
    "choice": (lambda i: {"question": f"Sky {i}?", "choices": ["blue", "red"], "answer": i % 2}, "choice", {}),
    "generation": (
        lambda i: {"input": f"a text {i}", "target": f"y {i}", "references": ["y", "z"]},
        "generation",
        {"references_field": "references"},
    ),
    "alpaca": (lambda i: {"instruction": f"do {i}", "input": "", "output": f"line\nline {i}"}, "generation", {}),
    "chat": (lambda i: {"messages": turns(i, "hi", "yes", "why", "so")}, "chat", {}),
    "sharegpt": (
        lambda i: {"conversations": [{"from": "human", "value": f"q{i}"}, {"from": "gpt", "value": f"a{i}"}]},
        "generation",
        {},
    ),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_rows_of_every_shape_become_a_task_whose_rows_encode(tmp_path, jsonl, tokenizer, shape):
    make, kind, options = SHAPES[shape]
    task, started = loaded(jsonl([make(number) for number in range(20)]), tmp_path)
    assert (task.kind, task.options) == (kind, options)
    assert started.report.kind == kind
    splits = load_splits(task)
    encoded = Encoder(task, tokenizer).encode(splits.train)
    assert encoded
    assert all(task.spec.gold(task, row) is not None for row in splits.train)
    # The model never sees what it must find.
    assert not set(task.target_fields) & set(task.columns)


def test_an_answer_beside_a_list_of_answers_is_not_shown(tmp_path, jsonl):
    rows = [korean(number) | {"answer": "서울"} for number in range(20)]
    assert loaded(jsonl(rows), tmp_path)[0].fields == ("context", "question")


FILES = {
    "table.csv": "text,label\n" + "".join(f'"a, text {i}",{"ab"[i % 2]}\n' for i in range(20)),
    "semicolons.csv": "Text;Label\n" + "".join(f"a, text {i};{'ab'[i % 2]}\n" for i in range(20)),
    "index.csv": ",text,label\n" + "".join(f"{i},some text {i},{'ab'[i % 2]}\n" for i in range(20)),
    "headerless.csv": "".join(f"{i % 2},some longer text {i}\n" for i in range(20)),
    "tabs.tsv": "text\tlabel\n" + "".join(f"some text {i}\t{'ab'[i % 2]}\n" for i in range(20)),
    "lists.csv": "text,labels\n"
    + "".join(f"some text {i},\"['a', 'b']\"\n" if i % 2 else f"text {i},['a']\n" for i in range(20)),
    "columns.json": json.dumps(
        {"text": {str(i): f"a text {i}" for i in range(20)}, "label": {str(i): "ab"[i % 2] for i in range(20)}}
    ),
    "sentences.conll": "".join(f"Ada B-PER\nsaw O\nRome{i} S-LOC\n\n" for i in range(20)),
    "doccano.jsonl": "".join(
        json.dumps({"id": i, "text": span_row(i)[0], "label": spans_in(*span_row(i)), "Comments": []}) + "\n"
        for i in range(20)
    ),
    "doccano.csv": "id,text,label,Comments\n"
    + "".join(f"{i},some text {i},{('x', 'y', 'x#y')[i % 3]},\n" for i in range(20)),
    "prodigy.jsonl": "".join(
        json.dumps(
            {
                "text": f"Ada saw Rome {i}",
                "spans": [{"start": 0, "end": 3, "label": "PER"}],
                "answer": "reject" if i % 4 == 0 else "accept",
                "_view_id": "ner_manual",
            }
        )
        + "\n"
        for i in range(20)
    ),
    "squad.json": json.dumps(
        {"data": [{"paragraphs": [{"context": f"Ada saw Rome {i}.", "qas": [
            {"id": str(i), "question": "Who?", "answers": [{"text": "Ada", "answer_start": 0}]}
        ]} for i in range(20)]}]}
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_files_of_every_form_become_a_task_whose_rows_encode(tmp_path, tokenizer, name):
    path = tmp_path / name
    path.write_text(FILES[name])
    task, _ = loaded(path, tmp_path)
    encoder = Encoder(task, tokenizer)
    assert len(encoder.encode(load_splits(task).train)) >= 9
    assert not any("cannot be given" in notice for notice in encoder.notices)


def test_offsets_of_javascript_become_a_task(tmp_path, jsonl, tokenizer):
    rows = []
    for number in range(20):
        text, parts = span_row(number)
        places = [len(text[: text.index(said)].encode("utf-16-le")) // 2 for said, _ in parts]
        spans = [
            {"start": start, "end": start + len(said), "label": label, "text": said}
            for start, (said, label) in zip(places, parts, strict=True)
        ]
        rows.append({"text": text, "spans": spans})
    task, _ = loaded(jsonl(rows), tmp_path)
    assert task.options == {"text_field": "text"}
    splits = load_splits(task)
    assert [notice.count for notice in splits.noticed if "places" in notice.kind] == [20]
    encoder = Encoder(task, tokenizer)
    encoder.encode(splits.train)
    assert not any("cannot be given" in notice for notice in encoder.notices)


@pytest.mark.parametrize(
    ("systems", "first"),
    [(("",), None), (("Be {brief}.",), "Be {{brief}}."), (("Be brief.", "Be long."), "{system}")],
    ids=["none", "always the same", "different"],
)
def test_messages_become_a_chat_template(tmp_path, jsonl, tokenizer, systems, first):
    def conversation(number):
        system = systems[number % len(systems)]
        said = turns(number, "Question", "First.\nThen")
        return {"messages": [*([{"role": "system", "content": system}] if system else []), *said]}

    task, _ = loaded(jsonl([conversation(number) for number in range(10)]), tmp_path)
    said = [(message.role, message.content) for message in task.template]
    assert said == [*([("system", first)] if first else []), ("user", "{user}")]
    assert (task.answer_field, task.stop, task.data.format) == ("assistant", [], "messages")
    encoded = Encoder(task, tokenizer).encode(load_splits(task).train)
    shown = tokenizer.decode(encoded[0].input_ids)
    assert any((system or "Default.") in shown for system in systems)
    assert re.search(r"Question \d$", shown)


def test_encoders_get_vectors_or_a_mask(tmp_path, jsonl):
    task, _ = loaded(jsonl(labelled()), tmp_path, backbone="m", place_of=lambda words: "vectors")
    assert (task.template, task.read, task.backbone) == ("{text}", "mean", "m")
    task, _ = loaded(jsonl(labelled()), tmp_path, backbone="m", place_of=lambda words: "mask")
    assert (task.template, task.read) == ("{text}\nLabel: {mask}", None)
    rows = [SHAPES["tags"][0](number) for number in range(20)]
    task, _ = loaded(jsonl(rows), tmp_path, backbone="m", place_of=lambda words: "mask" if words else "vectors")
    assert task.template == "{tokens}"
