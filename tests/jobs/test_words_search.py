"""The search for a prompt of words: stages, one test, control by shuffled labels, and going on after a stop."""

import json
import re
import socket
from pathlib import Path

import pytest
import torch
import yaml

from fakes import backbone_of
from overture.core.errors import ArtifactError, ConfigError, DataError
from overture.core.records.events import NoticeEvent, ProgressEvent
from overture.core.records.hard import Candidate, Wording
from overture.data.row import Row
from overture.data.splits import Splits
from overture.data.task import Task
from overture.evaluate.host import Host
from overture.hard.proposer import Ask
from overture.hard.scaling import fitted, rescaled
from overture.hard.scorer import shares_of
from overture.jobs.run.request import resolved
from overture.jobs.wording.book import Book
from overture.jobs.wording.final import Final
from overture.jobs.wording.options import HardRequest, check_request
from overture.jobs.wording.plan import FINALISTS, shuffled
from overture.jobs.wording.search import resume_words, search_words
from overture.store.runs import Run
from overture.store.store import Store
from text_prompts import scorer_of, written_task

SMALL = {
    "sources": ["grammar", "examples", "corpus", "edits", "own", "gradient", "pruning"],
    "structures": 6,
    "example_sets": 6,
    "wordings": 12,
    "rounds": 2,
    "first_rows": 4,
    "race_rows": 16,
    "room": 32,
}


@pytest.fixture
def task(tmp_path: Path) -> Path:
    return written_task(tmp_path, hard=SMALL)


def request_of(task: Path, **hard) -> HardRequest:
    return resolved(HardRequest, task, {f"hard.{name}": value for name, value in hard.items()})


def searched(task: Path, store: Store, stop=lambda: False, **hard):
    return search_words(request_of(task, **hard), store, is_stop_asked=stop, backbone=backbone_of("llama"))


def comparable(result):
    facts = result.dump()
    changing = ("run", "prompt", "folder", "seconds", "plan", "notices")
    return {name: value for name, value in facts.items() if name not in changing}


def test_the_winner_is_kept_and_answers_as_it_was_scored(task, tmp_path):
    store = Store(tmp_path / "store")
    result = searched(task, store, text="\nWhich mood?")
    assert {stage.stage for stage in result.stages} >= {"structure", "examples", "wording"}
    assert result.luck is not None
    assert result.luck.candidates == 2 + sum(stage.proposed for stage in result.stages)
    # Finalists and controls, each scaled and not.
    assert 4 <= result.luck.finalists <= 2 * (FINALISTS + 2)
    assert result.luck.most is not None
    assert {claim.control for claim in result.claims} <= {
        "the task file alone",
        "the task file, scores scaled",
        "the text of your own",
        "8 examples",
        "chosen label words",
    }
    for claim in result.claims:
        assert claim.p_corrected >= claim.compared.p_value
        assert claim.compared.difference.n == result.rows["test"] == 20
    assert result.prompt is not None
    host = Host(backbone_of("llama"), store)
    handle = host.open(result.prompt)
    rows = [json.loads(line) for line in (tmp_path / "test.jsonl").read_text().splitlines()]
    said = [prediction.text for prediction in handle.predict([row["text"] for row in rows])]
    accuracy = sum(s == row["label"] for s, row in zip(said, rows, strict=True)) / len(rows)
    assert accuracy == pytest.approx(result.metrics["test"]["accuracy"].value)
    assert handle.manifest.text == result.text
    scaling = result.winner.wording.scaling
    assert scaling is not None
    options = handle.task.kind_options
    assert (options.temperature, options.label_bias) == (scaling.temperature, scaling.label_bias)


@pytest.mark.parametrize("is_set_by_task", [False, True])
def test_scores_are_not_scaled_where_not_wanted_or_set_by_the_task(task, tmp_path, is_set_by_task):
    if is_set_by_task:
        values = yaml.safe_load(task.read_text())
        task.write_text(yaml.safe_dump({**values, "options": {"temperature": 2.0}}))
    result = searched(task, Store(tmp_path / "store"), scaled=is_set_by_task)
    assert result.winner.wording.scaling is None
    assert {claim.control for claim in result.claims} <= {"the task file alone", "8 examples", "chosen label words"}


def test_drawn_examples_race_to_the_end(task, tmp_path, monkeypatch):
    monkeypatch.setattr("overture.jobs.wording.search._SHOTS", 2)
    seen: list[list[Candidate]] = []

    def winner(self, finalists, *rest):
        seen.append(finalists)
        return of_final(self, finalists, *rest)

    of_final = Final.winner
    monkeypatch.setattr(Final, "winner", winner)
    result = searched(task, Store(tmp_path / "store"))
    drawn = [candidate for candidate in seen[0] if candidate.origin == "drawn by seed"]
    assert [candidate.wording.scaling is not None for candidate in drawn] == [False, True]
    assert all(len(candidate.shots) == 2 for candidate in drawn)
    assert result.luck.candidates == 2 + sum(stage.proposed for stage in result.stages)


def test_the_fit_of_a_finalist_leaves_out_rows_that_it_shows(tmp_path):
    scorer = scorer_of("llama")
    shown, hidden = Candidate(text="\nWell?", shots=[0, 3]), Candidate(text="\nWell?")
    rows = scorer.splits["train"]
    final = Final(Run(tmp_path), scorer, Splits(train=rows, validation=rows, test=[]), 0)
    candidates, values_JF = final.scaled([shown, hidden])
    for candidate, values_F, numbers in zip(candidates, values_JF, ([1, 2, 4], range(5)), strict=True):
        plain = candidate.model_copy(update={"wording": Wording()})
        shares_BC = shares_of([scorer.rows(plain, "train")[number] for number in numbers], 2)
        (wanted_F,) = fitted(scorer.scores([plain], "train", numbers), shares_BC)
        torch.testing.assert_close(values_F, wanted_F, rtol=1e-6, atol=1e-6)
        assert candidate.wording.scaling is not None
        assert candidate.wording.scaling.temperature == pytest.approx(1 / float(values_F[0]))


def test_a_book_scores_each_pair_once_and_judges_under_a_fit_of_its_own(tmp_path, monkeypatch):
    scorer = scorer_of("llama")
    pairs = []

    def scores(candidates, split, numbers):
        pairs.extend((candidate.text, number) for candidate in candidates for number in numbers)
        return of_scorer(candidates, split, numbers)

    of_scorer = scorer.scores
    monkeypatch.setattr(scorer, "scores", scores)
    book = Book(Run(tmp_path), scorer, lambda: False, is_scaled=True)
    some = [Candidate(), Candidate(text="\nWell?")]
    book.losses(some[:1], [3, 1])
    losses = torch.tensor(book.losses(some, [1, 3, 0, 2]))
    assert sorted(pairs) == [(text, number) for text in ("", "\nWell?") for number in range(4)]
    assert book.row_scores == 8
    scores_JBC, shares_BC = of_scorer(some, "validation", [1, 3, 0, 2]), book.shares([1, 3, 0, 2])
    scaled_JBC = rescaled(scores_JBC.double(), fitted(scores_JBC, shares_BC))
    torch.testing.assert_close(losses.double(), -(shares_BC * scaled_JBC).sum(2))
    # The fit takes off what both labels' scores lean; without it the loss is another.
    plain = Book(Run(tmp_path / "plain"), scorer, lambda: False, is_scaled=False)
    assert (torch.tensor(plain.losses(some, [1, 3, 0, 2])).mean(1) > losses.mean(1)).all()


@pytest.mark.parametrize("calls", [2, 7, 11])
def test_a_stopped_search_keeps_its_best_and_goes_on_to_the_same_end(task, tmp_path, calls):
    whole = searched(task, Store(tmp_path / "whole"))
    store, asked = Store(tmp_path / "store"), []

    def stop() -> bool:
        asked.append(None)
        return len(asked) > calls

    stopped = searched(task, store, stop)
    assert stopped.status == "interrupted"
    assert "test" not in stopped.metrics
    again = resume_words(stopped.run, store, backbone=backbone_of("llama"))
    assert again.status == "finished"
    assert comparable(again) == comparable(whole)
    assert resume_words(stopped.run, store) == again


def test_ctrl_c_keeps_the_best(task, tmp_path, monkeypatch):
    store, heard = Store(tmp_path / "store"), []

    def listen(event) -> None:
        heard.append(event)
        if isinstance(event, ProgressEvent) and event.what.startswith("wording"):
            raise KeyboardInterrupt

    # Nobody who stops waits for training rows to be read.
    with monkeypatch.context() as patch:
        patch.setattr(Final, "scaled", lambda *given: pytest.fail("training rows are scored"))
        stopped = search_words(request_of(task), store, listen, backbone=backbone_of("llama"))
    assert stopped.status == "interrupted"
    assert re.search(r"on \d+ validation rows, about \d+ s", heard[-1].text)
    assert stopped.winner.wording.scaling
    if stopped.winner != Candidate():
        assert [entry.name for entry in store.list()] == ["mood"]
    assert resume_words(stopped.run, store, backbone=backbone_of("llama")).status == "finished"


@pytest.mark.parametrize("text", ["  ", "x" * 99, "<|user|> hi"])
def test_a_text_of_the_users_that_cannot_be_raced_is_an_error(task, tmp_path, text):
    with pytest.raises(ConfigError) as error:
        searched(task, Store(tmp_path / "store"), text=text)
    assert error.value.where == "hard.text"
    assert error.value.got


def test_a_search_is_the_same_by_its_seed(task, tmp_path):
    first, second = (searched(task, Store(tmp_path / name)) for name in ("a", "b"))
    assert comparable(first) == comparable(second)


def test_the_budget_is_said_first_and_held(task, tmp_path):
    notices = []
    config = request_of(task, max_tokens=4000.0)
    result = search_words(
        config,
        Store(tmp_path / "store"),
        lambda event: notices.append(event.text) if isinstance(event, NoticeEvent) else None,
        backbone=backbone_of("llama"),
    )
    assert "4,000 live tokens" in notices[0]
    assert any("budget ends" in text for text in notices)
    free = searched(task, Store(tmp_path / "other"))
    assert sum(stage.proposed for stage in result.stages) < sum(stage.proposed for stage in free.stages)


def test_shuffled_labels_come_equally_often_and_nothing_is_kept(task, tmp_path):
    store = Store(tmp_path / "store")
    result = searched(task, store, shuffle_labels=True)
    assert result.has_shuffled_labels
    assert result.prompt is None
    assert store.list() == []
    rows = [Row({"text": str(n), "label": "ab"[n % 5 == 0]}, n, "x") for n in range(40)]
    splits = Splits(train=rows, validation=rows[:10], test=rows[10:])
    values = {"template": "{text}", "labels": {"a": " a", "b": " b"}, "data": {"train": "x.jsonl"}}
    dealt = shuffled(splits, Task(name="mood", **values), 0)
    # Equally often: else the commonest label alone would be worth claiming.
    assert sorted(row.fields["label"] for row in dealt.train) == ["a"] * 20 + ["b"] * 20
    assert [row.fields["label"] for row in dealt.train] != [row.fields["label"] for row in rows]
    assert [row.fields["text"] for row in dealt.train] == [row.fields["text"] for row in rows]


def test_wordings_of_a_file_race_and_odd_ones_are_counted(task, tmp_path):
    wordings = tmp_path / "wordings.txt"
    wordings.write_text(f"Which mood?\n{'x' * 80}\n<|user|> hello\nWhat sort?\n")
    result = searched(task, Store(tmp_path / "store"), sources=[f"file:{wordings}"], wordings=8)
    (stage,) = [stage for stage in result.stages if stage.stage == "wording"]
    assert stage.proposed == 2
    assert sum(stage.refused.values()) == 2
    assert result.winner.text in {standing.candidate.text for standing in stage.best}


def test_copied_rows_and_texts_without_words_are_refused_with_reasons(task, tmp_path, monkeypatch):
    class Copying:
        def propose(self, ask: Ask) -> list[Candidate]:
            texts = ["\na b c d e f", "   ", "y" * 99]
            return [ask.worded(text, "copying") for text in texts]

    rows = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    rows[0]["text"] = "a b c d e f g"
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setattr("overture.jobs.wording.search.proposer_of", lambda source, model, timeout_s: Copying())
    result = searched(task, Store(tmp_path / "store"), sources=["corpus"], max_tokens=20_000.0)
    (stage,) = [stage for stage in result.stages if stage.stage == "wording"]
    assert stage.proposed == 0
    assert sorted(stage.refused.values()) == [1, 1, 1]
    assert result.status == "finished"


def test_without_a_url_no_connection_is_made(task, tmp_path, monkeypatch):
    connected: list[object] = []
    monkeypatch.setattr(socket.socket, "connect", lambda self, address: connected.append(address))
    assert searched(task, Store(tmp_path / "store")).status == "finished"
    assert connected == []


def test_a_proposer_that_fails_is_told_and_the_search_ends(task, tmp_path):
    result = searched(task, Store(tmp_path / "store"), sources=["corpus", "url:http://127.0.0.1:9/v1"], timeout_s=0.5)
    assert result.status == "finished"
    assert any("url" in text for text in result.notices)


def test_written_answers_are_searched_for_by_their_likelihood(task, tmp_path):
    values = yaml.safe_load(task.read_text())
    del values["labels"]
    task.write_text(yaml.safe_dump({**values, "answer_field": "label", "max_new_tokens": 3}))
    store = Store(tmp_path / "store")
    result = searched(task, store, room=24)
    assert result.metric == "exact_match"
    assert result.luck is None
    assert result.metrics["test"]["exact_match"].n == 20
    assert {claim.control for claim in result.claims} <= {"the task file alone", "8 examples"}
    finished = [standing for stage in result.stages for standing in stage.best]
    assert max(finished, key=lambda standing: standing.log_likelihood).log_likelihood < 0
    with pytest.raises(ConfigError) as error:
        searched(task, store, sources=["editz"])
    assert error.value.where == "--from"


def test_answers_that_are_pieces_of_their_texts_cannot_be_shuffled(tmp_path):
    values = {"template": "{context}\n{question}", "kind": "qa", "data": {"train": "x.jsonl"}}
    rows = [Row({"context": f"no {n}", "question": "no?", "answers": [str(n)]}, n, "x") for n in range(1, 9)]
    with pytest.raises(ConfigError) as error:
        shuffled(Splits(train=rows, validation=rows, test=[]), Task(name="squad", **values), 0)
    assert error.value.where == "hard.shuffle_labels"
    assert error.value.problems


def test_conversations_are_refused_before_a_model_is_loaded(tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text("{}")
    values = {"name": "chat", "template": "{messages}", "kind": "chat", "data": {"train": str(rows)}}
    with pytest.raises(ConfigError) as error:
        check_request(resolved(HardRequest, values, {}))
    assert error.value.where == "kind"


def test_a_search_does_not_go_on_with_other_rows(task, tmp_path):
    store, asked = Store(tmp_path / "store"), []

    def stop() -> bool:
        asked.append(None)
        return len(asked) > 2

    stopped = searched(task, store, stop)
    file = tmp_path / "validation.jsonl"
    whole = file.read_text()
    file.write_text("".join(reversed(whole.splitlines(keepends=True))))
    with pytest.raises(DataError) as refused:
        resume_words(stopped.run, store, backbone=backbone_of("llama"))
    assert any(problem.where == "validation" for problem in refused.value.problems)
    file.write_text(whole)
    with pytest.raises(ArtifactError):
        resume_words(stopped.run, store, backbone=backbone_of("gpt2"))
    with pytest.raises(ConfigError):
        resume_words(stopped.run, store, backbone=backbone_of("llama"), settings=["hard.rounds=1"])
    moved = [f"data.validation={file.rename(tmp_path / 'moved.jsonl')}"]
    assert resume_words(stopped.run, store, backbone=backbone_of("llama"), settings=moved).status == "finished"
    data = Run.open(store.runs, stopped.run).config(HardRequest).task.data
    assert data.validation == tmp_path / "moved.jsonl"
