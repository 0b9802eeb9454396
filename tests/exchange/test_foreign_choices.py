"""Tasks of lm-evaluation-harness whose choices are a field of each row, from their file to scores of a tiny model."""

import json

import pytest
import torch
import yaml

from fakes import backbone_of, reference_of
from overture.core.errors import ConfigError, DataError
from overture.data.encode import Encoder
from overture.data.rows import gold_of
from overture.data.splits import load_splits
from overture.data.task import Task
from overture.engine.prompted import PromptedModel
from overture.evaluate.scoring import score
from overture.exchange.tasks.lm_eval import task_of_lm_eval

ARC = """
task: arc_easy
dataset_path: json
output_type: multiple_choice
test_split: test
doc_to_text: "Question: {{question}}\\nAnswer:"
doc_to_target: "{{choices.label.index(answerKey)}}"
doc_to_choice: "{{choices.text}}"
metric_list: [{metric: acc}, {metric: acc_norm}]
"""
MMLU = """
task: mmlu_continuation
dataset_path: json
output_type: multiple_choice
test_split: test
doc_to_text: "Question: {{question.strip()}}\\nAnswer:"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
"""
ARC_ROWS = [
    {"question": f"Q{n}", "choices": {"text": texts, "label": names}, "answerKey": names[n % len(texts)]}
    for n, (texts, names) in enumerate(
        [
            (["blue", "green and red", "no"], ["A", "B", "C"]),
            (["2", "1", "4", "3"], ["1", "2", "3", "4"]),
            (["ö", "a ☃"], ["A", "B"]),
        ]
        * 4
    )
]
MMLU_ROWS = [
    {"question": f" Q{n} ", "choices": choices, "answer": n % 4}
    for n, choices in enumerate([["8", "2", "3", "1"], ["it is", "it is not", "x", "both of them"]] * 6)
]
FORMS = {
    "arc": (ARC, ARC_ROWS, [row["choices"]["text"][n % len(row["choices"]["text"])] for n, row in enumerate(ARC_ROWS)]),
    "mmlu": (MMLU, MMLU_ROWS, [row["choices"][n % 4] for n, row in enumerate(MMLU_ROWS)]),
}


def written(folder, text, rows, **changes):
    """The YAML beside its rows."""
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    values = yaml.safe_load(text) | {"dataset_kwargs": {"data_files": {"test": "rows.jsonl"}}} | changes
    path = folder / "task.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in values.items() if value is not None}))
    return path


def task_of(found, folder):
    file = folder / "ours.yaml"
    file.write_text(found.text("there", folder))
    return Task.load(file)


def log_likelihood(context, choice):
    """Of a choice behind a context, by the bare model."""
    tokenizer = backbone_of("llama").text.tokenizer
    first, second = ([*tokenizer.encode_plain(text)] for text in (context, f" {choice}"))
    with torch.no_grad():
        shares = reference_of("llama")(torch.tensor([first + second])).logits[0].log_softmax(-1)
    each = [shares[len(first) - 1 + at, token] for at, token in enumerate(second)]
    return float(sum(each)), len(second)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("metric", ["acc", "acc_norm"])
def test_from_their_file_to_scores(tmp_path, form, metric):
    text, rows, gold = FORMS[form]
    found = task_of_lm_eval(written(tmp_path, text, rows, metric_list=[{"metric": metric}]))
    task = task_of(found, tmp_path)
    assert (task.kind, task.metric) == ("choice", "accuracy")
    assert task.kind_options.likelihood == {"acc": "sum", "acc_norm": "mean"}[metric]
    assert any("by its characters" in note for note in found.notes) == (metric == "acc_norm")
    splits = load_splits(task)
    read = sorted([*splits.train, *splits.validation, *splits.test], key=lambda row: row.line)
    assert list(gold_of(task, read)) == gold
    backbone = backbone_of("llama")
    encoded = Encoder(task, backbone.text.tokenizer).encode(read)
    scored = score(PromptedModel(backbone), encoded, task, gold_of(task, read))
    wanted = []
    for row in rows:
        texts = row["choices"]["text"] if form == "arc" else row["choices"]
        # Their `strip` is noted, and the text is as it stands in the row.
        each = [log_likelihood(f"Question: {row['question']}\nAnswer:", choice) for choice in texts]
        values = [value / (count if metric == "acc_norm" else 1) for value, count in each]
        wanted.append(texts[max(range(len(texts)), key=values.__getitem__)])
    assert list(scored.predicted) == wanted
    right = sum(said == known for said, known in zip(wanted, gold, strict=True))
    assert scored.value(task) == pytest.approx(right / len(rows))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"doc_to_choice": "choices"}, "choices"),
        ({"doc_to_choice": "{{ choices }}", "doc_to_target": "answer"}, "choices"),
        ({"doc_to_choice": "{{endings}}", "doc_to_target": "{{['A', 'B', 'C', 'D'].index(letter)}}"}, "endings"),
        ({"doc_to_target": "{{choices.index(text)}}"}, "choices"),
        ({"doc_to_target": "text"}, "choices"),
        ({"target_delimiter": "\n"}, "choices"),
    ],
)
def test_ways_to_name_a_field_of_choices(tmp_path, changes, field):
    rows = [
        {**row, "endings": row["choices"], "letter": "ABCD"[row["answer"]], "text": row["choices"][row["answer"]]}
        for row in MMLU_ROWS
    ]
    task = task_of(task_of_lm_eval(written(tmp_path, MMLU, rows, **changes)), tmp_path)
    assert task.kind_options.choices_field == field
    assert task.template == "Question: {question}\nAnswer:" + changes.get("target_delimiter", "")
    splits = load_splits(task)
    for row in [*splits.train, *splits.validation, *splits.test]:
        assert gold_of(task, [row]) == (row.fields["text"],)


def test_letters_for_the_entries_of_a_list(tmp_path):
    """MMLU as it comes: the choices are shown behind letters, and a letter is the answer."""
    letters = "ABCD"
    text = (
        "{{question.strip()}}\n"
        + "".join(f"{own}. {{{{choices[{n}]}}}}\n" for n, own in enumerate(letters))
        + "Answer:"
    )
    changes = {"doc_to_text": text, "doc_to_choice": list(letters), "doc_to_target": "answer"}
    task = task_of(task_of_lm_eval(written(tmp_path, MMLU, MMLU_ROWS, **changes)), tmp_path)
    assert (task.kind, task.fields[1:], task.columns) == (
        "classification",
        tuple(f"choices[{n}]" for n in range(4)),
        ("question", "choices"),
    )
    splits = load_splits(task)
    read = sorted([*splits.train, *splits.validation, *splits.test], key=lambda row: row.line)
    backbone = backbone_of("llama")
    encoded = Encoder(task, backbone.text.tokenizer).encode(read)
    scored = score(PromptedModel(backbone), encoded, task, gold_of(task, read))
    wanted = []
    for row in MMLU_ROWS:
        listed = "".join(f"{own}. {shown}\n" for own, shown in zip(letters, row["choices"], strict=True))
        found = [log_likelihood(f"{row['question']}\n{listed}Answer:", own)[0] for own in letters]
        wanted.append(str(max(range(4), key=found.__getitem__)))
    assert list(scored.predicted) == wanted
    assert list(scored.gold) == [str(row["answer"]) for row in MMLU_ROWS]


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        (["a", "b", "c"], "field 'choices' has 3 entries (wanted 4 at least, for {choices[3]})"),
        ("abcd", "field 'choices' is of type str (wanted a list, for {choices[0]})"),
        (["a", "b", "c", {}], "field 'choices[3]' is an object"),
    ],
)
def test_rows_without_the_entry(tmp_path, choices, message):
    rows = [*MMLU_ROWS, {**MMLU_ROWS[0], "choices": choices}]
    text = "{{question}} " + " ".join(f"{{{{choices[{n}]}}}}" for n in range(4))
    changes = {"doc_to_text": text, "doc_to_choice": list("ABCD"), "doc_to_target": "answer"}
    task = task_of(task_of_lm_eval(written(tmp_path, MMLU, rows, **changes)), tmp_path)
    with pytest.raises(DataError) as caught:
        load_splits(task)
    assert f"rows.jsonl:{len(rows)}" in str(caught.value)
    assert message in str(caught.value)


def test_the_metrics_of_choices(tmp_path):
    def notes(*names):
        listed = [{"metric": name} for name in names] or None
        found = task_of_lm_eval(written(tmp_path, ARC, ARC_ROWS, metric_list=listed))
        return found.values["options"]["likelihood"], [note for note in found.notes if "acc" in note or "f1" in note]

    how, said = notes()
    assert how == "sum"
    assert [note.split(":")[0] for note in said] == ["not measured"]
    how, said = notes("acc_norm", "acc", "f1")
    assert how == "mean"
    assert said[0].startswith("instead of acc_norm")
    assert said[1] == "not measured: f1; the task's metric is accuracy"
    assert notes("acc") == ("sum", [])


def test_data_elsewhere_is_taken_as_it_is_told(tmp_path):
    hub = {"dataset_path": "cais/mmlu", "dataset_name": "anatomy", "dataset_kwargs": None}
    found = task_of_lm_eval(written(tmp_path, MMLU, MMLU_ROWS, **hub))
    assert found.values["data"] == {"dataset": "cais/mmlu", "subset": "anatomy"}
    assert any("'answer' is taken for the number" in note for note in found.notes)
    keyed = task_of_lm_eval(written(tmp_path, ARC, ARC_ROWS, **hub))
    assert not any("is taken" in note for note in keyed.notes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"doc_to_choice": "{{[sol1, sol2]}}"}, "constant list, or one field"),
        ({"doc_to_choice": "{{choices.label}}"}, "a field with a list of texts"),
        ({"doc_to_choice": "{{choices[:2]}}"}, "constant list, or one field"),
        ({"doc_to_target": "{{['1', '2', '3', '4'].index(answer)}}"}, "a field with a list of texts"),
        ({"doc_to_target": "{{others.index(answer)}}"}, "a field with a list of texts"),
        ({"doc_to_target": 0}, "a template or the name of a field"),
        ({"doc_to_target": "{{answer}} or {{question}}"}, "a field, or a list's .index(field)"),
        ({"doc_to_text": "{{question}}\n{{choices}}"}, "the template does not show"),
        ({"doc_to_text": "{{question}}\nA. {{choices[-1]}}"}, "a part of a field"),
        ({"doc_to_target": "{{choices[0]}}"}, "a field, or a list's .index(field)"),
        ({"target_delimiter": ""}, "target_delimiter"),
        ({"doc_to_text": "{{question}}\n"}, "behind white space"),
        ({"doc_to_choice": ["a", "b", "c", "d"], "doc_to_target": "{{choices.index(answer)}}"}, "a constant list's"),
    ],
)
def test_choices_that_cannot_be_translated(tmp_path, changes, message):
    path = written(tmp_path, MMLU, MMLU_ROWS, **changes)
    with pytest.raises(ConfigError) as caught:
        task_of_lm_eval(path)
    assert message in str(caught.value)
    assert str(path) in caught.value.where


def test_labels_that_mean_another_choice_here_are_told(tmp_path):
    """Rendered, a digit is a number there; here it is first of all a choice's text."""
    rows = [{**row, "answer": str(row["answer"])} for row in MMLU_ROWS]
    with pytest.raises(ConfigError, match=r"rows.jsonl:3 means '3' there and '2' here"):
        task_of_lm_eval(written(tmp_path, MMLU, rows))
    # Keys come first here; a number is a number there.
    keyed = [{**row, "answer": 1, "answerKey": None} for row in ARC_ROWS]
    with pytest.raises(ConfigError, match=r"rows.jsonl:2 means '1' there and '2' here"):
        task_of_lm_eval(written(tmp_path, ARC, keyed, doc_to_target="{{answer}}"))


def test_answers_with_names_of_the_hub_are_counted(tmp_path):
    """MMLU's answers are called A to D in the file, and mean places among a row's choices."""
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    text, rows, gold = FORMS["mmlu"]
    files = {"data_files": {"test": "rows.parquet"}}
    path = written(tmp_path, text, rows, dataset_path="parquet", dataset_kwargs=files)
    features = {"answer": {"names": ["A", "B", "C", "D"], "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    parquet.write_table(pa.Table.from_pylist(rows).replace_schema_metadata(metadata), tmp_path / "rows.parquet")
    task = task_of(task_of_lm_eval(path), tmp_path)
    splits = load_splits(task)
    read = sorted([*splits.train, *splits.validation, *splits.test], key=lambda row: row.line)
    assert list(gold_of(task, read)) == gold
