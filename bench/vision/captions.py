"""What a step of context optimisation costs: captions as a trunk and branches, against captions padded to 77 tokens.

    OMP_NUM_THREADS=1 python bench/vision/captions.py

The tower of texts has the shape of CLIP ViT-B's (12 layers of width 512) and random weights; the images are random
vectors of the common space, since neither way runs images in a step. One context of 16 vectors serves all labels, whose
words are one to three tokens long. Both ways must give the same loss and gradient, or nothing is written.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from transformers.models import clip
from transformers.models.clip import CLIPTokenizer

sys.path.insert(0, str(Path(__file__).parents[1]))
from common import machine_facts, script_parser, start_facts
from overture.core.files import write_json
from overture.engine.captions import CaptionTower
from overture.engine.load import caption_tower
from overture.engine.operations import count_operations

CONTEXT, LENGTH, BATCH, LETTERS = 77, 16, 32, "abcdefghijklmnopqrstuvwxyz."
TOLERANCE = 1e-5


def made_tokenizer() -> CLIPTokenizer:
    """A vocabulary of letters."""
    texts = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={text: number for number, text in enumerate(texts)}, merges=[])


def made_model(tokenizer: CLIPTokenizer) -> clip.CLIPModel:
    """CLIP ViT-B's tower of texts, and next to nothing beside it."""
    size = len(tokenizer)
    texts = {"vocab_size": size, "bos_token_id": size - 2, "eos_token_id": size - 1}
    images = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    return clip.CLIPModel(clip.CLIPConfig(text_config=texts, vision_config=images)).eval().requires_grad_(False)


def words_of(num: int) -> list[list[int]]:
    """Tokens of the labels' words: one to three, none of them the letter that stands for a vector."""
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(0, 20, (1 + number % 3,), generator=generator).tolist() for number in range(num)]


def compact(tower: CaptionTower, words: list[list[int]], context: Tensor) -> Tensor:
    """Captions as a trunk and branches, [C, E]."""
    begin, end = tower.embed(tower.begin_ids), tower.embed([*tower.encode("."), *tower.end_ids])
    return tower.features(torch.cat([begin, context]), [torch.cat([tower.embed(ids), end]) for ids in words])


def padded(model: clip.CLIPModel, tower: CaptionTower, words: list[list[int]], context: Tensor) -> Tensor:
    """Captions padded to the model's context, [C, E], as published code has them."""
    (end,) = tower.end_ids
    ids = [[*tower.begin_ids, *[0] * LENGTH, *label, *tower.encode("."), end] for label in words]
    rows = torch.tensor([[*caption, *[end] * (CONTEXT - len(caption))] for caption in ids])

    def put_in(module: torch.nn.Module, args: object, vectors: Tensor) -> Tensor:
        return torch.cat([vectors[:, :1], context.expand(len(vectors), -1, -1), vectors[:, 1 + LENGTH :]], dim=1)

    hook = model.text_model.embeddings.token_embedding.register_forward_hook(put_in)
    try:
        features: Tensor = model.get_text_features(input_ids=rows).pooler_output
    finally:
        hook.remove()
    return features


def step(texts: Callable[[Tensor], Tensor], images: Tensor, gold: Tensor, context: Tensor) -> tuple[float, Tensor]:
    """A loss and its gradient."""
    unit = torch.nn.functional.normalize(texts(context), dim=-1)
    loss = torch.nn.functional.cross_entropy(14.3 * images @ unit.T, gold)
    (gradient,) = torch.autograd.grad(loss, [context])
    return float(loss.detach()), gradient


def measured(num_labels: int, repeats: int) -> dict[str, float]:
    """Tokens and processor seconds of a step, by each way."""
    tokenizer = made_tokenizer()
    model, words = made_model(tokenizer), words_of(num_labels)
    tower = caption_tower(model, tokenizer, id="random", revision=None, weights_sha256="")
    generator = torch.Generator().manual_seed(2)
    images = torch.nn.functional.normalize(torch.randn(BATCH, tower.width, generator=generator), dim=-1)
    gold = torch.arange(BATCH) % num_labels
    context = torch.nn.Parameter(0.02 * torch.randn(LENGTH, 512, generator=generator))
    ways: dict[str, Callable[[Tensor], Tensor]] = {
        "compact": lambda values: compact(tower, words, values),
        "padded": lambda values: padded(model, tower, words, values),
    }
    with count_operations(tower.backbone) as counts:
        loss, gradient = step(ways["compact"], images, gold, context)
    their_loss, their_gradient = step(ways["padded"], images, gold, context)
    difference = float((gradient - their_gradient).abs().max() / their_gradient.abs().max())
    if abs(loss - their_loss) > TOLERANCE * abs(their_loss) or difference > 10 * TOLERANCE:
        raise SystemExit(f"the ways differ: losses {loss} and {their_loss}, gradients by {difference}")
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, texts in ways.items():
            started = time.process_time()
            step(texts, images, gold, context)
            seconds[name].append(time.process_time() - started)
    return {
        "labels": num_labels,
        "compact_tokens": counts.positions,
        "padded_tokens": CONTEXT * num_labels,
        "compact_seconds": round(statistics.median(seconds["compact"]), 3),
        "padded_seconds": round(statistics.median(seconds["padded"]), 3),
        "loss_difference": abs(loss - their_loss),
        "gradient_difference": difference,
    }


def main() -> None:
    """Measure, and write the result."""
    parser = script_parser(__doc__, "vision", threads=1)
    parser.add_argument("--labels", type=int, nargs="+", default=[10, 100])
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    started = start_facts()
    steps = [measured(num, options.repeats) for num in options.labels]
    print(json.dumps(steps, indent=2))
    facts = {**machine_facts(), **started, "threads": options.threads, "repeats": options.repeats, "batch": BATCH}
    write_json(options.out / "captions.json", {**facts, "vectors": LENGTH, "steps": steps})


if __name__ == "__main__":
    main()
