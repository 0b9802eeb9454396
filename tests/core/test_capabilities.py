from dataclasses import replace

import pytest
import torch

from overture.core.contracts import Answers, Capabilities, LabelScores
from overture.core.errors import BackboneError
from overture.core.injection import Injection, Vectors
from overture.core.rows import Encoded

ABLE = Capabilities("some/model", frozenset({"before"}), True, True, True, max_length=12)
ROW = Encoded.of_ids(3, (1, 2, 3, 4), (5, 6))
PROMPT = Injection(Vectors(torch.zeros(2, 4), "before"), labels=torch.zeros(2, 4))


def test_what_can_be_answered_passes():
    ABLE.check([(ROW, PROMPT), (ROW, None)], Answers(4))
    ABLE.check([(ROW, PROMPT)], LabelScores())


@pytest.mark.parametrize(
    ("changes", "question", "prompt"),
    [
        ({"can_write": False}, Answers(1), None),
        ({}, Answers(5), PROMPT),
        ({"max_length": 5}, LabelScores(), None),
        ({"places": frozenset({"memory"})}, LabelScores(), PROMPT),
        ({"has_label_vectors": False}, LabelScores(), PROMPT),
    ],
    ids=["writing", "no room for the answer", "too long", "place", "label vectors"],
)
def test_what_cannot_is_refused_before_anything_runs(changes, question, prompt):
    with pytest.raises(BackboneError) as error:
        replace(ABLE, **changes).check([(ROW, prompt)], question)
    assert error.value.where == "some/model"
