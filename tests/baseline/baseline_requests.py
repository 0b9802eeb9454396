"""Requests for baselines on tiny models, and a short training of what they build."""

import random

import torch

from fakes import (
    ENCODERS,
    make_backbone,
)
from overture.baseline.base import Request
from overture.baseline.registry import build_baseline
from overture.data.encode import Encoder
from overture.data.row import Row
from overture.data.task import Task
from overture.evaluate.scoring import score
from overture.train.fit import Fit, Validation
from overture.train.options import TrainConfig

WORDS = {"good": ("fine", "great", "glad"), "bad": ("poor", "dull", "grim")}


def make_request(
    family: str, template: str = "{text}\nMood:", dtype: torch.dtype = torch.float32, **changes
) -> Request:
    backbone = make_backbone(family, dtype)
    values = {"name": "mood", "data": {"path": "rows.jsonl"}, "template": template}
    if family in ENCODERS:
        values |= {"template": "{text}", "read": "mean"}
    task = Task.model_validate(values | {"labels": {"good": " g", "bad": " b"}} | changes)
    encoder = Encoder(task, backbone.text.tokenizer)
    splits = {name: rows_of(count, seed) for seed, (name, count) in enumerate({"train": 12, "validation": 8}.items())}
    rows = {name: encoder.encode(split) for name, split in splits.items()}
    return Request(None, backbone, encoder, splits, rows, 0)


def rows_of(count: int, seed: int) -> list[Row]:
    chance = random.Random(seed)
    found = []
    for number in range(count):
        label = ("good", "bad")[number % 2]
        text = f"{chance.choice(WORDS[label])} {chance.randrange(99)}"
        found.append(Row({"text": text, "label": label}, number + 1, "rows"))
    return found


def built(name: str, request: Request, **options):
    return build_baseline(name, options, request)


def fitted(found, request: Request, lr: float, epochs: int = 2):
    def validate() -> Validation:
        scored = score(found.model, found.rows["validation"], request.task)
        return Validation(scored.value(request.task), scored.loss)

    train = TrainConfig(epochs=epochs, batch_size=4, lr=lr, warmup_steps=1)
    return Fit(found.trainee, request.rows["train"], validate, train, 0).run()
