"""What a comparison runs, without a model: the order of rows, the names of cells, the plan within a budget."""

from typing import Any

import pytest

from overture.core.errors import ConfigError
from overture.core.records.cells import Account, DivergedCell, Key, Ledger, RowCounts
from overture.core.records.training import EpochRecord
from overture.data.row import Row
from overture.data.task import Task
from overture.jobs.compare.budget import SmallestComparison, Speed, check_smallest, chosen_plan
from overture.jobs.compare.cells import ordered
from overture.jobs.compare.fixes import named_as_ways
from overture.jobs.compare.forecast import times_text
from overture.jobs.compare.ways import way_named
from overture.jobs.run.request import TuneConfig
from overture.train.options import TrainConfig

TASK = Task(
    name="mood",
    data={"train": "rows.jsonl"},
    template="{text}\nMood:",
    labels={"good": " good", "bad": " bad", "odd": " odd"},
)


def rows(**counts: int) -> list[Row]:
    labels = [label for label, count in counts.items() for _ in range(count)]
    return [Row({"text": f"row {n}", "label": label}, n + 1, "rows.jsonl") for n, label in enumerate(labels)]


# -- rows


def test_every_beginning_is_a_sample() -> None:
    found = [row.fields["label"] for row in ordered(TASK, rows(good=60, bad=36, odd=4), 0, "train")]
    assert set(found[:3]) == {"good", "bad", "odd"}
    assert len(found) == 100
    for count in (20, 50, 75):
        head = found[:count]
        assert abs(head.count("good") - 0.6 * count) <= 2
        assert abs(head.count("bad") - 0.36 * count) <= 2


def test_order_depends_on_seed_and_split_alone() -> None:
    every = rows(good=30, bad=30)
    order = ordered(TASK, every, 1, "train")
    assert order == ordered(TASK, every, 1, "train")
    assert order != ordered(TASK, every, 2, "train")
    assert order != ordered(TASK, every, 1, "validation")
    assert sorted(row.line for row in order) == list(range(1, 61))


def test_order_of_free_text_is_random() -> None:
    task = Task(name="names", data={"train": "rows.jsonl"}, template="{text}:", answer_field="label")
    lines = [row.line for row in ordered(task, rows(a=50), 0, "train")]
    assert sorted(lines) == list(range(1, 51))
    assert lines != list(range(1, 51))


NAMES = Task(name="names", data={"train": "rows.jsonl"}, template="{text}:", answer_field="answer")


def test_a_common_answer_comes_as_often_as_chance_has_it() -> None:
    answers = ["none" if n % 5 < 3 else f"name {n}" for n in range(400)]
    every = [Row({"text": f"row {n}", "answer": answer}, n + 1, "rows.jsonl") for n, answer in enumerate(answers)]
    shares = [
        [row.fields["answer"] for row in ordered(NAMES, every, seed, "train")][:64].count("none") / 64
        for seed in range(8)
    ]
    # 3.6 rows are the standard deviation of one seed's 64.
    assert all(abs(share - 0.6) < 0.2 for share in shares)
    assert sum(shares) / len(shares) == pytest.approx(0.6, abs=0.06)


def test_orders_are_those_of_earlier_versions() -> None:
    """Reports go on where they stopped, so what a seed draws must never change."""

    def lines(task: Task, every: list[Row], seed: int) -> list[int]:
        return [row.line for row in ordered(task, every, seed, "train")]

    different = [Row({"text": f"row {n}", "answer": f"name {n}"}, n + 1, "rows.jsonl") for n in range(12)]
    assert lines(NAMES, different, 0) == [10, 1, 9, 3, 8, 7, 12, 2, 11, 4, 6, 5]
    assert lines(NAMES, different, 1) == [1, 3, 12, 7, 4, 6, 9, 10, 5, 11, 2, 8]
    assert lines(TASK, rows(good=6, bad=4, odd=2), 0) == [3, 11, 9, 1, 10, 6, 7, 2, 12, 5, 8, 4]
    assert lines(TASK, rows(good=8), 0) == [8, 5, 6, 2, 7, 3, 1, 4]


# -- keys


@pytest.mark.parametrize("text", ["prefix-after:16:0", "in-context:nearest:64:3"])
def test_key_there_and_back(text: str) -> None:
    assert str(Key.parse(text)) == text
    assert ":" not in Key.parse(text).slug


@pytest.mark.parametrize("text", ["prefix-after", "prefix-after:16", "a:b:c", ":1:2", "a:-1:0"])
def test_not_a_key(text: str) -> None:
    with pytest.raises(ConfigError):
        Key.parse(text)


# -- the budget


def by_cells(sizes: Any, seeds: int, is_tuned: bool) -> float:
    """A second for each row and seed, and three trainings at the largest size for the rates."""
    return sum(sizes) * seeds + (3 * sizes[-1] if is_tuned else 0)


@pytest.mark.parametrize(
    ("budget", "sizes", "seeds", "is_tuned"),
    [
        (10_000, (16, 64, 256), 5, True),
        (1_800, (16, 64, 256), 3, True),
        (432, (16, 64), 3, True),
        # Three seeds at one size tell more than two at two: two seeds hardly give an interval.
        (420, (16,), 5, True),
        (100, (16,), 3, True),
        (80, (16,), 2, True),
        (40, (16,), 2, False),
        (20, (16,), 1, False),
    ],
)
def test_what_fits(budget: float, sizes: tuple[int, ...], seeds: int, is_tuned: bool) -> None:
    found = chosen_plan((16, 64, 256), 5, True, budget, by_cells)
    assert (found.sizes, found.seeds, found.is_tuned) == (sizes, seeds, is_tuned)
    assert by_cells(found.sizes, found.seeds, found.is_tuned) == found.seconds <= budget


def test_what_was_left_out_is_told() -> None:
    assert chosen_plan((16, 64), 2, True, 1e9, by_cells).left_out == ()
    (told,) = chosen_plan((16, 64, 256), 5, True, 40, by_cells).left_out
    for text in ("64 rows", "256 rows", "seeds beyond the first 2 of 5", "learning rates"):
        assert text in told


def test_too_small_a_budget() -> None:
    with pytest.raises(ConfigError, match="too small"):
        chosen_plan((16, 64), 3, True, 10, by_cells)


def test_speed_gives_back_what_it_was_made_from() -> None:
    spent = {"reading": 4.0, "training": 6.0, "validation": 3.0, "scoring": 5.0, "serving": 2.0}
    accounts = {name: Account(seconds=seconds) for name, seconds in spent.items()}
    epoch = {"train_loss": 1.0, "validation_loss": 1.0, "validation_score": 0.5, "seconds": 1.0}
    cell = DivergedCell(
        way="lora",
        size=32,
        seed=0,
        status="finished",
        lr=0.1,
        rows=RowCounts(train=32, validation=32, test=100),
        trainable=1,
        ledger=Ledger(**accounts, peak_bytes=1, grown_bytes=0, energy_meter=""),
        steps=6,
        best_epoch=0,
        history=tuple(EpochRecord(epoch=number, **epoch) for number in range(3)),
    )
    speed = Speed.of(cell, 25.0)
    train = TrainConfig(epochs=3, batch_size=16)
    assert speed.fixed == pytest.approx(5)
    assert speed.training(train, 32, 32, 1) + speed.scoring(100) == pytest.approx(25)
    assert speed.training(train, 64, 32, 1) == pytest.approx(5 + 6 + 12 + 3)


SLOW = Speed(fixed=60.0, read=0.0, step=0.0, validate=0.0, score=1.0)


def test_a_budget_is_refused_after_the_first_way_where_that_is_certain() -> None:
    """Five ways that score 200 rows at a second each cannot fit into ten minutes, whatever the others take to train."""
    smallest = SmallestComparison(size=16, num_ways=5, num_test=200)
    with pytest.raises(ConfigError) as raised:
        check_smallest(600.0, {"a": SLOW}, {"a": 60.0}, elapsed_s=20.0, smallest=smallest)
    # (600 - 80) / 5 rows a way fit; the whole takes 18 minutes.
    assert "data.test_rows=104" in raised.value.fix
    assert "--budget 22" in raised.value.fix
    assert "18 minutes" in raised.value.wanted
    # The fix fits.
    check_smallest(600.0, {"a": SLOW}, {"a": 60.0}, elapsed_s=20.0, smallest=SmallestComparison(16, 5, 104))
    check_smallest(22 * 60.0, {"a": SLOW}, {"a": 60.0}, elapsed_s=20.0, smallest=smallest)


def test_fewer_test_rows_are_proposed_only_where_they_help() -> None:
    trained = {"a": SLOW, "b": SLOW}
    with pytest.raises(ConfigError) as raised:
        check_smallest(
            600.0, trained, dict.fromkeys(trained, 400.0), elapsed_s=20.0, smallest=SmallestComparison(16, 2, 48)
        )
    assert "test_rows" not in raised.value.fix
    assert "--budget" in raised.value.fix


@pytest.mark.parametrize(
    ("way", "fix", "expected"),
    [
        ("prefix-after", "--place memory, or shorter texts", "--way prefix-memory, or shorter texts"),
        ("promptsrc-memory", "--backbone X, or --method deep", "--backbone X, or --way deep-memory"),
        ("vectors-before", "--method prefix --place memory", "--way prefix-memory"),
        ("linear", "--place after, or an adapter", "--place after, or an adapter"),
    ],
)
def test_fixes_name_ways(way: str, fix: str, expected: str) -> None:
    assert named_as_ways(fix, way_named(way, TuneConfig(task=TASK))) == expected


def test_once_is_no_plural() -> None:
    assert (times_text(1), times_text(2)) == ("once", "2 times")
