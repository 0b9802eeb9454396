"""Label words that the model itself would write behind each label's training rows; see `overture.hard.label_words`."""

from overture.core.records.hard import Candidate
from overture.core.rows import OneOf
from overture.engine.prompted import PromptedModel
from overture.hard.label_words import assignments, label_candidates, label_states
from overture.hard.proposer import Ask
from overture.hard.scorer import shares_of

_TEMPLATES = 3
ROWS = 256
"""Training rows that are read."""
READINGS = 8
"""About how often a search reads them: once for each of the best candidates of its three rounds."""
_POOL, _WORDS, _ROUNDS = 100, 10, 10


class Words:
    """Label words for the best candidates.

    Attributes:
        seen: candidates, labels aside, whose words were proposed.
    """

    def __init__(self) -> None:
        self.seen: set[str] = set()

    def propose(self, ask: Ask) -> list[Candidate]:
        """Two choices of words for each of the best candidates: by likelihood ratio, and climbed on training rows."""
        scorer = ask.scorer
        if not scorer.backbone.has_head or not scorer.has_labels:
            return []
        candidates, num_before = list[Candidate](), len(self.seen)
        for standing in ask.best:
            candidate, wording = standing.candidate, standing.candidate.wording
            unlabelled = wording.model_copy(update={"labels": None})
            key = candidate.model_copy(update={"wording": unlabelled}).key
            if key in self.seen or len(self.seen) == num_before + _TEMPLATES:
                continue
            self.seen.add(key)
            task = scorer.task_of(wording)
            rows = scorer.rows(candidate, "train")[:ROWS]
            if not all(isinstance(row.target, OneOf) for row in rows) or len({row.label for row in rows}) < len(
                task.words
            ):
                continue
            model = PromptedModel(scorer.backbone, scorer.injection(candidate))
            hidden_ND, labels_N = label_states(model, rows)
            scorer.tokens += sum(row.num_tokens for row in rows)
            pools = label_candidates(scorer.backbone, task, hidden_ND, labels_N, _POOL, _WORDS)
            shares_NC = shares_of(rows, len(task.words)) if scorer.shares else None
            for words in assignments(scorer.backbone, pools, hidden_ND, labels_N, _ROUNDS, shares_NC).values():
                labels = dict(zip(task.words, words, strict=True))
                new_wording = wording.model_copy(update={"labels": labels})
                candidates.append(standing.candidate.model_copy(update={"wording": new_wording, "origin": "words"}))
        return candidates
