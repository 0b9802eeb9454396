"""Write rows for the kinds of tasks that no data set beside the repository is made for.

Each kind's rows are derived from those of another, with its splits; the same data gives the same files.

    python bench/quality/kinds_data.py --data ../shared/data --out bench/rows
"""

import argparse
import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

Fields = dict[str, Any]
HERE = Path(__file__).parents[1]
NUM_CHOICES, MAX_TURNS = 4, 3


def multilabel(tweets: list[Fields]) -> list[Fields]:
    """The types of the names in a tweet; tweets that name nobody, three of five, are left out."""
    found = [
        {"text": " ".join(tweet["tokens"]), "label": sorted({tag[2:] for tag in tweet["tags"] if tag != "O"})}
        for tweet in tweets
    ]
    return [row for row in found if row["label"]]


def regression(facts: list[Fields]) -> list[Fields]:
    """How many facts a text states, 1 to 7; each fact has three parts."""
    return [{"text": row["target"], "label": row["input"].count(" | ") // 2} for row in facts]


def choice(questions: list[Fields]) -> list[Fields]:
    """The fine type of a question among some, in words; an order and wrong ones for each row, by its number."""
    words = yaml.safe_load((HERE / "tasks/trec-fine.yaml").read_text(encoding="utf-8"))["labels"]
    found = []
    for number, row in enumerate(questions):
        right, chance = words[row["fine"]].strip(), random.Random(number)
        wrong = [word.strip() for word in words.values() if word.strip() != right]
        choices = [right, *chance.sample(wrong, NUM_CHOICES - 1)]
        chance.shuffle(choices)
        found.append({"text": row["text"], "choices": choices, "label": choices.index(right)})
    return found


def chat(questions: list[Fields]) -> list[Fields]:
    """The questions about a paragraph, up to three, as one conversation; the first message shows the paragraph."""
    asked: dict[str, list[Fields]] = {}
    for row in questions:
        asked.setdefault(row["context"], []).append(row)
    return [{"messages": _conversation(context, rows[:MAX_TURNS])} for context, rows in asked.items()]


def _conversation(context: str, rows: Iterable[Fields]) -> list[Fields]:
    messages: list[Fields] = []
    for row in rows:
        said = row["question"] if messages else f"{context}\n\n{row['question']}"
        messages += [{"role": "user", "content": said}, {"role": "assistant", "content": row["answers"][0]}]
    return messages


FROM = {multilabel: "ner", regression: "webnlg", choice: "trec", chat: "squad"}


def main() -> None:
    """Every kind, every split."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=HERE.parents[1] / "shared/data")
    parser.add_argument("--out", type=Path, default=HERE / "rows")
    options = parser.parse_args()
    for derived, source in FROM.items():
        for split in ("train", "validation", "test"):
            lines = (options.data / source / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
            path = options.out / derived.__name__ / f"{split}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            rows = derived([json.loads(line) for line in lines])
            path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    main()
