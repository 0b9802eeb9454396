"""The page that a run, an evaluation or a search leaves: from records alone, offline, without scripts, in two sizes."""

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from overture.core.errors import StoreError
from overture.core.records.events import EpochEvent, StepEvent
from overture.core.records.runs import Finding
from overture.core.records.scores import (
    Comparison,
    ConfusedPair,
    Confusion,
    Interval,
    LabelScore,
    Paired,
    SplitScores,
    WrongRow,
)
from overture.core.records.tune import Evaluation, Measured
from overture.jobs.run.pages import write_page
from overture.report.charts import colour, interval_chart, svg_of
from overture.report.run_page import PromptFacts, RunFacts, loss_chart, run_page, score_chart, verdict_words
from overture.store.runs import Run


class Page(HTMLParser):
    """Tags, links and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.headings: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "action")]

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1] == "h2" and data.strip():
            self.headings.append(data.strip())
        self.text += data


def page_of(path: Path) -> Page:
    text = path.read_text(encoding="utf-8")
    assert len(text.encode()) < 300_000
    page = Page(text)
    assert [link for link in page.links if not link.startswith("#")] == []
    assert not {"script", "link", "iframe", "img"} & set(page.tags)
    assert re.search(r"url\((?!#)|@import", text) is None
    assert "prefers-color-scheme: dark" in text
    assert "width=device-width" in text
    return page


def test_a_tuned_prompt_has_a_page(make_task, overture, drawn, tmp_path) -> None:
    done = overture("tune", make_task())
    assert done.code == 0
    path = tmp_path / "store" / "runs" / "mood-1" / "page.html"
    assert done.out.rstrip().splitlines()[-1] == f"The page: {path}"
    page = page_of(path)
    for heading in ("Scores", "Training", "Labels", "How to use it", "What the prompt is", "What it cost"):
        assert heading in page.headings
    result = json.loads((path.parent / "result.json").read_text())
    score = result["metrics"]["test"]["accuracy"]
    for text in (f"{score['value']:.3f}", "mood@1", "overture predict mood@1", "{text}\nMood:", "overture.load"):
        assert text in page.text
    # Scores, losses and validation scores, each for wide and for narrow screens.
    assert page.tags.count("svg") == 6
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_an_evaluation_has_a_page_where_it_is_asked_for(tuned, overture, tmp_path) -> None:
    path = tmp_path / "again.html"
    done = overture("eval", "mood@1", "test.jsonl", "-o", path, "--json")
    assert done.code == 0
    assert done.json["page"] == str(path)
    page = page_of(path)
    assert "Scores" in page.headings
    assert "Training" not in page.headings
    assert path.with_suffix(".png").exists()
    assert overture("eval", "mood@1", "test.jsonl", "-o", "page.pdf").code == 2
    assert "page" not in overture("eval", "mood@1", "test.jsonl", "--json").json


def test_a_page_that_cannot_be_written_does_not_hide_the_result(make_task, overture, monkeypatch) -> None:
    def full(*_: Any) -> None:
        raise OSError("no room")

    monkeypatch.setattr("overture.report.run_page.write_atomic", full)
    done = overture("tune", make_task(), "--json")
    assert (done.code, done.json["prompt"], done.json["page"]) == (0, "mood@1", "")
    assert "no room" in done.err


def test_a_run_without_a_result_has_no_page(make_task, overture, tmp_path) -> None:
    overture("tune", make_task(), "--json")
    run = Run.open(tmp_path / "store" / "runs", "mood-1")
    (run.folder / "result.json").unlink()
    with pytest.raises(StoreError):
        write_page(run)


def test_pages_are_made_without_torch() -> None:
    modules = "overture.jobs.run.pages, overture.report.compare_page, overture.jobs.verdict.summary"
    subprocess.run([sys.executable, "-c", f"import sys, {modules}; assert 'torch' not in sys.modules"], check=True)


# -- from records


def interval(value: float) -> Interval:
    return Interval(value=value, low=value - 0.05, high=value + 0.05, n=100)


def facts(
    value: float = 0.8, other: float | None = 0.6, p_value: float = 0.001, num_labels: int = 2, **more: Any
) -> RunFacts:
    labels = tuple(f"label {number}" for number in range(num_labels))
    counts = tuple(tuple(5 if row == column else 1 for column in range(num_labels)) for row in range(num_labels))
    compared = None
    if other is not None:
        gap = value - other
        difference = Interval(value=gap, low=gap - 0.1, high=gap + 0.1, n=100)
        paired = Paired(
            metric="accuracy", a=value, b=other, difference=difference, p_value=p_value, test="", only_a=0, only_b=0
        )
        compared = {"no_prompt": Comparison(split="test", **paired.model_dump())}
    measured = Measured(
        metrics={"test": SplitScores(scores={"accuracy": interval(other or 0)})}, seconds=1, peak_bytes=1
    )
    result = Evaluation(
        prompt="mood@1",
        metric="accuracy",
        split="test",
        metrics={"test": SplitScores(scores={"accuracy": interval(value)}, loss=0.5)},
        seconds=1.0,
        peak_bytes=10**9,
        trainable=10,
        no_prompt=None if other is None else measured,
        compared=compared,
        num_wrong=20,
        wrong=[
            WrongRow(
                where=f"/data/rows.jsonl:{number}", text=f"text {number} <b>", gold="<i>", predicted="bad", score=0.0
            )
            for number in range(9)
        ],
        confusion=Confusion(
            labels=labels,
            counts=counts,
            errors=(ConfusedPair(gold=labels[0], predicted=labels[1], count=1, share=0.2, where=("rows.jsonl:1",)),),
        ),
        labels=tuple(
            LabelScore(label=label, precision=None, recall=0.5, f1=0.5, num_gold=6, num_predicted=0) for label in labels
        ),
    )
    return RunFacts(title="mood@1", result=result, **more)


@pytest.mark.parametrize(
    ("value", "other", "p_value", "words"),
    [
        (0.8, 0.6, 0.001, "is better than no prompt"),
        (0.6, 0.8, 0.001, "is worse than no prompt"),
        (0.8, 0.79, 0.4, "No difference"),
        (0.8, None, 0.4, "scores 0.800"),
    ],
)
def test_the_verdict_has_three_parts(value: float, other: float | None, p_value: float, words: str) -> None:
    verdict = verdict_words(facts(value, other, p_value, commands=["overture predict mood@1 x"]))
    assert words in verdict.what
    assert "95% interval" in verdict.why
    assert verdict.next


def test_what_to_do_next_is_the_doctors_first_advice_where_nothing_was_gained() -> None:
    finding = Finding(name="few_rows", what="too few rows", evidence="8 rows", fix="about 400 rows", seed=None)
    assert verdict_words(facts(0.8, 0.79, 0.4, findings=[finding])).next == "Too few rows: about 400 rows."
    page = Page(run_page(facts(0.8, 0.79, 0.4, findings=[finding])))
    assert "What the doctor found" in page.headings
    assert "about 400 rows" in page.text


def test_what_users_wrote_is_escaped_and_places_have_no_folders() -> None:
    nasty = '<script>alert("x")</script>'
    prompt = PromptFacts("mood@1", "prefix", "after", 3, 10, nasty, template=nasty, labels={nasty: nasty})
    text = run_page(facts(prompt=prompt, notices=[nasty]))
    assert "<script" not in text
    assert "<i>" not in text.replace('<i style="', "")
    page = Page(text)
    assert "rows.jsonl:8" in page.text
    assert "/data/" not in page.text


def test_a_table_of_many_labels_is_left_out_for_the_errors() -> None:
    assert "Right label (rows)" in Page(run_page(facts(num_labels=20))).text
    many = Page(run_page(facts(num_labels=60)))
    assert "Right label (rows)" not in many.text
    assert "Most frequent errors" in many.text


def epoch(number: int, seed: int = 0) -> EpochEvent:
    return EpochEvent(
        seed=seed,
        epoch=number,
        num_epochs=3,
        num_steps=300,
        train_loss=2.0 - number,
        validation_loss=2.5 - number,
        validation_score=0.5 + number / 10,
        seconds=1.0,
        is_best=True,
    )


def test_curves_hold_every_seed_and_few_points() -> None:
    steps = [
        StepEvent(seed=seed, epoch=step // 100, num_epochs=3, num_steps=300, step=step, loss=300 / step, grad_norm=1.0)
        for seed in (0, 1)
        for step in range(1, 301)
    ]
    chart = loss_chart(steps, [epoch(number, seed) for seed in (0, 1) for number in range(3)], 600)
    assert chart is not None
    (lines, _) = chart.to_dict()["layer"]
    rows = lines["data"]["values"]
    assert {row["seed"] for row in rows} == {"seed 0", "seed 1"}
    trained = [row for row in rows if row["rows"] == "training"]
    assert 40 <= len(trained) <= 300
    assert max(row["epoch"] for row in trained) <= 3
    assert loss_chart([], [], 600) is None
    assert score_chart([], "accuracy", 600) is None


def test_a_chart_shows_figures_as_the_table_does(drawn) -> None:
    rows = [{"way": "lora", "value": 0.2674, "low": 0.2001, "high": 0.3333}]
    svg = svg_of(interval_chart(rows, "accuracy", 600))
    assert ">0.267<" in svg
    assert not re.search(r"<[^>]*\d\.\d{3}", svg)


def test_a_way_has_one_colour_for_ever() -> None:
    recorded = {"no-prompt": "#8b949e", "lora": "#d1495b", "full": "#8250df", "prefix-after": "#1f77d0"}
    assert {way: colour(way) for way in recorded} == recorded
    ways = ["prefix-after", "prefix-memory", "vectors-before", "vectors-after", "gated-after", "late-before", "lora"]
    assert len({colour(way) for way in ways}) == len(ways)
    assert colour("bitfit:norms") == colour("bitfit")
    assert colour("my-method-after") == colour("my-method-after") != colour("my-method-before")
