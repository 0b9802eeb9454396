import gc
import os
import sys

import pytest
from hypothesis import settings

from overture.engine.lean import import_transformers

# As a command does: what it leaves out, a test would hide.
import_transformers()

# The same examples in each run; HYPOTHESIS_PROFILE=default searches for others.
settings.register_profile("same", derandomize=True, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))

# Tests read texts as if for the first time, and leave nothing in the user's cache.
os.environ["OVERTURE_CACHE_LIMIT"] = "0"
# No test asks the Hub; where there is no network, each try would wait for its time limit.
os.environ["HF_HUB_OFFLINE"] = "1"


@pytest.fixture(autouse=True, scope="session")
def frozen_collection():
    """What is there once all tests are collected stays to the end: no later garbage collection looks at it again."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Tiny models run fastest on one thread, and sums keep one order."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
