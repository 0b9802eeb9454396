"""Each format as its users have it: written out here by hand, read, and broken."""

import json
import random
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from overture.core.errors import DataError
from overture.data.formats.conll import bio
from overture.data.formats.options import FileOptions, FormatName
from overture.data.formats.registry import FORMATS
from overture.data.read import read_table
from overture.data.splits import load_splits
from overture.data.task import Task

SQUAD = {
    "version": "v2.0",
    "data": [
        {
            "title": "Normans",
            "paragraphs": [
                {
                    "context": "The Normans gave their name to Normandy, a region in France.",
                    "qas": [
                        {
                            "id": "a1",
                            "question": "Where is Normandy?",
                            "is_impossible": False,
                            "answers": [
                                {"text": "France", "answer_start": 53},
                                {"text": "in France", "answer_start": 50},
                            ],
                        },
                        {
                            "id": "a2",
                            "question": "Who is king?",
                            "is_impossible": True,
                            "plausible_answers": [{"text": "Normans", "answer_start": 4}],
                            "answers": [],
                        },
                    ],
                }
            ],
        },
        {
            "title": "Oxygen",
            "paragraphs": [{"context": "O2.", "qas": [{"id": "b", "question": "?", "answers": []}]}],
        },
    ],
}
TALK = [
    {"from": "system", "value": "Be short."},
    {"from": "human", "value": "Two and two?"},
    {"from": "gpt", "value": "Four."},
]
CONLL_2003 = """-DOCSTART- -X- -X- O

EU NNP B-NP I-ORG
rejects VBZ B-VP O
German JJ B-NP I-MISC
British JJ I-NP B-MISC
call NN I-NP O

Peter NNP B-NP I-PER
Blackburn NNP I-NP I-PER
"""


def read_rows(path, **options):
    """The rows and lines of a file."""
    table = read_table(path, FileOptions(**options))
    return table.rows, table.lines


def test_the_names_are_those_of_the_registry():
    assert set(get_args(FormatName)) == set(FORMATS)


def written(tmp_path, name, content):
    path = tmp_path / name
    path.write_text(content if isinstance(content, str) else json.dumps(content, indent=2))
    return path


def broken(path, **options):
    with pytest.raises(DataError) as caught:
        read_rows(path, **options)
    return [str(problem).removeprefix(str(path)) for problem in caught.value.problems]


# -- containers


def test_a_json_list_names_lines_or_else_records(tmp_path):
    rows = [{"text": "a"}, {"text": "b"}]
    assert read_rows(written(tmp_path, "a.json", rows)) == (rows, [2, 5])
    assert read_rows(written(tmp_path, "b.json", json.dumps(rows))) == (rows, [1, 2])
    assert read_rows(written(tmp_path, "c.json", {"data": rows})) == (rows, [1, 2])
    # Many files called .json hold JSON lines.
    assert read_rows(written(tmp_path, "d.json", '{"text": "a"}\n{"text": "b"}\n')) == (rows, [1, 2])


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ('[\n{"a": 1},\n{"a": }\n]', 3),
        ('[\n{"a": 1}\n{"a": 2}\n]', 3),
        ('[{"a": 1},\n]', 2),
        ('[{"a": 1}', 1),
        ('[{"a": 1}]\nmore', 1),
        ('[\n{"a": 1},\n7]', 3),
        ('[{"a": NaN}]', 1),
        ("[" * 100_000, 1),
        ('"text"', 1),
    ],
)
def test_bad_json(tmp_path, content, line):
    assert broken(written(tmp_path, "a.json", content))[0].startswith(f":{line}: not ")


@given(
    rows=st.lists(st.dictionaries(st.text(), st.text() | st.integers() | st.lists(st.text())), min_size=1),
    indent=st.none() | st.integers(0, 3),
)
def test_json_lists_are_what_json_says(tmp_path_factory, rows, indent):
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_text(json.dumps(rows, indent=indent))
    found, lines = read_rows(path, format="json")
    assert found == json.loads(path.read_text())
    assert lines == sorted(set(lines))


def test_tsv_takes_quotes_as_text(tmp_path):
    path = written(tmp_path, "a.tsv", 'text\tlabel\n"Wow" he said, "no\tpos\n')
    assert read_rows(path) == ([{"text": '"Wow" he said, "no', "label": "pos"}], [2])
    assert "3 columns" in broken(written(tmp_path, "b.tsv", "text\tlabel\na\tb\tc\n"))[0]
    written(tmp_path, "c.csv", "text\tlabel\na\tb\n")
    assert read_rows(tmp_path / "c.csv") == ([{"text": "a", "label": "b"}], [2])


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "utf-8-sig"])
def test_utf_16_is_read(tmp_path, encoding):
    path = tmp_path / "a.json"
    path.write_bytes('[{"a": "for all of us, ü"}]'.encode(encoding))
    assert read_rows(path)[0] == [{"a": "for all of us, ü"}]


def test_a_file_that_is_too_large_is_not_opened(tmp_path, monkeypatch):
    monkeypatch.setattr("overture.data.read._MAX_BYTES", 3)
    assert "at most" in broken(written(tmp_path, "a.jsonl", '{"a": 1}\n'))[0]


# -- CoNLL


def test_conll_2003_becomes_bio(tmp_path):
    found = read_table(written(tmp_path, "eng.train.conll", CONLL_2003))
    assert found.format == "conll"
    assert found.rows == [
        {
            "tokens": ["EU", "rejects", "German", "British", "call"],
            "tags": ["B-ORG", "O", "B-MISC", "B-MISC", "O"],
        },
        {"tokens": ["Peter", "Blackburn"], "tags": ["B-PER", "I-PER"]},
    ]
    assert found.lines == [3, 9]


def test_wnut_is_found_by_its_content(tmp_path):
    text = "#\tO\n@paulwalk\tO\nEmpire\tB-location\nState\tI-location\n\nRT\tO\n"
    found = read_table(written(tmp_path, "wnut17train.txt", text))
    assert found.rows[0]["tokens"] == ["#", "@paulwalk", "Empire", "State"]
    assert [(notice.kind, notice.subject) for notice in found.notices] == [("read as conll", "wnut17train.txt")]
    assert found.lines == [1, 6]


def test_conll_comments_and_other_tags(tmp_path):
    path = written(tmp_path, "a.conll", "# id 7 domain=en\nthe _ _ O\nBBC _ _ B-Corp\n\n# id 8\nx _ _ O\n")
    assert [row["tokens"] for row in read_rows(path)[0]] == [["the", "BBC"], ["x"]]
    path = written(tmp_path, "pos.conll", "the DET\ndog NOUN\n")
    assert read_rows(path)[0] == [{"tokens": ["the", "dog"], "tags": ["DET", "NOUN"]}]


def test_bad_conll(tmp_path):
    path = written(tmp_path, "a.conll", "a O\nb\nc x O\n\nd B-X\ne Q-X\n")
    assert broken(path) == [
        ":2: no tag after the word",
        ":3: 3 columns (the first token has 2)",
        ":5: 'Q-X' is no entity tag (wanted O, or B-, I-, E-, S- and a type)",
    ]


@pytest.mark.parametrize("scheme", ["IOB1", "IOB2", "IOBES"])
def test_every_scheme_gives_the_entities_that_seqeval_reads(scheme):
    seqeval = pytest.importorskip("seqeval.scheme")
    chance = random.Random(scheme)
    for _ in range(200):
        tags, spans = drawn_tags(scheme, chance)
        found = seqeval.Entities([bio(tags)], seqeval.IOB2).entities[0]
        assert [(entity.tag, entity.start, entity.end) for entity in found] == spans, tags
        there = seqeval.Entities([tags], getattr(seqeval, scheme)).entities[0]
        assert [(entity.tag, entity.start, entity.end) for entity in there] == spans, tags


def drawn_tags(scheme, chance):
    """A random sentence of entities, and its tags as the scheme writes them."""
    tags, spans = [], []
    for _ in range(chance.randint(1, 6)):
        kind, length = chance.choice(["O", "PER", "ORG"]), chance.randint(1, 3)
        if kind == "O":
            tags += ["O"] * length
            continue
        touches = bool(spans) and spans[-1][2] == len(tags) and spans[-1][0] == kind
        spans.append((kind, len(tags), len(tags) + length))
        marks = ["B", *"I" * (length - 1)]
        if scheme == "IOB1" and not touches:
            marks[0] = "I"
        if scheme == "IOBES":
            marks[-1] = "S" if length == 1 else "E"
        tags += [f"{mark}-{kind}" for mark in marks]
    return tags, spans


# -- shapes


def test_alpaca(tmp_path):
    rows = [
        {"instruction": "Sort.", "input": "b a", "output": "a b"},
        {"instruction": "Say hi.", "output": "hi", "id": 7},
    ]
    found = read_table(written(tmp_path, "alpaca_data.json", rows))
    assert found.rows == [rows[0], {**rows[1], "input": ""}]
    assert (found.format, found.lines) == ("alpaca", [2, 7])
    assert [(notice.kind, notice.subject) for notice in found.notices] == [("read as Alpaca", "alpaca_data.json")]
    assert found.settings == {"format": "alpaca"}
    assert read_rows(tmp_path / "alpaca_data.json", format="json")[0] == rows


def test_alpaca_that_was_asked_for_names_bad_records(tmp_path):
    path = written(tmp_path, "a.jsonl", '{"instruction": "x", "output": "y"}\n{"instruction": 3}\n')
    assert broken(path, format="alpaca") == [
        ":2: 'instruction' is of type int (wanted text)",
        ":2: no field 'output' (Alpaca has instruction, input, output)",
    ]


def test_sharegpt(tmp_path):
    more = [*TALK, {"from": "human", "value": "And?"}]
    rows = [{"id": "x", "conversations": TALK}, {"system": "S", "conversations": more[1:]}]
    found = read_table(written(tmp_path, "sg.json", rows))
    messages = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "Two and two?"},
        {"role": "assistant", "content": "Four."},
    ]
    one_turn = {"system": "Be short.", "user": "Two and two?", "assistant": "Four."}
    assert found.rows[0] == {"id": "x", "messages": messages, **one_turn}
    assert [message["role"] for message in found.rows[1]["messages"]] == ["system", "user", "assistant", "user"]
    assert "user" not in found.rows[1]
    assert found.format == "sharegpt"


def test_bad_sharegpt(tmp_path):
    rows = [{"conversations": TALK}] * 20 + [
        {"conversations": [{"from": "tool", "value": "x"}]},
        {"conversations": [{"from": "human", "value": None}]},
        {"conversations": []},
    ]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = broken(path)
    assert found[0].startswith(":21: message 1 is from 'tool'")
    assert found[1].startswith(":22: message 1 has as value null")
    assert found[2].startswith(":23: no conversation")


def test_openai_messages(tmp_path):
    rows = [
        {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]},
        {"messages": [{"role": "developer", "content": [{"type": "text", "text": "S"}]}]},
    ]
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = read_table(path)
    assert found.rows[0] == {**rows[0], "system": "", "user": "Hi", "assistant": "Hello"}
    assert found.rows[1] == {"messages": [{"role": "system", "content": "S"}]}
    rows[1]["messages"] = [
        {"role": "assistant", "content": None, "tool_calls": [{}]},
        {"role": "user", "content": [{"type": "image_url", "image_url": {}}]},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert broken(path) == [
        ":2: message 1 calls a tool (wanted text)",
        ":2: message 2 has as content a list (wanted text)",
    ]


def test_squad(tmp_path):
    for content in (json.dumps(SQUAD), json.dumps(SQUAD, indent=1)):
        found = read_table(written(tmp_path, "dev-v2.0.json", content))
        assert found.format == "squad"
        assert found.lines == [1, 2, 3]
        assert found.rows[0] == {
            "id": "a1",
            "title": "Normans",
            "context": SQUAD["data"][0]["paragraphs"][0]["context"],
            "question": "Where is Normandy?",
            "answers": ["France", "in France"],
            "answer_starts": [53, 50],
            "is_impossible": False,
        }
        assert found.rows[1]["answers"] == []
        assert found.rows[1]["is_impossible"]
        assert "is_impossible" not in found.rows[2]
    context = found.rows[0]["context"]
    for text, start in zip(found.rows[0]["answers"], found.rows[0]["answer_starts"], strict=True):
        assert context[start:].startswith(text)


@pytest.mark.parametrize(
    "answer",
    [
        {"answers": [{"text": "c", "answer_start": 0}]},
        {"answers": {"text": ["c"], "answer_start": [0]}},
        {"answers": {"text": "c", "answer_start": 0}},
        {"answer": "c", "answer_start": 0},
    ],
)
def test_one_question_a_record(tmp_path, answer):
    rows = [{"id": i, "context": "c", "question": f"q{i}", **answer} for i in range(3)]
    table = read_table(written(tmp_path, "a.json", rows))
    assert table.format == "squad"
    assert [(row["question"], row["answers"], row["answer_starts"]) for row in table.rows] == [
        (f"q{i}", ["c"], [0]) for i in range(3)
    ]


def test_questions_without_an_answer_beside_others(tmp_path):
    rows = [{"context": "c", "question": "q", "answers": [{"text": "c", "answer_start": 0}]}] * 2
    rows.insert(1, {"context": "c", "question": "q", "answers": []})
    table = read_table(written(tmp_path, "a.json", rows))
    assert [(row["answers"], row["answer_starts"]) for row in table.rows] == [(["c"], [0]), ([], []), (["c"], [0])]
    # Answers that are texts already stay as they are.
    rows = [{"context": "c", "question": "q", "answers": answers} for answers in ([], ["c"])]
    assert read_table(written(tmp_path, "b.json", rows)).rows == rows


@pytest.mark.parametrize(("value", "is_impossible"), [("false", False), ("True", True), (0, False), (1, True)])
def test_what_is_impossible_may_be_a_text(tmp_path, value, is_impossible):
    row = {"context": "c", "question": "q", "answers": {"text": []}, "is_impossible": value}
    assert read_table(written(tmp_path, "a.json", [row])).rows[0]["is_impossible"] is is_impossible
    assert "is_impossible" in broken(written(tmp_path, "b.json", [{**row, "is_impossible": "perhaps"}]))[0]


def test_squad_by_column_and_broken(tmp_path):
    row = {"id": "1", "context": "c", "question": "q", "answers": {"text": ["c"], "answer_start": [0]}}
    found = read_table(written(tmp_path, "flat.jsonl", json.dumps(row)))
    assert found.rows == [{**row, "answers": ["c"], "answer_starts": [0]}]
    broken_ones = [
        ({"paragraphs": [{"qas": []}]}, "paragraph 1 has no context"),
        ({"paragraphs": [{"context": "c", "qas": [{"id": "z"}]}]}, "question 'z': 'question' is null"),
        ({"paragraphs": [{"context": "c", "qas": [{"answers": 3}]}]}, "without a list of answers"),
    ]
    for article, message in broken_ones:
        assert message in broken(written(tmp_path, "a.json", {"data": [article]}))[0]
    assert "no rows" in broken(written(tmp_path, "a.json", {"data": [{"paragraphs": []}]}))[0]


# -- a task on them


def test_a_task_reads_them_and_says_so(tmp_path):
    rows = [{"instruction": f"Say {i}.", "output": str(i)} for i in range(10)]
    written(tmp_path, "a.json", rows)
    values = {"name": "say", "template": "{instruction}{input}\n", "answer_field": "output"}
    (tmp_path / "task.yaml").write_text(json.dumps({**values, "data": {"path": "a.json"}}))
    splits = load_splits(Task.load(tmp_path / "task.yaml"))
    assert "read as Alpaca: a.json (data.format: alpaca)" in splits.notices
    assert len(splits.train) == 6
    with pytest.raises(DataError, match="no field 'input'"):
        load_splits(Task.load(tmp_path / "task.yaml", ["data.format=json"]))


def test_a_data_set_of_the_hub_is_flattened_too(tmp_path, monkeypatch):
    class Hub:
        @staticmethod
        def disable_progress_bars():
            pass

        @staticmethod
        def load_dataset(name, subset):
            return {"train": [{"conversations": TALK} for _ in range(5)]}

    monkeypatch.setitem(__import__("sys").modules, "datasets", Hub)
    task = Task(
        name="talk",
        data={"dataset": "some/talk"},
        template=[{"role": "user", "content": "{user}"}],
        answer_field="assistant",
    )
    splits = load_splits(task)
    assert splits.train[0].fields["user"] == "Two and two?"
    assert "read as ShareGPT: train (data.format: sharegpt)" in splits.notices
