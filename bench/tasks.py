"""The tasks that all quality measurements share: wording, label words, rows."""

import json
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from overture.data.read import read_table
from overture.data.row import Row
from overture.data.task import Task

NUM_VALIDATION = 256


@dataclass(frozen=True)
class Wording:
    """How a row becomes text for a decoder, and which word stands for which label of the data."""

    input: str
    anchor: str
    words: dict[str, str]
    limits: dict[str, Any] = field(default_factory=dict)


WORDINGS = {
    "movie": Wording("Review: {text}", "\nSentiment:", {"negative": " negative", "positive": " positive"}),
    "trec": Wording(
        "Question: {text}",
        "\nType:",
        {
            "abbreviation": " abbreviation",
            "entity": " entity",
            "description": " description",
            "person": " human",
            "location": " location",
            "number": " number",
        },
    ),
    "bbc": Wording(
        "News: {text}",
        "\nTopic:",
        {
            "business": " business",
            "entertainment": " entertainment",
            "politics": " politics",
            "sports": " sports",
            "tech": " technology",
        },
        {"max_length": 256, "too_long": "trim"},
    ),
}


def decoder_task(name: str, **values: Any) -> Task:
    """The task for models that predict a word behind the text."""
    wording = WORDINGS[name]
    return _task(name, template=wording.input + wording.anchor, **values)


def encoder_task(name: str) -> Task:
    """The task for encoders without a head: the text alone, read as the mean of its tokens."""
    return _task(name, template="{text}", read="mean")


def _task(name: str, **values: Any) -> Task:
    wording = WORDINGS[name]
    return Task(name=name, labels=wording.words, **{"data": {"train": "unused.jsonl"}, **wording.limits, **values})


def written_task(name: str, splits: dict[str, list[Row]], folder: Path) -> Task:
    """The decoder's task on these very rows, which are written into the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, rows in splits.items():
        lines = [json.dumps(dict(row.fields)) + "\n" for row in rows]
        (folder / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
    return decoder_task(name, data={split: str((folder / f"{split}.jsonl").resolve()) for split in splits})


def rows_of(name: str, data: Path, split: str) -> list[Row]:
    path = data / name / f"{split}.jsonl"
    table = read_table(path)
    return [Row(fields, line, str(path)) for fields, line in zip(table.rows, table.lines, strict=True)]


def splits_of(name: str, data: Path, num_train: int, seed: int) -> dict[str, list[Row]]:
    """Training rows drawn by seed; the first rows for validation; all test rows."""
    return {
        "train": random.Random(seed).sample(rows_of(name, data, "train"), num_train),
        "validation": rows_of(name, data, "validation")[:NUM_VALIDATION],
        "test": rows_of(name, data, "test"),
    }
