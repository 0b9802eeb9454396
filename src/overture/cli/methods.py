"""``overture methods``: lists the prompt methods with their places and trained values."""

from typing import Annotated, Any

import typer

from overture.cli.options import JsonOption, allowed_values, method_names
from overture.cli.out import console, emit, show_text
from overture.cli.report import show_next
from overture.cli.tables import Column, show_facts, show_table

LETTERS = "P prompt length, D model width, N layers, H key/value heads, K head width, C labels"


def command(
    name: Annotated[
        str,
        typer.Argument(metavar="METHOD", help="Show one method with its options.", autocompletion=method_names),
    ] = "",
    is_json: JsonOption = False,
) -> None:
    """Show the prompt methods: places, trained values, learning rates and options."""
    from overture.prompt.config import PromptConfig
    from overture.prompt.methods import METHODS
    from overture.prompt.registry import method_of

    # An unknown name is refused with the known ones.
    methods = {name: method_of(PromptConfig(method=name), is_place_checked=False)} if name else METHODS
    facts = {key: _facts(method) for key, method in methods.items()}
    if is_json:
        emit({"methods": facts})
        return
    if name:
        _show_one(name, facts[name], METHODS[name].formula_text)
        return
    out = console()
    columns = [
        Column("method", list(facts), is_left=True),
        Column("what is trained", [fact["title"] for fact in facts.values()], is_left=True, is_prose=True),
        Column("places", [", ".join(fact["places"]) for fact in facts.values()], is_left=True, is_prose=True),
        Column("trained values", [fact["formula"] for fact in facts.values()], rank=1, is_left=True, is_prose=True),
        Column("source", [fact["source"] for fact in facts.values()], rank=2, is_left=True, is_prose=True),
    ]
    show_table(out, columns)
    show_text(out, LETTERS)
    show_next("Look closer, or tune:", ["overture methods prefix", "overture tune TASK.yaml --method prefix"])


def _facts(method: Any) -> dict[str, Any]:
    fields = method.options.model_fields
    return {
        "title": method.title,
        "source": method.source,
        "plugin": method.plugin,
        "places": list(method.places),
        "formula": method.formula,
        "variants": dict(method.variants),
        "letters": dict(method.letters),
        "learning_rate": dict(method.learning_rate),
        "rated_length": method.rated_length,
        "needs_labels": method.needs_labels,
        "options": {name: _option(field) for name, field in fields.items()},
    }


def _option(field: Any) -> dict[str, Any]:
    default = None if field.is_required() else field.get_default(call_default_factory=True)
    return {
        "is_required": field.is_required(),
        "default": default,
        "description": field.description,
        "values": allowed_values(field.annotation),
    }


def _show_one(name: str, method: dict[str, Any], formula: str) -> None:
    rates = ", ".join(f"{rate:g} at {place}" for place, rate in method["learning_rate"].items())
    if method["rated_length"]:
        rates += f"; less in proportion beyond {method['rated_length']} tokens"
    facts = {
        "trained": method["title"],
        "source": method["source"],
        **({"plug-in": method["plugin"]} if method["plugin"] else {}),
        "places": ", ".join(method["places"]),
        "trained values": formula,
        "learning rate": rates,
    }
    facts |= {f"option {key}": _option_text(option) for key, option in method["options"].items()}
    show_facts(console(), facts, name)
    show_text(console(), LETTERS)
    settings = [f"--set prompt.options.{key}={_example(option)}" for key, option in method["options"].items()][:1]
    words = ["overture tune TASK.yaml", f"--method {name}", f"--place {method['places'][0]}", *settings]
    show_next("Tune it:", [" ".join(words)])


def _option_text(option: dict[str, Any]) -> str:
    default = "must be given" if option["is_required"] else f"default {_word(option['default'])}"
    return f"{option['description']} {option['values']} ({default})"


def _example(option: dict[str, Any]) -> str:
    """A value of an option to try: another than the default where the others are known."""
    others = [value for value in option["values"].split(" | ") if value != _word(option["default"])]
    return others[0] if " | " in option["values"] and others else "..."


def _word(value: Any) -> str:
    return "none" if value is None else str(value)
