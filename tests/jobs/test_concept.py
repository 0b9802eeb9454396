"""A concept that is learnt from images: what changes, what is kept, what is measured."""

import hashlib

import pytest
import torch

pytest.importorskip("diffusers", reason="diffusers is not installed: pip install -e '.[diffusion]'")

from diffusion_fakes import loaded, pictures, saved_pipeline
from overture.core.errors import ConfigError, DataError, Diverged
from overture.jobs.concept.concept import concept, images_of
from overture.jobs.concept.options import ConceptConfig
from overture.store.artifact import load_artifact
from overture.store.store import Store
from overture.train.options import TrainConfig

TRAIN = TrainConfig(epochs=2, batch_size=2, lr=0.05, schedule="constant", warmup_steps=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    saved_pipeline(folder)
    return folder


def config_of(folder, **changes) -> ConceptConfig:
    known = {
        "backbone": str(folder),
        "token": "<new>",
        "word": "a",
        "length": 2,
        "steps": 8,
        "draws": 4,
        "train": TRAIN,
    }
    return ConceptConfig(**known | changes)


def digests(model) -> list[str]:
    parts = [model.unet, model.vae, *(encoder.model for encoder in model.encoders.values())]
    tensors = [value for part in parts for _, value in sorted(part.state_dict().items())]
    return [hashlib.sha256(value.numpy().tobytes()).hexdigest() for value in tensors]


@pytest.mark.parametrize("is_xl", [False, True])
def test_only_the_vectors_change_and_each_image_is_encoded_once(is_xl, tmp_path):
    saved_pipeline(tmp_path / "model", is_xl)
    model, store = loaded(tmp_path / "model"), Store(tmp_path / "store")
    before, encoded = digests(model), []
    model.vae.encoder.register_forward_hook(lambda module, arguments, output: encoded.append(1))
    config = config_of(tmp_path / "model", train=TRAIN.model_copy(update={"gradient_checkpointing": True}))
    result = concept(pictures(), store, config, model=model)
    assert digests(model) == before
    assert len(encoded) == 3
    manifest, vectors = load_artifact(store.get("new"), may_draw=True)
    start = model.start("a", 2)
    assert {name: value.shape for name, value in vectors.items()} == {n: v.shape for n, v in start.items()}
    assert all(((vectors[name] - start[name]).norm(dim=1) > 0.01).all() for name in start)
    assert (manifest.trainable, manifest.length) == (result.trainable, 2)
    assert manifest.concept.errors == result.errors
    assert result.errors.num_images == 3
    assert result.errors.difference.n == 12
    assert result.errors.difference.value == pytest.approx(result.errors.word.value - result.errors.concept.value)


def test_what_is_learnt_draws_the_images_better_than_the_word(folder, tmp_path):
    config = config_of(folder, steps=60, draws=16)
    result = concept(pictures(2), Store(tmp_path), config)
    assert result.errors.difference.low > 0
    assert result.errors.p_value < 0.01
    assert result.notices == []
    losses = [epoch.validation_loss for epoch in result.history]
    assert losses[-1] < losses[0]


def test_the_same_seed_learns_the_same_and_another_does_not(folder, tmp_path):
    store = Store(tmp_path)
    results = [concept(pictures(), store, config_of(folder, seed=seed)) for seed in (0, 0, 1)]
    first, again, other = (
        load_artifact(store.get(result.prompt), may_draw=True)[1]["text_encoder"] for result in results
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert results[0].errors == results[1].errors


def test_images_that_are_held_out_are_measured_and_not_trained_on(folder, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr("overture.jobs.concept.concept.Learner.loss", _noted(seen))
    result = concept(pictures(4), Store(tmp_path), config_of(folder, held_out=1, steps=20))
    assert result.images == 3
    assert (result.errors.images, result.errors.num_images) == ("held out", 1)
    assert len(set(seen)) == 3


def _noted(seen):
    from overture.jobs.concept.concept import Learner

    usual = Learner.loss

    def loss(learner, rows):
        seen.extend(row.row for row in rows)
        return usual(learner, rows)

    return loss


def test_nothing_is_kept_of_errors_that_are_no_numbers(folder, tmp_path):
    model = loaded(folder)
    model.scheduler.alphas_cumprod = model.scheduler.alphas_cumprod * float("nan")
    with pytest.raises(Diverged):
        concept(pictures(), Store(tmp_path), config_of(folder), model=model)
    assert Store(tmp_path).list() == []


def test_a_stop_keeps_what_there_is(folder, tmp_path):
    asked = []
    model = loaded(folder)
    stop = lambda: bool(asked.append(1) or len(asked) > 6)  # noqa: E731
    result = concept(pictures(), Store(tmp_path), config_of(folder, steps=400), model=model, is_stop_asked=lambda: True)
    assert (result.status, result.prompt) == ("interrupted", None)
    result = concept(pictures(), Store(tmp_path), config_of(folder, steps=8), model=model, is_stop_asked=stop)
    assert (result.status, result.prompt) == ("interrupted", "new@1")


def test_what_cannot_be_learnt_is_refused_before_the_model_runs(folder, tmp_path):
    model, store = loaded(folder), Store(tmp_path / "store")
    for changes, where in (({"token": "b"}, "token"), ({"word": "abc"}, "word"), ({"captions": ("x",)}, "captions")):
        with pytest.raises(ConfigError) as error:
            concept(pictures(), store, config_of(folder, **changes), model=model)
        assert error.value.where == where
    with pytest.raises(DataError):
        concept(pictures(2), store, config_of(folder, held_out=2), model=model)
    with pytest.raises(ValueError, match="token"):
        config_of(folder, token="two words")


def test_images_are_read_once_and_broken_ones_are_named_together(tmp_path):
    from PIL import Image

    for name in ("a.png", "same.png"):
        Image.new("RGB", (40, 40), "red").save(tmp_path / name)
    assert len(images_of(tmp_path)) == 1
    for name in ("x.png", "y.jpg"):
        (tmp_path / name).write_bytes(b"no image")
    with pytest.raises(DataError) as error:
        images_of(tmp_path)
    assert len(error.value.problems) == 2
    for empty in (tmp_path / "gone", tmp_path / "empty"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(DataError):
            images_of(empty)
