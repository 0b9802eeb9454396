"""A concept's vectors in the captions of a model that draws, against diffusers' own loader and published training."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

pytest.importorskip("diffusers", reason="diffusers is not installed: pip install -e '.[diffusion]'")

from diffusion_fakes import loaded, pictures, saved_pipeline, vectors_of
from overture.core.errors import BackboneError, ConfigError
from overture.core.records.prompt import Concept, Lineage
from overture.engine.diffusion_files import diffusion_info
from overture.exchange.embeddings import diffusers_files, webui_files
from overture.jobs.concept.keep import concept_manifest

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
CAPTIONS = ["a photo of {}.", "the {} in the sun"]
LENGTH = 3


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    kinds = {"sd": {}, "velocity": {"predicts": "v_prediction"}, "xl": {"is_xl": True}}
    return {name: (folder / name, saved_pipeline(folder / name, **options)) for name, options in kinds.items()}


def with_concept(pipeline, model, vectors, folder: Path) -> None:
    """Load our file into diffusers' pipeline, by its own function."""
    concept = Concept(token="<new>")
    manifest = concept_manifest("new", model.info, concept, vectors, lineage=Lineage())
    for name, raw in diffusers_files(manifest, vectors).items():
        (folder / name).write_bytes(raw)
    if len(vectors) == 1:
        pipeline.load_textual_inversion(str(folder), weight_name="learned_embeds.safetensors", local_files_only=True)
        return
    from safetensors.torch import load_file

    read = load_file(folder / "learned_embeds.safetensors")
    for key, end in (("clip_l", ""), ("clip_g", "_2")):
        parts = {name: getattr(pipeline, name + end) for name in ("text_encoder", "tokenizer")}
        pipeline.load_textual_inversion(read[key], token="<new>", **parts)


@pytest.mark.parametrize("kind", ["sd", "xl"])
def test_captions_are_those_of_a_pipeline_that_loaded_the_file(kind, folders, tmp_path):
    folder, _ = folders[kind]
    pipeline, model = saved_pipeline(tmp_path / "again", kind == "xl"), loaded(folder)
    vectors = vectors_of(model, LENGTH)
    with_concept(pipeline, model, vectors, tmp_path)
    texts = [caption.replace("{}", "<new>") for caption in CAPTIONS]
    theirs = pipeline.encode_prompt(texts, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False)
    ours = model.conditions(CAPTIONS, vectors)
    torch.testing.assert_close(ours.states, theirs[0], **CLOSE)
    if kind == "xl":
        torch.testing.assert_close(ours.added["text_embeds"], theirs[2], **CLOSE)
        times = pipeline._get_add_time_ids((32, 32), (0, 0), (32, 32), torch.float32, 24)
        torch.testing.assert_close(ours.added["time_ids"], times.expand(2, -1))
    other = model.conditions(CAPTIONS, vectors_of(model, LENGTH, seed=1))
    assert (ours.states - other.states).abs().max() > 0.01


@pytest.mark.parametrize("kind", ["sd", "velocity", "xl"])
def test_error_and_gradient_are_those_of_published_training(kind, folders, tmp_path):
    """Published scripts grow the token table and train all of it; the concept's rows get the gradient that ours get."""
    folder, _ = folders[kind]
    options = {"predicts": "v_prediction"} if kind == "velocity" else {}
    pipeline, model = saved_pipeline(tmp_path / "again", kind == "xl", **options), loaded(folder)
    vectors = {name: values.requires_grad_(True) for name, values in vectors_of(model, LENGTH).items()}
    with_concept(pipeline, model, {name: values.detach() for name, values in vectors.items()}, tmp_path)
    generator = torch.Generator().manual_seed(3)
    latents, noise = [torch.randn(2, *model.latent_shape, generator=generator) for _ in range(2)]
    times = torch.tensor([100, 800])
    ours = model.errors(latents, noise, times, model.conditions(CAPTIONS, vectors))
    ours.sum().backward()
    ends = ("", "_2")[: len(vectors)]
    tables = [getattr(pipeline, f"text_encoder{end}").get_input_embeddings().weight for end in ends]
    for table in tables:
        table.requires_grad_(True)
    texts = [caption.replace("{}", "<new>") for caption in CAPTIONS]
    with torch.enable_grad():
        read = pipeline.encode_prompt(texts, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False)
        added = {}
        if kind == "xl":
            times_of = pipeline._get_add_time_ids((32, 32), (0, 0), (32, 32), torch.float32, 24).expand(2, -1)
            added = {"added_cond_kwargs": {"text_embeds": read[2], "time_ids": times_of}}
        noisy = pipeline.scheduler.add_noise(latents, noise, times)
        predicted = pipeline.unet(noisy, times, encoder_hidden_states=read[0], **added).sample
        is_velocity = kind == "velocity"
        wanted = pipeline.scheduler.get_velocity(latents, noise, times) if is_velocity else noise
        theirs = ((predicted - wanted) ** 2).mean((1, 2, 3))
        theirs.sum().backward()
    torch.testing.assert_close(ours, theirs, **CLOSE)
    for (name, values), table, end in zip(vectors.items(), tables, ends, strict=True):
        ids = getattr(pipeline, f"tokenizer{end}").convert_tokens_to_ids(["<new>", "<new>_1", "<new>_2"])
        assert values.grad.abs().max() > 1e-6, name
        torch.testing.assert_close(values.grad, table.grad[ids], rtol=1e-4, atol=1e-7)


def test_the_web_uis_file_gives_the_same_vectors(folders, tmp_path):
    folder, _ = folders["sd"]
    model = loaded(folder)
    vectors = vectors_of(model, LENGTH)
    manifest = concept_manifest("new", model.info, Concept(token="<new>"), vectors, lineage=Lineage())
    ((name, raw),) = webui_files(manifest, vectors).items()
    (tmp_path / name).write_bytes(raw)
    assert name == "new.safetensors"
    pipeline = saved_pipeline(tmp_path / "again")
    pipeline.load_textual_inversion(str(tmp_path), weight_name=name, token="new", local_files_only=True)
    ids = pipeline.tokenizer.convert_tokens_to_ids(["new", "new_1", "new_2"])
    assert torch.equal(pipeline.text_encoder.get_input_embeddings().weight[ids], vectors["text_encoder"])


def test_a_kept_latent_is_what_the_autoencoder_draws(folders):
    folder, pipeline = folders["sd"]
    model, image = loaded(folder), pictures(1)[0]
    pixels = model.processor.prepared(image.open(), 1, image.where)
    assert pixels.shape == (3, 32, 32)
    assert float(pixels.min()) >= -1
    theirs = pipeline.vae.encode(pixels[None]).latent_dist.sample(torch.Generator().manual_seed(7))
    draw = torch.randn(1, *model.latent_shape, generator=torch.Generator().manual_seed(7))[0]
    ours = model.scaled(model.latent(pixels), draw)
    torch.testing.assert_close(ours, theirs[0] * pipeline.vae.config.scaling_factor, **CLOSE)


def test_a_start_repeats_a_short_word_and_refuses_a_long_one(folders):
    model = loaded(folders["xl"][0])
    start = model.start("ab", 3)
    for name, encoder in model.encoders.items():
        rows = encoder.rows_of("ab")
        assert torch.equal(start[name], rows[[0, 0, 1]])
    with pytest.raises(ConfigError) as error:
        model.start("abcd", 3)
    assert error.value.fix.startswith("--length 4")
    with pytest.raises(ConfigError):
        model.start(" ", 3)


@pytest.mark.parametrize("caption", ["no place", "{} and {}", "a " * 80 + "{}"])
def test_a_caption_has_one_place_and_fits(caption, folders):
    model = loaded(folders["sd"][0])
    with pytest.raises(ConfigError):
        model.encoders["text_encoder"].laid_out(caption, 2)


def test_a_tokenizer_of_another_model_is_refused(folders, tmp_path):
    shutil.copytree(folders["sd"][0], tmp_path / "odd")
    path = tmp_path / "odd" / "tokenizer" / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "pad_token": "!"}))
    with pytest.raises(BackboneError, match="another model"):
        loaded(tmp_path / "odd")


def test_what_is_no_such_model_is_refused(folders, tmp_path):
    folder, _ = folders["sd"]

    def changed(name: str, file: str, **values) -> str:
        copy = tmp_path / name
        shutil.copytree(folder, copy)
        path = copy / file
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
        return str(copy)

    wrong = {
        changed("class", "model_index.json", _class_name="FluxPipeline"): "FluxPipeline",
        changed("text", "model_index.json", text_encoder=["transformers", "T5EncoderModel"]): "T5EncoderModel",
        changed("paints", "unet/config.json", in_channels=9): "9 channels",
        changed("sample", "scheduler/scheduler_config.json", prediction_type="sample"): "sample",
        f"{folder}@33px": "@33px",
        str(tmp_path): "",
        "nobody/nothing": "",
    }
    for name, got in wrong.items():
        with pytest.raises(BackboneError) as error:
            diffusion_info(name)
        assert got in error.value.got
    pickled = Path(changed("pickled", "vae/config.json"))
    (pickled / "vae/diffusion_pytorch_model.safetensors").rename(pickled / "vae/diffusion_pytorch_model.bin")
    with pytest.raises(BackboneError, match="never read"):
        diffusion_info(str(pickled))


def test_the_fingerprint_is_that_of_all_parts(folders, tmp_path):
    folder, _ = folders["sd"]
    info = diffusion_info(str(folder))
    assert info.widths == {"text_encoder": 32}
    assert replace(loaded(folder).info, dtype=None) == info
    saved_pipeline(tmp_path / "other", seed=1)
    for part in ("unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_encoder/model"):
        copy = tmp_path / part.partition("/")[0]
        shutil.copytree(folder, copy)
        shutil.copy(tmp_path / "other" / f"{part}.safetensors", copy / f"{part}.safetensors")
        assert diffusion_info(str(copy)).weights_sha256 != info.weights_sha256
    assert diffusion_info(f"{folder}@64px").processor_sha256 != info.processor_sha256


def test_files_as_they_were_published_are_read(folders, tmp_path):
    """Stable Diffusion 1.5's: a vocabulary with merges, PNDM's scheduler, the text encoder's names of then."""
    from safetensors.torch import load_file, save_file

    folder, old = folders["sd"][0], tmp_path / "old"
    shutil.copytree(folder, old)
    whole = json.loads((old / "tokenizer" / "tokenizer.json").read_text())
    (old / "tokenizer" / "tokenizer.json").unlink()
    (old / "tokenizer" / "vocab.json").write_text(json.dumps(whole["model"]["vocab"]))
    (old / "tokenizer" / "merges.txt").write_text("#version: 0.2\n")
    mark = {"__type": "AddedToken", "lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
    tokenizer = {name: mark | {"content": "<|endoftext|>"} for name in ("eos_token", "unk_token")}
    tokenizer |= {"bos_token": mark | {"content": "<|startoftext|>"}, "pad_token": "<|endoftext|>"}
    tokenizer |= {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "do_lower_case": True}
    (old / "tokenizer" / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    scheduler = {"_class_name": "PNDMScheduler", "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    scheduler |= {"beta_start": 0.00085, "num_train_timesteps": 1000, "skip_prk_steps": True, "steps_offset": 1}
    (old / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler | {"clip_sample": False}))
    weights = load_file(old / "text_encoder" / "model.safetensors")
    weights = {f"text_model.{name.removeprefix('text_model.')}": value for name, value in weights.items()}
    weights["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    save_file(weights, old / "text_encoder" / "model.safetensors", {"format": "pt"})
    vae = json.loads((old / "vae" / "config.json").read_text())
    del vae["scaling_factor"]
    (old / "vae" / "config.json").write_text(json.dumps(vae))
    models = [loaded(folder), loaded(old)]
    vectors, generator = vectors_of(models[0], LENGTH), torch.Generator().manual_seed(2)
    latents, noise = [torch.randn(2, *models[0].latent_shape, generator=generator) for _ in range(2)]
    times = torch.tensor([10, 500])
    ours = [model.errors(latents, noise, times, model.conditions(CAPTIONS, vectors)) for model in models]
    assert torch.equal(*ours)
    assert models[1].vae.config.scaling_factor == models[0].vae.config.scaling_factor
