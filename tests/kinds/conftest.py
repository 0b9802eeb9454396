"""A kind's sample, a tiny decoder, and the encoder of the one for the other."""

import pytest
from kind_samples import SAMPLES, Sample, task_of

from fakes import backbone_of
from overture.data import Encoder


@pytest.fixture(params=SAMPLES.values(), ids=str)
def sample(request) -> Sample:
    return request.param


@pytest.fixture
def backbone():
    return backbone_of("llama")


@pytest.fixture
def encoder(sample, backbone) -> Encoder:
    return Encoder(task_of(sample), backbone.tokenizer, reserve=3)
