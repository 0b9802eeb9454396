from dataclasses import replace

import pytest
import torch

from fakes import ONE_TOKEN, backbone_of
from overture.core.capabilities import Capabilities
from overture.core.contracts import Answers, LabelScores, Losses
from overture.core.errors import BackboneError
from overture.core.injection import Injection, Vectors
from overture.core.rows import Answer, Encoded, OneOf
from overture.engine.prompted import PromptedModel
from tiny_configs import CONTEXT

ABLE = Capabilities("some/model", "decoder", 12, places=frozenset({"before"}))
ROW = Encoded.of_ids(3, (1, 2, 3, 4), (5, 6))
PROMPT = Injection(Vectors(torch.zeros(2, 4), "before"), labels=torch.zeros(2, 4))


def test_what_can_be_answered_passes():
    ABLE.check([(ROW, PROMPT), (ROW, None)], Answers(4))
    ABLE.check([(ROW, PROMPT)], LabelScores())


@pytest.mark.parametrize(
    ("changes", "question", "prompt"),
    [
        ({"kind": "encoder"}, Answers(1), None),
        ({}, Answers(5), PROMPT),
        ({"max_length": 5}, LabelScores(), None),
        ({"places": frozenset({"memory"})}, LabelScores(), PROMPT),
        ({"has_label_vectors": False}, LabelScores(), PROMPT),
        ({"has_gradients": False}, Losses(), PROMPT),
        ({"modalities": frozenset({"image"})}, LabelScores(), None),
    ],
    ids=["writing", "no room for the answer", "too long", "place", "label vectors", "gradients", "modality"],
)
def test_what_cannot_is_refused_before_anything_runs(changes, question, prompt):
    with pytest.raises(BackboneError) as error:
        replace(ABLE, **changes).check([(ROW, prompt)], question)
    assert error.value.where == "some/model"


@pytest.mark.parametrize("family", ["llama", "gpt2", "t5", "bert"])
def test_a_model_is_asked_before_anything_runs(family, monkeypatch):
    backbone = backbone_of(family)
    target = Answer() if family != "bert" else OneOf(ONE_TOKEN, 0, read=0, is_mask=True)
    long = Encoded.of_ids(7, tuple(range(10, 10 + CONTEXT)), (5,), target)
    model = PromptedModel(backbone)
    monkeypatch.setattr(type(backbone), "run", lambda *_, **__: pytest.fail("the model ran"))
    for ask in (model.ask, model.check):
        with pytest.raises(BackboneError) as error:
            ask([long], LabelScores() if family == "bert" else Answers(4))
        assert (error.value.where, error.value.wanted) == (backbone.info.id, f"at most {CONTEXT}")


def test_two_stacks_have_a_context_each():
    able = replace(ABLE, kind="encoder-decoder", num_start=1)
    able.check([(ROW, None)], Answers(11))
    with pytest.raises(BackboneError):
        able.check([(ROW, None)], Answers(12))


@pytest.mark.parametrize(
    ("modality", "prompt", "fix", "others"),
    [
        ("image", None, "--way linear", ["masked", "vectors"]),
        ("text", None, "--way linear", ["vectors"]),
        ("image", Injection(), "prompt.labels=vectors", ["masked", "linear"]),
        ("text", Injection(), "masked", ["linear"]),
    ],
)
def test_the_fix_for_a_missing_head_fits_the_request(modality, prompt, fix, others):
    able = replace(ABLE, kind="encoder", has_head=False, modalities=frozenset({modality}))
    row = Encoded.of_ids(3, (1, 2), (), OneOf(ONE_TOKEN, 0, read=0))
    with pytest.raises(BackboneError) as error:
        able._check_labels(row, prompt)
    assert fix in error.value.fix
    assert not any(other in error.value.fix for other in others)
