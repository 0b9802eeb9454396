"""Swaps of single tokens that the loss's gradient points at, weighed against how fluent they are.

Source: Thompson, Straznickas and Sklar 2024, "Fluent dreaming for language models" (EPO): children by the top of the
gradient, kept for each of several penalties on cross-entropy; the first-order term is HotFlip's (Ebrahimi et al. 2018),
as in AutoPrompt and GCG. Deviation: fluency of the swapped token alone, read behind the training rows.
"""

import torch

from overture.core.contracts import Readouts
from overture.core.records.hard import Candidate
from overture.hard.gcg import gains_of_swaps
from overture.hard.proposer import Ask
from overture.hard.proposers.own import behind

_ROWS = 16
_TOP = 64
_PENALTIES = (0.0, 0.1, 0.3, 1.0, 3.0)


class Gradient:
    """One-token swaps of the best instruction behind the input."""

    def propose(self, ask: Ask) -> list[Candidate]:
        """For every penalty the best swaps by first order, then by fluency."""
        instructions = [s.candidate for s in ask.best if s.candidate.text and s.candidate.place == "after"]
        if not instructions:
            return []
        candidate, scorer = instructions[0], ask.scorer
        tokenizer = scorer.backbone.text.tokenizer
        text = scorer.text_of(candidate)
        ids = text.after_ids
        all_rows = scorer.rows(candidate, "train")
        rows = [all_rows[number] for number in ask.random.sample(range(len(all_rows)), min(_ROWS, len(all_rows)))]
        special = torch.tensor(sorted(tokenizer.special_ids))
        with torch.no_grad():
            gain_PV = gains_of_swaps(scorer, ids, rows)
            fluency_PV = self._fluency(ask, candidate, ids)
            scale = gain_PV.std()
            gain_PV[:, special] = float("-inf")
        proposals: dict[str, None] = {}
        per_penalty = max(1, ask.count // len(_PENALTIES))
        for penalty in _PENALTIES:
            worth_PV = gain_PV + penalty * scale * fluency_PV
            for flat in worth_PV.flatten().topk(min(_TOP, worth_PV.numel())).indices.tolist()[: 4 * per_penalty]:
                place, token = divmod(flat, worth_PV.shape[1])
                changed_ids = [*ids[:place], token, *ids[place + 1 :]]
                changed_text = tokenizer.decode(changed_ids)
                if token != ids[place] and tokenizer.encode_plain(changed_text) == changed_ids:
                    proposals[changed_text] = None
        return [ask.worded(changed_text, "gradient", candidate) for changed_text in proposals]

    def _fluency(self, ask: Ask, candidate: Candidate, ids: list[int]) -> torch.Tensor:
        """Mean over rows of log p(token | row, the tokens in front of its place), [P, V]; 0 at the first place."""
        scorer = ask.scorer
        vocabulary = scorer.backbone.info.vocab_size
        fluency_PV = torch.zeros(len(ids), vocabulary)
        if len(ids) > 1:
            rows = scorer.encoded(candidate.wording, False).rows["train"][:_ROWS]
            prompted = [behind(row, ids[:1], tuple(ids[1:])) for row in rows]
            readouts = scorer.answerer.ask([(row, None) for row in prompted], Readouts())
            scorer.tokens += len(ids) * len(rows)
            for readout in readouts:
                fluency_PV[1:] += scorer.backbone.head(readout.hidden).log_softmax(-1) / len(rows)
        return fluency_PV
