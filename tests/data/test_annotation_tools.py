"""Exports of annotation tools, in the shape in which the tools write them."""

import pytest
from reading import noticed, problems_of, table_of_file, written

from overture.data.read import read_table

TEXT = "Yesterday Ines Okoro flew to Accra."
SPANS = [{"start": 10, "end": 20, "label": "Person"}, {"start": 29, "end": 34, "label": "City"}]


# -- Label Studio


def result(value, type="labels", name="label"):
    return {"value": value, "type": type, "from_name": name, "to_name": "text", "id": "x"}


def label_studio_task(results, **changes):
    return {
        "id": 7,
        "data": {"text": TEXT},
        "annotations": [{"id": 1, "result": results, "was_cancelled": False}],
        "meta": {},
        "project": 3,
        **changes,
    }


def marked(span):
    return {
        "start": span["start"],
        "end": span["end"],
        "text": TEXT[span["start"] : span["end"]],
        "labels": [span["label"]],
    }


def test_label_studio_with_spans(tmp_path):
    tasks = [label_studio_task([result(marked(span)) for span in SPANS]), label_studio_task([])]
    table = table_of_file(tmp_path, "a.json", tasks)
    assert table.format == "label-studio"
    assert table.settings == {"format": "label-studio"}
    spans = [{**span, "text": TEXT[span["start"] : span["end"]]} for span in SPANS]
    assert table.rows[0] == {"id": 7, "text": TEXT, "label": spans, "spans": spans}
    assert table.rows[1]["spans"] == []


def test_label_studio_with_choices(tmp_path):
    one = label_studio_task([result({"choices": ["good"]}, "choices", "sentiment")])
    two = label_studio_task([result({"choices": ["good", "short"]}, "choices", "topics")])
    rows = table_of_file(tmp_path, "a.json", [one, two]).rows
    assert rows[0]["sentiment"] == "good"
    assert rows[1]["topics"] == ["good", "short"]


def test_label_studio_tells_what_it_leaves_out(tmp_path):
    good = [result({"choices": ["good"]}, "choices")]
    tasks = [
        label_studio_task(good),
        label_studio_task(good, annotations=[]),
        label_studio_task(good, annotations=[{"result": good, "was_cancelled": True}]),
        label_studio_task(good, annotations=[{"result": good}, {"result": []}]),
        label_studio_task([*good, {"type": "relation", "from_id": "x", "to_id": "y"}]),
    ]
    table = table_of_file(tmp_path, "a.json", tasks)
    assert len(table.rows) == 3
    counts = noticed(table)
    assert counts["tasks without an annotation"] == 2
    assert counts["tasks with several annotations"] == 1
    assert counts["relations"] == 1
    problems = problems_of(tmp_path, "b.json", [label_studio_task([result({"x": 1}, "rectanglelabels")])])
    assert "rectanglelabels" in problems[0][1]


def test_label_studio_json_min(tmp_path):
    row = {"text": TEXT, "id": 1, "label": [marked(span) for span in SPANS], "annotation_id": 1, "lead_time": 4.2}
    empty = {"text": TEXT, "id": 2, "annotation_id": 2, "lead_time": 1.0}
    table = table_of_file(tmp_path, "a.json", [row, empty, {**empty, "sentiment": {"choices": ["a", "b"]}}])
    assert [(span["start"], span["end"], span["label"]) for span in table.rows[0]["label"]] == [
        (10, 20, "Person"),
        (29, 34, "City"),
    ]
    assert table.rows[1]["label"] == []
    assert table.rows[2]["sentiment"] == ["a", "b"]


# -- doccano


@pytest.mark.parametrize(
    ("field", "spans"),
    [
        ("label", [[10, 20, "Person"], [29, 34, "City"]]),
        ("labels", [[10, 20, "Person"], [29, 34, "City"]]),
        (
            "entities",
            [{"id": 1, "start_offset": s["start"], "end_offset": s["end"], "label": s["label"]} for s in SPANS],
        ),
        ("entities", [[10, 20, "Person"], [29, 34, "City"]]),
    ],
)
def test_doccano_spans(tmp_path, field, spans):
    table = table_of_file(
        tmp_path, "a.jsonl", [{"id": 0, "text": TEXT, field: spans}, {"id": 1, "text": "x", field: []}]
    )
    assert table.format == "doccano"
    assert table.rows[0][field] == SPANS
    assert table.rows[0]["spans"] == SPANS
    assert table.rows[1]["spans"] == []


def test_doccano_relations_are_told(tmp_path):
    row = {"text": TEXT, "entities": SPANS, "relations": [{"from_id": 1}], "Comments": []}
    assert noticed(table_of_file(tmp_path, "a.jsonl", [row]))["relations"] == 1


def test_doccano_labels_are_plain_rows(tmp_path):
    rows = [{"text": "fine", "label": ["good"]}, {"text": "dull", "label": ["bad", "long"]}]
    table = table_of_file(tmp_path, "a.jsonl", rows)
    assert table.rows == rows
    assert table.format == "jsonl"


def test_a_mixture_of_spans_and_labels_is_a_problem(tmp_path):
    rows = [{"text": TEXT, "label": [[10, 20, "Person"]]}] * 20 + [{"text": TEXT, "label": ["good"]}]
    assert [where for where, _ in problems_of(tmp_path, "a.jsonl", rows)] == ["a.jsonl:21"]


# -- Prodigy


PRODIGY = {"text": TEXT, "_input_hash": 1, "_task_hash": 2, "_session_id": None, "_view_id": "ner_manual"}


def test_prodigy_teaches_what_was_accepted(tmp_path):
    tokens = [{"text": word, "start": 0, "end": 1, "id": i} for i, word in enumerate(TEXT.split())]
    spans = [{**span, "token_start": 1, "token_end": 2} for span in SPANS]
    rows = [
        {**PRODIGY, "tokens": tokens, "spans": spans, "answer": answer} for answer in ("accept", "reject", "ignore")
    ]
    rows.append({**PRODIGY, "answer": "accept"})
    table = table_of_file(tmp_path, "a.jsonl", rows)
    assert table.rows == [{"text": TEXT, "tokens": TEXT.split(), "spans": SPANS}, {"text": TEXT, "spans": []}]
    assert table.lines == [1, 4]
    assert (noticed(table)["rejected rows"], noticed(table)["ignored rows"]) == (1, 1)


def test_prodigy_labels_and_choices(tmp_path):
    one = {**PRODIGY, "label": "SPORTS", "answer": "accept"}
    assert table_of_file(tmp_path, "a.jsonl", [one]).rows == [{"text": TEXT, "label": "SPORTS"}]
    options = [{"id": "a", "text": "Good"}, {"id": "b", "text": "Bad"}]
    many = {**PRODIGY, "options": options, "accept": ["b"], "answer": "accept"}
    (row,) = table_of_file(tmp_path, "b.jsonl", [many]).rows
    assert row["label"] == ["b"]
    assert row["label_texts"] == ["Bad"]


def test_an_answer_that_is_no_decision_is_plain_data(tmp_path):
    rows = [{"question": "Shall we?", "answer": "accept"}]
    assert table_of_file(tmp_path, "a.jsonl", rows).rows == rows


def test_spacy_categories(tmp_path):
    rows = [{"text": "x", "cats": {"A": 1.0, "B": 0.0}}, {"text": "y", "cats": {"A": False, "B": True}}]
    assert [row["label"] for row in table_of_file(tmp_path, "a.jsonl", rows).rows] == ["A", "B"]
    rows.append({"text": "z", "cats": {"A": 1, "B": 1}})
    assert [row["labels"] for row in table_of_file(tmp_path, "b.jsonl", rows).rows] == [["A"], ["B"], ["A", "B"]]


# -- brat


def test_a_folder_of_brat(tmp_path):
    folder = tmp_path / "corpus"
    folder.mkdir()
    written(folder, "a.txt", TEXT + "\n")
    written(
        folder,
        "a.ann",
        "T1\tPerson 10 20\tInes Okoro\nT2\tCity 29 34\tAccra\n"
        "R1\tIn Arg1:T1 Arg2:T2\nT3\tPerson 10 14;29 34\tInes Accra\n",
    )
    written(folder, "b.txt", "nothing")
    written(folder, "b.ann", "")
    written(folder, "c.txt", "no marks")
    table = read_table(folder)
    assert table.format == "brat"
    assert [row["id"] for row in table.rows] == ["a", "b"]
    assert table.rows[0]["spans"] == [
        {"start": 10, "end": 20, "label": "Person", "text": "Ines Okoro"},
        {"start": 29, "end": 34, "label": "City", "text": "Accra"},
        {"start": 10, "end": 34, "label": "Person"},
    ]
    assert table.rows[0]["text"][10:20] == "Ines Okoro"
    assert noticed(table) == {
        "relations, events and notes": 1,
        "spans of several fragments": 1,
        "texts without a file of annotations": 1,
    }


# -- words and tags


def test_a_table_with_a_word_in_each_row(tmp_path):
    content = (
        "Sentence #,Word,POS,Tag\nSentence: 1,Ann,NN,B-per\n,Reid,NN,E-per\n,moved,NN,O\nSentence: 2,Bo,NN,S-per\n"
    )
    table = table_of_file(tmp_path, "a.csv", content)
    assert table.rows == [
        {"tokens": ["Ann", "Reid", "moved"], "tags": ["B-per", "I-per", "O"]},
        {"tokens": ["Bo"], "tags": ["B-per"]},
    ]
    assert table.lines == [2, 5]
    numbered = "sentence_id,word,tag\n1,Ann,B-per\n1,left,O\n2,Bo,B-per\n"
    assert [row["tokens"] for row in table_of_file(tmp_path, "b.csv", numbered).rows] == [["Ann", "left"], ["Bo"]]
    assert [where for where, _ in problems_of(tmp_path, "c.csv", "sentence_id,word,tag\n1,Ann,\n")] == ["c.csv:2"]


def test_a_sentence_with_one_of_its_words_is_no_table_of_words(tmp_path):
    rows = [{"sentence": "the bank of the river", "word": "bank", "label": "nature"}] * 3
    assert table_of_file(tmp_path, "a.jsonl", rows).rows == rows


def test_words_of_white_space_are_left_out_with_their_tags(tmp_path):
    row = {"tokens": ["Ann", "", "left", "\u00a0"], "tags": ["B-PER", "O", "O", "O"]}
    table = table_of_file(tmp_path, "a.jsonl", [row])
    assert table.rows == [{"tokens": ["Ann", "left"], "tags": ["B-PER", "O"]}]
    assert noticed(table) == {"words of white space": 2}


def test_tags_under_another_name(tmp_path):
    rows = [{"words": ["Ann", "left"], "ner_tags": ["B-PER", "O"]}, {"words": [], "ner_tags": []}]
    table = table_of_file(tmp_path, "a.jsonl", rows)
    assert table.rows[0]["tokens"] == ["Ann", "left"]
    assert table.rows[0]["tags"] == ["B-PER", "O"]
    assert len(table.notices) == 2
