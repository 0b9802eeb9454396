"""Pages from the templates beside this file; jinja2 escapes every value."""

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from overture.report import units
from overture.report.charts import colour


def rendered(template: str, **values: Any) -> str:
    """A page.

    Args:
        template: name of its file in ``templates``.
        values: what the template shows.
    """
    return _environment().get_template(template).render(values)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {name: value for name, value in vars(units).items() if name.endswith("_text")}
    environment.filters |= {"colour": colour, "file_name": lambda where: Path(where).name}
    environment.filters["one_line"] = lambda text: Markup(" ").join(map(Markup, str(escape(text)).split()))
    return environment
