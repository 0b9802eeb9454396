import pytest
import torch

from fakes import ENCODERS, FAMILIES, SEQ2SEQ, backbone_of
from overture.engine import ragged
from overture.engine.backbone import weights_digest


@pytest.fixture(autouse=True, scope="session")
def weights_stay():
    """Law 1 once more: after the whole suite the shared backbones are what they were."""
    kinds = [(family, dtype) for family in (*FAMILIES, *ENCODERS, *SEQ2SEQ) for dtype in (torch.float32, torch.float64)]
    before = {kind: weights_digest(backbone_of(*kind).model) for kind in kinds}
    yield
    assert {kind: weights_digest(backbone_of(*kind).model) for kind in kinds} == before


@pytest.fixture(autouse=True, scope="module")
def rows_part_by_length():
    """Tiny rows are too few tokens for groups of their own; here they are enough, so that the laws see groups too."""
    before, ragged.ENOUGH = ragged.ENOUGH, 8
    yield
    ragged.ENOUGH = before
