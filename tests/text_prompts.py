"""A task on tiny rows, candidates of words, and their text written by hand."""

import json
from pathlib import Path
from typing import Any

import torch
import yaml

from fakes import backbone_of
from overture.core.records.hard import Candidate, Wording
from overture.data.row import Row
from overture.data.task import Task
from overture.engine.cache import InputCache
from overture.hard.scorer import TextScorer

LABELS = {"good": " fine", "bad": " bad luck"}
TEXTS = ["a walk in the sun", "rain", "nothing to see here, they said", "so much noise for so little", "warm bread"]
CANDIDATES = [
    Candidate(),
    Candidate(text="\nMood of this text?"),
    Candidate(text=" Think of the weather."),
    Candidate(text="Sort texts by mood.\n", place="before"),
    Candidate(shots=[0, 3]),
    Candidate(text="\nMood of this text?", shots=[2, 1, 4]),
    Candidate(text="Sort texts by mood.\n", place="before", shots=[1]),
    Candidate(text="\nSay it.", wording=Wording(template="{text}\nIt is", labels={"good": " one", "bad": " two"})),
]


def scorer_of(family: str, **changes) -> TextScorer:
    values = {"name": "mood", "data": {"train": "x.jsonl"}, "template": "Text: {text}\nMood:", "labels": LABELS}
    task = Task(**{**values, **changes})
    rows = [Row({"text": text, "label": ("good", "bad")[n % 2]}, n + 1, "x.jsonl") for n, text in enumerate(TEXTS)]
    backbone = backbone_of(family, torch.float64)
    return TextScorer(task, backbone, {"train": rows, "validation": rows}, room=32, cache=InputCache(1 << 26))


def rendered(scorer: TextScorer, candidate: Candidate, row: Row) -> str:
    """The whole text in front of the label's word, written by hand."""
    template = candidate.wording.template or scorer.task.template
    labels = candidate.wording.labels or LABELS
    head, tail = template.split("{text}")
    shots = [scorer.splits["train"][number].fields for number in candidate.shots]
    front = candidate.text if candidate.place == "before" else ""
    front += "".join(head + shot["text"] + tail + labels[shot["label"]] + "\n\n" for shot in shots)
    return front + head + row.fields["text"] + (candidate.text if candidate.place == "after" else "") + tail


def written_task(folder: Path, **sections: Any) -> Path:
    """A task file beside its rows, with more sections if wanted."""
    words = {"good": ("fine", "great", "glad"), "bad": ("poor", "dull", "grim")}
    for split, count in (("train", 24), ("validation", 20), ("test", 20)):
        labels = [("good", "bad")[n % 2] for n in range(count)]
        rows = [{"text": f"{words[label][n % 3]} {split} {n}", "label": label} for n, label in enumerate(labels)]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    values = {
        "name": "mood",
        "data": {name: f"{name}.jsonl" for name in ("train", "validation", "test")},
        "template": "Text: {text}\nMood:",
        "labels": {"good": " fine", "bad": " bad"},
    }
    path = folder / "mood.yaml"
    path.write_text(yaml.safe_dump({**values, **sections}))
    return path
