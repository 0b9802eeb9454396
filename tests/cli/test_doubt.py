"""`--coverage` and `--abstain`: kept by tune, used by predict, eval and Python, kept again by eval."""

import csv
import json
from pathlib import Path

import pytest
from moods import rows_of, write_rows

import overture as package
from overture.core.errors import ConfigError
from overture.store.artifact import read_manifest


def test_tuned_prompts_say_which_labels_may_be_right(tuned, overture):
    kept = read_manifest(Path(tuned["folder"])).shares
    assert (kept.source, kept.num_rows, kept.is_calibrated) == ("validation", 8, False)
    # 8 rows are too few for 0.95, but not for 0.5.
    done = overture("predict", "mood", "fine 3", "--coverage", "0.95", "--json")
    assert "too few" in done.err
    assert "chose the epoch" in done.err
    assert sorted(done.json["predictions"][0]["set"]) == ["bad", "good"]
    shares = package.load("mood").predict(["fine 3", "poor 4"], coverage=0.5)
    assert all(said.label_set[0] == said.label for said in shares)
    write_rows(Path("rows.jsonl"), rows_of(3))
    assert overture("predict", "mood", "rows.jsonl", "--coverage", "0.95", "-o", "out.csv").code == 0
    assert [sorted(row["set"].split(", ")) for row in csv.DictReader(Path("out.csv").read_text().splitlines())] == [
        ["bad", "good"]
    ] * 3
    assert "sure by" in overture("show", "mood").out


def test_a_promise_that_cannot_be_kept_is_refused_before_the_model_is_loaded(tuned, overture, monkeypatch):
    monkeypatch.setattr("overture.evaluate.host.load_backbone", lambda *args, **kwargs: pytest.fail("loaded"))
    refused = overture("predict", "mood", "fine", "--abstain", "0.9")
    assert refused.code == 2
    assert "no threshold" in refused.err
    assert overture("predict", "mood", "fine", "--coverage", "1.5").code == 2
    assert overture("eval", "mood", "--coverage", "0.5", "--split", "validation").code == 2
    assert overture("eval", "mood", "--keep-shares").code == 2


def test_rows_of_a_file_are_kept_with_the_next_version(tuned, overture):
    rows = write_rows(Path("more.jsonl"), rows_of(60, 500))
    kept = overture("eval", "mood", rows, "--keep-shares", "--json").json
    assert kept["kept_as"] == "mood@2"
    first, second = (read_manifest(package.load(f"mood@{version}").folder) for version in (1, 2))
    assert first.tensors_sha256 == second.tensors_sha256
    assert (second.shares.source, second.shares.num_rows) == ("file", 60)
    done = overture("eval", "mood", "--coverage", "0.8", "--json")
    sets = done.json["certainty"]["sets"]
    assert done.json["certainty"]["num_kept"] == 60
    assert sets["covered"]["n"] == 8
    said = package.load("mood").predict([row["text"] for row in rows_of(8, 200)], coverage=0.8)
    assert sets["mean_size"] == pytest.approx(sum(len(each.label_set) for each in said) / 8)
    assert "Sets of labels" in overture("eval", "mood", "--coverage", "0.8", "-o", "page.html").out
    assert "of the sets have one." in Path("page.html").read_text()
    in_python = package.evaluate("mood", coverage=0.8)
    assert in_python.certainty.dump() == done.json["certainty"]
    with pytest.raises(ConfigError):
        package.evaluate("mood", coverage=2)


def test_old_prompts_and_other_kinds_are_told_what_to_do(tuned, overture, make_task):
    path = Path(tuned["folder"]) / "prompt.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps({**{k: v for k, v in values.items() if k != "shares"}, "manifest_sha256": ""}))
    assert overture("predict", "mood", "fine").code == 0
    refused = overture("predict", "mood", "fine", "--coverage", "0.9")
    assert refused.code == 2
    assert "--keep-shares" in refused.err
