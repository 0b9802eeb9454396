"""Words that the model itself would write next: a beam whose texts are likely behind the training rows.

A text t grows by the tokens v of highest mean log p(v | x_i, t) over some training rows x_i; the race then keeps the
texts that raise the likelihood of the right labels. This is a decoder's analogue of Gao et al. 2021 (LM-BFF), section
5.2, where an infilling model writes templates between a row and its label's word.
"""

from dataclasses import replace

import torch

from overture.core.contracts import Readouts
from overture.core.records.hard import Candidate
from overture.core.rows import Answer, Encoded, Tokens
from overture.hard.proposer import Ask
from overture.hard.scorer import TextScorer

_ROWS = 16
_STARTS = ("\n", " The", "\nThis", "\nQ:", " This", "\nThe", "\nIt")
_BEAM = 4


class Own:
    """Texts by the model's own next tokens."""

    def propose(self, ask: Ask) -> list[Candidate]:
        """The best instructions behind the input, and short starts, each with its likeliest next tokens."""
        tokenizer = ask.scorer.backbone.text.tokenizer
        instructions = [s.candidate for s in ask.best if s.candidate.text and s.candidate.place == "after"][:_BEAM]
        starts = [candidate.text for candidate in instructions] or list(_STARTS)
        if len(starts) < _BEAM:
            starts += ask.random.sample(_STARTS, _BEAM - len(starts))
        width = max(2, -(-ask.count // len(starts)))
        proposals = []
        for start in starts:
            ids = tokenizer.encode_plain(start)
            scores_V = next_scores(ask.scorer, ask.leader, ids)
            for token in scores_V.topk(2 * width).indices.tolist():
                text = tokenizer.decode([*ids, token])
                if text.strip() and tokenizer.encode_plain(text) == [*ids, token]:
                    proposals.append((float(scores_V[token]), text))
        proposals.sort(reverse=True)
        leader = ask.leader.model_copy(update={"place": "after"})
        return [ask.worded(text, "own", leader) for _, text in proposals]


@torch.no_grad()
def next_scores(scorer: TextScorer, candidate: Candidate, ids: list[int]) -> torch.Tensor:
    """Mean over training rows of log p(token | row, ids), [V]; special tokens are left out."""
    rows = [behind(row, ids, ()) for row in scorer.encoded(candidate.wording, False).rows["train"][:_ROWS]]
    scorer.tokens += len(ids) * len(rows)
    readouts = scorer.answerer.ask([(row, None) for row in rows], Readouts())
    hidden = torch.stack([readout.hidden[0] for readout in readouts])
    scores_V = scorer.backbone.head(hidden).log_softmax(-1).mean(0)
    scores_V[sorted(scorer.backbone.text.tokenizer.special_ids)] = float("-inf")
    return scores_V


def behind(row: Encoded, ids: list[int], following: tuple[int, ...]) -> Encoded:
    """A row's input with tokens behind it, and the tokens to predict after them."""
    return replace(row, anchor=(Tokens(tuple(ids)),), target=Answer(following or (0,)), blanks=(), slots=())
