"""Selection of wordings by other optimisers and by our race: the same proposals, scores and budget of row-scores.

The scores come from a result of bench/hard/racing.py: every wording on every validation row, and its test accuracy. A
proposer gives every optimiser the same wordings in the same order, so what differs is how each spends its row-scores.
promptolution's EvoPrompt (GA), OPRO and CAPO and gepa run as published, with their default settings but for examples,
which are turned off; their language model is the proposer, and their scores are right or wrong answers. They stop once
the budget of our race is spent. `random` scores as many wordings on all rows as the budget has room for.

Needs an environment of its own with gepa and promptolution, which `make peers` makes.

    python bench/hard/peers.py --tasks movie trec --seeds 20
"""

import argparse
import contextlib
import io
import logging
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gepa
import numpy as np
import pandas as pd
from promptolution.llms.base_llm import BaseLLM
from promptolution.optimizers.capo import CAPO
from promptolution.optimizers.evoprompt_ga import EvoPromptGA
from promptolution.optimizers.opro import OPRO
from promptolution.predictors.base_predictor import BasePredictor
from promptolution.tasks.base_task import BaseTask
from promptolution.utils.callbacks import BaseCallback
from scipy.stats import t

from overture.core.files import write_json
from overture.core.records.hard import Candidate
from overture.hard.race import balanced_order, raced, row_scores

sys.path.insert(0, str(Path(__file__).parents[1]))

from common import RESULTS, machine_facts

FIRST, KEEP, POPULATION, BLOCK = 8, 2, 6, 30


class Spent(Exception):
    """The budget of row-scores is spent."""


@dataclass(slots=True)
class Scores:
    """The kept scores, and a count of those that were asked for.

    Args:
        texts: the wordings in the order in which the proposer gives them.
        losses: of each text on each validation row.
        rights: whether it is right.
        labels: of each validation row.
        budget: row-scores at most.
    """

    texts: list[str]
    losses: dict[str, list[float]]
    rights: dict[str, list[bool]]
    labels: list[str]
    budget: int
    seen: set[tuple[str, int]] = field(default_factory=set)
    proposed: int = 0

    def right(self, text: str, row: int) -> bool:
        """Whether a text is right on a row.

        Raises:
            Spent: nothing more may be asked.
        """
        if (text, row) not in self.seen and len(self.seen) >= self.budget:
            raise Spent
        self.seen.add((text, row))
        return self.rights[text][row]

    def next(self) -> str:
        """The next proposal; from the first again after the last."""
        self.proposed += 1
        return self.texts[(self.proposed - 1) % len(self.texts)]

    def best_seen(self) -> str:
        """The text of the highest accuracy on the rows that were asked for, of those with most rows."""
        rows = {text: [row for seen, row in self.seen if seen == text] for text in self.texts}
        most = max(map(len, rows.values()))
        whole = [text for text in self.texts if len(rows[text]) == most]
        return max(whole, key=lambda text: np.mean([self.rights[text][row] for row in rows[text]]))


class Proposals(BaseLLM):
    """A language model that answers each request with the next wording."""

    def __init__(self, scores: Scores) -> None:
        super().__init__()
        self.scores = scores

    def _get_response(self, prompts: list[str], system_prompts: list[str]) -> list[str]:
        return [f"<prompt>{self.scores.next()}</prompt>" for _ in prompts]


class Predictor(BasePredictor):
    """Says `right` or `wrong` for a row's number."""

    def predict(self, prompts: Any, xs: list[str], system_prompts: Any = None) -> tuple[list[str], list[str]]:
        some = [prompts] * len(xs) if isinstance(prompts, str) else prompts
        answers = [
            "right" if self.llm.scores.right(text, int(x)) else "wrong" for text, x in zip(some, xs, strict=True)
        ]
        return answers, answers

    def _extract_preds(self, preds: list[str]) -> list[str]:
        return preds


class RowsTask(BaseTask):
    """The validation rows by number."""

    def _evaluate(self, xs: list[str], ys: list[str], preds: list[str]) -> np.ndarray:
        return np.array([float(pred == y) for pred, y in zip(preds, ys, strict=True)])


class StopWhenSpent(BaseCallback):
    def on_step_end(self, optimizer: Any) -> bool:
        scores = optimizer.predictor.llm.scores
        return len(scores.seen) < scores.budget and scores.proposed < 20 * len(scores.texts)


def by_promptolution(optimizer: type, strategy: str, **options: Any) -> Callable[[Scores, int], str]:
    """The choice of one of promptolution's optimisers."""

    def chosen(scores: Scores, seed: int) -> str:
        random.seed(seed)
        np.random.seed(seed)
        llm, num_rows = Proposals(scores), len(next(iter(scores.rights.values())))
        order = random.sample(range(num_rows), num_rows)
        frame = pd.DataFrame({"x": [str(row) for row in order], "y": ["right"] * num_rows})
        task = RowsTask(frame, "x", "y", "Sort texts.", n_subsamples=BLOCK, eval_strategy=strategy, seed=seed)
        if "df_few_shots" in options:
            options["df_few_shots"] = frame
        start = [scores.next() for _ in range(POPULATION)]
        run = optimizer(
            predictor=Predictor(llm),
            task=task,
            meta_llm=llm,
            initial_prompts=start,
            callbacks=[StopWhenSpent()],
            **options,
        )
        with contextlib.suppress(Spent):
            run.optimize(10_000)
        ranked = list(run.prompts)
        return ranked[0].instruction if run.scores is not None and len(run.scores) else scores.best_seen()

    return chosen


class GepaAdapter:
    """Scores a wording on rows for gepa."""

    propose_new_texts = None

    def __init__(self, scores: Scores) -> None:
        self.scores = scores

    def evaluate(self, batch: list[int], candidate: dict[str, str], capture_traces: bool = False) -> Any:
        values = [float(self.scores.right(candidate["text"], row)) for row in batch]
        traces = [{"row": row} for row in batch] if capture_traces else None
        return gepa.EvaluationBatch(outputs=values, scores=values, trajectories=traces)

    def make_reflective_dataset(self, candidate: Any, eval_batch: Any, components_to_update: list[str]) -> Any:
        return {name: [{"Feedback": str(score)} for score in eval_batch.scores] for name in components_to_update}


def by_gepa(scores: Scores, seed: int) -> str:
    """The choice of gepa: a minibatch of three training rows, then all validation rows."""
    num_rows = len(next(iter(scores.rights.values())))
    order = random.Random(seed).sample(range(num_rows), num_rows)
    result = gepa.optimize(
        seed_candidate={"text": scores.next()},
        trainset=order[: num_rows // 2],
        valset=order[num_rows // 2 :],
        adapter=GepaAdapter(scores),
        custom_candidate_proposer=lambda candidate, dataset, names: {name: scores.next() for name in names},
        stop_callbacks=lambda state: (
            len(scores.seen) + num_rows // 2 + 3 > scores.budget or scores.proposed > 20 * len(scores.texts)
        ),
        seed=seed,
        raise_on_exception=False,
    )
    return str(result.best_candidate["text"])


def by_race(scores: Scores, seed: int) -> str:
    """Our choice: a race by likelihood."""
    order = balanced_order(scores.labels, random.Random(seed))
    candidates = [Candidate(text=text) for text in scores.texts]

    def losses(some: list[Candidate], numbers: list[int]) -> list[list[float]]:
        return [[scores.losses[candidate.text][number] for number in numbers] for candidate in some]

    return raced(candidates, losses, order, FIRST, KEEP)[0].candidate.text


def by_chance(scores: Scores, seed: int) -> str:
    """The best by accuracy of as many wordings as the budget has room for on all rows."""
    num_rows = len(next(iter(scores.rights.values())))
    some = scores.texts[: scores.budget // num_rows]
    return max(some, key=lambda text: sum(scores.rights[text]))


OPTIMISERS: dict[str, Callable[[Scores, int], str]] = {
    "our race": by_race,
    "random": by_chance,
    "promptolution EvoPromptGA": by_promptolution(EvoPromptGA, "subsample"),
    "promptolution OPRO": by_promptolution(OPRO, "subsample"),
    "promptolution CAPO": by_promptolution(
        CAPO, "sequential_block", upper_shots=0, create_fs_reasoning=False, df_few_shots=None
    ),
    "gepa": by_gepa,
}


def compared(task: str, num_seeds: int) -> dict[str, Any]:
    """Mean test accuracy of what each optimiser chooses, and the difference to our race."""
    import json

    kept = json.loads((RESULTS / "hard" / f"race-{task}.json").read_text(encoding="utf-8"))["exhaustive"]
    texts = [text.strip() or "(no instruction)" for text in kept["texts"]]
    if len(set(texts)) != len(texts):
        texts = [f"{text} #{number}" for number, text in enumerate(texts)]
    losses = dict(zip(texts, kept["validation_losses"], strict=True))
    rights = {text: [c == "1" for c in row] for text, row in zip(texts, kept["validation_rights"], strict=True)}
    accuracy = dict(zip(texts, kept["test_accuracies"], strict=True))
    num_rows = len(next(iter(losses.values())))
    budget = row_scores(len(texts), num_rows, FIRST)
    values: dict[str, list[float]] = {name: [] for name in OPTIMISERS}
    spent: dict[str, list[int]] = {name: [] for name in OPTIMISERS}
    for seed in range(num_seeds):
        order = random.Random(1000 + seed).sample(texts, len(texts))
        for name, optimiser in OPTIMISERS.items():
            scores = Scores(order, losses, rights, kept["validation_labels"], budget)
            with contextlib.redirect_stdout(io.StringIO()):
                values[name].append(accuracy[optimiser(scores, seed)])
            spent[name].append(len(scores.seen) or budget)
    ours = np.array(values["our race"])
    rows = {}
    for name, accuracies in values.items():
        gains = ours - np.array(accuracies)
        half = float(t.ppf(0.975, num_seeds - 1) * gains.std(ddof=1) / np.sqrt(num_seeds))
        rows[name] = {
            "mean_test_accuracy": float(np.mean(accuracies)),
            "row_scores": float(np.mean(spent[name])),
            "our_gain": float(gains.mean()),
            "our_gain_low": float(gains.mean()) - half,
            "our_gain_high": float(gains.mean()) + half,
        }
        print(f"{task}: {name}: {rows[name]}", flush=True)
    return {"budget": budget, "seeds": num_seeds, "best_possible": max(accuracy.values()), "optimisers": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=["movie", "trec"])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--out", type=Path, default=RESULTS / "hard")
    args = parser.parse_args()
    logging.disable(logging.ERROR)
    tasks = {task: compared(task, args.seeds) for task in args.tasks}
    command = f"python bench/hard/peers.py --tasks {' '.join(args.tasks)} --seeds {args.seeds}"
    facts = machine_facts()
    facts["versions"] |= {name: version(name) for name in ("gepa", "promptolution")}
    write_json(args.out / "peers.json", {"command": command, "tasks": tasks, **facts})


if __name__ == "__main__":
    main()
