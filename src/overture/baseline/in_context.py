"""In-context examples: training rows with their answers in front of each row, the model untouched.

Examples that are the same for all rows run once: their keys and values are memory before every row, so k examples cost
no live tokens. The nearest examples differ from row to row, so they are live text and run with it.

Source: Brown et al. 2020, "Language Models are Few-Shot Learners", section 2; the nearest by embedding: Liu et al.
2022, "What Makes Good In-Context Examples for GPT-3?" (KATE), section 3, the nearest standing last; orders: Lu et al.
2022, "Fantastically Ordered Prompts and Where to Find Them", which ranks them by entropy on sampled rows; ours are
ranked on validation rows.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from overture.baseline.base import Built, LazyRows, Request
from overture.baseline.features import features_of
from overture.baseline.options import Choice, InContextOptions
from overture.core.errors import DataError
from overture.core.injection import Injection, Memory
from overture.core.rows import Encoded, Tokens
from overture.core.seeds import named_random
from overture.data.encode import Encoder
from overture.data.row import Row
from overture.data.rows import gold_of
from overture.data.shots import row_text, shot_ids
from overture.data.task import Task
from overture.engine.backbone import Backbone
from overture.engine.prompted import PromptedModel
from overture.evaluate.scoring import score


def chosen_shots(task: Task, rows: Sequence[Row], count: int, seed: int, choice: Choice = "balanced") -> list[Row]:
    """Examples drawn by seed in random order; balanced ones hold as many of each label as possible."""
    random = named_random(seed, "shots")
    if choice == "random":
        return random.sample(list(rows), min(count, len(rows)))
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(task.spec.group(task, row), []).append(row)
    for members in groups.values():
        random.shuffle(members)
    labels = sorted(groups)
    random.shuffle(labels)
    turns = (groups[label][turn] for turn in range(count) for label in labels if turn < len(groups[label]))
    shots = [row for row, _ in zip(turns, range(count), strict=False)]
    random.shuffle(shots)
    return shots


def in_context_prompt(
    backbone: Backbone, task: Task, train: Sequence[Row], scored: Sequence[Row], count: int, seed: int
) -> tuple[Injection, Encoder, int]:
    """Examples as memory, and the encoder for the rows that follow them.

    Examples that leave no room for the longest row are left out.

    Returns:
        The memory, an encoder whose rows are encoded with ``bos=False``, and how many examples fit.

    Raises:
        DataError: not one example fits.
    """
    shots, row_encoder = _fitting_shots(backbone, task, chosen_shots(task, train, count, seed), scored)
    return _memory_of(backbone, row_encoder, shots), row_encoder, len(shots)


def _fitting_shots(
    backbone: Backbone, task: Task, shots: list[Row], scored: Sequence[Row]
) -> tuple[list[Row], Encoder]:
    """As many examples as leave room for the longest row, and the encoder of the rows behind them."""
    encoder = Encoder(task, backbone.text.tokenizer)
    while shots:
        row_encoder = Encoder(task, backbone.text.tokenizer, behind=len(shot_ids(encoder, shots)))
        try:
            row_encoder.encode(scored, bos=False)
        except DataError:
            shots = shots[:-1]
            continue
        return shots, row_encoder
    raise DataError(
        "no in-context example fits in front of the rows",
        wanted=f"at most {backbone.text.tokenizer.max_length} tokens of examples and a row, the model's context",
        fix="too_long: trim shortens both; or leave examples out (--set shots=0, in a comparison its --way)",
    )


def _memory_of(backbone: Backbone, encoder: Encoder, shots: Sequence[Row]) -> Injection:
    return Injection(memory=Memory(backbone.memory_of_tokens(shot_ids(encoder, shots)), "memory"))


def build(request: Request) -> Built:
    """Examples in front of the rows, which are encoded anew to follow them.

    Raises:
        DataError: not one example fits.
    """
    options: InContextOptions = request.options
    return _build_nearest(request, options) if options.choice == "nearest" else _build_fixed(request, options)


# -- the same examples for all rows


def _build_fixed(request: Request, options: InContextOptions) -> Built:
    request = request.calibrated() if options.calibrated else request
    backbone, task = request.backbone, request.task
    candidates = chosen_shots(task, request.splits["train"], options.shots, request.seed, options.choice)
    scored = [row for name, split in request.splits.items() if name != "train" for row in split]
    shots, encoder = _fitting_shots(backbone, task, candidates, scored)
    rows = {name: encoder.encode(split, bos=False) for name, split in request.splits.items() if name != "train"}
    shots, num_orders = _best_order(request, options, encoder, shots, rows["validation"])
    model = PromptedModel(backbone, _memory_of(backbone, encoder, shots))
    return Built(
        model,
        rows,
        stored_bytes=_text_bytes(encoder, shots),
        facts={"shots": len(shots), "choice": options.choice, "orders": num_orders},
        notices=encoder.notices,
    )


def _best_order(
    request: Request, options: InContextOptions, encoder: Encoder, shots: list[Row], validation: Sequence[Encoded]
) -> tuple[list[Row], int]:
    """The examples in the order with the best validation score, and the number of orders scored."""
    random = named_random(request.seed, "orders")
    orders = [shots]
    for _ in range(50 * options.orders):
        if len(orders) == options.orders:
            break
        order = random.sample(shots, len(shots))
        if order not in orders:
            orders.append(order)
    if len(orders) == 1:
        return shots, 1
    answers = gold_of(request.task, request.splits["validation"])

    def quality(order: list[Row]) -> tuple[float, float]:
        model = PromptedModel(request.backbone, _memory_of(request.backbone, encoder, order))
        scored = score(model, validation, request.task, answers)
        return scored.value(request.task), -scored.loss

    return max(orders, key=quality), len(orders)


# -- the nearest examples of every row


def _build_nearest(request: Request, options: InContextOptions) -> Built:
    encoder = Encoder(request.task, request.backbone.text.tokenizer)
    pool = list(request.splits["train"])
    pool_features = features_of(request.backbone, _without_anchor(encoder, pool), is_mean=True)
    # Hidden states share a large common part; without it their angles tell texts apart.
    common = pool_features.mean(0)
    pool_features = torch.nn.functional.normalize(pool_features - common, dim=1)
    facts: dict[str, Any] = {"shots": options.shots, "choice": "nearest", "fewest": options.shots}

    def behind_nearest(name: str, split: Sequence[Row]) -> list[Encoded]:
        del name
        features = features_of(request.backbone, _without_anchor(encoder, split), is_mean=True)
        order = ((features - common) @ pool_features.T).argsort(dim=1, descending=True, stable=True)[:, : options.shots]
        encoded = [
            _encode_behind(encoder, row, [pool[i] for i in indices])
            for row, indices in zip(split, order.tolist(), strict=True)
        ]
        facts["fewest"] = min(facts["fewest"], *(count for _, count in encoded))
        return [replace(part, row=number) for number, (parts, _) in enumerate(encoded) for part in parts]

    return Built(
        PromptedModel(request.backbone),
        LazyRows(behind_nearest, {name: split for name, split in request.splits.items() if name != "train"}),
        stored_bytes=_text_bytes(encoder, pool) + pool_features.numel() * pool_features.element_size(),
        facts=facts,
    )


def _encode_behind(encoder: Encoder, row: Row, nearest: list[Row]) -> tuple[list[Encoded], int]:
    """A row's parts behind the examples, the nearest last, and how many fit; the furthest are left out first."""
    for count in range(len(nearest), 0, -1):
        ids = tuple(shot_ids(encoder, nearest[:count][::-1]))
        row_encoder = Encoder(encoder.task, encoder.tokenizer, behind=len(ids))
        try:
            parts = row_encoder.encode([row], bos=False)
        except DataError:
            continue
        shifted = [tuple((index + len(ids), number) for index, number in part.slots) for part in parts]
        pairs = zip(parts, shifted, strict=True)
        return [replace(part, input=(Tokens(ids), *part.input), slots=slots) for part, slots in pairs], count
    return encoder.encode([row]), 0


def _without_anchor(encoder: Encoder, split: Sequence[Row]) -> list[Encoded]:
    """Each row, or its first part, without the template's constant end, which would make all of them alike."""
    rows = [row for row in encoder.encode(split) if row.part == 0]
    pairs = [(row, row.input_ids) for row in rows]
    return [replace(row, input=(Tokens(ids[:-1]),), anchor=(Tokens(ids[-1:]),)) if ids else row for row, ids in pairs]


def _text_bytes(encoder: Encoder, shots: Sequence[Row]) -> int:
    return sum(len(row_text(encoder, row).encode()) for row in shots)
