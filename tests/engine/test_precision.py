"""``dtype: fastest``: rates measured once, the choice, and that a run fixes it when it begins."""

import pytest
import torch

from overture.core.errors import DiskFull
from overture.engine import precision
from overture.jobs.run.request import TuneConfig, resolved
from overture.jobs.run.settled import settled
from overture.store.store import Store

TASK = {"labels": {"no": " no", "yes": " yes"}, "template": "{text}", "dtype": "fastest"}


@pytest.fixture
def measured(monkeypatch, tmp_path) -> list[precision.Rates]:
    """The rates that were measured, with bfloat16 twice as fast."""
    calls: list[precision.Rates] = []

    def rates() -> precision.Rates:
        calls.append(precision.Rates(float32=100.0, bfloat16=200.0))
        return calls[-1]

    monkeypatch.setattr(precision, "_rates", rates)
    monkeypatch.setenv("OVERTURE_CACHE", str(tmp_path / "cache"))
    return calls


def test_rates_are_measured_once_for_a_processor(measured, monkeypatch) -> None:
    assert precision.fastest_dtype("cpu") == precision.matrix_rates().fastest == "bfloat16"
    assert len(measured) == 1
    monkeypatch.setattr(precision, "_processor", lambda: "another")
    assert precision.matrix_rates() == measured[1]
    assert precision.fastest_dtype("cuda:1") == "bfloat16"


def test_one_thread_is_measured_and_the_number_of_threads_stays(monkeypatch) -> None:
    num_threads, seen = torch.get_num_threads(), []
    seconds = precision._seconds
    monkeypatch.setattr(precision, "_seconds", lambda product: seen.append(torch.get_num_threads()) or seconds(product))
    rates = precision._rates()
    assert (set(seen), torch.get_num_threads()) == ({1}, num_threads)
    assert min(rates.float32, rates.bfloat16) > 0


def test_the_slower_direction_of_the_best_round_counts(monkeypatch) -> None:
    slow_round, best_round = [9.0, 9.0], [1.0, 2.0]
    taken = iter([*slow_round * 4, *best_round, *best_round, *slow_round * 6])
    monkeypatch.setattr(precision, "_seconds", lambda product: next(taken))
    rates = precision._rates()
    assert rates.float32 == rates.bfloat16 == pytest.approx(1e-9 * 256 * 768 * 2048)


def test_a_full_disk_keeps_no_rates_and_stops_nothing(measured, monkeypatch) -> None:
    def write(*_: object) -> None:
        raise DiskFull("the disk is full")

    monkeypatch.setattr(precision, "write_json", write)
    assert precision.matrix_rates().fastest == "bfloat16"


@pytest.mark.parametrize(("bfloat16", "fastest"), [(149.0, "float32"), (150.0, "bfloat16"), (20.0, "float32")])
def test_bfloat16_must_be_clearly_faster(bfloat16: float, fastest: str) -> None:
    assert precision.Rates(float32=100.0, bfloat16=bfloat16).fastest == fastest


def test_damaged_rates_are_measured_again(measured, tmp_path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "rates.json").write_text("{")
    assert precision.matrix_rates().float32 == 100.0


def test_a_run_that_begins_records_the_precision(measured, tmp_path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "a", "label": "no"}\n')
    config = resolved(TuneConfig, {**TASK, "name": "mood", "data": {"path": str(rows)}})
    assert settled(config, Store(tmp_path / "store"), None).dtype == "bfloat16"
    assert len(measured) == 1
