"""A baseline: greedy coordinate gradient on the scorer's loss, without a term for fluency.

Source: Zou et al. 2023, "Universal and transferable adversarial attacks on aligned language models", algorithm 1; texts
that do not re-tokenise are skipped, as in nanoGCG. With shares as labels the loss is the divergence from a soft prompt,
as in Melamed et al. 2024, "Prompts have evil twins".
"""

from random import Random

import torch
from torch import Tensor

from overture.core.contracts import Losses
from overture.core.injection import Injection, Vectors
from overture.core.records.hard import Candidate
from overture.core.rows import Encoded
from overture.hard.scorer import Refused, TextScorer

_ROWS = 16
_TOP = 64
_WIDTH = 12


def gcg(scorer: TextScorer, length: int, steps: int, random: Random) -> Candidate | None:
    """The best text of so many tokens behind the input after some steps, each of several swaps of one token.

    Args:
        scorer: its training rows are read.
        length: in tokens.
        steps: of one gradient and some swaps.
        random: draws rows and swaps.
    """
    tokenizer = scorer.backbone.text.tokenizer
    ids = (tokenizer.encode_plain(" x" * length))[:length]
    rows = scorer.rows(Candidate(), "train")
    rows = [rows[number] for number in random.sample(range(len(rows)), min(_ROWS, len(rows)))]
    best = Candidate(text=tokenizer.decode(ids), origin="gcg")
    best_loss = _loss(scorer, best, rows)
    for _ in range(steps):
        gains_PV = gains_of_swaps(scorer, ids, rows)
        gains_PV[:, sorted(tokenizer.special_ids)] = float("-inf")
        top_PK = gains_PV.topk(min(_TOP, gains_PV.shape[1])).indices.tolist()
        for _ in range(_WIDTH):
            place = random.randrange(len(ids))
            swapped_ids = [*ids[:place], random.choice(top_PK[place]), *ids[place + 1 :]]
            candidate = Candidate(text=tokenizer.decode(swapped_ids), origin="gcg")
            if (
                tokenizer.encode_plain(candidate.text) == swapped_ids
                and (loss := _loss(scorer, candidate, rows)) < best_loss
            ):
                best, best_loss = candidate, loss
        ids = tokenizer.encode_plain(best.text)
    return best if best_loss < float("inf") else None


def gains_of_swaps(scorer: TextScorer, ids: list[int], rows: list[Encoded]) -> Tensor:
    """By how much, to first order, the rows' mean loss falls if a token of the vocabulary takes a place, [P, V]."""
    slope_PD, values_PD = slope_of_tokens(scorer, ids, rows)
    table_VD = scorer.backbone.embed(range(scorer.backbone.info.vocab_size))
    return (slope_PD * values_PD).sum(-1, keepdim=True) - slope_PD @ table_VD.T


def slope_of_tokens(scorer: TextScorer, ids: list[int], rows: list[Encoded]) -> tuple[Tensor, Tensor]:
    """Gradient of the rows' mean loss by the embeddings of tokens behind the input, and these, [P, D] each."""
    scorer.tokens += 3 * (len(ids) * len(rows) + sum(row.num_tokens - row.num_input for row in rows))
    with torch.enable_grad():
        values = scorer.backbone.embed(ids).detach().requires_grad_()
        pairs = [(row, Injection(Vectors(values, "after"))) for row in rows]
        loss = torch.stack(scorer.answerer.ask(pairs, Losses())).mean()
        (slope,) = torch.autograd.grad(loss, [values])
    return slope, values.detach()


def _loss(scorer: TextScorer, candidate: Candidate, rows: list[Encoded]) -> float:
    """The rows' mean loss; infinite for a text that is refused."""
    try:
        prompt = scorer.injection(candidate)
    except Refused:
        return float("inf")
    scorer.tokens += scorer.live_tokens(candidate, rows)
    return float(scorer.judge.losses([prompt], rows).mean())
