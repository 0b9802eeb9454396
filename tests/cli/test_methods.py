"""Methods of every form from the command line: tuned, kept, loaded again and measured the same."""

import pytest

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
