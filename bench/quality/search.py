"""Search beside the documented default on trec: cost in times of one tune, and a paired test on the test rows.

Both start from the same rows and the same task file. The default is the task file's own setting (prefix at after,
P = 10, the method's own rate, 5 epochs) tuned once with the search's first seed. Test rows choose nothing.

    python bench/quality/search.py --data DIR --seeds 1
"""

import argparse
import json
import random
import resource
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from overture.core.files import write_json
from overture.core.records.events import EpochEvent, Event
from overture.data.encode import Encoder
from overture.data.task import Task
from overture.engine.backbone import Backbone
from overture.engine.cache import InputCache
from overture.engine.load import load_backbone
from overture.engine.prompted import PromptedModel
from overture.evaluate.host import Host
from overture.evaluate.intervals import bootstrap, paired_test
from overture.evaluate.scoring import Scored, score
from overture.jobs.run.members import SeededSetting, fit_settings
from overture.jobs.run.request import TuneConfig
from overture.jobs.run.work import Work, prepared
from overture.jobs.search.search import search
from overture.jobs.search.space import SearchConfig
from overture.prompt.config import PromptConfig
from overture.prompt.registry import own_rate
from overture.store.runs import Run
from overture.store.store import Store
from overture.train.options import TrainConfig

sys.path.insert(0, str(Path(__file__).parents[1]))

from tasks import WORDINGS, decoder_task, rows_of


class Clock:
    """Wall and CPU seconds from its making on."""

    def __init__(self) -> None:
        self.wall, self.cpu = time.perf_counter(), self._cpu()

    @staticmethod
    def _cpu() -> float:
        used = resource.getrusage(resource.RUSAGE_SELF)
        return used.ru_utime + used.ru_stime

    def seconds(self) -> dict[str, float]:
        return {"wall": time.perf_counter() - self.wall, "cpu": self._cpu() - self.cpu}


def task_of(name: str, data: Path, folder: Path, args: argparse.Namespace, seed: int) -> Task:
    """The task on a sample of the training rows, as bench/quality/quality.py draws it."""
    plain = decoder_task(name)
    train = random.Random(seed).sample(rows_of(name, data, "train"), args.train_rows)
    validation = rows_of(name, data, "validation")[: args.validation_rows]
    for split, rows in (("train", train), ("validation", validation)):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row.fields) + "\n" for row in rows))
    paths = {split: str(folder / f"{split}.jsonl") for split in ("train", "validation")}
    return plain.model_copy(update={"data": plain.data.model_validate({**paths, "test": data / name / "test.jsonl"})})


def tuned_once(work: Work, folder: Path) -> tuple[PromptedModel, dict[str, Any]]:
    """The task file's own setting, trained once: its prompt, and what that took with the inputs' reading."""
    config = work.config
    clock = Clock()
    rate = config.train.lr or own_rate(config.prompt)
    setting = SeededSetting("default", config.prompt, config.train.model_copy(update={"lr": rate}), config.seed)
    result = fit_settings(work, [setting], set, folder)["default"]
    seconds = clock.seconds()
    model = work.built(config.prompt, config.seed)
    with torch.no_grad():
        for name, value in model.trainable().items():
            value.copy_(result.best[name])
    best = result.progress.history[result.progress.best_epoch]
    return model, {"seconds": seconds, "validation": best.validation_score, "epochs": len(result.progress.history)}


def cell(backbone: Backbone, args: argparse.Namespace, seed: int, path: Path) -> None:
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        task = task_of(args.task, args.data, folder, args, seed)
        config = TuneConfig(
            task=task,
            prompt=PromptConfig(),
            train=TrainConfig(epochs=args.epochs),
            seed=seed,
            shots=0,
            search=SearchConfig(tunes=args.tunes),
        )
        clock = Clock()
        found = search(config, Store(folder / "store"), tell, backbone=backbone).dump()
        spent = clock.seconds()
        # After the search and on a cache of its own, so that neither profits from the other.
        work = prepared(
            Run.create(folder / "runs", "default", {}, tell), config, Store(folder / "store"), lambda: False, backbone
        )
        work.rows["test"] = []
        model, default = tuned_once(work, folder / "default")
        test = Encoder(task, backbone.tokenizer).encode(rows_of(args.task, args.data, "test"))
        scored = {"default": score(model, test, task), "winner": winner_scored(found, backbone, args, task)}
    metrics = {name: bootstrap(task.metric, one.gold, one.predicted).model_dump() for name, one in scored.items()}
    one, other = scored["winner"], scored["default"]
    compared = paired_test(one.gold, one.predicted, other.predicted, task.metric)
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
            "search": {"seconds": spent, **{name: found[name] for name in kept}},
            "default": default,
            "cost_ratio": ratio,
            "test": metrics,
            "compared": compared.model_dump(),
            "versions": {"torch": torch.__version__, "backbone": backbone.info.weights_sha256},
        },
    )
    values = {name: round(metric["value"], 3) for name, metric in metrics.items()}
    print(path.name, found["winner"], values, f"p = {compared.p_value:.3f}", f"{ratio['cpu']:.1f} tunes", flush=True)


def tell(event: Event) -> None:
    if isinstance(event, EpochEvent):
        print(event.dump(), flush=True)


def winner_scored(found: dict[str, Any], backbone: Backbone, args: argparse.Namespace, task: Task) -> Scored:
    """The winner's prompt from its folder, on the test rows."""
    rows = rows_of(args.task, args.data, "test")
    if not found["prompt"]:
        return score(PromptedModel(backbone, None), Encoder(task, backbone.tokenizer).encode(rows), task)
    prompt = Host(backbone).open(Path(found["folder"]))
    return score(prompt.model(InputCache()), prompt.encoder.encode(rows), prompt.task)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--task", choices=WORDINGS, default="trec")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "results/search")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--train-rows", type=int, default=256)
    parser.add_argument("--validation-rows", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--tunes", type=float, default=8.0)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    backbone = load_backbone("smollm2")
    for seed in range(args.seeds):
        path = args.out / f"{args.task}-{args.train_rows}-seed{seed}.json"
        if not path.exists():
            cell(backbone, args, seed, path)


if __name__ == "__main__":
    main()
