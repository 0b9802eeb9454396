"""Vision encoders from folders: whole models, one tower of two, and what is missing in them."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers.models import clip, siglip, vit

from overture.core.contracts import Features
from overture.core.errors import BackboneError
from overture.engine.load import label_place, load_backbone
from overture.engine.options import is_encoder
from overture.engine.prompted import PromptedModel
from vision_fakes import WIDTH, image_rows, make_vision_model, vision_reference_of

TEXT = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 50}
PROCESSOR = {"size": {"height": 24, "width": 24}, "resample": 2, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}


@pytest.fixture
def saved(tmp_path):
    """Save a model with a processor; the folder's name is returned."""

    def save(model) -> str:
        model.save_pretrained(tmp_path / "model")
        (tmp_path / "model" / "preprocessor_config.json").write_text(json.dumps(PROCESSOR), encoding="utf-8")
        return str(tmp_path / "model")

    return save


def loaded(name: str):
    return load_backbone(name, device="cpu", notify=lambda text: None)


@pytest.mark.parametrize("family", ["dinov2", "dinov3_vit"])
def test_a_folder_is_the_model_that_was_saved(family, saved):
    name = saved(make_vision_model(family, torch.float32))
    backbone = loaded(f"{name}@16px")
    rows = image_rows(backbone, 2)
    ours = PromptedModel(backbone).ask(rows, Features())
    with torch.no_grad():
        states = [vision_reference_of(family, torch.float32)(row.input[0].load()[None])[0][0, 0] for row in rows]
    torch.testing.assert_close(ours, states, rtol=1e-5, atol=1e-5)
    assert (backbone.info.id, backbone.info.vocab_size) == (f"{name}@16px", 0)
    assert backbone.info.processor_sha256 != loaded(name).info.processor_sha256
    assert (label_place(f"{name}@16px", ["yes"]), is_encoder(f"{name}@16px")) == ("vectors", True)


@pytest.mark.parametrize(
    ("whole", "config", "tower"),
    [
        (clip.CLIPModel, clip.CLIPConfig, "clip_vision_model"),
        (siglip.SiglipModel, siglip.SiglipConfig, "siglip_vision_model"),
    ],
    ids=["clip", "siglip"],
)
def test_of_two_towers_that_of_the_images_is_read(whole, config, tower, saved):
    vision = make_vision_model(tower, torch.float32)
    both = whole(config(text_config=TEXT, vision_config=vision.config.to_dict())).eval()
    both.vision_model.load_state_dict(vision.state_dict())
    name = saved(both)
    backbone = loaded(f"{name}@16px")
    assert (backbone.info.model_type, backbone.info.hidden_size) == (tower, WIDTH)
    for key, value in vision.state_dict().items():
        assert torch.equal(backbone.model.state_dict()[key], value), key
    assert is_encoder(name)


def test_a_classifier_is_loaded_without_what_nothing_reads(saved):
    with torch.random.fork_rng():
        model = vit.ViTForImageClassification(make_vision_model("vit", torch.float32).config)
    backbone = loaded(f"{saved(model)}@16px")
    assert backbone.model.pooler is None
    assert torch.equal(backbone.model.embeddings.cls_token, model.vit.embeddings.cls_token)


def test_weights_that_are_missing_are_not_filled_in(saved):
    name = saved(make_vision_model("dinov2", torch.float32))
    weights = load_file(f"{name}/model.safetensors")
    lost = next(key for key in weights if "layer.1." in key)
    save_file(
        {key: value for key, value in weights.items() if key != lost}, f"{name}/model.safetensors", {"format": "pt"}
    )
    with pytest.raises(BackboneError) as error:
        loaded(name)
    assert "layer.1." in error.value.got


def test_a_folder_without_preparation_is_refused(tmp_path):
    make_vision_model("vit", torch.float32).save_pretrained(tmp_path)
    with pytest.raises(BackboneError) as error:
        loaded(str(tmp_path))
    assert error.value.wanted == "preprocessor_config.json"


@pytest.mark.parametrize("text", ["{", "[1]"])
def test_a_damaged_preparation_is_refused_by_the_name_of_its_file(tmp_path, text):
    make_vision_model("vit", torch.float32).save_pretrained(tmp_path)
    file = tmp_path / "preprocessor_config.json"
    file.write_text(text)
    with pytest.raises(BackboneError) as error:
        loaded(str(tmp_path))
    assert error.value.where == str(file)
