"""Seeds, cells and searches on workers of a local Ray: the same results as in one process, also with a worker killed.

They run in the environment that `make ray` makes; elsewhere one line says that they are skipped.
"""

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ray", reason="Ray is not installed here; make ray runs these tests in an environment of their own")

from overture.core.errors import LostProcess
from overture.core.records.events import Event, NoticeEvent
from overture.core.records.search import SearchResult
from overture.jobs.compare.compare import compare
from overture.jobs.compare.options import CompareConfig
from overture.jobs.run import on_ray
from overture.jobs.run.request import TuneConfig, resolved
from overture.jobs.run.where import Where
from overture.jobs.search.options import SearchRequest
from overture.jobs.search.search import search
from overture.jobs.tune.tune import tune
from overture.store.store import Store
from tiny_task import write_tiny_task

pytestmark = pytest.mark.slow
TWO = Where(on="ray", workers=2)


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OVERTURE_CACHE", str(tmp_path / "cache"))
    return write_tiny_task(tmp_path)


@pytest.fixture
def pids(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Process numbers of the workers, in the order in which they were started."""
    numbers: list[int] = []
    started = on_ray.Workers._started

    def noted(self: Any) -> Any:
        actor = started(self)
        numbers.append(self.ray.get(actor.pid.remote()))
        return actor

    monkeypatch.setattr(on_ray.Workers, "_started", noted)
    return numbers


def test_seeds_and_cells_are_those_of_one_process(task, tmp_path, pids) -> None:
    config = resolved(TuneConfig, task, {"seeds": 3, "baselines": False})
    alone = tune(config, Store(tmp_path / "alone"))
    store = Store(tmp_path / "together")
    spread = tune(config, store, where=TWO)
    assert spread.seeds is not None
    assert alone.seeds is not None
    assert [seed.seed for seed in spread.seeds.each] == [seed.seed for seed in alone.seeds.each]
    scores = [seed.validation for seed in spread.seeds.each]
    assert scores == pytest.approx([seed.validation for seed in alone.seeds.each], abs=1e-6)
    assert spread.history[-1].validation_loss == pytest.approx(alone.history[-1].validation_loss, abs=1e-4)
    assert sorted(path.name for path in (store.runs / "mood-1").glob("seed-*")) == ["seed-0", "seed-1", "seed-2"]

    request = CompareConfig(
        tune=resolved(TuneConfig, task, prompt_use="as a model"),
        ways=("vectors-before", "prefix-memory"),
        sizes=(4, 8),
        seeds=8,
        min_steps=4,
    )
    expected = compare(request, tmp_path / "cells-alone", store)
    events: list[Event] = []
    killed: list[int] = []

    def listen(event: Event) -> None:
        events.append(event)
        if event.event == "cell" and not killed:
            killed.append(pids[-1])
            os.kill(pids[-1], signal.SIGKILL)

    found = compare(request, tmp_path / "cells", store, listen, where=TWO)
    assert killed
    assert len(cells_in(tmp_path / "cells")) == 32
    assert any(isinstance(event, NoticeEvent) and "was lost" in event.text for event in events)
    assert cells_in(tmp_path / "cells") == cells_in(tmp_path / "cells-alone")
    assert [score.way for score in found.scores] == [score.way for score in expected.scores]
    values = [score.value for score in found.scores]
    assert values == pytest.approx([score.value for score in expected.scores], abs=1e-6)


def cells_in(folder: Path) -> dict[str, Any]:
    """What a comparison's cells predicted, by cell."""
    return {path.name: json.loads(path.read_text()).get("predicted") for path in (folder / "cells").glob("*.json")}


def test_a_search_chooses_as_one_process_does_with_a_worker_killed(task, tmp_path, pids) -> None:
    changes = {
        "search.method": ["prefix", "vectors"],
        "search.length": [2, 3],
        "search.cohort": 4,
        "search.min_steps": 0,
        "search.tunes": 12,
        "train.epochs": 4,
        "train.warmup_steps": 0,
        "baselines": False,
    }
    config = resolved(SearchRequest, task, changes)
    alone = search(config, Store(tmp_path / "alone"))
    events: list[Event] = []
    killed: list[int] = []

    def listen(event: Event) -> None:
        events.append(event)
        if event.event == "epoch" and not killed:
            killed.append(pids[0])
            os.kill(pids[0], signal.SIGKILL)

    spread = search(config, Store(tmp_path / "together"), listen, where=TWO)
    assert killed
    assert any(isinstance(event, NoticeEvent) and "was lost" in event.text for event in events)
    assert isinstance(spread, SearchResult)
    assert isinstance(alone, SearchResult)
    for name in ("trials", "race"):
        ours, theirs = getattr(spread, name), getattr(alone, name)
        assert [entry.title for entry in ours] == [entry.title for entry in theirs]
    assert [trial.epochs_done for trial in spread.trials] == [trial.epochs_done for trial in alone.trials]
    assert [lane.scores for lane in spread.race] == [lane.scores for lane in alone.race]
    assert spread.winner.key == alone.winner.key
    assert spread.spent.tokens == alone.spent.tokens


def test_a_job_that_loses_every_worker_fails_and_the_others_do_not(task, tmp_path, pids) -> None:
    request = CompareConfig(
        tune=resolved(TuneConfig, task, prompt_use="as a model"),
        ways=("no-prompt", "vectors-before"),
        sizes=(8,),
        seeds=1,
        min_steps=100_000,
        is_rate_tuned=False,
    )
    give: Callable[..., None] = on_ray.Workers.give

    def fatal(self: Any, slot: Any, number: int, kind: str, job: str) -> None:
        give(self, slot, number, kind, job)
        if "vectors-before" in job:
            os.kill(self.ray.get(slot.actor.pid.remote()), signal.SIGKILL)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(on_ray.Workers, "give", fatal)
        found = compare(request, tmp_path / "cells", Store(tmp_path / "store"), where=Where(on="ray", workers=1))
    assert [failed.way for failed in found.failed] == ["vectors-before"]
    assert "workers were lost" in found.failed[0].what
    assert LostProcess.exit_code == 1
