import sys

import pytest


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Tiny models run fastest on one thread, and sums keep one order."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
