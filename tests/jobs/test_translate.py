"""Translation of a soft prompt into words: what it measures, and that a text which is a prompt's own is found again."""

from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
import torch

from fakes import backbone_of
from overture.core.errors import ConfigError, StoreError
from overture.core.injection import Injection, Vectors
from overture.core.records.hard import Candidate
from overture.data.splits import load_splits
from overture.data.task import Task
from overture.evaluate.facts import backbone_ref
from overture.evaluate.host import Host
from overture.evaluate.scoring import predict
from overture.explain.fidelity import divergences, explained
from overture.hard.gcg import gcg
from overture.hard.pez import pez
from overture.hard.scorer import TextScorer
from overture.jobs.wording.options import TranslateConfig
from overture.jobs.wording.translate import check_translatable, translate
from overture.store.manifest import Manifest
from overture.store.store import Store
from text_prompts import written_task

SECRET = "\nfine or grim?"
SMALL = {"room": 32, "wordings": 16, "rounds": 2, "rows": 12, "first_rows": 4}


def soft_prompt(task: Path, store: Store, **changes) -> str:
    """A prompt of vectors that are the embeddings of a text, kept without saying so."""
    backbone = backbone_of("llama")
    ids = backbone.text.tokenizer.encode_plain(SECRET)
    injection = Injection(Vectors(backbone.embed(ids), "after"))
    manifest = Manifest(
        name="secret",
        method="vectors",
        place="after",
        length=len(ids),
        backbone=backbone_ref(backbone),
        task=Task.load(task).dump(),
        trainable=1,
    )
    store.add(manifest.model_copy(update=changes), injection.tensors())
    return "secret"


@pytest.fixture
def plain_task(tmp_path: Path) -> Path:
    return written_task(tmp_path)


def test_the_text_that_a_prompt_is_made_of_explains_all_of_it(plain_task, tmp_path):
    store = Store(tmp_path / "store")
    ref = soft_prompt(plain_task, store)
    wordings = tmp_path / "wordings.txt"
    wordings.write_text("Well?\nfine or grim?\nSay it.\n")
    config = TranslateConfig(sources=(f"file:{wordings}",), scaled=False, **SMALL)
    result = translate(ref, store, config, task=plain_task, backbone=backbone_of("llama"))
    words, *controls = result.fidelity
    assert result.winner.text == words.text == SECRET
    assert words.kl == pytest.approx(0, abs=1e-5)
    assert words.explained.value == pytest.approx(1, abs=1e-3)
    assert words.agreement.value == 1
    assert {control.what for control in controls} == {"random fluent text", "nearest tokens"}
    # Vectors that are tokens are nearest to themselves.
    assert next(control for control in controls if control.what == "nearest tokens").text == SECRET
    manifest = store.show(result.prompt).manifest
    assert manifest is not None
    assert manifest.text is not None
    assert manifest.text.after == SECRET
    assert manifest.lineage.translated_from == "secret@1"


def test_a_fitted_temperature_is_stored_and_measured_beside_the_words_alone(plain_task, tmp_path):
    store = Store(tmp_path / "store")
    ref = soft_prompt(plain_task, store)
    wordings = tmp_path / "wordings.txt"
    wordings.write_text("Well?\nSay it.\n")
    backbone = backbone_of("llama")
    unscaled, result = (
        translate(
            ref,
            store,
            TranslateConfig(sources=(f"file:{wordings}",), scaled=is_scaled, **SMALL),
            task=plain_task,
            backbone=backbone,
        )
        for is_scaled in (False, True)
    )
    whats = [item.what for item in result.fidelity]
    assert whats[:3] == ["the words", "the words, scores not scaled", "no words, scores scaled"]
    # On the rows that choose, the fit can only bring the answers nearer.
    nearest, nearest_unscaled = (some.stages[0].best[0].log_likelihood for some in (result, unscaled))
    assert 0 > nearest > nearest_unscaled
    assert [item.tokens for item in result.curve] == sorted(item.tokens for item in result.curve)
    # The stored prompt answers with the temperature that was measured.
    scaling = result.winner.wording.scaling
    assert scaling is not None
    handle = Host(backbone, store).open(result.prompt)
    assert handle.task.options == {"temperature": scaling.temperature, "label_bias": scaling.label_bias}
    rows = load_splits(Task.load(plain_task)).test
    predictions = predict(handle.model(None), handle.encoder.encode(rows), handle.task)
    right = [p.text == row.fields["label"] for p, row in zip(predictions, rows, strict=True)]
    assert sum(right) / len(right) == result.fidelity[0].accuracy.value


def test_rows_that_choose_are_validation_rows_where_test_rows_measure(plain_task, tmp_path, monkeypatch):
    store = Store(tmp_path / "store")
    ref = soft_prompt(plain_task, store)
    wordings = tmp_path / "wordings.txt"
    wordings.write_text("Well?\n")
    read: list[dict] = []

    class Reading(TextScorer):
        def __init__(self, task, backbone, splits, *others):
            read.append({name: {row.fields["text"] for row in rows} for name, rows in splits.items()})
            super().__init__(task, backbone, splits, *others)

    monkeypatch.setattr("overture.jobs.wording.translate.TextScorer", Reading)
    config = TranslateConfig(sources=(f"file:{wordings}",), **SMALL)
    translate(ref, store, config, task=plain_task, backbone=backbone_of("llama"))
    (rows_of,) = read
    for name, texts in rows_of.items():
        assert {text.split()[1] for text in texts} == {name}


def test_a_task_without_labels_cannot_be_translated(plain_task, tmp_path):
    store = Store(tmp_path / "store")
    values = {"kind": "generation", "data": {"train": "x.jsonl"}, "template": "Text: {text}\nMood:"}
    task = Task(name="secret", answer_field="answer", **values)
    manifest = store.show(soft_prompt(plain_task, store)).manifest
    assert manifest is not None
    with pytest.raises(ConfigError) as error:
        check_translatable(manifest, task)
    assert error.value.where == "kind"


def test_proposals_come_nearer_than_no_prompt_and_repeat_by_seed(plain_task, tmp_path):
    results = []
    for name in ("a", "b"):
        store = Store(tmp_path / name)
        ref = soft_prompt(plain_task, store)
        config = TranslateConfig(example_sets=4, second_model="", baselines=True, **SMALL)
        results.append(translate(ref, store, config, task=plain_task, backbone=backbone_of("llama")))
    first, second = results
    assert first.winner == second.winner
    assert first.fidelity == second.fidelity
    assert [stage.stage for stage in first.stages] == ["wording", "examples", "structure"]
    assert first.stages[0].best[0].log_likelihood <= 0
    whats = [item.what for item in first.fidelity]
    assert whats[0] == "the words"
    assert {"GCG", "PEZ", "nearest tokens"} <= {*whats}


def test_words_are_not_translated_again(plain_task, tmp_path):
    store = Store(tmp_path / "store")
    ref = soft_prompt(plain_task, store)
    wordings = tmp_path / "wordings.txt"
    wordings.write_text("Well?\n")
    config = TranslateConfig(sources=(f"file:{wordings}",), **SMALL)
    result = translate(ref, store, config, task=plain_task, backbone=backbone_of("llama"))
    with pytest.raises(ConfigError):
        translate(result.prompt, store, config, task=plain_task, backbone=backbone_of("llama"))
    with pytest.raises(StoreError):
        translate("secret", store, config, backbone=backbone_of("llama"))


def test_baselines_lower_the_divergence_and_no_label_is_looked_at(plain_task):
    """Rows are judged by shares in place of their labels: wrong labels change nothing."""
    backbone, task = backbone_of("llama"), Task.load(plain_task)
    rows = load_splits(task).train
    turned = [replace(row, fields={**row.fields, "label": "bad"}) for row in rows]
    shares = torch.tensor([0.9, 0.1]).expand(len(rows), -1)
    losses = []
    for some in (rows, turned):
        scorer = TextScorer(task, backbone, {"train": some}, 16, shares={"train": shares})
        swapped = gcg(scorer, 4, 3, Random(1))
        assert swapped is not None
        numbers = range(len(rows))
        start = Candidate(text=backbone.text.tokenizer.decode(backbone.text.tokenizer.encode_plain(" x" * 4)[:4]))
        before, after = scorer.losses([start, swapped], "train", numbers).mean(1).tolist()
        assert after < before
        assert len(scorer.text_of(pez(scorer, 4, 3, Random(1)) or swapped).after_ids) <= 8
        losses.append(after)
    assert losses[0] == pytest.approx(losses[1])


def test_divergence_and_the_share_that_is_explained():
    target = torch.tensor([[0.9, 0.1], [0.2, 0.8]], dtype=torch.float64).log()
    other = torch.tensor([[0.5, 0.5], [0.2, 0.8]], dtype=torch.float64).log()
    first = 0.9 * torch.log(torch.tensor(1.8)) + 0.1 * torch.log(torch.tensor(0.2))
    assert divergences(target, other).tolist() == pytest.approx([float(first), 0.0])
    interval = explained(torch.tensor([0.1, 0.2, 0.3] * 10), torch.tensor([1.0, 1.0, 1.0] * 10))
    assert interval.value == pytest.approx(0.8)
    assert 0.7 < interval.low <= 0.8 <= interval.high < 0.9
