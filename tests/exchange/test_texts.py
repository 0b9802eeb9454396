"""Prompts of words: kept without tensors, opened by a host, and written for other programs."""

import json

import pytest
import torch
import yaml

from fakes import backbone_of
from overture.core.errors import ArtifactError, ConfigError
from overture.core.records.hard import Candidate
from overture.evaluate.facts import backbone_ref
from overture.evaluate.host import Ask, Host
from overture.evaluate.measure import measured
from overture.exchange.texts import TEXT_FORMATS
from overture.jobs.transfer.exchange import export_prompt
from overture.store.artifact import MANIFEST_FILE, load_artifact
from overture.store.manifest import Manifest
from overture.store.store import Store
from text_prompts import CANDIDATES, LABELS, rendered, scorer_of

BOTH = Candidate(text="\nMood {% of {{ this?", shots=[2, 1])


def manifest_of(scorer, candidate: Candidate, name: str = "mood", family: str = "llama") -> Manifest:
    text = scorer.text_of(candidate)
    return Manifest(
        name=name,
        method="text",
        place=text.place,
        length=len(text.ids),
        text=text,
        backbone=backbone_ref(backbone_of(family)),
        task=scorer.task_of(candidate.wording).dump(),
        trainable=0,
    )


@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
def test_a_host_answers_a_kept_text_as_it_was_scored(tmp_path, family):
    scorer, store = scorer_of(family), Store(tmp_path)
    host = Host(backbone_of(family), store)
    rows = [row.fields["text"] for row in scorer.splits["validation"]]
    scores = scorer.scores(CANDIDATES, "validation", range(len(rows)))
    for candidate, candidate_scores in zip(CANDIDATES[1:], scores[1:], strict=True):
        folder = store.add(manifest_of(scorer, candidate, family=family), {})
        assert not list(folder.glob("*.safetensors"))
        handle = host.open(folder)
        for reply, wanted in zip(host.answer([Ask(handle, row) for row in rows]), candidate_scores, strict=True):
            shares = torch.tensor([*reply.result().probabilities.values()], dtype=torch.float64)
            torch.testing.assert_close(shares, wanted.exp(), rtol=1e-4, atol=1e-5)


def test_another_model_reads_the_words_and_says_so(tmp_path):
    scorer, notices = scorer_of("llama"), []
    folder = Store(tmp_path).add(manifest_of(scorer, BOTH), {})
    host = Host(backbone_of("gpt2"), notify=notices.append)
    assert host.open(folder).predict(["rain"])[0].text in LABELS
    assert len(notices) == 1


def test_changed_words_are_refused(tmp_path):
    folder = Store(tmp_path).add(manifest_of(scorer_of("llama"), BOTH), {})
    values = json.loads((folder / MANIFEST_FILE).read_text())
    values["text"]["after"] = "Other words."
    (folder / MANIFEST_FILE).write_text(json.dumps(values))
    with pytest.raises(ArtifactError) as error:
        load_artifact(folder)
    assert error.value.where.endswith(MANIFEST_FILE)


@pytest.fixture
def exported(tmp_path):
    scorer, store = scorer_of("llama"), Store(tmp_path / "store")
    store.add(manifest_of(scorer, BOTH), {})

    def export(to: str) -> dict[str, str]:
        result = export_prompt("mood", tmp_path / to, store, to=to)
        return {name: (tmp_path / to / name).read_text() for name in result.files}

    return export


def test_plain_text_is_the_text_that_was_scored(exported):
    scorer = scorer_of("llama")
    row = scorer.splits["train"][4]
    assert exported("text")["prompt.txt"].replace("{text}", row.fields["text"]) == rendered(scorer, BOTH, row)


def test_messages_are_turns_with_the_row_last(exported):
    messages = json.loads(exported("openai")["messages.json"])["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant", "user", "assistant", "user"]
    assert messages[1]["content"] == "fine"
    assert "{text}" in messages[-1]["content"]
    assert BOTH.text in messages[-1]["content"]


def test_promptfoo_config_names_the_prompt_and_its_variable(exported):
    files = exported("promptfoo")
    config = yaml.safe_load(files["promptfooconfig.yaml"])
    assert config["prompts"] == ["file://prompt.txt"]
    assert "{{ text }}" in files["prompt.txt"]
    assert set(config["tests"][0]["vars"]) == {"text"}


def test_lm_eval_task_renders_as_it_was_scored(exported):
    jinja2 = pytest.importorskip("jinja2")
    (text,) = exported("lm-eval").values()
    config = yaml.safe_load(text)
    scorer = scorer_of("llama")
    row = scorer.splits["train"][4]
    environment = jinja2.Environment(keep_trailing_newline=True)
    assert environment.from_string(config["doc_to_text"]).render(row.fields) == rendered(scorer, BOTH, row)
    assert config["doc_to_choice"] == list(LABELS.values())
    assert environment.from_string(config["doc_to_target"]).render(row.fields) == "0"
    assert config["target_delimiter"] == ""


def test_values_and_words_have_formats_of_their_own(exported):
    for to in ("peft", "npy", "json"):
        with pytest.raises(ConfigError) as error:
            exported(to)
        assert all(name in error.value.fix for name in TEXT_FORMATS)


@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
def test_no_prompt_is_read_from_a_sequences_start_beside_words_in_front(tmp_path, family):
    """A model that begins texts with a token of its own: behind the words rows have none, alone they have it."""
    scorer = scorer_of(family)
    folder = Store(tmp_path).add(
        manifest_of(scorer, Candidate(text="Sort texts.\n", place="before"), family=family), {}
    )
    handle = Host(backbone_of(family), Store(tmp_path)).open(folder)
    rows = scorer.splits["validation"]
    evaluation, *_ = measured(handle, rows, "test")
    answers = scorer.scores([Candidate()], "validation", range(len(rows)))[0].argmax(-1).tolist()
    accuracy = sum(list(LABELS)[a] == row.fields["label"] for a, row in zip(answers, rows, strict=True)) / len(rows)
    assert evaluation.no_prompt is not None
    assert evaluation.no_prompt.metrics["test"]["accuracy"].value == accuracy
    encoded = handle.encoder.encode(rows)
    num_bos = len(scorer.backbone.text.tokenizer.bos_ids)
    alone = handle.encoded_alone(rows, encoded)
    assert [row.num_input for row in alone] == [row.num_input + num_bos for row in encoded]
