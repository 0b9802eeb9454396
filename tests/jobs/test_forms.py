"""Trained prompts, prompts of words and no prompt in one search, stopped and gone on with."""

import pytest

from fakes import backbone_of
from overture.core.records.hard import FormsResult
from overture.core.records.tune import StoppedRun
from overture.jobs.run.request import resolved
from overture.jobs.wording.forms import resume_forms, search_forms
from overture.jobs.wording.options import HardRequest
from overture.store.store import Store
from text_prompts import written_task

HARD = {"sources": ["examples", "corpus"], "structures": 4, "example_sets": 4, "wordings": 4, "rounds": 1, "room": 32}
SOFT = {"form": "any", "method": ["prefix"], "length": [2], "tunes": 3, "cohort": 2, "min_steps": 2}


@pytest.mark.parametrize("calls", [3, 12])
def test_a_stopped_search_of_all_forms_goes_on_where_it_stopped(tmp_path, calls):
    path = written_task(tmp_path, hard=HARD, search=SOFT, train={"epochs": 1, "batch_size": 8, "lr": 0.01})
    config, store, asked = resolved(HardRequest, path, {}), Store(tmp_path / "store"), []

    def stop() -> bool:
        asked.append(None)
        return len(asked) >= calls

    stopped = search_forms(config, store, is_stop_asked=stop, backbone=backbone_of("llama"))
    assert isinstance(stopped, StoppedRun)
    result = resume_forms(stopped.run, store, backbone=backbone_of("llama"))
    assert isinstance(result, FormsResult)
    assert result.runs.keys() == {"hard", "soft"}
    assert result.forms[0].is_winner
    assert result.prompt == result.forms[0].prompt
    assert resume_forms(stopped.run, store) == result
    assert len(list(store.runs.iterdir())) == 3
