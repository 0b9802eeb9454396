"""Rows that a prompt changes, and the words that mark them."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from overture.core.records.explain import FlipCount, Slice

_FEWEST_ROWS = 4
_SHOWN = 20


def flip_counts(gold: Sequence[str], without: Sequence[str], with_prompt: Sequence[str]) -> list[FlipCount]:
    """Rows by whether they are right without and with the prompt: all, then by label."""
    counts = []
    for label in ("", *dict.fromkeys(gold)):
        pairs = Counter(
            (a == g, b == g) for g, a, b in zip(gold, without, with_prompt, strict=True) if label in ("", g)
        )
        counts.append(
            FlipCount(
                label=label,
                fixed=pairs[False, True],
                broken=pairs[True, False],
                both_right=pairs[True, True],
                both_wrong=pairs[False, False],
            )
        )
    return counts


def slices(
    texts: Sequence[str], gold: Sequence[str], without: Sequence[str], with_prompt: Sequence[str]
) -> list[Slice]:
    """Words too frequent or too rare among fixed rows, broken rows, and rows turned to each label.

    A rule of the prompt marks rows by a word's absence as well as by its presence. Fisher's exact tests, two-sided
    (twice the smaller tail), corrected for all of them together by Benjamini and Hochberg (1995).
    """
    answers = list(zip(gold, without, with_prompt, strict=True))
    groups = {
        "fixed": [a != g and b == g for g, a, b in answers],
        "broken": [a == g and b != g for g, a, b in answers],
    }
    groups |= {f"turned to {label}": [a != b and b == label for _, a, b in answers] for label in dict.fromkeys(gold)}
    words_of = [set(re.findall(r"[\w'-]+", text.casefold())) for text in texts]
    rows_with = Counter(word for words in words_of for word in words)
    pairs = []
    for name, is_in in groups.items():
        group = sum(is_in)
        if not group:
            continue
        hits = Counter(word for words, hit in zip(words_of, is_in, strict=True) if hit for word in words)
        for word, count in rows_with.items():
            if count >= _FEWEST_ROWS:
                pairs.append((word, name, count, hits[word], group))
    p_values = _fisher_p_values([(count, hits, group) for _, _, count, hits, group in pairs], len(texts))
    q_values = benjamini_hochberg(p_values)
    marks = [
        Slice(
            word=word,
            among=name,
            rows_with=count,
            hits=hits,
            group=group,
            is_rare=hits * len(texts) < count * group,
            p_value=p,
            q_value=q,
        )
        for (word, name, count, hits, group), p, q in zip(pairs, p_values, q_values, strict=True)
    ]
    return sorted(marks, key=lambda item: (item.p_value, item.word, item.among))[:_SHOWN]


def _fisher_p_values(counts: Sequence[tuple[int, int, int]], rows: int) -> list[float]:
    """Two-sided p-values of Fisher's exact test, for tuples of (rows with the word, hits, size of the group)."""
    if not counts:
        return []
    import numpy as np
    from scipy.stats import hypergeom

    rows_with, hits, group = np.array(counts).T
    frequent, rare = hypergeom.sf(hits - 1, rows, group, rows_with), hypergeom.cdf(hits, rows, group, rows_with)
    return [float(p) for p in np.minimum(1.0, 2 * np.minimum(frequent, rare))]


def benjamini_hochberg(p_values: Iterable[float]) -> list[float]:
    """q-values: the smallest false discovery rate at which each test is significant."""
    p_values = list(p_values)
    if not p_values:
        return []
    from scipy.stats import false_discovery_control

    return [float(value) for value in false_discovery_control(p_values, method="bh")]
