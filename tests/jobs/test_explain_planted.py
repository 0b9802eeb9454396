"""A rule that is planted in the data is named by the explanation of a prompt trained on it."""

import random

import pytest
import torch

from fakes import CASES, backbone_of, make_prompt
from overture.data.encode import Encoder
from overture.data.row import Row
from overture.data.task import Task
from overture.engine.cache import InputCache
from overture.engine.prompted import PromptedModel
from overture.evaluate.facts import backbone_ref
from overture.evaluate.host import Host
from overture.jobs.wording.explain import explain
from overture.jobs.wording.options import ExplainConfig
from overture.prompt.pack import prompt_tensors
from overture.store.artifact import save_artifact
from overture.store.manifest import Manifest


@pytest.mark.parametrize(("planted", "by_chance"), [("zebra", "crane"), ("crane", "zebra")])
def test_a_planted_rule_is_found_and_a_word_by_chance_is_not(tmp_path, planted, by_chance):
    """A prompt is trained where one word decides the label, and another stands in half of the rows by chance."""
    backbone, labels = backbone_of("llama"), {"good": " a", "bad": " b"}
    task = Task(name="mood", data={"train": "x.jsonl"}, template="Text: {text}\nMood:", labels=labels)

    def rows_of(seed: int) -> list[Row]:
        chance, rows = random.Random(seed), []
        for number in range(64):
            words = [chance.choice(["sun", "rain", "wind", "hail", "snow", "mist"]) for _ in range(4)]
            is_bad = number % 2 == 0
            words += [planted] if is_bad else []
            words += [by_chance] if number % 4 < 2 else []
            chance.shuffle(words)
            rows.append(Row({"text": " ".join(words), "label": "bad" if is_bad else "good"}, number + 1, "x.jsonl"))
        return rows

    case = next(case for case in CASES if (case.method, case.place) == ("prefix", "after"))
    prompt = make_prompt(case, backbone, length=8)
    model = PromptedModel(backbone, prompt, InputCache(1 << 24))
    rows = Encoder(task, backbone.text.tokenizer, reserve=8).encode(rows_of(1))
    optimiser = torch.optim.Adam(list(model.trainable().values()), lr=0.1)
    for _ in range(120):
        optimiser.zero_grad()
        (model.loss(rows) / len(rows)).backward()
        optimiser.step()
    manifest = Manifest(
        name="mood",
        method="prefix",
        place="after",
        length=8,
        options={"prompt": {"method": "prefix", "place": "after", "length": 8, "options": {}}},
        backbone=backbone_ref(backbone),
        task=task.dump(),
        trainable=0,
    )
    save_artifact(tmp_path / "mood", manifest, prompt_tensors(prompt))
    config = ExplainConfig(rows=64, texts=0, nodes=2)
    result = explain(Host(backbone).open(tmp_path / "mood"), rows_of(2), "test", config)
    sure = [item for item in result.slices if item.q_value < 0.05]
    assert sure[0].word == planted
    assert by_chance not in {item.word for item in sure}
