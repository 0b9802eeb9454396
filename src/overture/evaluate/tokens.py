"""How metrics of texts cut a text into words, in every script.

The packages that define BLEU, ROUGE and SQuAD's F1 cut English only: rouge-score keeps a-z and 0-9, SQuAD's script
knows ASCII punctuation, and a sentence in a script without spaces is one word to all of them. Here letters and digits
of every script count, and each character of a script without spaces is a word, as in sacrebleu's tokenizer for Chinese
and in MLQA's script. English texts are cut exactly as the packages do.

Source: Lewis et al. 2020, "MLQA: Evaluating Cross-lingual Extractive Question Answering", and its script.
"""

import string
import unicodedata
from functools import cache
from typing import Any

import regex

_NO_SPACES = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}"
_CHARACTER = rf"[{_NO_SPACES}]\p{{M}}*"
_WORDS = regex.compile(rf"(?V1){_CHARACTER}|[[\p{{L}}\p{{M}}\p{{Nd}}]--[{_NO_SPACES}]]+")
_CHUNKS = regex.compile(rf"(?V1){_CHARACTER}|[[^\s]--[{_NO_SPACES}]]+")
_TO_SPACE = regex.compile(rf"(?V1){_CHARACTER}|[\p{{P}}&&[\u3000-\u303f]]")
_PUNCTUATION = regex.compile(r"[\p{P}$+<=>^`|~]")
_UNSAID = regex.compile(r"(?V1)[[\p{P}\p{S}]--[']]")
_APOSTROPHES = regex.compile("[\u2018\u2019]")
_ASCII_PUNCTUATION = str.maketrans("", "", string.punctuation)
_OTHER_LETTER = regex.compile(r"(?V1)[\p{L}--\p{Latin}]")
_ARTICLE = regex.compile(r"\b(a|an|the)\b")

CHARACTERS = "single characters in scripts without spaces"


def composed(text: str) -> str:
    """The text with full-width and half-width forms as the usual ones, accents joined to their letters (NFC)."""
    if text.isascii():
        return text
    usual = (unicodedata.normalize("NFKC", c) if unicodedata.east_asian_width(c) in "FH" else c for c in text)
    return unicodedata.normalize("NFC", "".join(usual))


def spaced(text: str) -> str:
    """The text with spaces around each character of a script without spaces, for a tokenizer that goes by spaces."""
    return text if text.isascii() else _TO_SPACE.sub(r" \g<0> ", composed(text))


def squad_words(text: str) -> list[str]:
    """The words that SQuAD's script compares: lower case, without punctuation and articles.

    Source: Rajpurkar et al. 2016, "SQuAD: 100,000+ Questions for Machine Comprehension of Text", section 6.1, and their
    script for version 2.0; punctuation and words of other scripts as in MLQA's. A text of Latin letters alone loses
    ASCII punctuation alone, as in SQuAD's script.
    """
    text = composed(text).lower()
    text = _PUNCTUATION.sub("", text) if _OTHER_LETTER.search(text) else text.translate(_ASCII_PUNCTUATION)
    return list(_CHUNKS.findall(_ARTICLE.sub(" ", text)))


def spoken_words(text: str) -> list[str]:
    """The words that are heard: lower case, without punctuation and symbols; an apostrophe belongs to its word."""
    return list(_CHUNKS.findall(_UNSAID.sub("", _APOSTROPHES.sub("'", composed(text).lower()).replace("-", " "))))


class RougeWords:
    """Words of letters and digits for rouge-score, ASCII ones by their Porter stem.

    A text without letters and digits, such as one of emoji, has its characters as words.
    """

    def tokenize(self, text: str) -> list[str]:
        """The words of a text."""
        words = _WORDS.findall(composed(text).lower())
        if not words:
            return [c for c in text if not c.isspace()]
        # rouge-score stems words of more than three characters.
        return [_stemmer().stem(word) if word.isascii() and len(word) > 3 else word for word in words]


@cache
def _stemmer() -> Any:
    from nltk.stem.porter import PorterStemmer

    return PorterStemmer()
