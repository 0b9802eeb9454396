"""The effect of a prompt as a shift of the model's distribution where the answer stands.

D(v) = mean over rows of log p(v given x, prompt) - log p(v given x), over the vocabulary and by label. It needs no
meaning of single vectors, so it holds for every method and place.

Shape letters: B rows, C labels, V vocabulary.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from overture.core.contracts import Readouts
from overture.core.records.explain import LabelShift, ShiftedWord
from overture.core.rows import Encoded
from overture.data.batches import scoring_batches
from overture.engine.prompted import PromptedModel
from overture.explain.checks import rank_correlation

_SHOWN = 12
_SHOWN_OF_LABEL = 8
_MAX_TOKENS = 4096
_ENDS = 200


@torch.no_grad()
def vocabulary_shift(
    with_prompt: PromptedModel, without: PromptedModel, rows: Sequence[Encoded], alone: Sequence[Encoded]
) -> Tensor:
    """log p(v given x, prompt) - log p(v given x) of each row, [B, V], without special tokens' values.

    Args:
        with_prompt: the model under the prompt.
        without: the model alone.
        rows: encoded for the prompt.
        alone: the same rows encoded without it.
    """
    alone_of = {row.row: row for row in alone}
    changes: dict[int, Tensor] = {}
    for batch in scoring_batches(rows, _MAX_TOKENS):
        hidden = [
            torch.stack([readout.hidden[0] for readout in model.ask(model_rows, Readouts())])
            for model, model_rows in ((with_prompt, batch), (without, [alone_of[row.row] for row in batch]))
        ]
        logits = [without.backbone.head(states).float().log_softmax(-1) for states in hidden]
        changes |= zip((row.row for row in batch), (logits[0] - logits[1]).cpu(), strict=True)
    change_BV = torch.stack([changes[row.row] for row in rows])
    change_BV[:, sorted(without.backbone.text.tokenizer.special_ids)] = 0.0
    return change_BV


def shift_likeness(first_V: Tensor, second_V: Tensor) -> float:
    """Rank correlation of two shifts over the tokens that either raises or lowers most."""
    ends = [
        change_V.topk(min(_ENDS, len(change_V)), largest=is_raised).indices
        for change_V in (first_V, second_V)
        for is_raised in (True, False)
    ]
    tokens = sorted({*torch.cat(ends).tolist()})
    return rank_correlation(first_V[tokens].tolist(), second_V[tokens].tolist())


def shifted_words(
    change_V: Tensor, model: PromptedModel, count: int = _SHOWN, is_lowered: bool = False
) -> list[ShiftedWord]:
    """The tokens of the largest values, or of the smallest; letters only, each word once."""
    tokenizer = model.backbone.text.tokenizer
    words: list[ShiftedWord] = []
    for token in change_V.argsort(descending=not is_lowered)[: 40 * count].tolist():
        text = tokenizer.decode([token])
        if text.strip().isalpha() and all(text.strip().casefold() != word.word.strip().casefold() for word in words):
            words.append(ShiftedWord(word=text, change=float(change_V[token])))
        if len(words) == count:
            break
    return words


def label_shifts(
    names: Sequence[str],
    gold_B: Tensor,
    with_BC: Tensor,
    without_BC: Tensor,
    change_BV: Tensor | None,
    model: PromptedModel,
) -> list[LabelShift]:
    """The shift for the rows of each label.

    Args:
        names: of the labels.
        gold_B: each row's right label.
        with_BC: log-probabilities with the prompt.
        without_BC: the same without it.
        change_BV: the vocabulary's shift; None where the model predicts no words.
        model: its tokenizer names tokens.
    """
    shifts = []
    for number, name in enumerate(names):
        is_own = gold_B == number
        if not is_own.any():
            continue
        shares = [scores[is_own].exp().mean(0).tolist() for scores in (without_BC, with_BC)]
        raised: list[ShiftedWord] = []
        if change_BV is not None and not is_own.all():
            raised = shifted_words(change_BV[is_own].mean(0) - change_BV[~is_own].mean(0), model, _SHOWN_OF_LABEL)
        shifts.append(
            LabelShift(
                label=name,
                rows=int(is_own.sum()),
                without=dict(zip(names, shares[0], strict=True)),
                with_prompt=dict(zip(names, shares[1], strict=True)),
                raised=raised,
            )
        )
    return shifts
