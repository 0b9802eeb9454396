"""The gain of kept texts: many candidate prompts of text scored on the same rows, beside full passes.

Both ways score the same candidates on the same rows in one run, and their losses must be equal. Full passes run input,
candidate and anchor of every pair as live tokens; kept texts run each input once, reading counted, and the live tokens
of each pair behind it. Full passes cost the same for every candidate, so a few are timed and multiplied.

    python bench/hard/kept_texts.py --data DIR --rows 64 --candidates 64 --timed 4 --threads 1
"""

import random
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from overture.core.contracts import Losses
from overture.core.files import write_json
from overture.core.injection import Injection, Vectors
from overture.core.rows import Encoded, Tokens
from overture.data.batches import scoring_batches
from overture.data.encode import Encoder
from overture.engine.answerer import LocalAnswerer
from overture.engine.backbone import Backbone
from overture.engine.cache import InputCache
from overture.engine.judge import LocalJudge
from overture.engine.load import load_backbone
from overture.engine.prompted import PromptedModel

sys.path.insert(0, str(Path(__file__).parents[1]))

from common import add_data, machine_facts, script_parser, start_facts, timed
from tasks import decoder_task, rows_of


def measured(
    backbone: Backbone, name: str, data: Path, num_rows: int, num_candidates: int, num_timed: int, length: int
) -> dict[str, Any]:
    """Processor seconds of both ways on one task."""
    encoder = Encoder(decoder_task(name), backbone.text.tokenizer)
    rows = encoder.encode(random.Random(0).sample(rows_of(name, data, "train"), num_rows))
    draw = random.Random(1)
    candidates = [tuple(draw.choices(range(1000, 20000), k=length)) for _ in range(num_candidates)]

    @torch.no_grad()
    def full() -> torch.Tensor:
        model, losses = PromptedModel(backbone), []
        for ids in candidates[:num_timed]:
            texts = [replace(row, input=(*row.input, Tokens(ids))) for row in rows]
            found = {}
            for batch in scoring_batches(texts, 2048):
                found |= zip((row.row for row in batch), model.ask(batch, Losses()), strict=True)
            losses.append(torch.stack([found[row.row] for row in texts]))
        return torch.stack(losses)

    def kept() -> torch.Tensor:
        answerer = LocalAnswerer(backbone, InputCache())
        prompts = [Injection(Vectors(backbone.embed(ids), "after")) for ids in candidates]
        answerer.warm(rows, [prompts[0]] * len(rows))
        return LocalJudge(answerer).losses(prompts, rows)

    kept_losses, kept_time = timed(kept)
    full_losses, full_time = timed(full)
    error = float((kept_losses[:num_timed] - full_losses).abs().max())
    per_candidate = {"full": full_time["cpu_seconds"] / num_timed, "kept": kept_time["cpu_seconds"] / num_candidates}
    return {
        "task": name,
        "rows": num_rows,
        "input_tokens": sum(row.num_input for row in rows) / num_rows,
        "anchor_tokens": len(rows[0].anchor_ids),
        "cpu_seconds_per_candidate": per_candidate,
        "gain": per_candidate["full"] / per_candidate["kept"],
        "limit": _limit(rows, length),
        "largest_difference": error,
    }


def _limit(rows: list[Encoded], length: int) -> float:
    """(L + I + A) / (I + A)."""
    live = length + len(rows[0].anchor_ids)
    return 1 + sum(row.num_input for row in rows) / len(rows) / live


def main() -> None:
    parser = script_parser(__doc__, "hard", threads=1)
    add_data(parser)
    parser.add_argument("--tasks", nargs="+", default=["movie", "trec", "bbc"])
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--candidates", type=int, default=64)
    parser.add_argument("--timed", type=int, default=4, help="candidates that run as full passes")
    parser.add_argument("--length", type=int, default=8)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    backbone, facts = load_backbone("smollm2", device="cpu", dtype="float32"), start_facts()
    for name in args.tasks:
        result = measured(backbone, name, args.data, args.rows, args.candidates, args.timed, args.length)
        print(result)
        command = (
            f"python bench/hard/kept_texts.py --data DIR --tasks {name} --rows {args.rows} --candidates "
            f"{args.candidates} --timed {args.timed} --length {args.length} --threads {args.threads}"
        )
        write_json(args.out / f"kept-{name}.json", {"command": command, **result, **facts, **machine_facts()})


if __name__ == "__main__":
    main()
