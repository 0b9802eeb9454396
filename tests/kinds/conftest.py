"""A kind's sample, a tiny model that writes, and the encoder of the one for the other."""

import pytest
from kind_samples import SAMPLES, Sample, task_of

from fakes import backbone_of
from overture.data import Encoder


@pytest.fixture(params=SAMPLES.values(), ids=str)
def sample(request) -> Sample:
    return request.param


@pytest.fixture(params=["llama", "t5"])
def backbone(request):
    return backbone_of(request.param)


@pytest.fixture
def encoder(sample, backbone) -> Encoder:
    return Encoder(task_of(sample), backbone.tokenizer, reserve=3)
