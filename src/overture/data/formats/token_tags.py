"""Words with a list of tags under another name than `tags`, such as `ner_tags` of the Hub's data sets."""

from collections.abc import Sequence

from overture.data.formats.form import Item, Record, Shape, Source

_WORDS = ("tokens", "words")
_TAGS = ("tags", "ner_tags", "ner", "entities", "labels", "tag", "chunk_tags", "pos_tags", "upos", "pos")


def _fields(record: Record) -> tuple[str, str] | None:
    """The fields of words and tags; None where there are none, or where both have their usual names."""
    lists = {name: value for name, value in record.items() if isinstance(value, list)}
    words = next(
        (name for name in _WORDS if name in lists and all(isinstance(word, str) for word in lists[name])), None
    )
    if words is None:
        return None
    tags = (name for name in _TAGS if name in lists and all(isinstance(tag, str | int) for tag in lists[name]))
    name = next((name for name in tags if len(lists[name]) == len(lists[words])), None)
    return None if name is None or (words, name) == ("tokens", "tags") else (words, name)


def _read(items: Sequence[Item], source: Source) -> list[Item]:
    fields = next((fields for item in items if (fields := _fields(item.fields))), None)
    if fields is None:
        return list(items)
    words, tags = fields
    if tags in source.names:
        source.names["tags"] = source.names[tags]
    source.notices.add(f"{words!r} and {tags!r} are read as words and their tags", source.name)
    return [
        Item({**item.fields, "tokens": item.fields.get(words), "tags": item.fields.get(tags)}, item.line, item.split)
        for item in items
    ]


def without_blank_words(items: Sequence[Item], source: Source) -> list[Item]:
    """The rows without words of white space alone, and without their tags: no model can be shown such a word."""
    rows = []
    for item in items:
        words = item.fields.get("tokens")
        places = enumerate(words) if isinstance(words, list) else ()
        blank = {i for i, word in places if word == "" or str(word).isspace()}
        lists = {name: value for name, value in item.fields.items() if isinstance(value, list)} if blank else {}
        token_fields = {name: value for name, value in lists.items() if len(value) == len(lists["tokens"])}
        if len(token_fields) < 2:
            rows.append(item)
            continue
        count, first, done = len(blank), source.place(item.line), "left out with their tags"
        source.notices.add("words of white space", count=count, unit="word", first=first, done=done)
        shorter = {name: [v for i, v in enumerate(value) if i not in blank] for name, value in token_fields.items()}
        rows.append(Item({**item.fields, **shorter}, item.line, item.split))
    return rows


TOKEN_TAGS = Shape("token-tags", "words with tags", lambda record: _fields(record) is not None, _read)
