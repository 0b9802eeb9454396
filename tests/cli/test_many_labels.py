"""More labels than fit a table: trained, scored and told."""

import json
import random

from overture.cli import mistakes
from overture.core.records.scores import Confusion

NAMES = [f"label-{a}{b}" for a in "abcdefgh" for b in "klmnopq"]


def test_a_task_of_many_labels_from_training_to_report(make_task, overture, tmp_path):
    task = make_task(labels={name: f" {name[-2:]}" for name in NAMES}, shots=0, metric="macro_f1")
    chance = random.Random(0)
    for name, count in {"train": 112, "validation": 56, "test": 112}.items():
        rows = [{"text": f"row of {NAMES[n % 56]} {n}", "label": NAMES[n % 56]} for n in range(count)]
        chance.shuffle(rows)
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = overture("tune", task, "--set", "train.epochs=1", "--json")
    assert done.code == 0, done.err
    assert 0 <= done.json["metrics"]["test"]["macro_f1"]["value"] <= 1
    found = overture("eval", "mood", "--json").json
    confusion = found["confusion"]
    assert len(confusion["labels"]) == len(NAMES) == 56
    assert sum(map(sum, confusion["counts"])) == 112
    answer = overture("predict", "mood", "row of ak 3").json
    assert sorted(answer["probabilities"]) == sorted(NAMES)
    # Probabilities are printed with six digits.
    assert abs(sum(answer["probabilities"].values()) - 1) < 1e-4
    text = overture("eval", "mood").out
    assert "the 11 of 56 labels with most errors" in text
    assert max(map(len, text.splitlines())) <= 120
    assert "…" not in text
    _, _, confusion_table = text.partition("right label (rows)")
    confusion_table, _, _ = confusion_table.partition("most frequent errors")
    assert sum("label-" in line for line in confusion_table.splitlines()) == 11


def test_a_folded_table_adds_up_and_keeps_what_goes_wrong():
    size = 50
    counts = [[0] * size for _ in range(size)]
    for number in range(size):
        counts[number][number] = 3
    counts[40][7], counts[7][40], counts[20][21] = 5, 4, 2

    def table() -> Confusion:
        return Confusion(labels=[f"l{number}" for number in range(size)], counts=counts, errors=())

    labels, folded = mistakes._most_confused(table(), 12)
    assert labels == ["l7", "l20", "l21", "l40", "(others)"]
    assert sum(map(sum, folded)) == sum(map(sum, counts))
    at = {label: number for number, label in enumerate(labels)}
    assert folded[at["l40"]][at["l7"]] == 5
    assert folded[at["l7"]][at["l40"]] == 4
    assert folded[-1][-1] == 3 * (size - 4)
    for number in range(size):
        counts[number][(number + 1) % size] = 1
    labels, folded = mistakes._most_confused(table(), 12)
    assert len(labels) == len(folded) == 12
    assert {"l7", "l40"} < set(labels)
    assert sum(map(sum, folded)) == sum(map(sum, counts))
    small = Confusion(labels=["a", "b"], counts=[[1, 2], [3, 4]], errors=())
    labels, folded = mistakes._most_confused(small, 12)
    assert (labels, [list(row) for row in folded]) == (["a", "b"], [[1, 2], [3, 4]])
