"""Twelve whole runs give the figures that were recorded; `record_unchanged.py` records them anew.

On the kind of processor that recorded them every bit must be the same, on others numbers to a ten-thousandth, and the
texts in either case.
"""

import json

import pytest
from record_unchanged import FILE
from unchanged_runs import RUNS, differences, figures_of, processor

RECORDED = json.loads(FILE.read_text(encoding="utf-8"))


@pytest.fixture(autouse=True, scope="session")
def weights_stay():
    """The runs here load models of their own from folders."""


@pytest.fixture(autouse=True, scope="module")
def rows_part_by_length():
    """Rows are grouped as for a user."""


@pytest.mark.parametrize("name", RUNS)
def test_figures_are_those_recorded(name, tmp_path):
    is_exact = processor() == RECORDED["processor"]
    if not (is_exact or RUNS[name].is_portable):
        pytest.skip("bits decide this run, and those of this processor are others")
    # Through JSON, so that tuples and keys are as in the file.
    now = json.loads(json.dumps(figures_of(RUNS[name], tmp_path)))
    changed = differences(RECORDED[name], now, is_exact)
    assert not changed, _message(name, changed, is_exact)


def _message(name, changed, is_exact):
    comparison = "bit for bit" if is_exact else "within tolerance, on another processor than recorded"
    return "\n".join([f"{len(changed)} figures of '{name}' changed ({comparison}):", *changed[:40]])


def test_every_run_is_recorded():
    assert set(RECORDED) == {"processor", *RUNS}
