import itertools
import os
from collections import defaultdict

import pytest
import torch

from fakes import ENCODERS, ENTRIES, FAMILIES, SEQ2SEQ, WHOLE, WHOLE_ENCODERS, backbone_of, is_fit
from overture.engine import ragged
from overture.engine.info import weights_digest


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


def pytest_collection_modifyitems(config, items):
    """Every way into the layers of a whole family meets rows of all kinds, every other case one of them, in turn.

    The whole grid takes twice as long: `OVERTURE_WHOLE_GRID=1` runs it.
    """
    if os.environ.get("OVERTURE_WHOLE_GRID"):
        return
    kinds, turns = defaultdict(list), defaultdict(itertools.count)
    for item in items:
        if not (key := _case_of(item)):
            continue
        kind = item.callspec.params["kind"]
        if kind not in kinds[key] and is_fit(item.callspec.params["case"], kind):
            kinds[key].append(kind)
    # Each test has turns of its own, so that all kinds are met by each.
    chosen = {key: found[next(turns[key[0]]) % len(found)] for key, found in kinds.items()}
    left = [item for item in items if (key := _case_of(item)) and item.callspec.params["kind"] != chosen[key]]
    config.hook.pytest_deselected(items=left)
    out = set(left)
    items[:] = [item for item in items if item not in out]


def _case_of(item):
    """Test, family and case, where one kind of rows is enough; None elsewhere."""
    found = getattr(item, "callspec", None)
    if found is None or not {"family", "case", "kind"} <= set(found.params):
        return None
    family, case = found.params["family"], found.params["case"]
    is_whole = family in (*WHOLE, *WHOLE_ENCODERS, "t5") and case in ENTRIES
    return None if is_whole else (item.originalname, family, str(case))
