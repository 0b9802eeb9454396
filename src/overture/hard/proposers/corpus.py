"""Phrases of the training texts that tell labels apart, by pointwise mutual information, and the labels' own words.

Source of the vocabulary: Diao et al. 2023, "Black-box prompt learning" (BDPL), candidates by PMI of n-grams. Ours are
texts to be raced, not a distribution to be trained.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator

from overture.core.records.hard import Candidate
from overture.data.rows import texts_of
from overture.hard.proposer import Ask

_LONGEST = 3
_FEWEST_ROWS = 3
_FORMS = ("\n{}", " ({})", "\nAbout: {}.", "\n{} or {}?", "\nChoose: {}.")


class Corpus:
    """Phrases, alone and in short sentences."""

    def propose(self, ask: Ask) -> list[Candidate]:
        """Lists of the labels' words, then phrases by their information on the label, in each form in turn."""
        task = ask.scorer.task_of(ask.leader.wording)
        names = [words[0].strip() for words in task.words.values()]
        texts = []
        if names:
            label_list = ", ".join(names[:-1]) + f" or {names[-1]}"
            texts = [
                f"\nChoose {label_list}.",
                f"\n{label_list.capitalize()}?",
                f" ({'/'.join(names)})",
                f"\nOptions: {label_list}",
            ]
        phrases = [phrase for phrase, _ in telling_phrases(ask)][: 4 * ask.count]
        ask.random.shuffle(phrases)
        for turn, phrase in enumerate(phrases):
            form = _FORMS[turn % len(_FORMS)]
            texts.append(form.format(phrase, phrases[turn - 1]))
        return [ask.worded(text, "corpus") for text in texts]


def telling_phrases(ask: Ask) -> list[tuple[str, float]]:
    """Phrases of training texts with their information on the label, the most informative first."""
    task, rows = ask.scorer.task, ask.scorer.splits["train"]
    of_label: Counter[str] = Counter()
    of_phrase: Counter[str] = Counter()
    of_both: Counter[tuple[str, str]] = Counter()
    for row in rows:
        label = task.spec.group(task, row)
        phrases = set(_phrases(" ".join(texts_of(task, row).values())))
        of_label[label] += 1
        of_phrase.update(phrases)
        of_both.update((phrase, label) for phrase in phrases)
    information_of: dict[str, float] = {}
    for (phrase, label), count in of_both.items():
        if of_phrase[phrase] >= _FEWEST_ROWS:
            information = count / len(rows) * math.log(count * len(rows) / (of_phrase[phrase] * of_label[label]))
            information_of[phrase] = max(information_of.get(phrase, 0.0), information)
    return sorted(information_of.items(), key=lambda item: (-item[1], item[0]))


def _phrases(text: str) -> Iterator[str]:
    words = re.findall(r"[\w'-]+", text.casefold())
    for size in range(1, _LONGEST + 1):
        for start in range(len(words) - size + 1):
            yield " ".join(words[start : start + size])
