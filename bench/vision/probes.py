"""Linear probes of a vision encoder by layer and by what is read there: what `layer: search` chooses from.

    OMP_NUM_THREADS=1 python bench/vision/probes.py TASK.yaml FOLDER@112px

The penalty of each probe is chosen on validation rows, and so is the best layer; test rows are scored for all, to show
what the choice was worth. The task file says where the rows are; the backbone in it is not read.
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from common import RESULTS, machine_facts, start_facts, timed
from overture.core.files import write_json
from overture.data.encode import Encoder
from overture.engine.inputs import Inputs
from overture.engine.load import load_backbone
from overture.evaluate.probe import fitted, pooled_features
from overture.jobs.run.early import splits_of
from overture.jobs.run.request import TuneConfig, resolved

SPLITS = ("train", "validation", "test")


def main() -> None:
    """Read the images once, fit all probes, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", type=Path, help="a task file on images")
    parser.add_argument("model", help="a vision encoder, with a size: FOLDER@112px")
    parser.add_argument("--out", type=Path, default=RESULTS / "vision", help="folder of the results")
    parser.add_argument("--test-rows", type=int, help="about so many, evenly from the whole; all if not given")
    parser.add_argument(
        "--penalties", type=float, nargs="+", default=[0.01, 0.1, 1.0], help="scikit-learn's C to choose from"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    started, task = start_facts(), resolved(TuneConfig, options.task).task
    backbone, splits = load_backbone(options.model, notify=lambda text: None), splits_of(task)
    encoder = Encoder(task, backbone.text.tokenizer)
    rows = {name: encoder.encode(getattr(splits, name)) for name in SPLITS}
    # Evenly from the whole: the rows of a folder stand in the order of their labels.
    step = max(1, len(rows["test"]) // (options.test_rows or len(rows["test"])))
    rows["test"] = rows["test"][::step]
    layers = tuple(range(backbone.info.num_layers + 1))
    inputs = Inputs(backbone, None, 2048)
    features, reading = timed(lambda: {name: pooled_features(inputs, rows[name], layers) for name in SPLITS})
    gold = {name: torch.tensor([row.label for row in rows[name]]) for name in SPLITS}
    probes, fitting = timed(lambda: probes_of(features, gold, len(task.words), options.penalties))
    best = max(probes, key=lambda probe: (probe["validation"], probe["validation_likelihood"]))
    result = {
        **machine_facts(),
        **started,
        "task": task.name,
        "model": options.model.rpartition("/")[2],
        "rows": {name: len(rows[name]) for name in SPLITS},
        "reading": reading,
        "fitting": fitting,
        "best": best,
        "probes": probes,
    }
    write_json(options.out / f"probes-{task.name}.json", result)
    for probe in probes:
        print(json.dumps(probe))
    print(json.dumps({"best": best, "reading": reading, "fitting": fitting}))


def probes_of(
    features: dict[str, torch.Tensor], gold: dict[str, torch.Tensor], num_labels: int, penalties: Sequence[float]
) -> list[dict[str, float | int | str]]:
    """Each layer's probes with their accuracies; the penalty of each is the best on validation rows."""
    probes: list[dict[str, float | int | str]] = []
    for layer in range(features["train"].shape[1]):
        for what in ("read", "mean", "read+mean"):
            read = {name: of_read(values[:, layer], what) for name, values in features.items()}
            tried = []
            for penalty in penalties:
                factors = [1.0] * len(gold["train"])
                weight, bias = fitted(read["train"].double(), gold["train"], factors, num_labels, penalty)
                scores = {name: (values @ weight.T + bias).log_softmax(1) for name, values in read.items()}
                right = {name: float((s.argmax(1) == gold[name]).float().mean()) for name, s in scores.items()}
                likelihood = float(scores["validation"].gather(1, gold["validation"][:, None]).mean())
                tried.append((right["validation"], likelihood, penalty, right["test"]))
            validation, likelihood, penalty, test = max(tried)
            error = math.sqrt(test * (1 - test) / len(gold["test"]))
            probes.append(
                {
                    "layer": layer,
                    "features": what,
                    "penalty": penalty,
                    "validation": round(validation, 4),
                    "validation_likelihood": round(likelihood, 4),
                    "test": round(test, 4),
                    "test_se": round(error, 4),
                }
            )
    return probes


def of_read(pooled: torch.Tensor, what: str) -> torch.Tensor:
    """The read state, the mean, or both."""
    return {"read": pooled[:, 0], "mean": pooled[:, 1], "read+mean": pooled.flatten(1)}[what]


if __name__ == "__main__":
    main()
