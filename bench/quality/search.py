"""Search beside the documented default on trec: cost in times of one tune, and a paired test on the test rows.

Both start from the same rows and the same task file. The default is the task file's own setting (prefix at after,
P = 10, the method's own rate, 5 epochs) tuned once with the search's first seed. Test rows choose nothing.

    python bench/quality/search.py --data DIR --seeds 1
"""

import argparse
import random
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from overture.core.files import write_json
from overture.core.records.events import EpochEvent, Event
from overture.data.encode import Encoder
from overture.engine.backbone import Backbone
from overture.engine.cache import InputCache
from overture.engine.load import load_backbone
from overture.engine.prompted import PromptedModel
from overture.evaluate.host import Host
from overture.evaluate.intervals import bootstrap, paired_test
from overture.evaluate.scoring import score
from overture.jobs.run.members import SeededSetting, fit_settings
from overture.jobs.run.work import Work, prepared
from overture.jobs.search.options import SearchConfig, SearchRequest
from overture.jobs.search.search import search
from overture.prompt.registry import own_rate
from overture.store.runs import Run
from overture.store.store import Store
from overture.train.options import TrainConfig

sys.path.insert(0, str(Path(__file__).parents[1]))

from common import add_data, script_parser, timed
from tasks import WORDINGS, rows_of, written_task


def tuned_once(work: Work, folder: Path) -> tuple[PromptedModel, dict[str, Any]]:
    """The task file's own setting, trained once: its prompt, and what that took with the inputs' reading."""
    config = work.config
    rate = config.train.lr or own_rate(config.prompt)
    train = config.train.model_copy(update={"lr": rate})
    setting = SeededSetting(key="default", prompt=config.prompt, train=train, seed=config.seed)
    results, seconds = timed(lambda: fit_settings(work, [setting], None, folder / "checkpoint.safetensors"))
    result = results["default"]
    model = work.built(config.prompt, config.seed)
    with torch.no_grad():
        for name, value in model.trainable().items():
            value.copy_(result.best[name])
    best = result.progress.history[result.progress.best_epoch]
    seconds = {"wall": seconds["seconds"], "cpu": seconds["cpu_seconds"]}
    return model, {"seconds": seconds, "validation": best.validation_score, "epochs": len(result.progress.history)}


def run_cell(backbone: Backbone, args: argparse.Namespace, seed: int, path: Path) -> None:
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        rows = {split: rows_of(args.task, args.data, split) for split in ("train", "validation", "test")}
        rows["train"] = random.Random(seed).sample(rows["train"], args.train_rows)
        rows["validation"] = rows["validation"][: args.validation_rows]
        task = written_task(args.task, rows, folder)
        train, search_config = TrainConfig(epochs=args.epochs), SearchConfig(tunes=args.tunes)
        config = SearchRequest(task=task, train=train, seed=seed, shots=0, search=search_config)
        wall, cpu = time.perf_counter(), time.process_time()
        result = search(config, Store(folder / "store"), tell, backbone=backbone).dump()
        spent = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
        # After the search and on a cache of its own, so that neither profits from the other.
        work = prepared(
            Run.create(folder / "runs", "default", {}, tell), config, Store(folder / "store"), lambda: False, backbone
        )
        work.rows["test"] = []
        model, default = tuned_once(work, folder / "default")
        test = Encoder(task, backbone.text.tokenizer).encode(rows["test"])
        default_scored = score(model, test, task)
        if result["prompt"]:
            prompt = Host(backbone).open(Path(result["folder"]))
            winner_scored = score(prompt.model(InputCache()), prompt.encoder.encode(rows["test"]), prompt.task)
        else:
            winner_scored = score(PromptedModel(backbone, None), test, task)
    scores = {"default": default_scored, "winner": winner_scored}
    metrics = {name: bootstrap(task.metric, s.gold, s.predicted).model_dump() for name, s in scores.items()}
    compared = paired_test(winner_scored.gold, winner_scored.predicted, default_scored.predicted, task.metric)
    ratio = {kind: spent[kind] / default["seconds"][kind] for kind in spent}
    kept = ("winner", "trials", "race", "spent", "command", "notices")
    write_json(
        path,
        {
            "task": args.task,
            "seed": seed,
            "train_rows": args.train_rows,
            "validation_rows": args.validation_rows,
            "epochs": args.epochs,
            "tunes": args.tunes,
            "threads": args.threads,
            "search": {"seconds": spent, **{name: result[name] for name in kept}},
            "default": default,
            "cost_ratio": ratio,
            "test": metrics,
            "compared": compared.model_dump(),
            "versions": {"torch": torch.__version__, "backbone": backbone.info.weights_sha256},
        },
    )
    values = {name: round(metric["value"], 3) for name, metric in metrics.items()}
    print(path.name, result["winner"], values, f"p = {compared.p_value:.3f}", f"{ratio['cpu']:.1f} tunes", flush=True)


def tell(event: Event) -> None:
    if isinstance(event, EpochEvent):
        print(event.dump(), flush=True)


def main() -> None:
    parser = script_parser(__doc__, "search")
    add_data(parser)
    parser.add_argument("--task", choices=WORDINGS, default="trec")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--train-rows", type=int, default=256)
    parser.add_argument("--validation-rows", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--tunes", type=float, default=8.0)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    backbone = load_backbone("smollm2")
    for seed in range(args.seeds):
        path = args.out / f"{args.task}-{args.train_rows}-seed{seed}.json"
        if not path.exists():
            run_cell(backbone, args, seed, path)


if __name__ == "__main__":
    main()
