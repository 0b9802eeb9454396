"""A few runs on SmolLM2-135M-Instruct, the embedded default, with real sentences."""

import json

import pytest
import torch

from overture.core.rows import Encoded, OneOf
from overture.core.seeds import named_random
from overture.data.encode import Encoder
from overture.data.row import Row
from overture.data.task import Task
from overture.engine.backbone import Backbone
from overture.engine.cache import InputCache
from overture.engine.info import weights_digest
from overture.engine.load import load_backbone
from overture.engine.prompted import PromptedModel
from overture.evaluate.source import prompt_source
from overture.jobs.run.request import TuneConfig
from overture.jobs.tune.tune import tune
from overture.prompt.build import build_prompt
from overture.prompt.config import PromptConfig
from overture.store.store import Store

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("smollm2")]

TEXTS = [
    ("A warm, funny and wise film that earns every tear.", "positive"),
    ("Dull, overlong and without a single idea of its own.", "negative"),
    ("The two leads are a joy to watch, and the script keeps up with them until the very last and very quiet scene, "
     "which I would not have missed for the world.", "positive"),
    ("Noise.", "negative"),
    ("I laughed twice, both times at the wrong moment.", "negative"),
    ("Gorgeous to look at and a pleasure to listen to.", "positive"),
]  # fmt: skip
WAYS = [("vectors", "before"), ("vectors", "after"), ("prefix", "memory"), ("prefix", "after")]


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone("smollm2", device="cpu")


@pytest.fixture(scope="module")
def task() -> Task:
    return Task(
        name="films",
        data={"train": "unused.jsonl"},
        template="Review: {text}\nSentiment:",
        labels={"negative": " negative", "positive": [" positive", " very positive"]},
    )


@pytest.fixture(scope="module")
def rows(backbone: Backbone, task: Task) -> list[Encoded]:
    encoder = Encoder(task, backbone.text.tokenizer)
    return encoder.encode([Row({"text": text, "label": label}, n, "films") for n, (text, label) in enumerate(TEXTS, 1)])


def prompt_for(backbone: Backbone, task: Task, method: str, place: str) -> torch.nn.Module:
    source = prompt_source(backbone, Encoder(task, backbone.text.tokenizer))
    return build_prompt(PromptConfig(method=method, place=place, length=4), source, seed=0)


def test_untouched_model_and_ours_agree(backbone: Backbone, rows: list[Encoded]) -> None:
    ours = PromptedModel(backbone).label_scores(rows)
    for index, row in enumerate(rows):
        assert isinstance(row.target, OneOf)
        likelihoods = []
        for word in row.target.candidates.words:
            ids = [*row.input_ids, *row.anchor_ids, *word]
            with torch.no_grad():
                logits = backbone.model(torch.tensor([ids])).logits[0].log_softmax(-1)
            start = len(ids) - len(word)
            likelihoods.append(sum(logits[start - 1 + n, token] for n, token in enumerate(word)))
        words = torch.stack([torch.as_tensor(value) for value in likelihoods])
        labels = torch.stack([words[0], words[1:].logsumexp(0)]).log_softmax(0)
        torch.testing.assert_close(ours[index], labels, atol=2e-5, rtol=0)


@pytest.mark.parametrize(("method", "place"), WAYS)
def test_padding_and_caching_change_nothing(
    backbone: Backbone, task: Task, rows: list[Encoded], method: str, place: str
) -> None:
    prompt = prompt_for(backbone, task, method, place)
    together = PromptedModel(backbone, prompt, InputCache(10**9)).label_scores(rows)
    alone = torch.cat([PromptedModel(backbone, prompt).label_scores([row]) for row in rows])
    # Thirty layers of float32 and logits near 15: rounding alone parts them by about 1e-5.
    torch.testing.assert_close(together, alone, atol=5e-5, rtol=0)


@pytest.mark.slow
def test_a_short_tuning_learns_and_leaves_the_model_alone(backbone: Backbone, task: Task, tmp_path) -> None:
    """Forty sentences with a made-up rule that no model knows: which of two authors wrote it."""
    before = weights_digest(backbone.model)
    draw = named_random(0, "sentences")
    makers = {"smith": ["Rain fell on", "Wind tore at", "Snow hid"], "jones": ["She loved", "He sold", "They painted"]}
    things = ["the old harbour.", "a red door.", "the long road.", "an empty house.", "the last train."]
    rows = [
        json.dumps({"text": f"{draw.choice(makers[who])} {draw.choice(things)}", "label": who})
        for who in makers
        for _ in range(40)
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    authors = task.model_copy(
        update={
            "data": task.data.model_copy(update={"train": None, "path": tmp_path / "rows.jsonl"}),
            "template": "Text: {text}\nAuthor:",
            "labels": {"smith": " Smith", "jones": " Jones"},
            "name": "authors",
        }
    )
    config = TuneConfig(
        task=Task(**authors.model_dump()), train={"epochs": 12, "warmup_steps": 2, "patience": 12}, shots=0
    )
    result = tune(config, Store(tmp_path / "store"), backbone=backbone)
    assert result.metrics["test"]["accuracy"].value >= 0.9
    assert result.no_prompt.metrics["test"]["accuracy"].value <= 0.75
    assert weights_digest(backbone.model) == before
