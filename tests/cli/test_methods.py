"""Methods of every form from the command line: tuned, kept, loaded again and measured the same."""

import pytest

from overture.jobs.api import _store
from overture.jobs.run.again import request_again
from overture.jobs.run.request import TuneConfig, resolved
from overture.jobs.tune.tune import tune
from overture.store.artifact import load_artifact
from overture.store.runs import Run

OPTIONS = {
    "warp": [],
    "cpt": ["--length", "60"],
    "dept": [],
    "late": ["prompt.options.layer=1"],
    "idpg": [],
    "lopa": [],
    "attempt": ["prompt.options.sources=[first]"],
    "mpt": ["prompt.options.source=first@1"],
}


@pytest.mark.parametrize("method", OPTIONS)
def test_a_kept_prompt_scores_as_it_did(make_task, overture, method) -> None:
    task, first = make_task(shots=0), ["--method", "vectors", "--place", "before", "--name", "first"]
    assert overture("tune", task, *first, "--json").code == 0
    words = [word for option in OPTIONS[method] for word in (["--set", option] if "=" in option else [option])]
    done = overture("tune", task, "--method", method, "--place", "before", *words, "--json")
    assert done.code == 0, done.err
    assert done.json["status"] == "finished"
    again = overture("eval", done.json["prompt"], "--split", "test", "--json")
    assert again.code == 0, again.err
    ours, theirs = done.json["metrics"]["test"], again.json["metrics"]["test"]
    assert theirs["accuracy"]["value"] == ours["accuracy"]["value"]
    assert theirs["loss"] == pytest.approx(ours["loss"], abs=1e-5)


@pytest.mark.parametrize(
    ("method", "options", "named"),
    [
        ("attempt", ["prompt.options.sources=[first]"], {"options": {"sources": ["first@1"]}}),
        ("mpt", ["prompt.options.source=first"], {"options": {"source": "first@1"}}),
        ("vectors", ["prompt.init=prompt", "prompt.init_prompt=first"], {"init_prompt": "first@1"}),
    ],
)
def test_a_run_names_the_versions_that_it_began_with(make_task, overture, method, options, named) -> None:
    task, store = make_task(shots=0), _store(None)
    overture("tune", task, "--method", "vectors", "--place", "before", "--name", "first", "--json")
    config = resolved(TuneConfig, task, {"method": method, "place": "before"}, options)
    found = tune(config, store, is_stop_asked=lambda: True)
    asked = Run.open(store.runs, found.run).request().config["prompt"]
    assert {key: asked[key] for key in named} == named


@pytest.mark.parametrize("method", ["idpg", "lopa", "attempt"])
def test_what_depends_on_the_row_is_no_start_for_others(make_task, overture, method) -> None:
    task = make_task(shots=0)
    overture("tune", task, "--method", "vectors", "--place", "before", "--name", "first", "--json")
    sources = ["--set", "prompt.options.sources=[first]"] if method == "attempt" else []
    overture("tune", task, "--method", method, "--place", "before", *sources, "--name", "rows", "--json")
    for words in (
        ["--method", "vectors", "--set", "prompt.init=prompt", "--set", "prompt.init_prompt=rows"],
        ["--method", "attempt", "--set", "prompt.options.sources=[rows]"],
    ):
        refused = overture("tune", task, "--place", "before", *words, "--json")
        assert (refused.code, refused.json["error"]) == (2, "ConfigError"), refused.err
        assert "depends on the row" in refused.json["what"]
        assert refused.json["got"] == f"rows@1, of method {method}"
        assert "overture list" in refused.json["fix"]


def test_pruning_begins_where_the_run_began(make_task, overture) -> None:
    task, store = make_task(shots=0, prompt={"method": "vectors", "place": "after", "length": 4}), _store(None)
    overture("tune", task, "--json")
    overture("tune", task, "--set", "prompt.init=prompt", "--set", "prompt.init_prompt=mood", "--json")
    manifest, _ = load_artifact(store.get("mood@2"))
    assert request_again(manifest, store, None).prompt.init_prompt == "mood@1"


@pytest.mark.parametrize(
    ("words", "fix"),
    [
        (["prompt.init_text=hello"], "--set prompt.init=text"),
        (["prompt.init_prompt=x"], "--set prompt.init=prompt"),
        (["prompt.method=warp", "prompt.label_rate=100"], "--set prompt.options.label_rate=100"),
        (["prompt.method=warp", "prompt.labels=words"], "--method vectors"),
    ],
)
def test_what_would_have_no_effect_is_refused(make_task, overture, words, fix) -> None:
    refused = overture("tune", make_task(), *[word for one in words for word in ("--set", one)], "--json")
    assert refused.code == 2
    assert fix in refused.json["fix"]
