"""Templates of promptsource (Bach et al. 2022): Jinja with `|||` between what is shown and what is to be said."""

import re
from pathlib import Path
from typing import Any

import yaml

from overture.core.errors import ConfigError
from overture.exchange.tasks.jinja import Field, Parsed, as_template, list_of_row, parsed
from overture.exchange.tasks.written import (
    OWN_CHOICES,
    Translated,
    labels_of,
    only_field,
    otherwise_read,
    own_choices,
    source_of,
)

_BAR = "|||"


class _Loader(yaml.SafeLoader):
    """Plain YAML; promptsource's own types are read as mappings."""


def _mapping(loader: yaml.SafeLoader, node: yaml.Node) -> dict[Any, Any]:
    if not isinstance(node, yaml.MappingNode):
        raise yaml.constructor.ConstructorError(None, None, "expected a mapping", node.start_mark)
    return loader.construct_mapping(node, deep=True)


for _tag in ("!Template", "!TemplateMetadata"):
    _Loader.add_constructor(_tag, _mapping)


def task_of_promptsource(path: Path, template: str | None = None, data: Path | None = None) -> Translated:
    """One of a file's templates as a task.

    Args:
        path: a `templates.yaml`.
        template: its name; needed where the file has several.
        data: a file to take the rows from instead of the data set that the file names.

    Raises:
        ConfigError: the file cannot be read, has no such template, or the template says what ours cannot.
    """
    try:
        found = yaml.load(path.read_text(encoding="utf-8-sig"), Loader=_Loader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise ConfigError("the templates cannot be read as YAML", where=str(path), got=str(error)) from None
    templates = found.get("templates") if isinstance(found, dict) else None
    if not isinstance(templates, dict) or not all(isinstance(each, dict) for each in templates.values()):
        raise ConfigError("not a file of promptsource", where=str(path), wanted="dataset, templates")
    chosen = _chosen(list(templates.values()), template, str(path))
    rows = source_of(data) if data else _hub(found, str(path))
    where = f"{path}: {chosen.get('name')}"
    return _translated(chosen, rows, where, f"{found.get('dataset', path.stem)}-{chosen.get('name')}")


def _chosen(templates: list[dict[str, Any]], name: str | None, where: str) -> dict[str, Any]:
    names = [str(each.get("name")) for each in templates]
    if name is None and len(templates) == 1:
        return templates[0]
    if name in names:
        return templates[names.index(name)]
    raise ConfigError(
        "which template is meant?" if name is None else "no such template",
        where=where,
        got=name or f"{len(names)} templates",
        wanted=", ".join(names),
        fix="--template NAME",
    )


def _hub(found: dict[str, Any], where: str) -> dict[str, Any]:
    if not isinstance(found.get("dataset"), str):
        raise ConfigError("the templates name no data set", where=where, fix="name a local file of rows as FILE")
    return {"dataset": found["dataset"], **({"subset": str(found["subset"])} if found.get("subset") else {})}


def _translated(chosen: dict[str, Any], rows: dict[str, Any], where: str, name: str) -> Translated:
    text = str(chosen.get("jinja") or "")
    if text.count(_BAR) != 1:
        raise ConfigError("a template without one '|||'", where=where, got=f"{text!r:.80}")
    listed = chosen.get("answer_choices")
    own = list_of_row(str(listed), glue=_BAR)
    choices = [each.strip() for each in str(listed).split(_BAR)] if listed and own is None else []
    if any("{{" in choice or "{%" in choice for choice in choices):
        raise ConfigError(
            "the choices depend on the row",
            where=where,
            got=str(listed),
            wanted="constant choices, or one field that is joined by '|||'",
        )
    found = parsed(text, where, {"answer_choices": choices} if choices else {}, keep_end=False, own=own)
    shown, said = _cut(found)
    target = only_field(said)
    if target is None:
        raise ConfigError("the answer is not one field", where=where, got=text.split(_BAR)[1].strip())
    values: dict[str, Any] = {
        "name": re.sub(r"[^a-z0-9_-]+", "-", name.lower()).strip("-_")[:64],
        "data": rows,
        "template": as_template(shown, where),
    }
    notes = list(found.notes)
    if target.within is not None:
        return Translated(_with_own_choices(values, own, target, where), notes)
    if target.choices is None:
        return Translated({**values, "answer_field": target.name, "metric": "exact_match"}, notes)
    # T0's encoder-decoders keep both sides apart; a decoder reads on, so a word needs its space.
    labels = labels_of(target.choices, target.first, target.is_index, " ")
    return Translated({**values, "label_field": target.name, "labels": labels, "metric": "accuracy"}, notes)


def _with_own_choices(values: dict[str, Any], own: str | None, target: Field, where: str) -> dict[str, Any]:
    """The task as one of kind `choice`."""
    # Sanh et al. 2022 (T0), who wrote the templates, compare choices without regard to their length.
    found = own_choices(values["template"], own, target, "sum") if own else None
    if found is None:
        raise ConfigError(
            "the row's own choices cannot be read", where=where, got=own or target.within or "", wanted=OWN_CHOICES
        )
    made = {**values, **found, "metric": "accuracy"}
    differs = otherwise_read(made, own or "", target, where)
    if differs:
        raise ConfigError("a label means another choice here", where=where, got=differs)
    return made


def _cut(found: Parsed) -> tuple[Parsed, Parsed]:
    """What is shown and what is said; white space around both is cut off, as promptsource does."""
    at = next(i for i, part in enumerate(found.parts) if isinstance(part, str) and _BAR in part)
    before, after = str(found.parts[at]).split(_BAR)
    return Parsed(_stripped([*found.parts[:at], before])), Parsed(_stripped([after, *found.parts[at + 1 :]]))


def _stripped(parts: list[str | Field]) -> list[str | Field]:
    kept = list(parts)
    for index, strip in ((0, str.lstrip), (-1, str.rstrip)):
        while kept and isinstance(end := kept[index], str):
            kept[index] = strip(end)
            if kept[index]:
                break
            kept.pop(index)
    return kept
