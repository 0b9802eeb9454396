"""What a cartridge knows of its text: articles as memories, asked SQuAD's questions. One JSON an article.

    python bench/quality/cartridge.py --data DIR --article Normans --article Private_school

A cartridge is made by self-study alone; the questions are people's, and it never sees them.
"""

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from overture.core.contracts import Readouts
from overture.core.files import write_json
from overture.core.injection import Injection, Memory
from overture.core.rows import Encoded
from overture.data.batches import scoring_batches
from overture.data.encode import Encoder
from overture.data.row import Row
from overture.data.rows import gold_of
from overture.data.task import Task
from overture.engine.backbone import Backbone
from overture.engine.load import load_backbone
from overture.engine.prompted import PromptedModel
from overture.evaluate.host import Host
from overture.evaluate.scoring import score
from overture.jobs.distil.cartridge import cartridge, frame_of
from overture.jobs.distil.options import CartridgeConfig
from overture.store.store import Store

sys.path.insert(0, str(Path(__file__).parents[1]))

from common import add_data, script_parser
from tasks import rows_of

ASKED = " Answer with a few words of the text."


def article(data: Path, title: str) -> tuple[str, list[Row]]:
    """Its paragraphs as one text, and the test questions about it."""
    rows = [row for row in rows_of("squad", data, "test") if row.fields["title"] == title]
    return "\n\n".join(dict.fromkeys(row.fields["context"] for row in rows)), rows


def question_task(backbone: Backbone) -> Task:
    """A question in the model's own chat format, behind whatever it knows of the text."""
    return Task(
        name="questions",
        kind="generation",
        data={"train": "unused.jsonl"},
        template=frame_of(backbone.text.tokenizer).template.replace("{question}", "{question}" + ASKED),
        answer_field="answers",
        max_new_tokens=24,
        metric="squad_f1",
    )


@torch.no_grad()
def right_tokens(model: PromptedModel, rows: Sequence[Encoded]) -> str:
    """For each token of the answers whether the model, given all before, puts it first: a digit each, in row order."""
    found: dict[int, str] = {}
    for batch in scoring_batches(rows, 2048):
        for row, said in zip(batch, model.ask(batch, Readouts()), strict=True):
            likeliest = model.backbone.head(said.hidden).argmax(-1).tolist()
            found[row.row] = "".join(str(int(a == b)) for a, b in zip(likeliest, row.answer_ids or (), strict=True))
    return "".join(found[row.row] for row in rows)


def asked(model: PromptedModel, task: Task, rows: Sequence[Row], encoded: Sequence[Encoded]) -> dict[str, Any]:
    """How likely the answers are, token by token, and what the model writes."""
    scored = score(model, encoded, task, gold_of(task, rows))
    return {
        "perplexity": math.exp(scored.loss),
        "right": right_tokens(model, encoded),
        "squad_f1": scored.metrics(task)["squad_f1"].model_dump(),
    }


def study(backbone: Backbone, args: argparse.Namespace, title: str) -> dict[str, Any]:
    text, rows = article(args.data, title)
    config = CartridgeConfig(length=args.length, conversations=args.conversations, seed=args.seed)
    store = Store(args.work / "store")
    told = cartridge(text, store, f"{title.lower()}-{args.length}", config, backbone=backbone, origin=title).dump()
    task, frame = question_task(backbone), frame_of(backbone.text.tokenizer)
    encoder = Encoder(task, backbone.text.tokenizer)
    encoded = encoder.encode(rows)
    head = tuple(backbone.text.tokenizer.encode_template(frame.head))
    whole = (*head, *backbone.text.tokenizer.encode_plain(text))

    def memory(ids: Sequence[int]) -> Injection:
        return Injection(memory=Memory(backbone.memory_of_tokens(list(ids)), "memory"))

    ways: Mapping[str, Any] = {
        "no text": memory(head),
        "beginning": memory(whole[: args.length]),
        "cartridge": Host(backbone, store).open(told["prompt"]).prompt,
        "whole text": memory(whole),
    }
    questions = {name: asked(PromptedModel(backbone, way), task, rows, encoded) for name, way in ways.items()}
    kept = ("text_tokens", "length", "trainable", "conversations", "ways", "seconds")
    return {**{key: told[key] for key in kept}, "questions": questions, "num_questions": len(rows)}


def main() -> None:
    parser = script_parser(__doc__, "cartridge")
    add_data(parser)
    parser.add_argument("--article", action="append", required=True)
    parser.add_argument("--work", type=Path, default=Path("cartridge-work"), help="where the prompts are kept")
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--conversations", type=int, default=80)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    backbone = load_backbone("smollm2")
    settings = {key: getattr(args, key) for key in ("length", "conversations", "seed", "threads")}
    for title in args.article:
        path = args.out / f"{title}-{args.length}.json"
        if not path.exists():
            result = study(backbone, args, title)
            write_json(path, {"article": title, "settings": settings, **result})
            shown = {name: f"{answers['perplexity']:.2f}" for name, answers in result["questions"].items()}
            print(path.name, shown, flush=True)


if __name__ == "__main__":
    main()
