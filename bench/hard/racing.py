"""A race of many wordings on kept texts: its time, its winner beside that of scoring everything, and the scores.

Wordings come from the training rows and the model alone (proposers corpus, own and edits). A race over all of them is
timed; its processor seconds hold on a busy machine, its seconds do not. Then --exhaustive of the wordings are scored on
all validation and test rows, and races over a hundred orders of the same losses say how often the raced winner's test
accuracy is within a point of the exhaustive one's. The scores stay in the result, where bench/hard/peers.py reads them.

    python bench/hard/racing.py --data DIR --task movie --wordings 256 --exhaustive 40 --threads 1
"""

import json
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from overture.core.files import write_json
from overture.core.records.hard import Candidate, Standing, Wording
from overture.core.seeds import named_random
from overture.engine.load import load_backbone
from overture.hard.proposer import Ask
from overture.hard.proposers.registry import proposer_of
from overture.hard.race import balanced_order, raced, row_scores
from overture.hard.scorer import Refused, TextScorer

sys.path.insert(0, str(Path(__file__).parents[1]))

from common import add_data, machine_facts, script_parser, start_facts, timed
from tasks import decoder_task, rows_of

FIRST, KEEP, ORDERS = 8, 2, 100
NEAR = 0.01
_AT_ONCE = 8


def wordings_of(scorer: TextScorer, count: int) -> list[Candidate]:
    """As many different candidates behind the input, the task file alone first."""
    wordings: dict[str, Candidate] = {Candidate().key: Candidate()}
    best = [Standing(candidate=Candidate(), log_likelihood=0.0, rows=1)]
    for turn in range(20):
        for name in ("corpus", "own", "edits"):
            ask = Ask(scorer, best, [], count // 4, named_random(0, turn, name))
            for candidate in proposer_of(name).propose(ask):
                try:
                    scorer.text_of(candidate)
                except Refused:
                    continue
                if candidate.place == "after" and len(wordings) < count:
                    wordings.setdefault(candidate.key, candidate)
        if len(wordings) == count:
            break
        some = random.Random(turn).sample(list(wordings.values()), min(6, len(wordings)))
        best = [Standing(candidate=candidate, log_likelihood=0.0, rows=1) for candidate in some]
    return list(wordings.values())


def main() -> None:
    parser = script_parser(__doc__, "hard", threads=2)
    add_data(parser)
    parser.add_argument("--task", default="movie")
    parser.add_argument("--wordings", type=int, default=256)
    parser.add_argument("--exhaustive", type=int, default=40, help="wordings that are scored on all rows; 0 for none")
    parser.add_argument("--validation", type=int, default=128)
    parser.add_argument("--test", type=int, default=200)
    parser.add_argument("--replay", action="store_true", help="only race again over the scores that are kept")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    facts, path = start_facts(), args.out / f"race-{args.task}.json"
    splits = {name: rows_of(args.task, args.data, name) for name in ("train", "validation", "test")}
    sizes = {"train": 256, "validation": args.validation, "test": args.test}
    rows = {name: random.Random(0).sample(some, min(sizes[name], len(some))) for name, some in splits.items()}
    labels = [str(row.fields[decoder_task(args.task).label_field]) for row in rows["validation"]]
    if args.replay:
        kept = json.loads(path.read_text(encoding="utf-8"))
        kept["exhaustive"] |= replayed(kept["exhaustive"], labels)
        write_json(path, kept)
        return
    backbone = load_backbone("smollm2", device="cpu", dtype="float32")
    scorer = TextScorer(decoder_task(args.task), backbone, rows, 16)
    candidates = wordings_of(scorer, args.wordings)
    numbers = list(range(len(rows["validation"])))
    order = balanced_order(labels, random.Random(0))

    scored: dict[str, list[float]] = {candidate.key: [] for candidate in candidates}

    def losses(some: list[Candidate], some_numbers: list[int]) -> list[list[float]]:
        new_numbers = some_numbers[len(scored[some[0].key]) :]
        for candidate, values in zip(
            some, scorer.losses(some, "validation", new_numbers).double().tolist(), strict=True
        ):
            scored[candidate.key] += values
        return [scored[candidate.key] for candidate in some]

    def reading_and_racing() -> list[Standing]:
        scorer.warm(Wording(), "validation")
        return raced(candidates, losses, order, FIRST, KEEP)

    standings, time = timed(reading_and_racing)
    print(time, standings[0].candidate.text, flush=True)
    num_pairs = row_scores(len(candidates), len(numbers), FIRST)
    result: dict[str, Any] = {
        "task": args.task,
        "wordings": len(candidates),
        "validation_rows": len(numbers),
        "row_scores": num_pairs,
        "of_all_row_scores": num_pairs / (len(candidates) * len(numbers)),
        **time,
        "winner": standings[0].candidate.text,
    }
    if args.exhaustive:
        others = random.Random(0).sample(candidates[1:], min(args.exhaustive, len(candidates)) - 1)
        result["exhaustive"] = compared(scorer, [candidates[0], *others], labels)
    command = (
        f"python bench/hard/racing.py --data DIR --task {args.task} --wordings {args.wordings} --exhaustive "
        f"{args.exhaustive} --validation {args.validation} --test {args.test} --threads {args.threads}"
    )
    write_json(path, {"command": command, **result, **facts, **machine_facts()})
    print(f"written: {path}")


def compared(scorer: TextScorer, candidates: list[Candidate], labels: list[str]) -> dict[str, Any]:
    """The scores of all candidates on all rows, and races over them."""
    losses, rights = scores_on(scorer, candidates, "validation", len(labels))
    _, test_rights = scores_on(scorer, candidates, "test", len(scorer.splits["test"]))
    scores = {
        "test_rows": len(test_rights[0]),
        "texts": [candidate.text for candidate in candidates],
        "validation_labels": labels,
        "validation_losses": [[round(loss, 4) for loss in row] for row in losses],
        "validation_rights": ["".join("01"[right] for right in row) for row in rights],
        "test_accuracies": [sum(row) / len(row) for row in test_rights],
    }
    return {**scores, **replayed(scores, labels)}


def replayed(scores: dict[str, Any], labels: list[str]) -> dict[str, Any]:
    """Races over many orders of kept scores: with labels in their shares in each rung, and in random order."""
    losses, accuracy = scores["validation_losses"], scores["test_accuracies"]
    candidates = [Candidate(text=text) for text in scores["texts"]]
    best = min(range(len(candidates)), key=lambda number: sum(losses[number]))
    number_of = {candidate.text: number for number, candidate in enumerate(candidates)}

    def losses_of(some: list[Candidate], numbers: list[int]) -> list[list[float]]:
        return [[losses[number_of[candidate.text]][number] for number in numbers] for candidate in some]

    def winners(order_of: Callable[[random.Random], list[int]]) -> list[float]:
        orders = [order_of(random.Random(seed)) for seed in range(ORDERS)]
        standings = [raced(candidates, losses_of, order, FIRST, KEEP) for order in orders]
        return [accuracy[number_of[some[0].candidate.text]] for some in standings]

    def num_near(accuracies: list[float]) -> int:
        return sum(value >= accuracy[best] - NEAR - 1e-9 for value in accuracies)

    balanced = winners(lambda chance: balanced_order(labels, chance))
    unbalanced = winners(lambda chance: chance.sample(range(len(labels)), len(labels)))
    return {
        "of_all_row_scores": row_scores(len(candidates), len(labels), FIRST) / (len(candidates) * len(labels)),
        "none_test_accuracy": accuracy[0],
        "exhaustive_test_accuracy": accuracy[best],
        "raced_test_accuracies": balanced,
        "within_a_point": num_near(balanced),
        "within_a_point_unbalanced": num_near(unbalanced),
        "races": ORDERS,
        "validation_labels": labels,
    }


def scores_on(
    scorer: TextScorer, candidates: list[Candidate], split: str, num_rows: int
) -> tuple[list[list[float]], list[list[bool]]]:
    """Losses, and which rows are right, of each candidate."""
    scorer.warm(Wording(), split)
    gold_B = torch.tensor([row.label or 0 for row in scorer.rows(Candidate(), split)])
    losses: list[list[float]] = []
    rights: list[list[bool]] = []
    for start in range(0, len(candidates), _AT_ONCE):
        scores_JBC = scorer.scores(candidates[start : start + _AT_ONCE], split, range(num_rows))
        losses += (-scores_JBC[:, torch.arange(num_rows), gold_B]).double().tolist()
        rights += (scores_JBC.argmax(-1) == gold_B).tolist()
        print(f"{split}: {len(losses)} of {len(candidates)} wordings scored", flush=True)
    return losses, rights


if __name__ == "__main__":
    main()
