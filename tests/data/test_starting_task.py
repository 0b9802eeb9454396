"""``overture init``: the first task file and the report of its data, for files of every shape."""

import json

import pytest
import yaml
from reading import labelled, loaded

from overture.core.errors import DataError
from overture.data.encode import Encoder
from overture.data.init_task import starting_task
from overture.data.languages import languages_of
from overture.data.splits import load_splits
from overture.data.task import Task
from overture.data.task_text import slug


def left_out(started):
    return {left.field: left.why for left in started.report.left_out}


def test_a_labelled_file(tmp_path, jsonl, tokenizer):
    task, started = loaded(jsonl(labelled(), "My Films.jsonl"), tmp_path)
    assert task.template == "{text}\nLabel:"
    assert task.words == {"3": (" 3",), "Very_Good": (" very good",), "no": (" no",)}
    assert task.name == "my-films"
    assert "path: " in started.text
    assert (started.report.kind, started.report.target, started.report.texts) == ("classification", ["label"], ["text"])
    encoder = Encoder(task, tokenizer)
    assert encoder.notices == []
    assert len(encoder.encode(load_splits(task).train)) == 12


def test_every_key_stands_under_its_description_and_lines_are_short(tmp_path, jsonl):
    _, started = loaded(jsonl(labelled()), tmp_path)
    comments = [line for line in started.text.splitlines() if line.lstrip().startswith("#")]
    assert max(map(len, comments)) <= 100
    shown = " ".join(comment.lstrip(" #") for comment in comments)
    for key in ("template", "label_field", "labels", "metric"):
        assert Task.model_fields[key].description in shown


def test_the_task_file_may_stand_elsewhere(tmp_path, jsonl):
    folder = tmp_path / "tasks" / "deep"
    folder.mkdir(parents=True)
    task, started = loaded(jsonl(labelled()), folder)
    assert '"../../rows.jsonl"' in started.text
    assert len(load_splits(task).train) == 12


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Mäine Tickets!", "maeine-tickets"),
        ("Straße_2024", "strasse_2024"),
        ("Ma\u0308rz -- é", "maerz-e"),
        ("отзывы", "task"),
        ("-_x" * 40, "x" + "-_x" * 21),
    ],
)
def test_names_of_files_become_names_of_tasks(name, expected):
    assert slug(name) == expected


def test_a_given_name_is_told_where_it_changes(tmp_path, jsonl):
    task, started = loaded(jsonl(labelled()), tmp_path, name="Große Fragen")
    assert task.name == "grosse-fragen"
    assert any("grosse-fragen" in note for note in started.notes)
    _, started = loaded(jsonl(labelled()), tmp_path, name="fragen")
    assert not any("fragen" in note for note in started.notes)


# -- the parts that fields play


def test_names_win_over_few_values_and_the_rest_is_told(tmp_path, jsonl):
    rows = [
        {"id": f"r{i}", "lang": "en" if i % 2 else "de", "seen": f"2024-01-{i + 1:02}", "n": i, "source": "web"}
        | {"premise": f"a man is here {i}", "hypothesis": f"he sleeps {i}", "Intent": f"i{i % 4}", "note[0]": "x y"}
        for i in range(20)
    ]
    task, started = loaded(jsonl(rows), tmp_path)
    assert task.label_field == "Intent"
    assert task.fields == ("premise", "hypothesis")
    assert task.template == "Premise: {premise}\nHypothesis: {hypothesis}\nIntent:"
    assert set(left_out(started)) == {"id", "lang", "seen", "n", "source", "note[0]"}
    assert all(left_out(started).values())


def test_repeated_texts_are_shown_too(tmp_path, jsonl):
    aspects = ("food", "service", "price")
    rows = [
        {"sentence": f"The food was good, the rest was not, {i // 3}.", "aspect": aspects[i % 3], "label": "pnx"[i % 3]}
        for i in range(30)
    ]
    task, _ = loaded(jsonl(rows), tmp_path)
    assert task.fields == ("sentence", "aspect")


def test_known_names_stand_first(tmp_path, jsonl):
    rows = [
        {"Betreff": f"Wo ist mein Paket {i}", "body": f"Es fehlt seit Tagen {i}", "label": "ab"[i % 2]}
        for i in range(20)
    ]
    task, _ = loaded(jsonl(rows), tmp_path)
    assert task.fields == ("body", "Betreff")


def test_without_a_known_name_the_field_with_the_fewest_values(tmp_path, jsonl):
    rows = [{"a": f"t{i}", "b": f"b{i % 5}", "c": f"c{i % 2}"} for i in range(20)]
    task, _ = loaded(jsonl(rows), tmp_path)
    assert (task.label_field, task.fields) == ("c", ("a",))


def test_numbers_beside_their_names(tmp_path, jsonl):
    rows = [{"text": f"a text {i}", "label": i % 3, "label_text": ("low", "mid", "high")[i % 3]} for i in range(20)]
    task, _ = loaded(jsonl(rows), tmp_path)
    assert (task.label_field, set(task.words), task.fields) == ("label_text", {"low", "mid", "high"}, ("text",))


def test_many_labels_under_a_plain_name(tmp_path, jsonl):
    rows = [{"text": f"a question {i}", "intent": f"intent {i % 77}"} for i in range(400)]
    task, _ = loaded(jsonl(rows), tmp_path)
    assert len(task.words) == 77


def test_numbers_as_labels_ask_for_words(tmp_path, jsonl):
    task, started = loaded(jsonl([{"text": f"t{i}", "label": i % 2} for i in range(8)]), tmp_path)
    assert set(task.words) == {"0", "1"}
    assert any("numbers" in note for note in started.notes)


def test_odd_label_texts_are_quoted(tmp_path):
    labels = ["~", "1e3", "a: b", "# c", "Yes", "\U0001f600", "\u00e9\x7f", "'\"", "no", "words"]
    path = tmp_path / "a.csv"
    quoted = [label.replace('"', '""') for label in labels]
    path.write_text("text,label\n" + "".join(f'text {i},"{quoted[i % 10]}"\n' for i in range(30)))
    task, started = loaded(path, tmp_path)
    assert set(task.words) == set(labels)
    # Other readers of YAML see the same keys.
    assert set(yaml.safe_load(started.text)["labels"]) == set(labels)


# -- the report


MESSY = [
    {
        "text": f"my order number {i} is late",
        "kind": "",
        "label": ("Billing", "billing", "Billing ", "Shiping", "Shipping")[i % 5],
    }
    for i in range(40)
]


def test_labels_that_differ_in_case_or_white_space_are_one(tmp_path, jsonl):
    task, started = loaded(jsonl(MESSY), tmp_path)
    assert task.spellings == {"Billing": ["Billing ", "billing"]}
    assert task.words["Billing"] == (" billing",)
    counts = {label.label: label.rows["path"] for label in started.report.labels}
    assert counts == {"Billing": 24, "Shiping": 8, "Shipping": 8}
    assert started.report.alike == [("Shiping", "Shipping")]
    assert any("'Billing'" in note for note in started.notes)
    load_splits(task)


def test_rows_without_text_or_label_are_left_out(tmp_path, jsonl):
    rows = [*MESSY, {"text": " ", "kind": "", "label": "Billing"}, {"text": "a b c", "kind": "", "label": None}]
    task, started = loaded(jsonl(rows), tmp_path)
    assert task.data.drop == ["empty", "unlabelled"]
    assert started.report.unlabelled == 1
    splits = load_splits(task)
    assert len(splits.train) + len(splits.validation) + len(splits.test) == 40


def test_counts_of_the_report(tmp_path, jsonl):
    rows = [{"title": "", "text": f"Слово за словом {i // 2}", "label": "ab"[i % 3 == 0]} for i in range(20)]
    rows[0]["title"], rows[1]["title"] = "ein Titel", "der Titel"
    report = loaded(jsonl(rows), tmp_path)[1].report
    assert report.rows == {"path": 20}
    assert report.empty == {"title": 18}
    assert (report.repeats, report.contradictions) == (9, 6)
    assert (report.words.median, report.words.longest) == (4, 6)
    assert report.tokens is None
    assert report.languages == {"Cyrillic script": 1.0}


def test_lengths_are_told_in_tokens_where_there_is_a_tokenizer(tmp_path, jsonl):
    rows = [{"text": "ab" * (i + 1), "label": "ab"[i % 2]} for i in range(20)]
    started = starting_task(jsonl(rows), tmp_path, num_tokens=lambda texts: [len(text) for text in texts])
    assert (started.report.tokens.median, started.report.tokens.longest) == (22, 40)
    assert (started.report.words.median, started.report.words.longest) == (1, 1)


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("I ordered a new card and it has not come", "English"),
        ("Meine Karte ist nicht da, was kann ich tun?", "German"),
        ("Je n'ai pas reçu la carte que vous avez envoyée", "French"),
        ("No he recibido la tarjeta, ¿qué puedo hacer?", "Spanish"),
        ("Non ho ricevuto la carta, cosa posso fare?", "Italian"),
        ("Não recebi o meu cartão e já é muito tarde", "Portuguese"),
        ("Mijn kaart is nog niet aangekomen, wat kan ik doen?", "Dutch"),
        ("Nie mam jeszcze karty, co się z nią stało?", "Polish"),
        ("这个产品很好", "Chinese"),
        ("この映画はとても面白い", "Japanese"),
        ("이 영화는 재미있다", "Korean"),
        ("Это был очень хороший фильм, мы этому рады", "Russian"),
        ("Це дуже цікавий фільм", "Ukrainian"),
        ("wonderful", "Latin script"),
        ("Слово за словом", "Cyrillic script"),
        ("मुझे कार्ड नहीं मिला", "Devanagari script"),
    ],
)
def test_languages_are_guessed_by_script_and_common_words(text, language):
    assert languages_of([text, "42"]) == {language: 1.0}


def test_splits_that_stand_beside_each_other(tmp_path, jsonl):
    for number, name in enumerate(("train", "dev", "test")):
        jsonl(labelled(20 + number), f"{name}.jsonl")
    for path in (tmp_path, tmp_path / "train.jsonl"):
        task, started = loaded(path, tmp_path)
        assert [p and p.name for p in (task.data.train, task.data.validation, task.data.test)] == [
            "train.jsonl",
            "dev.jsonl",
            "test.jsonl",
        ]
        assert not any("drawn" in note for note in started.notes)
        assert started.report.rows == {"train": 20, "validation": 21, "test": 22}


def test_labels_of_all_splits_are_named(tmp_path, jsonl):
    jsonl(labelled(), "train.jsonl")
    jsonl([*labelled(), *({"text": f"one more text {i}", "label": "late"} for i in range(5))], "test.jsonl")
    assert "late" in loaded(tmp_path, tmp_path)[0].words


def test_a_column_without_a_name_is_passed_over(tmp_path, jsonl):
    task, _ = loaded(
        jsonl([{"": "ab"[i % 2], "text": f"a text {i}", "kind": "xyz"[i % 3]} for i in range(20)]), tmp_path
    )
    assert task.label_field == "kind"


def test_labels_that_are_all_alike_stay_apart(tmp_path, jsonl):
    task, _ = loaded(jsonl([{"text": f"a text {i}", "label": "aA"[i % 2]} for i in range(20)]), tmp_path)
    assert list(task.words) == ["A", "a"]


# -- what cannot be used


@pytest.mark.parametrize(
    "rows",
    [
        [{"text": f"t{i}"} for i in range(10)],
        [{"n": i, "label": "ab"[i % 2]} for i in range(10)],
        [{"text": f"t{i}", "label": "same"} for i in range(10)],
        [{"tokens": ["a", "b"], "tags": [2, 1]} for _ in range(10)],
        [],
    ],
    ids=["no label", "no text", "one label", "numbers of tags", "no rows"],
)
def test_unusable_data(jsonl, rows):
    with pytest.raises(DataError) as caught:
        starting_task(jsonl(rows))
    assert caught.value.fix or caught.value.got or caught.value.problems


def test_a_folder_without_training_rows(tmp_path):
    with pytest.raises(DataError) as caught:
        starting_task(tmp_path)
    assert caught.value.where == str(tmp_path)


def test_rows_without_any_label_are_told_as_such(jsonl):
    with pytest.raises(DataError) as caught:
        starting_task(jsonl([{"text": f"text {n}", "label": None} for n in range(6)]))
    assert "6 rows" in caught.value.got
    assert "training" in caught.value.fix


def test_rows_that_are_tested_and_trained_on_are_counted(tmp_path):
    for split, texts in (("train", range(12)), ("validation", range(20, 26)), ("test", range(8, 14))):
        rows = [{"text": f"text {n}", "label": "ab"[n % 2]} for n in texts]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert starting_task(tmp_path).report.repeats_of_training == {"test": 4}
