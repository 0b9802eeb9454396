"""`overture search` in real runs on a tiny model: what it measures, spends, keeps, and how it goes on."""

import json
import shlex
import sqlite3
from pathlib import Path

import pytest

from overture.jobs.search import groups, result, search
from overture.jobs.search.space import Space
from overture.report import search_page
from overture.train.checkpoint import Progress
from overture.train.fit import FitResult

SPACE = ["--method", "prefix", "--method", "vectors", "--place", "after", "--length", "2", "--length", "3"]


# Halving from the first epoch on, though it has four steps.
HALVED = ["--set", "search.cohort=4", "--set", "search.min_steps=0"]


@pytest.fixture
def searched(make_task, overture):
    def run(*words: str, **changes: object) -> dict:
        done = overture("search", make_task(**changes), *SPACE, *words, "--json")
        assert done.code == 0, done.err
        return done.json

    return run


def test_finds_a_setting_within_the_budget(searched, drawn, tmp_path, overture) -> None:
    found = searched("--tunes", "12", *HALVED, train={"epochs": 4, "batch_size": 4, "lr": 0.1, "warmup_steps": 0})
    trials = found["trials"]
    assert trials[0]["key"] == "none 0"
    own = trials[1]
    assert (own["method"], own["place"], own["length"]) == ("prefix", "after", 3)
    assert own["lr"] == pytest.approx(0.1)
    assert {one["method"] for one in trials[1:]} <= {"prefix", "vectors"}
    assert {one["length"] for one in trials[1:]} == {2, 3}
    # One of the first group comes to its end, half are dropped after the first epoch.
    done = [one["epochs_done"] for one in trials[1:5]]
    assert max(done) == 4
    assert done.count(1) == 2
    spent = found["spent"]
    assert spent["unit"] == "tokens"
    assert 0.25 < spent["share"] <= 1
    assert sum(one["tokens"] for one in trials) < spent["tokens"]
    racing = {one["key"] for one in found["race"]}
    assert found["winner"]["key"] in racing
    assert own["key"] in racing
    folder = tmp_path / "store" / "runs" / found["run"]
    with sqlite3.connect(folder / "search.db") as db:
        (told,) = db.execute("select count(*) from trials where state = 'COMPLETE'").fetchone()
    assert told == len(trials) - 1
    page = Path(found["page"])
    assert "winner" in page.read_text(encoding="utf-8")
    assert page.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert found["metrics"]["test"]["accuracy"]["n"] == 8
    assert found["prompt"] == "mood@1"
    again = overture(*shlex.split(found["command"])[1:], "--json").json
    assert again["metrics"]["test"]["accuracy"]["value"] == found["metrics"]["test"]["accuracy"]["value"]
    assert again["lr"] == found["winner"]["lr"]
    table = overture("resume", found["run"]).out
    assert "The winner" in table
    assert found["command"] in table


@pytest.mark.parametrize("stop_at", [1, 7, 40])
def test_stopped_search_goes_on_where_it_stood(make_task, overture, monkeypatch, stop_at) -> None:
    from overture.cli.stop import StopRequest

    task = make_task(train={"epochs": 4, "batch_size": 4, "lr": 0.1, "warmup_steps": 0})
    words = ["search", task, *SPACE, "--tunes", "12", *HALVED, "--json"]
    whole = overture(*words).json
    asked = 0

    def is_asked(self: StopRequest) -> bool:
        nonlocal asked
        asked += 1
        return asked >= stop_at

    with monkeypatch.context() as patch:
        patch.setattr(StopRequest, "__call__", is_asked)
        stopped = overture(*words)
    assert stopped.code == 130, stopped.err
    run = stopped.json["run"]
    assert stopped.json["resume"] == f"overture resume {run}"
    assert overture("resume", "--json").json["runs"][0]["run"] == run
    resumed = overture("resume", run, "--json").json
    for one, other in zip(resumed["trials"], whole["trials"], strict=True):
        for name in ("key", "lr", "length", "method", "epochs_done", "score", "tokens"):
            assert one[name] == other[name], name
        assert one["loss"] == other["loss"]
    assert resumed["metrics"] == whole["metrics"]
    assert [one["scores"] for one in resumed["race"]] == [one["scores"] for one in whole["race"]]
    assert resumed["winner"] == whole["winner"]
    assert resumed["spent"]["tokens"] == whole["spent"]["tokens"]


@pytest.mark.parametrize("part", ["race-0/wording-0", "race-0/wording-1"])
def test_a_stopped_race_counts_nothing_twice(make_task, overture, monkeypatch, tmp_path, part) -> None:
    from overture.cli.stop import StopRequest

    train = {"epochs": 4, "batch_size": 4, "lr": 0.1, "warmup_steps": 0}
    # Whoever is found races, so that both wordings do.
    asked = {"template": ["{text}\nIs it good or bad?"], "finalists": 8, "race_seeds": 1, "race_share": 0.7}
    words = ["search", make_task(train=train, search=asked), *SPACE, "--tunes", "12", *HALVED, "--json"]
    whole = overture(*words).json
    # There from the end of the group's first epoch on.
    state = tmp_path / "store/runs/mood-search-2" / part / "checkpoint.safetensors"
    with monkeypatch.context() as patch:
        patch.setattr(StopRequest, "__call__", lambda self: state.exists())
        stopped = overture(*words)
    assert stopped.code == 130, stopped.err
    assert not state.parents[1].with_suffix(".json").exists()
    resumed = overture("resume", stopped.json["run"], "--json").json
    assert [one["scores"] for one in resumed["race"]] == [one["scores"] for one in whole["race"]]
    assert resumed["spent"]["tokens"] == whole["spent"]["tokens"]


@pytest.mark.parametrize(("words", "steps"), [([], 60), (["--set", "search.epochs=[5]"], 5)])
def test_few_rows_get_as_many_steps_in_a_search_as_in_a_tune(searched, overture, tmp_path, words, steps) -> None:
    found = searched("--tunes", "8", "--set", "search.cohort=3", *words, train={"lr": 0.1})
    folder = tmp_path / "store" / "runs" / found["run"]
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    trainings = {event["who"]: event["num_steps"] for event in events if event["event"] == "step"}
    assert any(who.startswith("trial 0, seed ") for who in trainings), "the race names its seeds"
    planned = {who.partition(",")[0]: num for who, num in trainings.items()}
    assert len(planned) > 2
    assert {num for who, num in planned.items() if who != "trial 0"} == {steps}
    assert planned["trial 0"] == 60
    # An epoch's tokens are those of the passes that it takes.
    own, *others = [one["tokens"] / one["epochs_done"] for one in found["trials"][1:]]
    assert [one < own / 2 for one in others] == [steps == 5] * len(others)
    with sqlite3.connect(folder / "search.db") as db:
        own_params = db.execute("select * from trial_params join trials using (trial_id) where number = 0").fetchall()
    assert bool(own_params) == (steps == 60)
    again = overture(*shlex.split(found["command"])[1:], "--json").json["metrics"]
    assert again["test"]["accuracy"] == found["metrics"]["test"]["accuracy"]
    assert again["test"]["loss"] == pytest.approx(found["metrics"]["test"]["loss"], abs=1e-5)


def test_test_rows_choose_nothing(make_task, overture, tmp_path) -> None:
    words = [*SPACE, "--tunes", "8", "--set", "search.cohort=3", "--json"]
    one = overture("search", make_task(), *words).json
    task = make_task()
    rows = (tmp_path / "test.jsonl").read_text()
    swapped = rows.replace("good", "@").replace("bad", "good").replace("@", "bad")
    (tmp_path / "test.jsonl").write_text(swapped)
    other = overture("search", task, *words).json
    assert [t["score"] for t in one["trials"]] == [t["score"] for t in other["trials"]]
    assert one["winner"] == other["winner"]
    value = one["metrics"]["test"]["accuracy"]["value"]
    assert other["metrics"]["test"]["accuracy"]["value"] == pytest.approx(1 - value)


def test_wordings_and_label_words(make_task, overture) -> None:
    asked = {
        "template": ["{text}\nIs it good or bad?"],
        "labels": [{"bad": " poor", "good": " great"}],
        "cohort": 8,
        "tunes": 16,
    }
    found = overture("search", make_task(search=asked), "--method", "prefix", "--place", "after", "--json").json
    assert [one["key"] for one in found["trials"][:4]] == ["none 0", "none 1", "none 2", "none 3"]
    tried = {one["wording"] for one in found["trials"][4:]}
    assert len(tried) > 1
    if found["winner"]["key"] != "none 0" and found["command"] and found["winner"]["wording"]:
        assert any(f"--set '{name}=" in found["command"] for name in found["winner"]["wording"])


def test_nobody_is_dropped_before_enough_steps(searched) -> None:
    found = searched("--tunes", "8", "--set", "search.cohort=3", train={"epochs": 2, "batch_size": 4, "lr": 0.1})
    done = [one["epochs_done"] for one in found["trials"][1:4]]
    assert len(done) == 3
    assert set(done) == {2}


def test_the_default_comes_to_its_end_and_is_raced_however_it_does(searched) -> None:
    # A rate at which nothing moves.
    train = {"epochs": 4, "batch_size": 4, "lr": 1e-7, "warmup_steps": 0}
    found = searched("--tunes", "12", *HALVED, "--set", "search.lr=[0.05, 0.2]", train=train)
    own, others = found["trials"][1], found["trials"][2:]
    assert (own["lr"], own["epochs_done"]) == (1e-7, 4)
    assert all(0.05 <= one["lr"] <= 0.2 for one in others)
    assert others[0]["epochs_done"] in (1, 2, 4)
    raced = {one["key"]: one for one in found["race"]}
    assert raced[own["key"]]["is_default"]
    assert raced[found["winner"]["key"]]["mean"] >= raced[own["key"]]["mean"]


@pytest.mark.parametrize("space", [["--method", "vectors"], ["--length", "2"], ["--length", "0"]])
def test_the_default_is_a_candidate_where_the_space_leaves_it_out(make_task, overture, space) -> None:
    words = [*space, "--tunes", "8", "--set", "search.cohort=2", "--json"]
    done = overture("search", make_task(), *words)
    assert done.code == 0, done.err
    own, others = done.json["trials"][1], done.json["trials"][2:]
    assert (own["method"], own["place"], own["length"]) == ("prefix", "after", 3)
    assert own["key"] in {one["key"] for one in done.json["race"]}
    assert bool(others) == (space[-1] != "0")
    assert all(str(one["method" if space[0] == "--method" else "length"]) == space[1] for one in others)


def test_nobody_wins_unheld_against_the_default(make_task, overture) -> None:
    words = ["--method", "vectors", "--place", "after", "--length", "20", "--json", "--set", "search.cohort=2"]
    dear = overture("search", make_task(), *words, "--tunes", "5.5", "--set", "search.race_share=0.3").json
    assert any("allows no race between" in note for note in dear["notices"])
    assert {one["key"] for one in dear["race"]} == {"none 0", dear["trials"][1]["key"]}
    poor = overture("search", make_task(), *words, "--tunes", "0.5").json
    assert any("own setting was trained" in note for note in poor["notices"])
    assert poor["winner"]["key"] == "none 0"


def test_a_racer_that_diverges_loses_and_the_race_goes_on(searched, monkeypatch) -> None:
    together = groups.fit_settings

    def others_diverge(work, members, decide, checkpoint):
        results = together(work, members, decide, checkpoint)
        is_race = any(name.startswith("race-") for name in checkpoint.parts)
        gone = [key for key in results if key != "trial 0" and is_race]
        return results | {key: FitResult("diverged", {}, results[key].progress) for key in gone}

    monkeypatch.setattr(groups, "fit_settings", others_diverge)
    found = searched("--tunes", "8", "--set", "search.cohort=2")
    lanes = {one["key"]: one for one in found["race"]}
    assert len(lanes) == 3
    (gone,) = lanes.keys() - {"none 0", "trial 0"}
    assert lanes[gone]["mean"] == 0
    assert found["winner"]["key"] != gone
    assert any("diverged with seed" in note for note in found["notices"])
    assert not any("budget" in note for note in found["notices"])


@pytest.mark.parametrize("part", ["cohort-", "race-"])
def test_where_scores_fall_below_0_what_diverged_is_no_better(make_task, overture, monkeypatch, tmp_path, part) -> None:
    together = groups.fit_settings

    def others_diverge(work, members, decide, checkpoint):
        if not any(name.startswith(part) for name in checkpoint.parts):
            return together(work, members, decide, checkpoint)
        found = {one.key: FitResult("diverged", {}, Progress()) for one in members}
        own = [one for one in members if one.key == "trial 0"]
        return found | (together(work, own, decide, checkpoint) if own else {})

    monkeypatch.setattr(groups, "fit_settings", others_diverge)
    task = make_task(kind="regression", labels={"1": " grim", "3": " fair", "5": " fine"})
    for path in tmp_path.glob("*.jsonl"):
        path.write_text(path.read_text().replace('"bad"', "3").replace('"good"', "5"))
    found = overture("search", task, *SPACE, "--tunes", "8", "--set", "search.cohort=2", "--json").json
    # Half of the right numbers are 3, half 5; who answers nothing says 0 each time.
    worst = 1 - (3**2 + 5**2) / 2
    if part == "race-":
        (mean,) = [one["mean"] for one in found["race"] if one["key"] not in ("none 0", "trial 0")]
        assert mean == pytest.approx(worst)
    else:
        with sqlite3.connect(tmp_path / "store/runs" / found["run"] / "search.db") as db:
            (own,), *others = db.execute("select value from trial_values join trials using (trial_id) order by number")
        assert worst < own < 0
        # Each is booked with the epoch in which it diverged, so the budget ends.
        assert 2 < len(others) < 20
        assert [told for (told,) in others] == pytest.approx([worst] * len(others))


@pytest.mark.parametrize(("tunes", "is_found"), [("150", True), ("8", False)])
def test_learning_rates_are_found_where_range_tests_cost_little(searched, tmp_path, tunes: str, is_found: bool) -> None:
    words = [
        "--tunes",
        tunes,
        "--set",
        "search.cohort=2",
        "--set",
        "search.race_share=0.97",
        "--set",
        "search.race_seeds=1",
    ]
    found = searched(*words, train={"epochs": 4, "batch_size": 4})
    book = json.loads((tmp_path / "store" / "runs" / found["run"] / "spent.json").read_text())
    parts = {f"rate {method} after" for method in ("prefix", "vectors")}
    assert (parts <= book["counted"].keys()) == is_found
    assert book["counted"].keys().isdisjoint(parts) == (not is_found)
    assert found["spent"]["tokens"] == sum(book["counted"].values())


def test_no_budget_for_a_race_is_told(searched) -> None:
    found = searched("--tunes", "1.5", "--set", "search.race_share=0")
    assert any("no fresh seed" in note for note in found["notices"])
    assert any("own setting alone, so no other was tried" in note for note in found["notices"])
    assert found["winner"]["key"] in {one["key"] for one in found["race"]}


def test_seconds_and_money(searched) -> None:
    found = searched("--money", "1", "--price", "3600", "--set", "search.cohort=2")
    spent = found["spent"]
    assert (spent["unit"], spent["limit"]) == ("seconds", 1)
    assert spent["money"] == pytest.approx(spent["seconds"], rel=1e-3)
    assert len(found["trials"]) >= 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--method", "prefx"], "no such method"),
        (["--method", "lora"], "--way lora"),
        (["--set", "adapter.kind=lora"], "trains no adapter"),
        (["--method", "cpt", "--place", "after"], "none of the methods can enter"),
        (["--seconds", "5", "--tokens", "5"], "one budget at most"),
        (["--on", "ray", "--form", "hard"], "only a search for trained prompts can run on workers"),
        (["--on", "ray", "--form", "any"], "only a search for trained prompts can run on workers"),
        (["--on", "rai"], "ray starts workers on this machine"),
        (["--money", "5"], "go together"),
        (["--set", "search.lenght=[5]"], "did you mean 'length'"),
        (["--set", 'search.labels=[{"good": " a"}]'], "must be given for the task's labels"),
    ],
)
def test_mistakes(make_task, overture, words, said, tmp_path) -> None:
    done = overture("search", make_task(), *words)
    assert done.code == 2, done.err
    assert said in done.err
    assert not (tmp_path / "store" / "runs").exists()


def test_lr(make_task, overture, tmp_path) -> None:
    chart = tmp_path / "rates"
    words = ["--low", "1e-4", "--high", "1", "--steps", "24"]
    found = overture("lr", make_task(), *words, "-o", chart, "--json").json
    rates = found["rates"]
    assert found["default"] == 0.01
    assert rates[0] == pytest.approx(1e-4)
    assert rates == sorted(rates)
    assert rates[0] <= found["steepest"] <= rates[-1]
    assert chart.with_suffix(".png").exists()
    refused = overture("lr", make_task(), *words, "-o", tmp_path / "rates")
    assert (refused.code, str(chart.with_suffix(".png")) in refused.err) == (2, True)
    shown = overture("lr", make_task(), *words).out
    assert f"--set train.lr={found['suggested'] or found['default']:.2g}" in shown
    assert overture("lr", make_task(), "--low", "2", "--high", "1").code == 2


class Killed(BaseException):
    """The process ends here, without a word."""


def killing(real, at):
    """The function, which ends the process in its call of that number, from 1."""
    calls = 0

    def call(*given, **named):
        nonlocal calls
        calls += 1
        if calls == at:
            raise Killed
        return real(*given, **named)

    return call


def timeless(rows):
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


@pytest.mark.parametrize("stage", ["proposing", "between groups", "before the result"])
def test_killed_search_numbers_and_scores_as_an_unbroken_one(make_task, overture, monkeypatch, tmp_path, stage) -> None:
    task = make_task(train={"epochs": 2, "batch_size": 4, "lr": 0.1, "warmup_steps": 0})
    # Test texts that are validation texts too: kept inputs must come from the same passes in every sitting.
    rows = {name: (tmp_path / f"{name}.jsonl").read_text().splitlines() for name in ("validation", "test")}
    (tmp_path / "test.jsonl").write_text("\n".join([*rows["validation"][:3], *rows["test"]]) + "\n")
    words = ["search", task, *SPACE, "--tunes", "12", *HALVED, "--json"]
    whole = overture(*words).json

    owner, name, at = {
        "proposing": (Space, "setting", 3),
        "between groups": (search._Search, "_tell", 1),
        "before the result": (result, "SearchResult", 1),
    }[stage]
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, killing(getattr(owner, name), at))
        with pytest.raises(Killed):
            overture(*words)
    resumed = overture("resume", "mood-search-2", "--json").json
    assert timeless(resumed["trials"]) == timeless(whole["trials"])
    assert resumed["race"] == whole["race"]
    assert (resumed["metrics"], resumed["winner"]) == (whole["metrics"], whole["winner"])
    # Kept once, although the first sitting may have stored it before it ended.
    assert resumed["prompt"] == whole["prompt"].replace("@1", "@2")
    assert len(overture("list", "--json").json["prompts"]) == 2


def test_a_search_has_its_result_before_its_picture(make_task, overture, monkeypatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(search_page, "png_of", killing(search_page.png_of, 1))
        with pytest.raises(Killed):
            overture("search", make_task(), *SPACE, "--tunes", "2", *HALVED)
    done = overture("resume", "mood-search-1", "--json")
    assert (done.code, done.json["run"]) == (0, "mood-search-1")
    assert Path(done.json["page"]).with_suffix(".png").exists()
    assert overture("resume", "mood-search-1").code == 0


def test_a_search_is_not_resumed_on_other_rows(make_task, overture, monkeypatch, tmp_path) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(search._Search, "_tell", killing(search._Search._tell, 1))
        with pytest.raises(Killed):
            overture("search", make_task(), *SPACE, "--tunes", "4", *HALVED)
    train = tmp_path / "train.jsonl"
    train.write_text("".join(sorted(train.read_text().splitlines(keepends=True))))
    done = overture("resume", "mood-search-1", "--json")
    assert (done.code, done.json["error"]) == (2, "DataError")
    assert any(problem.startswith("train: ") for problem in done.json["problems"])
