"""Pruned vectors: what is kept starts where the whole prompt starts, and what is gone stays gone."""

import pytest
import torch

from fakes import backbone_of, source_of
from overture.core.errors import ConfigError
from overture.prompt.build import build_prompt
from overture.prompt.config import PromptConfig

LENGTH, WIDTH = 5, 32


def built(method: str = "pruned", seed: int = 3, **options):
    config = PromptConfig(method=method, place="after", length=LENGTH, options=options)
    return build_prompt(config, source_of(backbone_of("llama")), seed)


def test_kept_vectors_start_as_in_the_whole_prompt():
    whole = built("vectors").injection().vectors.values
    assert torch.equal(built(tokens=[1, 4]).injection().vectors.values, whole[[1, 4]])
    found = built(tokens=[0, 2], masks=["0110", "1111"]).injection().vectors.values
    wanted = whole[[0, 2]].clone()
    wanted[0, :8] = wanted[0, 24:] = 0
    assert torch.equal(found, wanted)


def test_masked_pieces_stay_zero_in_training():
    prompt = built(tokens=[0, 2], masks=["01", "10"])
    assert prompt.values.shape == (2, 16)
    optimiser = torch.optim.SGD(prompt.trainable().values(), lr=0.1)
    start = prompt.injection().vectors.values.detach()
    prompt.injection().vectors.values.square().sum().backward()
    optimiser.step()
    found = prompt.injection().vectors.values.detach()
    assert torch.allclose(found, 0.8 * start)
    assert (found[0, :16] == 0).all()
    assert (found[1, 16:] == 0).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "tokens"),
        ({"tokens": []}, "tokens"),
        ({"tokens": [2, 1]}, "in order"),
        ({"tokens": [1, 1]}, "in order"),
        ({"tokens": [-1, 1]}, "in order"),
        ({"tokens": [0, 5]}, "no such vector"),
        ({"tokens": [0, 1], "masks": ["11"]}, "as many as tokens"),
        ({"tokens": [0, 1], "masks": ["11", "1"]}, "equally long"),
        ({"tokens": [0, 1], "masks": ["11", "00"]}, "at least one 1"),
        ({"tokens": [0, 1], "masks": ["1x", "01"]}, "0 and 1"),
        ({"tokens": [0, 1], "masks": ["", ""]}, "0 and 1"),
        ({"tokens": [0, 1], "masks": ["101", "111"]}, "equal pieces"),
    ],
)
def test_what_cannot_be_kept(options, message):
    with pytest.raises(ConfigError, match=message):
        built(**options)
