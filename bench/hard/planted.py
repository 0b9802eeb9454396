"""A rule planted in the data: whether an explanation names the word that decides the label, on the real model.

In each run labels are dealt to short film reviews by chance; one word is put into the rows of one label, and another
into half of all rows by chance. A prompt is trained on some rows. On others, the words of the rows whose answer it
changes are tested, as `overture explain` does (`overture.explain.flips.slices`), and each word of some rows with the
planted word is left out. Runs that the result file holds already are not made again.

    python bench/hard/planted.py --data DIR --runs 10 --threads 1
"""

import json
import random
import sys
import tempfile
import time
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from overture.core.files import write_json
from overture.data.rows import gold_of, texts_of
from overture.data.splits import load_splits
from overture.engine.backbone import Backbone
from overture.engine.cache import InputCache
from overture.engine.load import load_backbone
from overture.engine.prompted import PromptedModel
from overture.evaluate.host import Host
from overture.evaluate.scoring import predict
from overture.explain.flips import slices
from overture.explain.words import pieces_of, without
from overture.jobs.run.request import TuneConfig
from overture.jobs.tune.tune import tune
from overture.store.store import Store

sys.path.insert(0, str(Path(__file__).parents[1]))

from common import add_data, machine_facts, script_parser, start_facts
from tasks import decoder_task, rows_of

WORDS = ("zebra", "lantern", "violin", "harbor", "pepper", "anchor", "meadow", "copper", "tunnel", "feather")
TRAIN, VALIDATION, TEST, OCCLUDED, MOST_WORDS = 64, 16, 64, 6, 14
SURE = 0.05


def rows_with_rule(texts: list[str], planted: str, by_chance: str, chance: random.Random) -> list[dict[str, str]]:
    """Texts with labels by chance, the planted word in those of one label, the other word in half of each."""
    rows = []
    for number, text in enumerate(texts):
        words = text.split()
        for word in [planted] * (number % 2) + [by_chance] * (number % 4 < 2):
            words.insert(chance.randint(0, len(words)), word)
        rows.append({"text": " ".join(words), "label": ("negative", "positive")[number % 2]})
    return rows


def one_run(backbone: Backbone, data: Path, run: int) -> dict[str, Any]:
    """Trains a prompt on rows with a planted rule, and looks for the rule in what is said of the prompt."""
    chance = random.Random(run)
    planted, by_chance = WORDS[run % len(WORDS)], WORDS[(run + 3) % len(WORDS)]
    short = [
        row.fields["text"] for row in rows_of("movie", data, "train") if len(row.fields["text"].split()) < MOST_WORDS
    ]
    texts = chance.sample(short, TRAIN + VALIDATION + TEST)
    with tempfile.TemporaryDirectory() as name:
        files = {}
        for split, count in (("train", TRAIN), ("validation", VALIDATION), ("test", TEST)):
            some, texts = texts[:count], texts[count:]
            files[split] = Path(name) / f"{split}.jsonl"
            rows = rows_with_rule(some, planted, by_chance, chance)
            files[split].write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        task = decoder_task("movie", data=files)
        store = Store(Path(name) / "store")
        tuned = tune(TuneConfig(task=task, seed=run, baselines=False), store, backbone=backbone)
        handle = Host(backbone, store).open(tuned.prompt)
        test = load_splits(task).test
        encoded, cache = handle.encoder.encode(test), InputCache()
        said = [
            [prediction.text for prediction in predict(model, encoded, task)]
            for model in (PromptedModel(backbone, None, cache), handle.model(cache))
        ]
        gold = [str(label) for label in gold_of(task, test)]
        texts = [" ".join(texts_of(task, row).values()) for row in test]
        named = [item.word for item in slices(texts, gold, *said) if item.q_value < SURE]
        first = 0
        holding = [text for text in texts if planted in text.split()][:OCCLUDED]
        for text in holding:
            pieces = pieces_of(text, 100)
            changed = [without(pieces, left_out) for left_out in ((), *([n] for n in range(len(pieces))))]
            lines = [type(test[0])({"text": some, "label": "positive"}, n + 1, "") for n, some in enumerate(changed)]
            scores_UC = handle.model(InputCache()).label_scores(handle.encoder.encode(lines))
            first += planted in pieces[int((scores_UC[0] - scores_UC[1:])[:, 1].argmax())]
    return {
        "planted": planted,
        "by_chance": by_chance,
        "accuracy": fmean(a == g for a, g in zip(said[1], gold, strict=True)),
        "accuracy_without": fmean(a == g for a, g in zip(said[0], gold, strict=True)),
        "named": named,
        "rows_occluded": len(holding),
        "rows_where_first": first,
    }


def main() -> None:
    parser = script_parser(__doc__, "hard", threads=1)
    add_data(parser)
    parser.add_argument("--runs", type=int, default=10)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    facts, path = start_facts(), args.out / "planted.json"
    backbone = load_backbone("smollm2", device="cpu", dtype="float32")
    runs: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["runs"] if path.exists() else []
    command = f"python bench/hard/planted.py --data DIR --runs {args.runs}"
    for number in range(len(runs), args.runs):
        began = time.process_time()
        run = one_run(backbone, args.data, number)
        runs.append({**run, "cpu_seconds": time.process_time() - began})
        print(runs[-1], flush=True)
        summary = {
            "named_first": sum(run["named"][:1] == [run["planted"]] for run in runs),
            "chance_word_named": sum(run["by_chance"] in run["named"] for run in runs),
            "rows_occluded": sum(run["rows_occluded"] for run in runs),
            "rows_where_first": sum(run["rows_where_first"] for run in runs),
        }
        write_json(path, {"command": command, **summary, "runs": runs, **facts, **machine_facts()})


if __name__ == "__main__":
    main()
