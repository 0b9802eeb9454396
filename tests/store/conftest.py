import pytest

from overture.store.store import Store
from store_fixtures import make_backbone, make_manifest, packed, rewrite, saved, tensors

__all__ = ["make_backbone", "make_manifest", "packed", "rewrite", "saved", "tensors"]


@pytest.fixture
def notices():
    return []


@pytest.fixture
def store(tmp_path, notices):
    return Store(tmp_path / "home", notices.append)
