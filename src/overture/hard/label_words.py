"""Label words that the frozen model itself would write for each label's rows.

Shape letters: N rows, V vocabulary, C labels, K words of a label, D width.

Source: Gao et al. 2021 (LM-BFF), section 5.1: a label's pool are the words of highest mean log-likelihood over its
training rows, and one word for each label is chosen by training accuracy, then on validation rows. Deviations: within
the pool words are ranked by how much likelier they are for the label's rows than for those of the others, as by the
likelihood ratio of Schick et al. 2020 (PETAL), since the likeliest words are much the same for all labels; assignments
are climbed, one label at a time, where LM-BFF tries all of them; and validation judges the model without training.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from overture.core.contracts import Readouts, Scorer
from overture.core.errors import BackboneError
from overture.core.rows import Encoded
from overture.data.batches import scoring_batches
from overture.data.task import Task
from overture.engine.backbone import Backbone

_ROWS_AT_ONCE = 64
_MAX_TOKENS = 4096


@dataclass(frozen=True, slots=True)
class LabelCandidate:
    """A word of one token that may stand for a label.

    Args:
        text: as the task file has it, with its leading space.
        token: its token.
        log_likelihood: mean over the label's training rows.
        ratio: how much higher that is than the mean over the other labels' rows.
    """

    text: str
    token: int
    log_likelihood: float
    ratio: float


@torch.no_grad()
def label_states(
    scorer: Scorer, rows: Sequence[Encoded], progress: Callable[[int, int], None] = lambda done, total: None
) -> tuple[Tensor, Tensor]:
    """The hidden state at each row's label word, [N, D], from which the head makes a likelihood of every word.

    Args:
        scorer: the model, under a prompt or none.
        rows: with one label each.
        progress: called with (done, all).

    Returns:
        The states, and the rows' labels, [N].
    """
    hidden_states: dict[int, Tensor] = {}
    for batch in scoring_batches(rows, _MAX_TOKENS):
        readouts = scorer.ask(batch, Readouts())
        hidden_states |= {row.row: readout.hidden[0] for row, readout in zip(batch, readouts, strict=True)}
        progress(len(hidden_states), len(rows))
    hidden_ND = torch.stack([hidden_states[row.row] for row in rows])
    return hidden_ND, torch.tensor([row.label or 0 for row in rows], device=hidden_ND.device)


@torch.no_grad()
def _likelihoods(backbone: Backbone, hidden_ND: Tensor) -> Tensor:
    """Log-probabilities over the whole vocabulary, [N, V]."""
    return backbone.head(hidden_ND).float().log_softmax(-1)


def _mean_likelihoods(backbone: Backbone, hidden_ND: Tensor, labels_N: Tensor, num_labels: int) -> Tensor:
    """Mean log-likelihood of every word over the rows of each label, [C, V]."""
    sums_CV: Tensor | None = None
    for start in range(0, len(hidden_ND), _ROWS_AT_ONCE):
        part = slice(start, start + _ROWS_AT_ONCE)
        likelihoods_NV = _likelihoods(backbone, hidden_ND[part]).double()
        if sums_CV is None:
            sums_CV = likelihoods_NV.new_zeros(num_labels, likelihoods_NV.shape[1])
        sums_CV.index_add_(0, labels_N[part], likelihoods_NV)
    assert sums_CV is not None
    return sums_CV / labels_N.bincount(minlength=num_labels)[:, None]


def label_candidates(
    backbone: Backbone, task: Task, hidden_ND: Tensor, labels_N: Tensor, pool_size: int, num_words: int
) -> list[list[LabelCandidate]]:
    """Words of each label, those first that separate it best from the others.

    Args:
        backbone: the model.
        task: its own words say whether words begin with a space.
        hidden_ND: the hidden state at each training row's label word.
        labels_N: the rows' labels.
        pool_size: likeliest words of each label that are considered.
        num_words: words of each pool that are returned.

    Raises:
        BackboneError: the vocabulary has no words of one token.
    """
    means_CV = _mean_likelihoods(backbone, hidden_ND, labels_N, len(task.words))
    others_CV = (means_CV.sum(0) - means_CV) / (len(means_CV) - 1)
    # Written as the task file's own words: behind a space a word is another token.
    lead = " " if next(iter(task.words.values()))[0].startswith(" ") else ""
    candidates = []
    for label, mean_V, others_V in zip(task.words, means_CV, others_CV, strict=True):
        pool: list[LabelCandidate] = []
        for token in mean_V.argsort(descending=True).tolist():
            text = _word(backbone, token, lead)
            if text and all(text.casefold() != word.text.casefold() for word in pool):
                pool.append(LabelCandidate(text, token, float(mean_V[token]), float(mean_V[token] - others_V[token])))
            if len(pool) == pool_size:
                break
        if not pool:
            raise BackboneError("the vocabulary has no words of one token", got=task.backbone, where=f"labels.{label}")
        candidates.append(sorted(pool, key=lambda word: -word.ratio)[:num_words])
    return candidates


def _word(backbone: Backbone, token: int, lead: str) -> str | None:
    """A token as a label word; None for a piece of a word, a mark or a special token."""
    tokenizer = backbone.text.tokenizer
    core = tokenizer.decode([token]).strip()
    if not core.isalpha() or (len(core) < 2 and core.isascii()):
        return None
    return lead + core if tokenizer.encode_plain(lead + core) == [token] else None


def assignments(
    backbone: Backbone,
    candidates: Sequence[Sequence[LabelCandidate]],
    hidden_ND: Tensor,
    labels_N: Tensor,
    rounds: int,
    shares_NC: Tensor | None = None,
) -> dict[str, tuple[str, ...]]:
    """One word for each label, no word twice: the best by the ratio alone, and the same after climbing.

    Args:
        backbone: the model.
        candidates: words of each label.
        hidden_ND: the hidden state at each row's label word.
        labels_N: the rows' labels.
        rounds: of climbing at most.
        shares_NC: target shares of the labels; with them the loss decides, and not accuracy.
    """
    texts = {word.token: word.text for of_label in candidates for word in of_label}
    tokens = list(texts)
    columns = {token: column for column, token in enumerate(tokens)}
    chunks = torch.split(hidden_ND, _ROWS_AT_ONCE)
    scores_NT = torch.cat([_likelihoods(backbone, chunk)[:, tokens] for chunk in chunks])
    choices = [[columns[word.token] for word in of_label] for of_label in candidates]
    spellings = {column: texts[token].casefold() for column, token in enumerate(tokens)}
    start = _first_assignment(choices, spellings)
    if start is None:
        return {}
    climbed = _hill_climbed(start, choices, spellings, scores_NT, labels_N, rounds, shares_NC)
    return {
        name: tuple(texts[tokens[column]] for column in assignment)
        for name, assignment in {"ratio": start, "climbed": climbed}.items()
    }


def _first_assignment(choices: Sequence[Sequence[int]], spellings: dict[int, str]) -> list[int] | None:
    """The first word of each label that no earlier label has; None where a label has none left."""
    used_spellings: set[str] = set()
    assignment = []
    for of_label in choices:
        free = next((word for word in of_label if spellings[word] not in used_spellings), None)
        if free is None:
            return None
        used_spellings.add(spellings[free])
        assignment.append(free)
    return assignment


def _hill_climbed(
    start: Sequence[int],
    choices: Sequence[Sequence[int]],
    spellings: dict[int, str],
    scores_NT: Tensor,
    labels_N: Tensor,
    rounds: int,
    shares_NC: Tensor | None = None,
) -> list[int]:
    """The assignment after changing one label's word at a time while accuracy, then loss, or loss alone improves."""

    def quality(assignment: Sequence[int]) -> tuple[float, float]:
        scores_NC = scores_NT[:, list(assignment)].log_softmax(1)
        if shares_NC is not None:
            return 0.0, float((shares_NC.to(scores_NC) * scores_NC).sum(1).mean())
        accuracy = (scores_NC.argmax(1) == labels_N).float().mean()
        return float(accuracy), -float(torch.nn.functional.nll_loss(scores_NC, labels_N))

    best, best_quality = list(start), quality(start)
    for _ in range(rounds):
        start_of_round = list(best)
        for label, of_label in enumerate(choices):
            used_spellings = {spellings[word] for number, word in enumerate(best) if number != label}
            for word in of_label:
                candidate = [*best[:label], word, *best[label + 1 :]]
                if spellings[word] not in used_spellings and (changed_quality := quality(candidate)) > best_quality:
                    best, best_quality = candidate, changed_quality
        if best == start_of_round:
            break
    return best
