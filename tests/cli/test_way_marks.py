"""Ways in charts can be told apart by everybody: where points have the same shape, by simulated colour vision."""

import itertools

import numpy as np
import pytest

from overture.report.charts import colour, shape

# Machado, Oliveira and Fernandes 2009, "A Physiologically-based Model for Simulation of Color Vision Deficiency",
# severity 1.0, on linear RGB.
VISIONS = {
    "usual": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}
# Ottosson 2020, Oklab: linear RGB to cones, cones to lightness and two opponent colours.
TO_CONES = [[0.412221, 0.536333, 0.051446], [0.211903, 0.6807, 0.107397], [0.088302, 0.281719, 0.629979]]
TO_OKLAB = [[0.210454, 0.793618, -0.004072], [1.977998, -2.428592, 0.450594], [0.025904, 0.782772, -0.808676]]
ADAPTERS = ["no-prompt", "text", "in-context", "linear", "head", "bitfit", "lora", "full"]
PROMPTS = ["prefix-after", "prefix-memory", "prefix-before", "gated-after", "gated-memory", "vectors-after"]
WAYS = [*ADAPTERS, *PROMPTS, "vectors-before", "late-before"]


def oklab(way: str, vision: str) -> np.ndarray:
    parts = np.array([int(colour(way)[at : at + 2], 16) / 255 for at in (1, 3, 5)])
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    seen = np.clip(np.array(VISIONS[vision]) @ linear, 0, 1)
    return np.array(TO_OKLAB) @ np.cbrt(np.array(TO_CONES) @ seen)


@pytest.mark.parametrize("vision", VISIONS)
def test_ways_with_points_of_one_shape_differ_in_colour(vision: str) -> None:
    pairs = [(a, b) for a, b in itertools.combinations(WAYS, 2) if shape(a) == shape(b)]
    distances = {pair: float(np.linalg.norm(oklab(pair[0], vision) - oklab(pair[1], vision))) for pair in pairs}
    assert min(distances.values()) > 0.05, min(distances, key=lambda pair: distances[pair])


def test_places_and_groups_of_ways_have_shapes_of_their_own() -> None:
    assert len({shape(way) for way in ("prefix-after", "prefix-memory", "prefix-before", "lora", "head", "text")}) == 6
    assert shape("bitfit:norms") == shape("lora")
    assert shape("my-method-before") == shape("late-before")
    assert shape("my-baseline") == "circle"
