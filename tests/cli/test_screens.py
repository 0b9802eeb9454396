"""Screens at 80 and 40 columns, as text: rendered from records, without a run.

After a change that is meant: OVERTURE_WRITE_SCREENS=1 python -m pytest tests/cli/test_screens.py, and read the diff.
"""

import io
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from overture.cli import compare, doctor, evaluate, init_task, methods, predict, prompts, report, search, words
from overture.cli.inputs import Inputs
from overture.cli.mistakes import show_mistakes, wrong_lines
from overture.cli.out import show_text
from overture.cli.progress import plan_text
from overture.cli.tables import show_facts
from overture.core.errors import Problem
from overture.core.records.cells import FailedCell
from overture.core.records.compare import (
    Advice,
    Against,
    Cost,
    Disagreement,
    Score,
    Shares,
    Summary,
    WayMistakes,
)
from overture.core.records.events import PlanStep
from overture.core.records.prompt import Lineage, PromptScores
from overture.core.records.scores import (
    Comparison,
    ConfusedPair,
    Confusion,
    Interval,
    LabelScore,
    Mistakes,
    SplitScores,
    WrongRow,
)
from overture.core.records.search import LabelWord, SearchResult, WordingScore, WordsResult
from overture.core.records.start import DataReport, LabelRows, LeftOut, Lengths
from overture.core.records.tune import Calibration, Evaluation, Measured, TuneResult
from overture.store.manifest import Manifest

FOLDER = Path(__file__).parent / "screens"


def interval(value: float, margin: float = 0.03) -> Interval:
    return Interval(value=value, low=value - margin, high=value + margin, n=300)


def measured(value: float, **more: Any) -> Measured:
    scores = SplitScores(scores={"accuracy": interval(value), "macro_f1": interval(value - 0.01)}, loss=0.4)
    return Measured(metrics={"test": scores}, seconds=8.2, peak_bytes=1_700_000_000, **more)


def tuned() -> TuneResult:
    difference = interval(0.417, 0.06)
    compared = Comparison(
        metric="accuracy", a=0.88, b=0.463, difference=difference, p_value=1e-9, test="exact", only_a=130, only_b=5,
        split="test",
    )  # fmt: skip
    labels = ["cards", "cash", "currency exchange", "proof of identity", "refunds", "transfers"]
    confusion = Confusion(
        labels=tuple(labels),
        counts=tuple(tuple(44 if row == column else int(column == 0) for column in range(6)) for row in range(6)),
        errors=[ConfusedPair(gold="cash", predicted="cards", count=1, share=0.02, where=("rows.jsonl:55",))],
    )
    return TuneResult.model_construct(
        **measured(0.88, trainable=115_200).__dict__,
        run="bank-1",
        task="customer-messages",
        metric="accuracy",
        prompt="customer-messages@12",
        no_prompt=measured(0.463, trainable=0),
        in_context=measured(0.737, trainable=0).model_copy(update={"shots": 6}),
        compared={"no_prompt": compared},
        num_wrong=36,
        labels=[
            LabelScore(label=label, precision=0.9, recall=0.88, f1=0.89, num_gold=50, num_predicted=49)
            for label in labels
        ],
        confusion=confusion,
        wrong=[
            WrongRow(
                where="data/test.jsonl:151", text="Which ATMs accept my card, and what do they charge for it abroad?",
                gold="cash", predicted="proof of identity", confidence=0.87, score=0.0,
            )
        ],
    )  # fmt: skip


def tune_screen(out: Console) -> None:
    result = tuned()
    show_text(out, plan_text([PlanStep(what="train on 300 rows, at most 4 epochs", seconds=140)]))
    report.show_scores(out, result, "test")
    report.show_verdicts(out, result)
    show_mistakes(out, result, 300, "test", result.prompt)


def list_screen(out: Console) -> None:
    cells = [
        ["demo-bank@1", "test accuracy 0.880", "0.838 to 0.912", "prefix after, 10", "smollm2", "300", "2026-11-29"],
        ["tickets-of-the-north-german-office@12", "test macro_f1 0.481", "0.401 to 0.566", "vectors before, 100",
         "HuggingFaceTB/SmolLM2-135M", "83", "2026-11-29"],
        ["broken@3", "damaged", "", "", "", "", ""],
    ]  # fmt: skip
    prompts.show_list(out, cells, bad=[2])


def search_screen(out: Console) -> None:
    def trial(title: str, score: float | None) -> Any:
        return {
            "title": title, "wording": 0, "score": score, "loss": 0.4, "epochs_done": 3, "epochs": 3, "tokens": 1.2e5,
            "serving": 12, "seconds": 9.5, "is_frontier": score == 0.91,
        }  # fmt: skip

    class Fields:
        def __init__(self, values: dict[str, Any]) -> None:
            self.__dict__.update(values)

    trials = [trial("prefix after, P = 10, lr 0.017", 0.91), trial("vectors before, P = 100, lr 0.3", None)]
    lane: dict[str, Any] = {"is_default": False, "scores": [0.9, 0.92], "serving": 12, "dropped_after": None}
    race = [
        {**lane, "title": "prefix after, P = 10, lr 0.017", "mean": 0.91, "p_value": None, "is_winner": True},
        {**lane, "title": "vectors before, P = 20, lr 0.3", "mean": 0.85, "p_value": 0.03, "is_winner": False},
    ]
    result = SearchResult.model_construct(
        task="bank", metric="accuracy", trials=[Fields(item) for item in trials], race=[Fields(item) for item in race]
    )
    search.show_trials(out, result)
    search.show_race(out, result)


def compare_screen(out: Console) -> None:
    def score(way: str, value: float, size: int = 64) -> Score:
        return Score(way=way, size=size, n_seeds=3, each=(value,) * 3, **interval(value).dump())

    def cost(way: str, trainable: int, seconds: float, size: int = 64) -> Cost:
        return Cost.model_construct(
            way=way, size=size, trainable=trainable, seconds=seconds, kwh=0.0004, energy="estimated",
            stored_bytes=4 * trainable, serving_flops_per_row=7.2e9,
        )  # fmt: skip

    def against(way: str, reference: str, seconds: float | None) -> Against:
        shares = Shares.model_construct(seconds=seconds, trainable=seconds)
        pair = {"way": way, "reference": reference, "shares": shares}
        return Against.model_construct(**pair, difference=interval(0.1), verdict="better")

    result = Summary.model_construct(
        task="customer-messages",
        metric="accuracy",
        largest=64,
        scores=(score("no-prompt", 0.463, 0), score("prefix-after", 0.88), score("in-context:nearest", 0.737)),
        ledger=(
            cost("no-prompt", 0, 0.0, 0),
            cost("prefix-after", 115_200, 46.0),
            cost("in-context:nearest", 0, 37.0),
            cost("lora", 1, 9.0),
        ),
        # A reference that trains nothing has no costs to be a share of.
        against=(
            against("prefix-after", "no-prompt", 1728.0),
            against("in-context:nearest", "no-prompt", None),
            against("prefix-after", "lora", 0.19),
        ),
        worth=(),
        mistakes=(
            WayMistakes(
                way="prefix-after",
                n_seeds=3,
                labels=tuple(
                    LabelScore(label=label, precision=0.9, recall=0.8, f1=0.85, num_gold=450, num_predicted=400)
                    for label in ("cards and accounts", "fees")
                ),
            ),
        ),
        disagreement=Disagreement(num_right=120, num_wrong=20, num_disputed=160, rows=()),
        failed=(FailedCell(way="lora", size=64, seed=2, what="the loss became NaN or infinite"),),
        left_out=("256 rows: they do not fit into 5 minutes",),
        notices=("11 of 11 cells waited for other work of the machine: compare CPU seconds, not seconds",),
        advice=Advice(
            way="prefix-after",
            what="prefix-after is the best of the ways.",
            why="It has 0.880 on 300 test rows, no-prompt 0.463.",
            next="Tune it on all rows: overture tune bank.yaml --seeds 3",
        ),
    )
    compare.show_comparison(out, result, Path("compare-messages/report.html"))


def eval_screen(out: Console) -> None:
    tuning = tuned()
    mistakes = {name: getattr(tuning, name) for name in Mistakes.model_fields}
    difference = interval(0.06, 0.05)
    compared = Comparison(
        metric="accuracy", a=0.88, b=0.82, difference=difference, p_value=0.02, test="exact", only_a=30, only_b=12,
        split="data",
    )  # fmt: skip
    scores = measured(0.88).metrics["test"].scores
    scored = SplitScores(scores={**scores, "ece": interval(0.05, 0.01)}, loss=0.4)
    with_it, without = (Measured(metrics={"data": scored}, seconds=8.2, peak_bytes=1) for _ in range(2))
    result = Evaluation(
        prompt="customer-messages@12", metric="accuracy", split="data", metrics={"data": scored}, seconds=8.2,
        peak_bytes=1_700_000_000, trainable=115_200, no_prompt=without.model_copy(update={"trainable": 0}),
        compared={"no_prompt": compared.model_copy(update={"split": "data"})},
        calibration=Calibration(without=without, with_it=with_it, stored="without", compared=compared), **mistakes,
    )  # fmt: skip
    evaluate._show(result, "data")


def errors_screen(out: Console) -> None:
    wrong = [
        WrongRow(
            where="/data/tickets/test.csv:151", text="My card has not come. " * 9, gold="proof of identity",
            predicted="currency exchange and transfers abroad", confidence=0.87, score=0.0,
        ),
        WrongRow(where="test.csv:9", text="short", gold="cash", predicted="cards", confidence=0.5, score=0.0),
        WrongRow(
            where="test.csv:12", text="Ada saw Rome", gold="", predicted="", missed=("PER Ada",), made_up=("LOC saw",),
            confidence=None, score=0.3,
        ),
        WrongRow(where="test.csv:77", text="Why?", gold="since it rains " * 30, predicted="", score=0.1),
    ]  # fmt: skip
    for line in wrong_lines(wrong, out.width, 20):
        out.print(line, soft_wrap=True)


def predict_screen(out: Console) -> None:
    rows = predict._Rows([], [], Inputs("file", []), "null", shows_progress=False)
    where, empty = "tickets-new.csv", "empty text in 'Subject', 'Body'"
    rows.problems = {line: [Problem(f"{where}:{line}", empty)] for line in (4, 35)}
    rows.problems[36] = [Problem(f"{where}:36", "too long: 2301 tokens + 14 reserved > 2048", "set too_long: trim")]
    rows.num_done = 40
    rows.tell_problems()


def init_screen(out: Console) -> None:
    lengths = Lengths(median=14, most_rows=61, longest=1203)
    labels = [
        LabelRows(label=label, rows={"path": count}, also=[])
        for label, count in (("Bug report", 120), ("Billing", 84), ("Shipping and handling", 3))
    ]
    report = DataReport(
        kind="classification", rows={"path": 211}, target=["Category"], texts=["Subject", "Body"],
        left_out=[LeftOut(field="Ticket ID", why="numbers the rows"), LeftOut(field="Created At", why="dates")],
        labels=labels, alike=[("Shipping", "Shiping")], empty={"Subject": 32}, unlabelled=2, repeats=5,
        contradictions=1, words=lengths, tokens=lengths,
        languages={"English": 0.71, "German": 0.2, "Latin script": 0.09},
    )  # fmt: skip
    for line in init_task._lines(report):
        show_text(out, line)


def manifest() -> Manifest:
    scores = SplitScores(scores={"accuracy": interval(0.88), "macro_f1": interval(0.87)}, loss=0.4)
    task = {
        "name": "customer-messages", "template": "{Subject}\n{Body}\nTeam:", "metric": "accuracy",
        "labels": {"proof of identity": " identity", "cash": [" cash", " money"]},
    }  # fmt: skip
    backbone = {"id": "/models/SmolLM2-135M-Instruct", "model_type": "llama", "num_layers": 30, "hidden_size": 576}
    return Manifest.model_construct(
        name="customer-messages", version=12, method="prefix", place="after", length=10, trainable=115_200,
        created="2026-11-29T10:00:00+00:00", seconds=141.3, task=task, backbone=SimpleNamespace(**backbone), text=None,
        metrics=PromptScores(test=scores, validation=scores), lineage=Lineage(seed=3, train_rows=300),
    )  # fmt: skip


def show_screen(out: Console) -> None:
    folder = Path("/srv/store/prompts/messages/v12")
    show_facts(out, prompts._facts(folder, manifest()), "customer-messages@12")
    prompts._show_scores(out, manifest())


def words_screen(out: Console) -> None:
    def wording(name: str, labels: dict[str, Any], value: float) -> WordingScore:
        return WordingScore(name=name, labels=labels, metrics={"accuracy": interval(value)}, loss=1.2)

    proposed = [
        LabelWord(word=word, log_likelihood=-3.1, ratio=1.4) for word in (" identity", " passport", " document")
    ]
    result = WordsResult(
        task="bank", backbone="smollm2", metric="accuracy", rows={"train": 300, "validation": 64},
        labels={"proof of identity": proposed, "cash": proposed}, seconds=12.5, notices=["a label has few rows"],
        wordings=[
            wording("proposed", {"proof of identity": " passport", "cash": [" cash", " money"]}, 0.61),
            wording("task file", {"proof of identity": " identity", "cash": " cash"}, 0.55),
        ],
    )  # fmt: skip
    words._show(result, 'overture tune bank.yaml --set \'labels={"cash": " cash"}\'')


def doctor_screen(out: Console) -> None:
    package = {"version": "2.13.1", "problem": ""}
    facts = {
        "python": "3.11.7",
        "packages": {"torch": package, "transformers": {"version": None, "problem": "is not installed"}},
        "extras": {"parquet": {"pyarrow": package}}, "machine": {"system": "Linux x86_64", "cores": 2},
        "disk": {"store": {"folder": "/home/ada/projects/tickets/.overture", "free_bytes": 41e9}},
        "kept_inputs": {"folder": "/home/ada/.cache/overture/inputs", "bytes": 3e8, "limit_bytes": 8e9},
        "gpu": None, "gflops": {"float32": 61.0, "bfloat16": 20.0},
        "model": {"name": "smollm2", "is_installed": True, "load_seconds": 2.6, "tokens_per_second": 1400.0},
    }  # fmt: skip
    show_facts(out, dict(doctor._fact_lines(facts)))
    show_text(out, "to fix: transformers is not installed: pip install 'transformers>=5.16,<6'", style="red")


def methods_screen(out: Console) -> None:
    methods.command("prefix", is_json=False)


SCREENS: dict[str, Callable[[Console], None]] = {
    "tune": tune_screen,
    "list": list_screen,
    "search": search_screen,
    "compare": compare_screen,
    "eval": eval_screen,
    "predict": predict_screen,
    "errors": errors_screen,
    "init": init_screen,
    "show": show_screen,
    "words": words_screen,
    "doctor": doctor_screen,
    "methods": methods_screen,
}


@pytest.mark.parametrize("width", [40, 80])
@pytest.mark.parametrize("name", SCREENS)
def test_a_screen_is_as_it_was_read(name: str, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    out = Console(file=io.StringIO(), width=width, markup=False, highlight=False, color_system=None)
    monkeypatch.setattr(predict, "say", lambda text: show_text(out, text))
    for module in (evaluate, methods, report, words):
        monkeypatch.setattr(module, "console", lambda: out)
    SCREENS[name](out)
    assert isinstance(out.file, io.StringIO)
    lines = [line.rstrip() for line in out.file.getvalue().splitlines()]
    # Commands are copied, so they stay on one line.
    assert not [line for line in lines if len(line) > width and not line.startswith("  overture ")]
    path = FOLDER / f"{name}-{width}.txt"
    text = "\n".join(lines) + "\n"
    if os.environ.get("OVERTURE_WRITE_SCREENS"):
        path.write_text(text)
    assert text == path.read_text()
