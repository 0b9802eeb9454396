"""Prompts of words on the command line: found, shown, measured, compared, written for others, explained."""

import json
from pathlib import Path

import pytest

from overture.core.files import store_dir

SMALL = ["rounds=1", "structures=4", "example_sets=4", "wordings=4", "first_rows=4", "race_rows=8"]
SETTINGS = [word for setting in SMALL for word in ("--set", f"hard.{setting}")]
SOURCES = ["--from", "examples", "--from", "corpus"]


@pytest.fixture
def found(make_task, overture):
    done = overture("search", make_task(), "--form", "hard", "--room", "32", *SOURCES, *SETTINGS, "--json")
    assert done.code == 0, done.err
    return done.json


def test_a_stopped_search_says_what_is_stored(make_task, overture, monkeypatch):
    def stopped(*given):
        raise KeyboardInterrupt

    monkeypatch.setattr("overture.jobs.wording.search._Search._prune", stopped)
    done = overture("search", make_task(), "--form", "hard", "--room", "32", *SOURCES, *SETTINGS)
    assert done.code == 130
    assert "the best so far is stored as mood@1" in done.err
    assert len(overture("list", "--json").json["prompts"]) == 1


def test_a_found_prompt_goes_through_every_command(found, overture, tmp_path):
    assert found["prompt"] == "mood@1"
    assert "The words" in Path(found["page"]).read_text()
    assert [stage["stage"] for stage in found["stages"]] == ["structure", "examples", "wording"]
    (listed,) = overture("list", "--json").json["prompts"]
    assert (listed["method"], listed["trainable"]) == ("text", 0)
    manifest = overture("show", "mood", "--json").json["manifest"]
    assert manifest["text"] == found["text"]
    shown = overture("show", "mood")
    assert "text" in shown.out
    # The winner of these rows is kept with a temperature and biases, which every command applies.
    assert found["winner"]["wording"]["scaling"]
    assert "label scores" in shown.out
    assert "then shifted: " in shown.out
    again = overture("eval", "mood", "--json").json
    assert again["metrics"]["test"]["accuracy"]["value"] == found["metrics"]["test"]["accuracy"]["value"]
    assert overture("predict", "mood", "fine day", "--json").json
    for to, name in (("text", "prompt.txt"), ("openai", "messages.json"), ("promptfoo", "promptfooconfig.yaml")):
        assert name in overture("export", "mood", tmp_path / to, "--to", to, "--json").json["files"]
    assert overture("export", "mood", tmp_path / "task", "--to", "lm-eval").code == 0
    assert overture("export", "mood", tmp_path / "peft", "--to", "peft").code == 2
    page = tmp_path / "mood.html"
    explained = overture("explain", "mood", "--page", page, "--json").json
    assert explained["rows"] == 8
    assert explained["prompt"] in page.read_text()
    assert (store_dir() / "explanations" / "mood@1.html").read_text() == page.read_text()
    assert "mood" in overture("explain", "mood", "--page", page).out
    assert overture("explain", "mood", "--page", tmp_path).code == 2


def test_words_and_values_are_compared(found, make_task, overture, tmp_path):
    path = make_task()
    assert overture("tune", path, "--set", "train.epochs=1", "--set", "shots=0", "--json").code == 0
    diff = overture("diff", "mood@1", "mood@2", "--json").json
    assert diff["config"]["method"] == {"a": "text", "b": "prefix"}
    assert not diff["is_same_prompt"]
    assert overture("diff", "mood@1", "mood@1", "--json").json["is_same_prompt"]
    ways = ["--way", "no-prompt", "--way", "prompt:mood@1", "--way", "prompt:mood"]
    compared = overture("compare", path, *ways, "--size", "4", "--seeds", "1", "--json", "-o", tmp_path / "compared")
    assert compared.code == 0, compared.err
    scores = {score["way"]: score for score in compared.json["scores"]}
    test = found["metrics"]["test"]["accuracy"]["value"]
    assert scores["prompt:mood@1"]["value"] == pytest.approx(test)
    assert set(scores) == {"no-prompt", "prompt:mood@1", "prompt:mood"}
    for words in (["prompt:gone"], ["prompt:"], ["prompt:mood", "--set-way", "prompt:mood:train.lr=0.1"]):
        assert overture("compare", path, "--way", *words, "--json").code == 2
    # A soft prompt may start from words.
    start = ["--set", "prompt.init=prompt", "--set", "prompt.init_prompt=mood@1", "--method", "vectors"]
    words = found["text"]
    length = len(words["before_ids"]) + len(words["after_ids"])
    done = overture(
        "tune", path, *start, "--length", str(length), "--set", "train.epochs=1", "--set", "shots=0", "--json"
    )
    assert done.code == 0, done.err


def test_the_screen_names_controls_and_luck(make_task, overture):
    done = overture("search", make_task(), "--form", "hard", "--room", "32", *SOURCES, *SETTINGS)
    assert done.code == 0, done.err
    for text in ("the task file alone", "label scores: divided by", "By luck alone", "corrected p", "live tokens"):
        assert text in done.out
    shuffled = overture("search", make_task(), "--form", "hard", "--shuffle-labels", *SOURCES, *SETTINGS)
    assert "Labels were shuffled" in shuffled.out


def test_a_finished_search_is_resumed_to_its_result(found, overture):
    assert overture("resume", found["run"], "--json").json["winner"] == found["winner"]


def test_trained_prompts_words_and_no_prompt_meet_in_one_search(make_task, overture):
    flags = [
        "--form",
        "any",
        "--room",
        "32",
        *SOURCES,
        *SETTINGS,
        "--tunes",
        "3",
        "--method",
        "prefix",
        "--length",
        "2",
    ]
    done = overture("search", make_task(), *flags, "--json")
    assert done.code == 0, done.err
    result = done.json
    assert {form["form"] for form in result["forms"]} >= {"none"}
    assert all(form["prompt"] for form in result["forms"] if form["form"] != "none")
    (winner,) = [form for form in result["forms"] if form["is_winner"]]
    assert result["forms"][0] == winner
    assert winner["prompt"] == result["prompt"]
    assert len(result["claims"]) == len(result["forms"]) - 1
    assert all(claim["p_corrected"] >= claim["compared"]["p_value"] for claim in result["claims"])
    assert result["runs"] == {"hard": "mood-hard-1", "soft": "mood-search-1"}
    assert "The words" not in Path(result["page"]).read_text()
    again = overture("resume", result["run"])
    assert again.code == 0, again.err
    assert "winner" in again.out
    shuffled = overture("search", make_task(), "--form", "any", "--shuffle-labels", "--json")
    assert shuffled.json["where"] == "hard.shuffle_labels"


@pytest.mark.parametrize(
    "words",
    [
        ["--form", "hard", "--method", "prefix"],
        ["--form", "hard", "--tunes", "2"],
        ["--from", "edits"],
        ["--form", "hard", "--from", "editz"],
        ["--form", "hard", "--from", "file:nowhere.txt"],
        ["--form", "hard", "--set", "hard.roam=3"],
        ["--form", "hard", "--minutes", "1", "--max-tokens", "5"],
    ],
)
def test_flags_that_do_not_fit_are_refused_at_once(make_task, overture, words):
    done = overture("search", make_task(), *words, "--json")
    assert done.code == 2
    assert done.json["error"] == "ConfigError"


def test_a_tuned_prompt_is_translated_and_explained(tuned, overture, tmp_path):
    wordings = tmp_path / "words.txt"
    wordings.write_text("Well?\ngood or bad?\n")
    flags = ["--from", f"file:{wordings}", "--room", "32", "--wordings", "2", "--rows", "8"]
    done = overture("translate", "mood", *flags, "--json")
    assert done.code == 0, done.err
    assert done.json["translated_from"] == "mood@1"
    assert done.json["prompt"] == "mood-words@1"
    shown = overture("translate", "mood", *flags)
    assert "KL explained" in shown.out
    assert overture("translate", "mood-words", *flags, "--json").json["error"] == "ConfigError"
    explained = overture("explain", "mood", "--page", tmp_path / "page.html", "--json").json
    assert len(explained["parts"]) == 3
    assert json.dumps(explained)
    rows = tmp_path / "rows.csv"
    rows.write_bytes("text,label\ngrüne Wiese,good\nöder Tag,bad\n".encode("cp1252"))
    given = overture("explain", "mood", rows, "--page", tmp_path / "page.html")
    assert given.code == 0, given.err
    assert "cp1252" in given.err
