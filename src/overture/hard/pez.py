"""A baseline: vectors are trained by the gradients at the tokens nearest to them, and the best of these is kept.

Source: Wen et al. 2023, "Hard prompts made easy" (PEZ), algorithm 1. P' = nearest rows of the table by cosine; P takes
AdamW's step along the gradient at P'. With shares as labels the loss is the divergence from a soft prompt.
"""

from random import Random

import torch

from overture.core.records.hard import Candidate
from overture.hard.gcg import slope_of_tokens
from overture.hard.scorer import Refused, TextScorer

_ROWS = 16
_RATE = 0.1


def pez(scorer: TextScorer, length: int, steps: int, random: Random) -> Candidate | None:
    """The best text of so many tokens behind the input that the projections of some steps gave.

    Args:
        scorer: its training rows are read.
        length: in tokens.
        steps: of the optimiser.
        random: draws rows and the first tokens.
    """
    backbone, tokenizer = scorer.backbone, scorer.backbone.text.tokenizer
    table_VD = backbone.embed(range(backbone.info.vocab_size))
    directions_VD = torch.nn.functional.normalize(table_VD, dim=-1)
    usable = [token for token in range(len(table_VD)) if token not in tokenizer.special_ids]
    vectors_PD = table_VD[random.sample(usable, length)].clone().requires_grad_()
    optimiser = torch.optim.AdamW([vectors_PD], lr=_RATE * float(table_VD.std()), weight_decay=0.0)
    rows = scorer.rows(Candidate(), "train")
    numbers = random.sample(range(len(rows)), min(_ROWS, len(rows)))
    best, best_loss = None, float("inf")
    for _ in range(steps):
        with torch.no_grad():
            cosines_PV = torch.nn.functional.normalize(vectors_PD, dim=-1) @ directions_VD.T
            cosines_PV[:, sorted(tokenizer.special_ids)] = -1.0
            ids = cosines_PV.argmax(-1).tolist()
        vectors_PD.grad = slope_of_tokens(scorer, ids, [rows[number] for number in numbers])[0]
        optimiser.step()
        candidate = Candidate(text=tokenizer.decode(ids), origin="pez")
        try:
            loss = float(scorer.losses([candidate], "train", numbers).mean())
        except Refused:
            continue
        if loss < best_loss:
            best, best_loss = candidate, loss
    return best
