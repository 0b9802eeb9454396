"""Law 11: a prompt of words scored through the engine equals one plain pass of the untouched model over its text."""

import pytest
import torch

from fakes import FAMILIES, reference_of
from overture.core.records.hard import Candidate, Wording
from overture.hard.scorer import Refused
from text_prompts import CANDIDATES, LABELS, TEXTS, rendered, scorer_of


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_equal_a_plain_pass_over_the_rendered_text(family):
    scorer, reference = scorer_of(family), reference_of(family, torch.float64)
    tokenizer = scorer.backbone.text.tokenizer
    scorer.warm(Wording(), "validation")
    numbers = range(len(TEXTS))
    together = scorer.scores(CANDIDATES, "validation", numbers)
    losses = scorer.losses(CANDIDATES, "validation", numbers)
    for index, candidate in enumerate(CANDIDATES):
        words = [tokenizer.encode_plain(word) for word in (candidate.wording.labels or LABELS).values()]
        for number in numbers:
            text = rendered(scorer, candidate, scorer.splits["validation"][number])
            ids = [*tokenizer.bos_ids, *tokenizer.encode_plain(text)]
            values = []
            for word in words:
                with torch.no_grad():
                    logits = reference(torch.tensor([[*ids, *word]]), use_cache=False).logits[0].log_softmax(-1)
                values.append(sum(logits[len(ids) - 1 + n, token] for n, token in enumerate(word)))
            wanted = torch.stack(values).log_softmax(0)
            torch.testing.assert_close(together[index, number], wanted, rtol=1e-7, atol=1e-7)
            torch.testing.assert_close(losses[index, number], -wanted[number % 2], rtol=1e-7, atol=1e-7)


def test_calibrated_scores_are_divided_by_those_of_rows_without_content():
    scores = torch.cat(
        [
            scorer_of("llama", options=options).scores([Candidate(text=" Well?")], "validation", range(3))
            for options in ({}, {"calibration": "contextual"})
        ]
    )
    assert not torch.allclose(scores[0], scores[1])
    difference = scores[0] - scores[1]
    torch.testing.assert_close(difference[:, 0] - difference[:, 1], (difference[0, 0] - difference[0, 1]).expand(3))


@pytest.mark.parametrize(
    "candidate",
    [
        Candidate(text="  \n"),
        Candidate(text="x" * 99),
        Candidate(text="<|user|> hello"),
        Candidate(text="nothing to see here, they said"),
        Candidate(text="b joins the last letter of a row"),
        Candidate(text="y" * 32, shots=[0, 1, 2, 3, 4, 2, 3]),
        Candidate(text="well", wording=Wording(labels={"good": " x", "bad": " x"})),
    ],
)
def test_what_cannot_be_scored_is_refused_with_a_reason(candidate):
    with pytest.raises(Refused) as refusal:
        scorer_of("llama").text_of(candidate)
    assert str(refusal.value)
