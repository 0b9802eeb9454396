"""spaCy's categories: `cats`, an object with a number or truth value for each label.

Rows have `label` where every row has exactly one label, else `labels`, a list.
"""

from collections.abc import Sequence

from overture.data.formats.form import Item, Record, Shape, Source


def _is_like(record: Record) -> bool:
    cats = record.get("cats")
    return (
        isinstance(cats, dict) and bool(cats) and all(isinstance(value, bool | int | float) for value in cats.values())
    )


def _read(items: Sequence[Item], source: Source) -> list[Item]:
    labels = []
    for item in items:
        if _is_like(item.fields):
            labels.append([name for name, value in item.fields["cats"].items() if value >= 0.5])
        else:
            labels.append([])
            source.problem(item.line, "no numbers by label in 'cats'", 'wanted {"label": 1.0, ...}')
    has_one = all(len(names) == 1 for names in labels)
    return [
        Item({**item.fields, **({"label": names[0]} if has_one else {"labels": names})}, item.line, item.split)
        for item, names in zip(items, labels, strict=True)
    ]


SPACY = Shape("spacy", "spaCy's categories", _is_like, _read)
