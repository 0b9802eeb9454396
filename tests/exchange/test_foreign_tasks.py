"""Tasks of lm-evaluation-harness, written as their users write them, translated into task files of ours."""

import contextlib
import json

import pytest
import yaml

from overture.core.errors import ConfigError, UserError
from overture.data.encode import Encoder
from overture.data.row import Row
from overture.data.shots import row_text
from overture.data.splits import load_splits
from overture.data.task import Task
from overture.exchange.tasks.lm_eval import task_of_lm_eval

HARNESS = """
task: my_boolq
dataset_path: json
dataset_kwargs:
  data_files:
    train: train.jsonl
    test: test.jsonl
training_split: train
test_split: test
output_type: multiple_choice
doc_to_text: "{{passage}}\\nQuestion: {{question}}? {curly}\\nAnswer:"
doc_to_target: label
doc_to_choice: ["no", "yes"]
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
  - metric: acc_norm
num_fewshot: 2
metadata:
  version: 2.0
"""


@pytest.fixture
def rows(tmp_path):
    for name, count in (("train", 10), ("test", 6)):
        found = [
            {"passage": f"P{i}", "question": f"q{i}", "label": i % 2, "word": ["no", "yes"][i % 2]}
            for i in range(count)
        ]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found))
    return tmp_path


def harness(folder, text=HARNESS, name="task.yaml", **changes):
    values = {key: value for key, value in (yaml.safe_load(text) | changes).items() if value is not None}
    path = folder / name
    path.write_text(yaml.safe_dump(values))
    return path


def task_of(found, folder):
    file = folder / "ours.yaml"
    file.write_text(found.text("there", folder))
    return Task.load(file)


def test_multiple_choice(rows, tokenizer):
    (rows / "task.yaml").write_text(HARNESS)
    found = task_of_lm_eval(rows / "task.yaml")
    task = task_of(found, rows)
    assert task.name == "my_boolq"
    assert task.template == "{passage}\nQuestion: {question}? {{curly}}\nAnswer:"
    assert task.words == {"0": (" no",), "1": (" yes",)}
    assert task.metric == "accuracy"
    assert found.notes == ["ignored: num_fewshot", "not measured: acc_norm; the task's metric is accuracy"]
    splits = load_splits(task)
    assert (len(splits.test), splits.test[0].fields["question"]) == (6, "q0")
    assert "q" in row_text(Encoder(task, tokenizer), splits.train[0])
    assert 'train: "train.jsonl"' in found.text("there", rows)
    comments = " ".join(line.lstrip(" #") for line in found.text("there", rows).splitlines() if "#" in line)
    assert Task.model_fields["template"].description in comments


def test_the_text_is_the_one_that_the_harness_shows(rows, tokenizer):
    """The harness's own rendering is the oracle."""
    utils = pytest.importorskip("lm_eval.utils")
    for text in (
        yaml.safe_load(HARNESS)["doc_to_text"],
        "A {{ passage }}\n",
        "{{'a{b}'}} {{question}}{{3}}",
        "passage",
    ):
        task = task_of(task_of_lm_eval(harness(rows, doc_to_text=text)), rows)
        row = {"passage": "Some {{text}}", "question": "why", "label": 1}
        shown = utils.apply_template(text if "{" in text else "{{" + text + "}}", row)
        assert row_text(Encoder(task, tokenizer), Row(row, 1, "here")) == shown + " yes"


@pytest.mark.parametrize(
    ("changes", "labels"),
    [
        ({"doc_to_target": "{{label}}"}, {"0": (" no",), "1": (" yes",)}),
        ({"doc_to_target": "word"}, {"no": (" no",), "yes": (" yes",)}),
        ({"doc_to_target": "{{['no', 'yes'].index(word)}}"}, {"no": (" no",), "yes": (" yes",)}),
        ({"doc_to_choice": "{{['False', 'True']}}", "target_delimiter": "\n"}, {"0": ("\nFalse",), "1": ("\nTrue",)}),
        ({"doc_to_choice": {"a": "x", "b": "y"}}, {"0": (" x",), "1": (" y",)}),
    ],
)
def test_ways_to_say_the_choices(rows, changes, labels):
    task = task_of(task_of_lm_eval(harness(rows, **changes)), rows)
    assert task.words == labels
    load_splits(task)


def test_free_text(rows):
    changes = {"output_type": "generate_until", "doc_to_target": " {{word}}", "doc_to_choice": None}
    changes |= {"generation_kwargs": {"until": ["\n", "."], "max_gen_toks": 7, "do_sample": True}}
    changes |= {"metric_list": [{"metric": "exact_match"}], "description": "Answer {briefly}.\n\n"}
    found = task_of_lm_eval(harness(rows, **changes))
    task = task_of(found, rows)
    assert (task.answer_field, task.stop, task.max_new_tokens) == ("word", ["\n", "."], 7)
    assert task.template.startswith("Answer {{briefly}}.\n\n{passage}")
    assert any("greedily" in note for note in found.notes)
    load_splits(task)


def test_a_limit_that_is_no_number_is_told(rows):
    changes = {"output_type": "generate_until", "doc_to_target": " {{word}}", "doc_to_choice": None}
    found = task_of_lm_eval(harness(rows, **changes, generation_kwargs={"max_gen_toks": "many"}))
    assert any("max_gen_toks" in note for note in found.notes)
    assert task_of(found, rows).max_new_tokens == 32


def test_include_hub_and_a_file_of_ones_own(rows):
    harness(rows, name="base.yaml", dataset_path="super_glue", dataset_name="boolq", dataset_kwargs=None)
    (rows / "sub.yaml").write_text("include: base.yaml\ntask: sub\ntest_split: null\nvalidation_split: validation\n")
    found = task_of_lm_eval(rows / "sub.yaml")
    assert found.values["data"] == {"dataset": "super_glue", "subset": "boolq"}
    assert any("'validation'" in note for note in found.notes)
    assert any("'label' is taken for the choice's number" in note for note in found.notes)
    own = task_of_lm_eval(rows / "sub.yaml", rows / "train.jsonl")
    assert task_of(own, rows).data.path == rows / "train.jsonl"
    (rows / "base.yaml").write_text("include: base.yaml\n")
    with pytest.raises(ConfigError, match="include each other"):
        task_of_lm_eval(rows / "sub.yaml")


def test_splits_of_files(rows):
    only = task_of_lm_eval(
        harness(rows, dataset_kwargs={"data_files": "train.jsonl"}, training_split=None, test_split="train")
    )
    assert only.values["data"] == {"path": str(rows / "train.jsonl")}
    assert any("is split" in note for note in only.notes)
    with pytest.raises(ConfigError, match=r"train\[:10%\]"):
        task_of_lm_eval(harness(rows, training_split="train[:10%]"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"doc_to_text": "{% for x in y %}{{x}}{% endfor %}"}, "For"),
        ({"doc_to_text": "{{passage.upper()}}"}, "a call"),
        ({"doc_to_text": "{{doc.passage}}"}, "a part of a field"),
        ({"doc_to_text": "{{passage|replace('a', 'b')}}"}, "filter 'replace'"),
        ({"doc_to_text": "{{passage['a']}}"}, "a part of a field"),
        ({"doc_to_text": "{{ 'a' if label else 'b' }}"}, "a condition"),
        ({"doc_to_text": "{{ passage"}, "not a Jinja template"),
        ({"doc_to_text": "{{ ''.__class__.__mro__ }}"}, "a part of a field"),
        ({"doc_to_text": None}, "doc_to_text"),
        ({"doc_to_target": 0}, "doc_to_target"),
        ({"doc_to_choice": "{{[sol1, sol2]}}"}, "constant list"),
        ({"doc_to_choice": "__import__('os').system('true')"}, "constant list"),
        ({"doc_to_choice": ["one"]}, "constant list"),
        ({"output_type": "loglikelihood_rolling"}, "output_type"),
        ({"dataset_kwargs": {"data_files": {"train": "https://x.org/a.json"}}}, "one local file"),
        ({"process_docs": "x"}, "process_docs"),
        ({"doc_to_choice": ["a", "b"], "doc_to_target": "question"}, "choices, or their numbers"),
    ],
)
def test_what_cannot_be_translated(rows, changes, message):
    values = yaml.safe_load(HARNESS) | changes
    (rows / "task.yaml").write_text(yaml.safe_dump({k: v for k, v in values.items() if v is not None}))
    with pytest.raises(ConfigError) as caught:
        task_of_lm_eval(rows / "task.yaml")
    assert message in str(caught.value)
    assert str(rows / "task.yaml") in caught.value.where


def test_code_is_refused_and_never_runs(rows):
    (rows / "utils.py").write_text("raise SystemExit('it ran')\n")
    (rows / "task.yaml").write_text(HARNESS + "process_results: !function utils.process\n")
    with pytest.raises(ConfigError, match="process_results"):
        task_of_lm_eval(rows / "task.yaml")
    (rows / "task.yaml").write_text(HARNESS.replace("doc_to_target: label", "doc_to_target: !function utils.target"))
    with pytest.raises(ConfigError, match="code of files never runs"):
        task_of_lm_eval(rows / "task.yaml")
    (rows / "task.yaml").write_text("a: !!python/object/apply:os.system ['true']\n")
    with pytest.raises(ConfigError, match="cannot be read as YAML"):
        task_of_lm_eval(rows / "task.yaml")


KEYS = sorted(
    {*yaml.safe_load(HARNESS), "include", "description", "target_delimiter", "generation_kwargs", "task_alias"}
)
ODD = [5, 1.5, True, "", "\0", "x" * 5000, [], [1], [[1]], {}, {"a": 1}, [{"metric": 3}], {"data_files": 5}]
ODD += [{"data_files": {"train": "\0"}}, {"data_files": {"train": "x" * 5000}}, {"data_files": {3: "train.jsonl"}}]


@pytest.mark.parametrize("kind", ["multiple_choice", "generate_until"])
@pytest.mark.parametrize("key", KEYS)
def test_odd_values_are_refused_or_translated(rows, key, kind):
    for value in ODD:
        path = harness(rows, **({"output_type": kind} | {key: value}))
        with contextlib.suppress(UserError):
            task_of(task_of_lm_eval(path), rows)
