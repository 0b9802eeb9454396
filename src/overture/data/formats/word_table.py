"""A table with a word in each row, its tag, and the number of its sentence, which may stand at its first word alone."""

import re
from collections.abc import Sequence

from overture.data.formats.conll import bio_items
from overture.data.formats.form import Item, Record, Shape, Source

_SENTENCES = ("sentence #", "sentence", "sentence_id", "sentence_idx", "sent_id", "sentence id")
_WORDS = ("word", "words", "token")
_TAGS = ("tag", "tags", "ner", "ner_tag", "label", "labels", "entity")
_NUMBER = re.compile(r"(?:sentence:? *)?\d+", re.IGNORECASE)


def _fields(record: Record) -> tuple[str, str, str] | None:
    by_name = {name.strip().lower(): name for name in record}
    fields = [next((by_name[name] for name in names if name in by_name), None) for names in (_SENTENCES, _WORDS, _TAGS)]
    sentence, word, tag = fields
    return (sentence, word, tag) if sentence and word and tag else None


def _is_like(record: Record) -> bool:
    """Whether the sentence is a number or left out: a sentence in words beside one of its words is another task."""
    fields = _fields(record)
    if fields is None:
        return False
    sentence, word, tag = (record[name] for name in fields)
    is_numbered = sentence in (None, "") or bool(_NUMBER.fullmatch(str(sentence)))
    return is_numbered and isinstance(tag, str) and len(str(word).split()) == 1


def _read(items: Sequence[Item], source: Source) -> list[Item]:
    fields = _fields(items[0].fields) if items else None
    if fields is None:
        source.problem(1, "no fields for sentence, word and tag", f"wanted {_SENTENCES[0]}, {_WORDS[0]}, {_TAGS[0]}")
        return []
    sentence_field, word_field, tag_field = fields
    rows: list[Item] = []
    last: object = object()
    for item in items:
        sentence, word, tag = (item.fields.get(name) for name in (sentence_field, word_field, tag_field))
        if not isinstance(word, str) or not word.strip() or not isinstance(tag, str) or not tag.strip():
            source.problem(item.line, "a word without a tag" if word else "a row without a word")
            continue
        if not rows or (sentence not in (None, "") and sentence != last):
            rows.append(Item({"tokens": [], "tags": []}, item.line, item.split))
            last = sentence
        rows[-1].fields["tokens"].append(word)
        rows[-1].fields["tags"].append(tag)
    bio_items(rows, source)
    return rows


WORD_TABLE = Shape("word-table", "a table with a word in each row", _is_like, _read)
