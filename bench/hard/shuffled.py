"""The control with shuffled labels: searches for words on rows from which nothing can be learnt must claim nothing.

Real questions, a random model, small budgets: each search has other rows, another shuffling and another seed. A search
makes a claim where its winner is better than one of its controls by the corrected test. Where no claim is right, about
one search in twenty makes one. Beside it: the mean of the winner's validation score minus its test score, the luck that
the searches state, and how often the bound holds that they state for four of five.

Searches that the result file holds already are not run again.

    python bench/hard/shuffled.py --data DIR --task trec --searches 40
"""

import json
import sys
import tempfile
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from overture.core.files import write_json
from overture.engine.backbone import Backbone
from overture.engine.frontends.text import text_backbone
from overture.engine.load import load_backbone
from overture.engine.tokenizer import Tokenizer
from overture.jobs.wording.options import HardConfig, HardRequest
from overture.jobs.wording.search import search_words
from overture.store.store import Store

sys.path.insert(0, str(Path(__file__).parents[1]))

from common import add_data, machine_facts, script_parser, start_facts
from tasks import decoder_task

BUDGET = HardConfig(structures=8, example_sets=4, wordings=8, rounds=1, race_rows=32, shuffle_labels=True)


def random_model() -> Backbone:
    """A small random Llama that reads SmolLM2's tokens."""
    inner = load_backbone("smollm2", device="cpu", dtype="float32").text.tokenizer.inner
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(inner), initializer_range=0.2, **sizes)).eval()
    return text_backbone(model, Tokenizer(inner, 2048), id="random llama")


def main() -> None:
    parser = script_parser(__doc__, "hard", threads=1)
    add_data(parser)
    parser.add_argument("--task", default="trec")
    parser.add_argument("--searches", type=int, default=40)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    facts, backbone, path = start_facts(), random_model(), args.out / "shuffled.json"
    searches: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["searches"] if path.exists() else []
    command = f"python bench/hard/shuffled.py --data DIR --task {args.task} --searches {args.searches}"
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(len(searches), args.searches):
            files = {
                name: args.data.resolve() / args.task / f"{name}.jsonl" for name in ("train", "validation", "test")
            }
            rows = {"seed": seed, "train_rows": 64, "validation_rows": 64, "test_rows": 150}
            task = decoder_task(args.task, data={**files, **rows})
            result = search_words(
                HardRequest(task=task, hard=BUDGET, seed=seed), Store(Path(folder) / str(seed)), backbone=backbone
            )
            scores = {split: result.metrics[split]["accuracy"].value for split in ("validation", "test")}
            assert result.luck is not None
            assert result.luck.most is not None
            search: dict[str, Any] = {
                "seed": seed,
                "candidates": result.luck.candidates,
                "claims": [claim.control for claim in result.claims if claim.is_better],
                "tests": len(result.claims),
                "least_p": min((claim.p_corrected for claim in result.claims), default=1.0),
                "optimism": scores["validation"] - scores["test"],
                "luck": result.luck.points,
                "most": result.luck.most,
            }
            print(search, flush=True)
            searches.append(search)
            write_json(path, {"command": command, **summary_of(searches), **facts, **machine_facts()})


def summary_of(searches: list[dict[str, Any]]) -> dict[str, Any]:
    """How many searches made a claim, and their optimism beside the stated luck."""
    return {
        "searches_with_a_claim": sum(bool(search["claims"]) for search in searches),
        "optimism_within_most": sum(search["optimism"] <= search["most"] for search in searches) / len(searches),
        "mean_optimism": fmean(search["optimism"] for search in searches),
        "mean_luck": fmean(search["luck"] for search in searches),
        "mean_most": fmean(search["most"] for search in searches),
        "searches": searches,
    }


if __name__ == "__main__":
    main()
