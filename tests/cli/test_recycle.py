"""Recycling: a model whose width is only numbered otherwise takes a prompt exactly, others what can be mapped."""

from pathlib import Path
from shutil import copytree

import pytest
import torch

from fakes import make_backbone, make_inner_tokenizer, make_model
from overture.cli import recycle as command
from overture.core.errors import ConfigError
from overture.jobs.transfer.options import FEWEST
from overture.jobs.transfer.recycle import Map, common_vectors, fitted_map, plain_texts
from overture.store.artifact import load_artifact
from overture.store.store import Store

WIDTH = 32


@pytest.fixture(scope="session")
def turned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with the numbers of its width in another order: the same function of the text."""
    folder = tmp_path_factory.mktemp("turned")
    model = make_model("llama", "sdpa")
    order = torch.randperm(WIDTH, generator=torch.Generator().manual_seed(0))
    reads = ("embed_tokens", "q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "lm_head")
    with torch.no_grad():
        for name, value in model.named_parameters():
            if any(part in name for part in reads):
                value.copy_(value[:, order])
            else:
                # What writes into the stream, and the norms.
                value.copy_(value[order])
    model.save_pretrained(folder)
    make_inner_tokenizer("llama").save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def smaller(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of another family and width."""
    folder = tmp_path_factory.mktemp("smaller")
    make_model("qwen2", "sdpa").save_pretrained(folder)
    make_inner_tokenizer("qwen2").save_pretrained(folder)
    return folder


@pytest.fixture
def vectors(make_task, overture) -> Path:
    """A stored prompt of vectors; its store's root."""
    assert overture("tune", make_task(shots=0), "--method", "vectors", "--place", "before", "--json").code == 0
    return Path("store")


def test_the_same_model_otherwise_numbered_takes_it_exactly(vectors: Path, turned: Path, overture) -> None:
    old = overture("eval", "mood", "--json").json
    done = overture("recycle", "mood", "task.yaml", "--backbone", turned, "--name", "there", "--json")
    assert done.code == 0, done.err
    found = done.json
    assert (found["prompt"], found["recycled_from"], found["backbone"]) == ("there@1", "mood@1", str(turned))
    assert found["map"]["cosine"] == pytest.approx(1, abs=1e-4)
    assert found["metrics"]["test"]["loss"] == pytest.approx(old["metrics"]["test"]["loss"], abs=1e-3)
    assert found["metrics"]["test"]["accuracy"] == old["metrics"]["test"]["accuracy"]
    assert found["no_prompt"]["metrics"]["test"]["loss"] == pytest.approx(old["no_prompt"]["metrics"]["test"]["loss"])
    assert found["compared"]["no_prompt"]["difference"]["n"] == 8
    manifest, tensors = load_artifact(vectors / "prompts/there/v1")
    assert (manifest.method, manifest.place, manifest.length) == ("vectors", "before", 3)
    assert manifest.backbone.id == manifest.task["backbone"] == str(turned)
    assert manifest.lineage.recycled_from == "mood@1"
    assert manifest.metrics.test.dump() == found["metrics"]["test"]
    own = load_artifact(vectors / "prompts/mood/v1")[1]["vectors"]
    torch.testing.assert_close(tensors["vectors"].sort(dim=1).values, own.sort(dim=1).values, rtol=1e-3, atol=1e-3)
    again = overture("eval", "there", "test.jsonl", "--json").json
    assert again["metrics"]["data"]["accuracy"] == found["metrics"]["test"]["accuracy"]


def test_a_model_of_another_width(vectors: Path, smaller: Path, overture) -> None:
    found = overture("recycle", "mood", "--backbone", smaller, "--json").json
    assert found["prompt"] == "mood-recycled@1"
    assert "metrics" not in found
    _, tensors = load_artifact(vectors / "prompts/mood-recycled/v1")
    assert tensors["vectors"].shape == (3, 40)
    assert overture("predict", "mood-recycled", "fine 1").code == 0
    done = overture("recycle", "mood", "task.yaml", "--backbone", smaller, "--tokens", "60", "--name", "few")
    assert "only 60 common tokens for vectors of width 32" in done.err
    for text in ("is now few@1", "60 common tokens", "prompt on the old model", "no-prompt", "few@1, test rows"):
        assert text in done.out
    command = next(line for line in done.out.splitlines() if "prompt.init=prompt" in line)
    assert overture(*command.split()[1:], "--json").code == 0


def test_map_by_value() -> None:
    generator = torch.Generator().manual_seed(0)
    old, matrix = torch.randn(200, 6, generator=generator).double(), torch.randn(6, 4, generator=generator).double()
    found = fitted_map(old, old @ matrix)
    torch.testing.assert_close(found.matrix, matrix, rtol=1e-6, atol=1e-6)
    assert (found.num_tokens, found.cosine) == (200, pytest.approx(1))
    noisy = fitted_map(old[:60], torch.randn(60, 4, generator=generator).double())
    assert noisy.ridge > found.ridge
    assert noisy.cosine < 0.5


def test_vectors_keep_their_length_in_the_models_own_measure() -> None:
    double = Map(2 * torch.eye(3).double(), scale=0.5, num_tokens=1, ridge=0, cosine=1)
    found = double.of(torch.tensor([[4.0, 0.0, 0.0], [0.0, 0.0, 0.0]]))
    assert torch.equal(found, torch.tensor([[2.0, 0.0, 0.0], [0.0, 0.0, 0.0]]))


class Words:
    """A tokenizer by its vocabulary."""

    def __init__(self, texts: list[str], specials: tuple[int, ...] = ()) -> None:
        self.inner, self.special_ids, self.texts = self, frozenset(specials), texts

    def get_vocab(self) -> dict[str, int]:
        return {text: index for index, text in enumerate(self.texts)}


@pytest.mark.parametrize(
    ("texts", "wanted"),
    [
        (["<s>", "\u0120the", "the", "\u00c3\u00a9", "\u010a"], {" the": 1, "the": 2}),
        (["<s>", "\u2581the", "the", "\u2581", "\u00e9"], {" the": 1, "the": 2, " ": 3}),
        (["[CLS]", "the", "##the", "##s"], {" the": 1, "the": 2, "s": 3}),
    ],
    ids=["byte-level", "sentencepiece", "wordpiece"],
)
def test_tokens_are_matched_by_their_text(texts: list[str], wanted: dict[str, int]) -> None:
    backbone = make_backbone("llama")
    backbone.text.tokenizer = Words(texts, (0,))  # type: ignore[assignment]
    assert plain_texts(backbone) == wanted


def test_vocabularies_that_do_not_meet() -> None:
    old, new = make_backbone("llama"), make_backbone("llama")
    one, other = common_vectors(old, new, 60)
    assert one.shape == other.shape == (60, WIDTH)
    assert torch.equal(one, other)
    new.text.tokenizer = Words([f"x{index}" for index in range(200)])  # type: ignore[assignment]
    with pytest.raises(ConfigError, match=f"too few tokens in common[^$]*at least {FEWEST}"):
        common_vectors(old, new, 100)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--method", "prefix"], "keys and values are made by the layers"),
        (["--method", "warp", "--place", "before"], "head of one model"),
        (["--method", "late", "--place", "before", "--set", "prompt.options.layer=1"], "hidden states"),
        (["--method", "dept", "--place", "before"], "offset"),
        (["--method", "lopa", "--place", "before"], "depends on the row"),
        (["--method", "vectors", "--adapter", "lora", "--set", "adapter.rank=2"], "the adapter that it was"),
    ],
)
def test_what_cannot_be_recycled(make_task, overture, turned: Path, monkeypatch, words, why) -> None:
    assert overture("tune", make_task(shots=0), *words, "--json").code == 0
    # `loading` stands before the imports of torch and transformers.
    monkeypatch.setattr(command, "loading", lambda: pytest.fail("refused too late"))
    refused = overture("recycle", "mood", "--backbone", turned, "--json")
    assert refused.code == 2
    assert why in refused.json["got"]


def test_bad_input_keeps_nothing(vectors: Path, tiny: Path, turned: Path, overture, make_task, monkeypatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(command, "loading", lambda: pytest.fail("refused too late"))
        assert "this very model" in overture("recycle", "mood", "--backbone", tiny).err
    assert "this very model" in overture("recycle", "mood", "--backbone", copytree(tiny, "copy")).err
    assert overture("recycle", "mood").code == 2
    assert overture("recycle", "mood", "--backbone", "./no-model").code == 2
    assert overture("recycle", "mood", "--backbone", turned, "--tokens", "3").code == 2
    assert overture("recycle", "mood", "--backbone", turned, "--name", "A B").code == 2
    assert overture("recycle", "mood", "nowhere.yaml", "--backbone", turned).code == 2
    other = make_task(template="{text}\nHow?")
    assert "another template" in overture("recycle", "mood", other, "--backbone", turned).err
    assert [entry.name for entry in Store(vectors).list()] == ["mood"]
