"""A race of many wordings on kept texts: its time, and its winner beside the winner of scoring everything.

Wordings come from the training rows and the model alone (proposers corpus, own and edits). The race is timed on the
first order of validation rows; its processor seconds hold on a busy machine, its seconds do not. With --exhaustive all
wordings are scored on all validation rows, races over other orders of the same losses follow, and the winners are
scored on test rows: how often is a raced winner's test accuracy within a point of the exhaustive one's?

    python bench/hard/racing.py --data DIR --task movie --wordings 256 --validation 128 --threads 1
    python bench/hard/racing.py --data DIR --task movie --wordings 48 --validation 128 --exhaustive --test 400
"""

import random
import sys
from pathlib import Path
from typing import Any

import torch

from overture.core.files import write_json
from overture.core.records.hard import Candidate, Standing, Wording
from overture.core.seeds import named_random
from overture.engine.load import load_backbone
from overture.hard.proposer import Ask
from overture.hard.proposers.registry import proposer_of
from overture.hard.race import raced, row_scores
from overture.hard.scorer import Refused, TextScorer

sys.path.insert(0, str(Path(__file__).parents[1]))

from common import add_data, machine_facts, script_parser, start_facts, timed
from tasks import decoder_task, rows_of

FIRST, KEEP, SEEDS = 8, 4, 10
NEAR = 0.01


def wordings_of(scorer: TextScorer, count: int) -> list[Candidate]:
    """As many different candidates behind the input."""
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
    parser.add_argument("--validation", type=int, default=256)
    parser.add_argument("--test", type=int, default=500)
    parser.add_argument("--exhaustive", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    facts = start_facts()
    backbone = load_backbone("smollm2", device="cpu", dtype="float32")
    splits = {name: rows_of(args.task, args.data, name) for name in ("train", "validation", "test")}
    sizes = {"train": 256, "validation": args.validation, "test": args.test}
    rows = {name: random.Random(0).sample(some, min(sizes[name], len(some))) for name, some in splits.items()}
    scorer = TextScorer(decoder_task(args.task), backbone, rows, 16)
    candidates = wordings_of(scorer, args.wordings)
    numbers = list(range(len(rows["validation"])))

    def losses(some: list[Candidate], some_numbers: list[int]) -> list[list[float]]:
        return scorer.losses(some, "validation", some_numbers).double().tolist()

    def reading_and_racing() -> list[Standing]:
        scorer.warm(Wording(), "validation")
        return raced(candidates, losses, numbers, FIRST, KEEP)

    standings, time = timed(reading_and_racing)
    print(time, standings[0].candidate.text, flush=True)
    result: dict[str, Any] = {
        "task": args.task,
        "wordings": len(candidates),
        "validation_rows": len(numbers),
        "row_scores": row_scores(len(candidates), len(numbers), FIRST),
        "of_all_row_scores": row_scores(len(candidates), len(numbers), FIRST) / (len(candidates) * len(numbers)),
        **time,
        "winner": standings[0].candidate.text,
    }
    if args.exhaustive:
        result |= compared(scorer, candidates, numbers)
    print(result)
    command = (
        f"python bench/hard/racing.py --data DIR --task {args.task} --wordings {args.wordings} --validation "
        f"{args.validation} --test {args.test} --threads {args.threads}{' --exhaustive' if args.exhaustive else ''}"
    )
    name = f"race-{args.task}-{args.wordings}{'-exhaustive' if args.exhaustive else ''}.json"
    write_json(args.out / name, {"command": command, **result, **facts, **machine_facts()})


def compared(scorer: TextScorer, candidates: list[Candidate], numbers: list[int]) -> dict[str, Any]:
    """Races over other orders of the rows, beside scoring everything."""
    losses: list[list[float]] = []
    for start in range(0, len(candidates), 16):
        losses += scorer.losses(candidates[start : start + 16], "validation", numbers).tolist()
        print(f"{len(losses)} of {len(candidates)} wordings scored on all rows", flush=True)
    of_rows = dict(zip((candidate.key for candidate in candidates), losses, strict=True))
    best = min(of_rows, key=lambda key: sum(of_rows[key]))
    winners: list[str] = []
    for seed in range(SEEDS):
        order = random.Random(seed).sample(numbers, len(numbers))
        standings = raced(
            candidates, lambda some, ns: [[of_rows[c.key][n] for n in ns] for c in some], order, FIRST, KEEP
        )
        winners.append(standings[0].candidate.key)
    tested = [candidate for candidate in candidates if candidate.key in {best, Candidate().key, *winners}]
    scorer.warm(Wording(), "test")
    gold = torch.tensor([row.label or 0 for row in scorer.rows(Candidate(), "test")])
    right_JB = scorer.scores(tested, "test", range(len(gold))).argmax(-1) == gold
    accuracy = dict(zip((candidate.key for candidate in tested), right_JB.double().mean(1).tolist(), strict=True))
    return {
        "test_rows": len(gold),
        "none_test_accuracy": accuracy[Candidate().key],
        "exhaustive_test_accuracy": accuracy[best],
        "raced_test_accuracies": [accuracy[key] for key in winners],
        "raced_loss_above_exhaustive": [(sum(of_rows[key]) - sum(of_rows[best])) / len(numbers) for key in winners],
        "within_a_point": sum(accuracy[key] >= accuracy[best] - NEAR for key in winners),
        "races": SEEDS,
    }


if __name__ == "__main__":
    main()
