"""A kind's sample and a tiny model that can give its answers, and the encoder of the one for the other."""

import pytest
from kind_samples import CASES, SAMPLES, Sample, task_of

from fakes import backbone_of
from overture.data.encode import Encoder


@pytest.fixture(params=CASES, ids="-".join)
def case(request) -> tuple[str, str]:
    """A kind and a family; `bert mask` reads a word at a mask, `bert` whatever vectors of labels are read from."""
    return request.param


@pytest.fixture
def sample(case) -> Sample:
    return SAMPLES[case[0]].read_by(case[1])


@pytest.fixture
def backbone(case):
    return backbone_of(case[1].split()[0])


@pytest.fixture
def encoder(sample, backbone) -> Encoder:
    return Encoder(task_of(sample), backbone.text.tokenizer, reserve=3)
