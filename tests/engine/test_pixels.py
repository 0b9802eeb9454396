"""Our preparation of images gives the pixels of transformers' own, and every change of it has another fingerprint."""

import json

import numpy as np
import pytest
import torch
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.deit.image_processing_pil_deit import DeiTImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from overture.core.errors import BackboneError, OvertureError
from overture.core.media import Media
from overture.core.rows import Signal
from overture.engine.frontends.image import image_backbone
from overture.engine.frontends.pixels import ImageProcessor
from vision_fakes import make_image, make_processor, make_vision_model, vision_backbone_of

SHAPES = ((40, 30), (17, 64), (64, 64), (8, 9))
SMALL = {"size": {"height": 24, "width": 32}}
THEIRS = {
    "vit": ViTImageProcessorPil(**SMALL),
    "deit": DeiTImageProcessorPil(size={"height": 40, "width": 40}, crop_size={"height": 32, "width": 32}),
    "dinov2": BitImageProcessorPil(size={"shortest_edge": 37}, crop_size={"height": 33, "width": 32}),
    "clip": CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}),
    "siglip": SiglipImageProcessorPil(**SMALL),
    "larger crop": BitImageProcessorPil(size={"shortest_edge": 20}, crop_size={"height": 33, "width": 40}),
    "plain": ViTImageProcessorPil(**SMALL, do_rescale=False, do_normalize=False),
}


def pixels_of(shape: tuple[int, int]) -> np.ndarray:
    return make_image(sum(shape), *shape).open()


@pytest.mark.parametrize("name", THEIRS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_pixels_are_those_of_transformers(name, shape):
    theirs = THEIRS[name]
    ours = ImageProcessor.from_values(json.loads(theirs.to_json_string()), name)
    wanted = torch.as_tensor(np.asarray(theirs(pixels_of(shape))["pixel_values"][0], dtype=np.float32))
    torch.testing.assert_close(ours.prepared(pixels_of(shape), 4, "test"), wanted, rtol=0, atol=2e-6)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_as_many_patches_as_fit(shape):
    theirs = Siglip2ImageProcessorPil(patch_size=4, max_num_patches=30)
    ours = ImageProcessor.from_values(json.loads(theirs.to_json_string()), "siglip2")
    wanted = theirs(pixels_of(shape))
    rows, columns = (int(edge) for edge in wanted["spatial_shapes"][0])
    pixels = ours.prepared(pixels_of(shape), 4, "test")
    assert pixels.shape == (3, 4 * rows, 4 * columns)
    cut = pixels.reshape(3, rows, 4, columns, 4).permute(1, 3, 2, 4, 0).reshape(rows * columns, -1)
    their_patches = torch.as_tensor(np.asarray(wanted["pixel_values"][0], dtype=np.float32))[: len(cut)]
    torch.testing.assert_close(cut, their_patches, rtol=0, atol=2e-6)


def test_early_files_hold_one_number():
    rest = {"resample": 2, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    square = ImageProcessor.from_values({"size": 24, "feature_extractor_type": "ViTFeatureExtractor", **rest}, "")
    edge = {"size": 24, "crop_size": 24, "do_center_crop": True, "feature_extractor_type": "CLIPFeatureExtractor"}
    assert (square.shape, square.shortest) == ((24, 24), None)
    clip = ImageProcessor.from_values({**edge, **rest}, "")
    assert (clip.shortest, clip.crop) == (24, (24, 24))


@pytest.mark.parametrize(
    "values",
    [{"size": {"longest_edge": 30}, "resample": 2}, {"size": {"height": 24, "width": 24}}, {"size": 24, "resample": 9}],
    ids=["an edge that is not known", "no filter", "a filter that does not exist"],
)
def test_what_is_not_understood_is_refused(values):
    with pytest.raises(OvertureError):
        ImageProcessor.from_values(values, "preprocessor_config.json")


def test_every_change_has_another_fingerprint():
    plain = make_processor("vit")
    changes = [{"resample": 3}, {"height": 20}, {"mean": (0.5, 0.5, 0.5)}, {"crop": (12, 12)}, {"scale": None}]
    processors = [plain, *(plain.model_copy(update=change) for change in changes), plain.at(12)]
    assert len({processor.sha256 for processor in processors}) == len(processors)
    assert plain.at(16).sha256 == plain.sha256


def test_another_size_keeps_the_share_that_is_cropped():
    dino = ImageProcessor(shortest=256, crop=(224, 224), resample=3).at(112)
    assert (dino.shortest, dino.crop) == (128, (112, 112))


def test_a_signal_is_its_content_and_its_preparation():
    keys = []
    for processor in (make_processor("vit"), make_processor("vit").at(12)):
        backbone = image_backbone(make_vision_model("vit"), processor, id="vit")
        signals = [backbone.frontend_of("image").segments(make_image(number))[0] for number in (1, 1, 2)]
        assert all(isinstance(signal, Signal) for signal in signals)
        assert signals[0] == signals[1]
        keys += [signals[0].key, signals[2].key]
        assert backbone.info.processor_sha256 == processor.sha256
    assert len(set(keys)) == 4


def test_images_that_cannot_be_read_are_refused():
    with pytest.raises(BackboneError) as error:
        image_backbone(make_vision_model("vit"), make_processor("vit").at(18), id="vit")
    assert "16 or 20" in error.value.wanted
    frontend = vision_backbone_of("vit").frontend_of("image")
    grey = Media.of_array(np.zeros((8, 8), np.uint8), "grey.png")
    (signal,) = frontend.segments(grey)
    with pytest.raises(BackboneError) as error:
        signal.load()
    assert error.value.where == "grey.png"
    with pytest.raises(BackboneError):
        frontend.segments("a text")
    with pytest.raises(BackboneError):
        image_backbone(
            make_vision_model("dinov3_vit"), ImageProcessor(shortest=20, resample=2), id="all images have one size"
        )
