"""Metrics of texts, each against one right text or several: exact match, SQuAD's, BLEU, chrF, ROUGE.

All are from 0 to 1; sacrebleu writes BLEU and chrF as a hundred times that.

Shape letters: U distinct outcomes, R weightings, S statistics of a row, N orders of n-grams.
"""

import functools
import math
import unicodedata
from collections import Counter
from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

from overture.evaluate.metric import Answers, Metric, from_sums, mean_of, mean_of_part, ratio, share
from overture.evaluate.tokens import CHARACTERS, RougeWords, composed, spaced, spoken_words, squad_words

if TYPE_CHECKING:
    from overture.evaluate.metric import Floats

_ORDERS = 4


def _texts(gold: Hashable) -> tuple[str, ...]:
    """The texts that count as right; a row without an answer has the empty text."""
    if isinstance(gold, tuple):
        return tuple(map(str, gold)) or ("",)
    return (str(gold),)


def _is_same_text(gold: Hashable, predicted: Hashable) -> bool:
    return any(_plain(text) == _plain(str(predicted)) for text in _texts(gold))


def _plain(text: str) -> str:
    # Letters with accents are written in one or in two code points.
    return unicodedata.normalize("NFC", " ".join(text.split())).casefold()


def _is_same_to_the_letter(gold: Hashable, predicted: Hashable) -> bool:
    """Whether texts are equal except for the white space around them."""
    return any(text.strip() == str(predicted).strip() for text in _texts(gold))


# -- SQuAD


def _squad_golds(gold: Hashable) -> list[list[str]]:
    """The words of each right answer; those of articles and punctuation alone do not count beside others."""
    words = [squad_words(text) for text in _texts(gold)]
    return [answer for answer in words if answer] or [[]]


def _is_squad_right(gold: Hashable, predicted: Hashable) -> bool:
    return squad_words(str(predicted)) in _squad_golds(gold)


def _has_answer(gold: Hashable) -> bool:
    return any(_texts(gold))


def _squad_f1(gold: Hashable, predicted: Hashable) -> float:
    words = squad_words(str(predicted))
    return max(_word_f1(answer, words) for answer in _squad_golds(gold))


def _word_f1(gold: list[str], predicted: list[str]) -> float:
    if not gold or not predicted:
        # Without an answer only silence is right.
        return float(gold == predicted)
    num_same = (Counter(gold) & Counter(predicted)).total()
    return 2 * num_same / (len(gold) + len(predicted))


# -- sacrebleu


@functools.cache
def _sacrebleu(name: str) -> Any:
    from sacrebleu.metrics import BLEU, CHRF

    return {"bleu": BLEU, "chrf": CHRF}[name]()


def _statistics(name: str, gold: Answers, predicted: Answers) -> "Floats":
    """The sums that each row adds to sacrebleu's corpus score, [U, S].

    They come from private functions of sacrebleu, so its version is pinned, and tests compare with `corpus_score`.
    """
    import numpy as np

    metric = _sacrebleu(name)
    statistics = []
    for gold_answer, answer in zip(gold, predicted, strict=True):
        # chrF counts characters and drops white space, so it needs no cutting.
        prepare = spaced if name == "bleu" else composed
        references = [metric._preprocess_segment(prepare(text)) for text in _texts(gold_answer)]
        reference_info = metric._extract_reference_info(references)
        segment = metric._preprocess_segment(prepare(str(answer)))
        statistics.append(metric._compute_segment_statistics(segment, reference_info))
    return np.array(statistics, dtype=np.float64)


def _bleu(sums_RS: "Floats") -> "Floats":
    """BLEU with sacrebleu's exponential smoothing of orders without a match.

    Source: Papineni et al. 2002, "BLEU: a Method for Automatic Evaluation of Machine Translation"; smoothing: Chen and
    Cherry 2014, method 3. Computed on many sums at once.
    """
    import numpy as np

    length_R, reference_R = sums_RS[:, 0], sums_RS[:, 1]
    right_RN, total_RN = sums_RS[:, 2 : 2 + _ORDERS], sums_RS[:, 2 + _ORDERS :]
    # Each order without a match counts half as much as the one before it that had none.
    num_empty_RN = np.cumsum((right_RN == 0) & (total_RN > 0), axis=1)
    counted_RN = np.where(right_RN > 0, right_RN, 0.5**num_empty_RN)
    has_all_R = (total_RN > 0).all(axis=1) & (right_RN > 0).any(axis=1)
    shares_RN = counted_RN / np.where(total_RN > 0, total_RN, 1)
    brevity_R = np.exp(np.minimum(0, 1 - reference_R / np.maximum(length_R, 1e-300)))
    bleu_R: Floats = np.where(has_all_R, brevity_R * np.exp(np.log(shares_RN).mean(axis=1)), 0.0)
    return bleu_R


def _chrf(sums_RS: "Floats") -> "Floats":
    """chrF2: the mean F over character n-grams of orders 1 to 6, recall counting twice as much.

    Source: Popovic 2015, "chrF: character n-gram F-score for automatic MT evaluation"; orders that have no n-grams on
    one side are left out, as in sacrebleu.
    """
    import numpy as np

    predicted_RN, gold_RN, same_RN = sums_RS[:, 0::3], sums_RS[:, 1::3], sums_RS[:, 2::3]
    is_used_RN = (predicted_RN > 0) & (gold_RN > 0)
    num_used_R = np.maximum(is_used_RN.sum(axis=1), 1)
    precision_R = (np.where(is_used_RN, same_RN, 0) / np.where(is_used_RN, predicted_RN, 1)).sum(axis=1) / num_used_R
    recall_R = (np.where(is_used_RN, same_RN, 0) / np.where(is_used_RN, gold_RN, 1)).sum(axis=1) / num_used_R
    below_R = 4 * precision_R + recall_R
    f_R: Floats = 5 * precision_R * recall_R / np.where(below_R > 0, below_R, 1)
    return f_R


# -- ROUGE


@functools.cache
def _scorer(name: str) -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer([name], tokenizer=RougeWords())


def _rouge(name: str, gold: Hashable, predicted: Hashable) -> float:
    """F of stemmed words, of pairs of them, or of the longest common subsequence; the best of several references.

    Source: Lin 2004, "ROUGE: A Package for Automatic Evaluation of Summaries", sections 2 and 3.
    """
    return max(float(_scorer(name).score(text, str(predicted))[name].fmeasure) for text in _texts(gold))


# -- words of sounds


def _edits(gold: list[str], predicted: list[str]) -> int:
    """The least number of words to put in, leave out or exchange (Levenshtein)."""
    counts = list(range(len(predicted) + 1))
    for index, gold_word in enumerate(gold, 1):
        diagonal, counts[0] = counts[0], index
        for place, predicted_word in enumerate(predicted, 1):
            num_exchanged = diagonal + (gold_word != predicted_word)
            diagonal, counts[place] = counts[place], min(num_exchanged, counts[place] + 1, counts[place - 1] + 1)
    return counts[-1]


def _word_errors(gold: Answers, predicted: Answers) -> "Floats":
    """Errors and right words of each row, [U, 2]; of several right texts the one with the lowest rate."""
    import numpy as np

    rows = []
    for gold_answer, text in zip(gold, predicted, strict=True):
        predicted_words = spoken_words(str(text))
        pairs = [(_edits(words, predicted_words), len(words)) for words in map(spoken_words, _texts(gold_answer))]
        rows.append(min(pairs, key=lambda pair: (pair[0] / max(1, pair[1]), -pair[1])))
    return np.array(rows, dtype=np.float64)


def _error_rate(sums_RS: "Floats") -> "Floats":
    return ratio(sums_RS[:, 0], sums_RS[:, 1])


_SAID_WORDS = f"words in lower case without punctuation, {CHARACTERS}"
_SQUAD_WORDS = f"words without punctuation and English articles, {CHARACTERS}"
_ROUGE_WORDS = f"words of letters and digits, English stems, {CHARACTERS}"


def _rouge_metric(name: str, rouge: str) -> Metric:
    return Metric(name, "texts", None, mean_of(functools.partial(_rouge, rouge)), tokenizer=_ROUGE_WORDS)


METRICS_OF_TEXTS = (
    Metric(
        "wer",
        "texts",
        None,
        from_sums(_word_errors, _error_rate),
        is_error=True,
        bounds=(0.0, math.inf),
        tokenizer=_SAID_WORDS,
    ),
    # 1 - WER: below 0 where there are more errors than words.
    Metric(
        "word_accuracy",
        "texts",
        None,
        from_sums(_word_errors, lambda sums_RS: 1 - _error_rate(sums_RS)),
        bounds=(-math.inf, 1.0),
        tokenizer=_SAID_WORDS,
    ),
    share("exact_match", "texts", _is_same_text),
    share("exact_text", "texts", _is_same_to_the_letter),
    share("squad_em", "texts", _is_squad_right, tokenizer=_SQUAD_WORDS),
    Metric("squad_f1", "texts", None, mean_of(_squad_f1), tokenizer=_SQUAD_WORDS),
    # HasAns_f1 and NoAns_exact of the script for version 2.0.
    mean_of_part("squad_f1_answerable", _squad_f1, _has_answer, tokenizer=_SQUAD_WORDS),
    mean_of_part("no_answer_accuracy", _squad_f1, lambda gold: not _has_answer(gold), tokenizer=_SQUAD_WORDS),
    Metric(
        "bleu", "texts", None, from_sums(functools.partial(_statistics, "bleu"), _bleu), tokenizer=f"13a, {CHARACTERS}"
    ),
    Metric(
        "chrf", "texts", None, from_sums(functools.partial(_statistics, "chrf"), _chrf), tokenizer="characters, 1 to 6"
    ),
    _rouge_metric("rouge_1", "rouge1"),
    _rouge_metric("rouge_2", "rouge2"),
    _rouge_metric("rouge_l", "rougeL"),
)
