"""The model `overture` in lm-evaluation-harness: beside our own scores, beside HFLM, in batches of any size."""

import json
import runpy
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("lm_eval")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

from lm_eval.tasks import TaskManager  # noqa: E402

from fakes import make_inner_tokenizer, make_model  # noqa: E402
from overture.core.errors import ConfigError, DataError  # noqa: E402
from overture.data.encode import Encoder  # noqa: E402
from overture.data.read import read_table  # noqa: E402
from overture.data.row import Row  # noqa: E402
from overture.data.rows import gold_of  # noqa: E402
from overture.data.task import Task  # noqa: E402
from overture.evaluate.scoring import score  # noqa: E402
from overture.exchange.tasks.lm_eval import task_of_lm_eval  # noqa: E402
from overture.harness.model import OvertureLM  # noqa: E402
from overture.jobs.api import tune  # noqa: E402

WORDS = {"good": ("fine", "great", "glad"), "bad": ("poor", "dull", "grim")}
CHOICES = {"good": " good", "bad": " rather bad", "odd": " odd"}
PLACES = [("prefix", "after"), ("vectors", "after"), ("vectors", "before"), ("prefix", "memory"), ("late", "before")]
TEXTS = ["", "a", "abc def", "What is it?\n", "x" * 40, "rab ebi do", "abc def ", "ends\n"]
CONTINUATIONS = [" good", " rather bad", " x", "\n", " good"]


def rows_of(count, start=0):
    labels = [("good", "bad", "odd")[number % 3] for number in range(count)]
    return [
        {"text": f"{WORDS.get(label, WORDS['bad'])[n % 3]} {start + n}" + "\n" * (n % 4 == 3), "label": label}
        for n, label in enumerate(labels)
    ]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A tiny model, rows, a task file, and a store for prompts."""
    folder = tmp_path_factory.mktemp("harness")
    make_model("llama", "sdpa").save_pretrained(folder / "tiny")
    make_inner_tokenizer("llama").save_pretrained(folder / "tiny")
    for number, (name, count) in enumerate({"train": 15, "validation": 6, "test": 21}.items()):
        text = "".join(json.dumps(row) + "\n" for row in rows_of(count, 100 * number))
        (folder / f"{name}.jsonl").write_text(text)
    values = {
        "name": "mood",
        "backbone": str(folder / "tiny"),
        "data": {name: f"{name}.jsonl" for name in ("train", "validation", "test")},
        "template": "Say: {text}\nMood:",
        "labels": CHOICES,
        "shots": 0,
        "prompt": {"length": 3},
        "train": {"epochs": 2, "batch_size": 5, "lr": 0.05},
    }
    (folder / "task.yaml").write_text(json.dumps(values))
    return folder


@pytest.fixture(scope="module")
def prompts(home):
    """A prompt tuned at each place: name by place."""
    found = {}
    for method, place in PLACES:
        options = {"layer": 1} if method == "late" else {}
        prompt = {"method": method, "place": place, "options": options}
        found[method, place] = tune(home / "task.yaml", store=home / "store", prompt=prompt).prompt
    return found


@pytest.fixture
def offline(home, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(home / "datasets"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets.config

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(home / "datasets"))


def harness_task(home, **changes):
    return {
        "task": "mood_here",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(home / "test.jsonl")}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "Say: {{text}}\nMood:",
        "doc_to_choice": [word.strip() for word in CHOICES.values()],
        "doc_to_target": "{{['good', 'bad', 'odd'].index(label)}}",
        "metric_list": [{"metric": "acc"}],
        "metadata": {"version": 0},
    } | changes


def evaluated(model, task):
    from lm_eval import simple_evaluate

    found = simple_evaluate(
        model=model, tasks=[task], task_manager=TaskManager(include_defaults=False), bootstrap_iters=0
    )
    name = task["task"]
    samples = sorted(found["samples"][name], key=lambda sample: sample["doc_id"])
    return found["results"][name], samples


def ours(lm, home):
    """Our own scores of the test rows: label log-probabilities, and the share that is right."""
    table = read_table(home / "test.jsonl")
    rows, lines = table.rows, table.lines
    encoded = lm.handle.encoder.encode([Row(row, line, "test") for row, line in zip(rows, lines, strict=True)])
    scored = score(lm.handle.model(), encoded, lm.handle.task)
    return lm.handle.model().label_scores(encoded), scored.value(lm.handle.task)


@pytest.mark.parametrize("case", PLACES, ids="-".join)
def test_a_tuned_prompt_scores_as_we_score_it(home, prompts, offline, case):
    lm = OvertureLM(prompt=prompts[case], store=str(home / "store"))
    wanted, accuracy = ours(lm, home)
    results, samples = evaluated(lm, harness_task(home))
    assert results["acc,none"] == pytest.approx(accuracy)
    found = torch.tensor([[value for ((value, _),) in sample["resps"]] for sample in samples])
    # Ours are over the labels alone; the harness's are over the vocabulary.
    assert torch.allclose(found.log_softmax(1), wanted, atol=1e-4)
    assert found.std(0).min() > 0.1


def requests_of(pairs):
    return [SimpleNamespace(args=pair) for pair in pairs]


PAIRS = [(text + "\nMood:" * (number % 2), word) for number, text in enumerate(TEXTS) for word in CONTINUATIONS]


@pytest.mark.parametrize("case", [None, *PLACES], ids=lambda case: "-".join(case or ("none",)))
def test_no_score_depends_on_the_batch(home, prompts, case):
    options = {"prompt": prompts[case], "store": str(home / "store")} if case else {"backbone": str(home / "tiny")}
    alone = OvertureLM(**options, batch_size=1, max_tokens=1).loglikelihood(requests_of(PAIRS), disable_tqdm=True)
    for changed in ({"batch_size": 8}, {"batch_size": "auto"}, {"max_tokens": 60}):
        lm = OvertureLM(**options, **changed)
        found = lm.loglikelihood(requests_of(PAIRS), disable_tqdm=True)
        assert [value for value, _ in found] == pytest.approx([value for value, _ in alone], abs=1e-4)
        assert [greedy for _, greedy in found] == [greedy for _, greedy in alone]


@pytest.mark.parametrize("case", PLACES, ids="-".join)
def test_texts_do_not_depend_on_the_batch(home, prompts, case):
    asked = [(text, {"until": ["b"], "max_gen_toks": 9}) for text in TEXTS]
    asked += [(f"{text}\nMood:", {"max_gen_toks": 5, "until": "xy"}) for text in TEXTS]
    found = []
    for size in (1, 8):
        lm = OvertureLM(prompt=prompts[case], store=str(home / "store"), batch_size=size)
        found.append(lm.generate_until(requests_of(asked), disable_tqdm=True))
    assert found[0] == found[1]
    # Where the context ends as the prompt's own rows do, the text is that of its own rows.
    own = [Row({"text": text}, 1, "here") for text in TEXTS[1:]]
    encoded = OvertureLM(prompt=prompts[case], store=str(home / "store")).handle
    again = [(f"Say: {row.fields['text']}\nMood:", {"max_gen_toks": 5}) for row in own]
    texts = lm.generate_until(requests_of(again), disable_tqdm=True)
    rows = encoded.encoder.encode(own, with_answer=False)
    assert [text.strip() for text in texts] == encoded.model().generate(rows, 5, ())


@pytest.mark.parametrize("limit", [4, 60])
def test_passes_have_room_for_what_may_be_written(home, monkeypatch, limit):
    lm = OvertureLM(backbone=str(home / "tiny"), max_tokens=200)
    batches = []
    ask = lm.model.ask

    def recorded(rows, question):
        batches.append([row.num_tokens for row in rows])
        return ask(rows, question)

    monkeypatch.setattr(lm.model, "ask", recorded)
    asked = [(f"{'x' * 20}{number}", {"max_gen_toks": limit, "until": ["\n"]}) for number in range(9)]
    found = lm.generate_until(requests_of(asked), disable_tqdm=True)
    assert sum(map(len, batches)) == len(found) == 9
    assert all(len(batch) * (max(batch) + limit) <= 200 for batch in batches)
    assert len(batches) == {4: 2, 60: 5}[limit]


# -- without a prompt: HFLM is the oracle


def hflm(folder: Path, batch_size: int):
    """Their model of a folder; loaded here, since they load it with accelerate, which our process has not."""
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    return HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)


@pytest.fixture(scope="module", params=["llama", "gpt2", "gemma3_text"])
def both(request, tmp_path_factory):
    """The same tiny model under HFLM and under ours."""
    folder = tmp_path_factory.mktemp(request.param)
    make_model(request.param, "sdpa").save_pretrained(folder)
    make_inner_tokenizer(request.param).save_pretrained(folder)
    return hflm(folder, batch_size=3), OvertureLM(backbone=str(folder), batch_size=3)


def test_without_a_prompt_likelihoods_are_those_of_hflm(both):
    theirs, own = both
    long = ("long " * 60, " answer that is a bit longer")
    pairs = [*PAIRS, long, ("", "abc"), ("trailing  ", "x y")]
    wanted = theirs.loglikelihood(requests_of(pairs), disable_tqdm=True)
    found = own.loglikelihood(requests_of(pairs), disable_tqdm=True)
    assert [value for value, _ in found] == pytest.approx([value for value, _ in wanted], abs=2e-3)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in wanted]


def test_without_a_prompt_rolling_likelihoods_are_those_of_hflm(both):
    theirs, own = both
    texts = [("abc",), ("some words " * 60,), ("x",)]
    wanted = theirs.loglikelihood_rolling(requests_of(texts), disable_tqdm=True)
    assert own.loglikelihood_rolling(requests_of(texts), disable_tqdm=True) == pytest.approx(wanted, rel=1e-4)


def test_without_a_prompt_texts_are_those_of_hflm(both):
    theirs, own = both
    texts = [text for text in TEXTS if text]
    asked = [(text, {"until": ["b", "\n"], "max_gen_toks": 12}) for text in texts]
    asked += [(text, {"until": [], "max_gen_toks": 4, "do_sample": False}) for text in texts]
    wanted = [theirs.generate_until(requests_of([each]), disable_tqdm=True)[0] for each in asked]
    assert own.generate_until(requests_of(asked), disable_tqdm=True) == wanted
    assert any(wanted)


def test_a_whole_task_without_a_prompt_is_that_of_hflm(home, offline):
    theirs, _ = evaluated(hflm(home / "tiny", batch_size=4), harness_task(home))
    found, _ = evaluated(OvertureLM(backbone=str(home / "tiny")), harness_task(home))
    assert found["acc,none"] == theirs["acc,none"]
    writing = {"task": "write", "output_type": "generate_until", "doc_to_choice": None, "doc_to_target": "{{label}}"}
    writing |= {"generation_kwargs": {"until": ["\n"], "max_gen_toks": 4}, "metric_list": [{"metric": "exact_match"}]}
    own, samples = evaluated(OvertureLM(backbone=str(home / "tiny")), harness_task(home, **writing))
    _, wanted = evaluated(hflm(home / "tiny", batch_size=1), harness_task(home, **writing))
    assert [sample["resps"] for sample in samples] == [sample["resps"] for sample in wanted]
    assert "exact_match,none" in own


# -- a task file, translated
CHOOSING = {
    "task": "choose_here",
    "dataset_path": "json",
    "output_type": "multiple_choice",
    "test_split": "test",
    "doc_to_text": "Question: {{question}}\nAnswer:",
    "doc_to_choice": "{{choices.text}}",
    "doc_to_target": "{{choices.label.index(answerKey)}}",
    "metric_list": [{"metric": "acc"}],
    "metadata": {"version": 0},
}


def test_a_translated_task_with_choices_of_the_rows_own_scores_as_there(tmp_path, home, offline):
    texts = [["blue", "green and red", "no", "it"], ["2", "1", "4", "3"], ["wet", "dry", "out of order", "☃"]]
    rows = [
        {"question": f"Q{n}", "choices": {"text": texts[n % 3], "label": list("1234")}, "answerKey": str(1 + n % 4)}
        for n in range(24)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    told = CHOOSING | {"dataset_kwargs": {"data_files": {"test": str(tmp_path / "rows.jsonl")}}}
    (tmp_path / "there.yaml").write_text(json.dumps(told))
    task = Task.model_validate(task_of_lm_eval(tmp_path / "there.yaml").values)
    lm = OvertureLM(backbone=str(home / "tiny"))
    results, samples = evaluated(lm, told)
    read = [Row(row, line, "here") for line, row in enumerate(rows, 1)]
    scored = score(lm.model, Encoder(task, lm.backbone.text.tokenizer).encode(read), task, gold_of(task, read))
    theirs = [[value for ((value, _),) in sample["resps"]] for sample in samples]
    best = [row["choices"]["text"][each.index(max(each))] for row, each in zip(rows, theirs, strict=True)]
    assert list(scored.predicted) == best
    assert results["acc,none"] == pytest.approx(scored.value(task))


# -- what cannot be


def test_what_is_refused(home, prompts):
    tiny = str(home / "tiny")
    with pytest.raises(ConfigError, match="unknown model argument"):
        OvertureLM(backbone=tiny, pretrained="gpt2")
    with pytest.raises(ConfigError, match="not a batch size"):
        OvertureLM(backbone=tiny, batch_size="many")
    lm = OvertureLM(backbone=tiny)
    with pytest.raises(ConfigError, match="greedy"):
        lm.generate_until(requests_of([("a", {"do_sample": True, "temperature": 0.7})]))
    with pytest.raises(DataError, match="longer than the model's context"):
        lm.generate_until(requests_of([("a", {"max_gen_toks": 100_000})]))
    warp = tune(home / "task.yaml", store=home / "store", prompt={"method": "warp", "place": "after"}).prompt
    with pytest.raises(ConfigError, match="a vector for each label"):
        OvertureLM(prompt=warp, store=str(home / "store"))
    row_own = {"method": "idpg", "place": "before", "labels": "vectors"}
    own = tune(home / "task.yaml", name="own", store=home / "store", prompt=row_own, train={"epochs": 1}).prompt
    with pytest.raises(ConfigError, match="a vector for each label") as caught:
        OvertureLM(prompt=own, store=str(home / "store"))
    assert caught.value.got == "idpg"
    slots = tune(
        home / "task.yaml",
        store=home / "store",
        template="{prompt:2}{text}\nMood:",
        prompt={"method": "vectors", "place": "slots", "length": 2},
    ).prompt
    with pytest.raises(ConfigError, match="slots of its own template"):
        OvertureLM(prompt=slots, store=str(home / "store"))


def command_line(words) -> int:
    """``python -m overture.harness`` in this process; importing the harness in another takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["overture.harness", *words])
        with pytest.raises(SystemExit) as ended:
            runpy.run_module("overture.harness", run_name="__main__", alter_sys=True)
    return ended.value.code


def test_the_command_line_knows_the_model(home, prompts, offline, tmp_path, monkeypatch, capsys):
    # The harness's own tasks are thousands of files.
    monkeypatch.setattr("lm_eval.tasks.TaskManager", partial(TaskManager, include_defaults=False))
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mood.yaml").write_text(json.dumps(harness_task(home)))
    words = ["run", "--model", "overture", "--tasks", "mood_here", "--include_path", str(tmp_path)]
    prompt = prompts["prefix", "after"]
    words += ["--model_args", f"prompt={prompt},store={home / 'store'}", "--batch_size", "4", "--output_path", "out"]
    assert command_line(words) == 0
    (result,) = Path(tmp_path / "out").rglob("results_*.json")
    found = json.loads(result.read_text())
    assert found["config"]["prompt"] == prompt
    lm = OvertureLM(prompt=prompt, store=str(home / "store"))
    assert found["results"]["mood_here"]["acc,none"] == pytest.approx(ours(lm, home)[1])
    assert command_line([word.replace(prompt, "nobody") for word in words]) == 2
    error = capsys.readouterr().err
    assert "nobody" in error
    assert "Traceback" not in error


def test_importing_overture_does_not_import_the_harness():
    code = "import sys, overture, overture.jobs.api, overture.harness; sys.exit('lm_eval' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
