"""``dtype: fastest``: rates measured once, the choice, and that a run fixes it when it begins."""

import pytest
import torch

from overture.core.errors import DiskFull
from overture.engine import precision
from overture.jobs.run.request import TuneConfig, resolved, settled
from overture.store.store import Store

TASK = {"labels": {"no": " no", "yes": " yes"}, "template": "{text}", "dtype": "fastest"}


@pytest.fixture
def measured(monkeypatch, tmp_path) -> list[torch.dtype]:
    """The precisions whose rate was measured, with bfloat16 twice as fast."""
    calls: list[torch.dtype] = []

    def rate(dtype: torch.dtype) -> float:
        calls.append(dtype)
        return 200.0 if dtype == torch.bfloat16 else 100.0

    monkeypatch.setattr(precision, "_rate", rate)
    monkeypatch.setenv("OVERTURE_CACHE", str(tmp_path / "cache"))
    return calls


def test_rates_are_measured_once_for_a_processor_and_a_number_of_threads(measured, monkeypatch) -> None:
    assert precision.fastest_dtype("cpu") == precision.matrix_rates().fastest == "bfloat16"
    assert measured == [torch.float32, torch.bfloat16]
    monkeypatch.setattr(torch, "get_num_threads", lambda: 99)
    assert precision.matrix_rates().threads == 99
    assert len(measured) == 4
    assert precision.fastest_dtype("cuda:1") == "bfloat16"


def test_a_full_disk_keeps_no_rates_and_stops_nothing(measured, monkeypatch) -> None:
    def write(*_: object) -> None:
        raise DiskFull("the disk is full")

    monkeypatch.setattr(precision, "write_json", write)
    assert precision.matrix_rates().fastest == "bfloat16"


@pytest.mark.parametrize(("bfloat16", "fastest"), [(149.0, "float32"), (150.0, "bfloat16"), (20.0, "float32")])
def test_bfloat16_must_be_clearly_faster(bfloat16: float, fastest: str) -> None:
    assert precision.Rates(threads=1, float32=100.0, bfloat16=bfloat16).fastest == fastest


def test_damaged_rates_are_measured_again(measured, tmp_path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "rates.json").write_text("{")
    assert precision.matrix_rates().float32 == 100.0


def test_a_run_that_begins_records_the_precision(measured, tmp_path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "a", "label": "no"}\n')
    config = resolved(TuneConfig, {**TASK, "name": "mood", "data": {"path": str(rows)}})
    assert settled(config, Store(tmp_path / "store"), None).dtype == "bfloat16"
    assert len(measured) == 2
