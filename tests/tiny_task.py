"""A tiny model in a folder, rows, and a task file for jobs that read all of them themselves."""

import json
from pathlib import Path

import yaml

from fakes import make_inner_tokenizer, make_model

_WORDS = {"good": ("bright", "kind", "warm"), "bad": ("dull", "rude", "cold")}


def write_tiny_task(folder: Path) -> Path:
    """Write all into a folder; the task file."""
    make_model("llama", "sdpa").save_pretrained(folder / "tiny")
    make_inner_tokenizer("llama").save_pretrained(folder / "tiny")
    for start, (split, num) in enumerate({"train": 16, "validation": 8, "test": 8}.items()):
        rows = []
        for number in range(num):
            label = ("good", "bad")[number % 2]
            text = f"a {_WORDS[label][number % 3]} day, the {100 * start + number}th of them"
            rows.append(json.dumps({"text": text, "label": label}))
        (folder / f"{split}.jsonl").write_text("\n".join(rows))
    values = {
        "name": "mood",
        "backbone": str(folder / "tiny"),
        "data": {name: f"{name}.jsonl" for name in ("train", "validation", "test")},
        "template": "{text}\nMood:",
        "labels": {"good": " good", "bad": " bad"},
        "shots": 2,
        "prompt": {"length": 3},
        "train": {"epochs": 2, "batch_size": 4, "lr": 0.01},
    }
    path = folder / "task.yaml"
    path.write_text(yaml.safe_dump(values))
    return path
