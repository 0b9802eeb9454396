"""``overture methods``: which prompt methods there are, where each can enter, and what it trains."""

from typing import Annotated, Any

import typer

from overture.cli.options import JsonOption, method_names
from overture.cli.out import console, emit
from overture.cli.report import show_next

LETTERS = "P prompt length, D model width, N layers, H key/value heads, K head width, C labels"


def command(
    name: Annotated[
        str,
        typer.Argument(metavar="[METHOD]", help="Show one method with its options.", autocompletion=method_names),
    ] = "",
    is_json: JsonOption = False,
) -> None:
    """Show the prompt methods: places, trained values, learning rates and options."""
    from overture.prompt.config import PromptConfig
    from overture.prompt.methods import METHODS
    from overture.prompt.registry import method_of

    # An unknown name is refused with the known ones.
    shown = {name: method_of(PromptConfig(method=name), is_place_checked=False)} if name else METHODS
    facts = {key: _facts(method) for key, method in shown.items()}
    if is_json:
        emit({"methods": facts})
        return
    if name:
        _show_one(name, facts[name], METHODS[name].formula_text)
        return
    from rich.table import Table

    table = Table("method", "what is trained", "places", "trained values", "source")
    for key, fact in facts.items():
        table.add_row(key, fact["title"], ", ".join(fact["places"]), fact["formula"], fact["source"])
    console().print(table)
    console().print(LETTERS)
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
    return {"is_required": field.is_required(), "default": default, "description": field.description}


def _show_one(name: str, method: dict[str, Any], formula: str) -> None:
    from rich.table import Table

    rates = ", ".join(f"{rate:g} at {place}" for place, rate in method["learning_rate"].items())
    if method["rated_length"]:
        rates += f"; less in proportion beyond {method['rated_length']} tokens"
    facts = Table(title=name, title_justify="left", show_header=False)
    for key, value in (
        ("trained", method["title"]),
        ("source", method["source"]),
        *([("plug-in", method["plugin"])] if method["plugin"] else []),
        ("places", ", ".join(method["places"])),
        ("trained values", formula),
        ("learning rate", rates),
        *(
            (f"option {key}", f"{option['description']} ({_default(option)})")
            for key, option in method["options"].items()
        ),
    ):
        facts.add_row(key, value)
    console().print(facts)
    console().print(LETTERS)
    option = next(iter(method["options"]), None)
    set_flag = f" --set prompt.options.{option}=..." if option else ""
    show_next("Tune it:", [f"overture tune TASK.yaml --method {name} --place {method['places'][0]}{set_flag}"])


def _default(option: dict[str, Any]) -> str:
    return "must be given" if option["is_required"] else f"default {option['default']}"
