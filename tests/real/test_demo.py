"""The demo as its user sees it: the gain is sure on its own test rows, and its sentences are answered right."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from overture.cli import demo
from overture.cli.app import app
from overture.cli.demo import SENTENCES

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.xdist_group("smollm2")]


def test_the_demo_gains_surely_and_answers_its_messages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resolved = demo.resolved

    def without_examples(model: type[Any], task: Path, changes: dict[str, Any]) -> Any:
        return resolved(model, task, {"shots": 0, **changes})

    # Reading each row behind six examples is a third of the demo's time, and nothing here looks at their score.
    monkeypatch.setattr(demo, "resolved", without_examples)
    done = CliRunner().invoke(app, ["demo", "--store", str(tmp_path), "--json"], prog_name="overture")
    assert done.exit_code == 0, done.stderr
    result = json.loads(done.stdout)
    assert "in_context" not in result["compared"]
    compared = result["compared"]["no_prompt"]
    assert compared["p_value"] < 0.001
    assert compared["difference"]["low"] > 0.2
    # Training does not end near the edge: no epoch is much worse than the one before.
    scores = [epoch["validation_score"] for epoch in result["history"]]
    assert all(later > earlier - 0.05 for earlier, later in pairwise(scores))
    for answer in result["predictions"]:
        assert answer["label"] == SENTENCES[answer["input"]]
        assert answer["probabilities"][answer["label"]] >= 0.75
    assert Path(result["page"]).is_file()
