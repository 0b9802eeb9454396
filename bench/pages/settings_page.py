"""Write docs/settings.md and the JSON schema of task files, from the options' fields.

python bench/pages/settings_page.py
"""

import argparse
import json
import sys
from pathlib import Path

from overture.cli.settings import SCHEMA_FILE
from overture.core.files import write_atomic
from overture.jobs.wording.settings import SECTIONS, settings_of, task_schema
from page_parts import table

PAGE = Path(__file__).parents[2] / "docs/settings.md"
HEAD = """# Settings

Every key of a task file, written by `make docs` from the options themselves. `overture settings` prints the same list,
`overture settings train` one section, `overture settings lr` one key. The task file wins over the default, a flag
such as `--lr` over the file, and `--set KEY=VALUE` over all. Where a default is empty, the sentence beside it explains.

Editors complete and check task files by the JSON schema that `overture schema` prints; `overture init` writes the
comment that VS Code and others read (`# yaml-language-server: $schema=...`).
"""


def page_text() -> str:
    """The page: a table for each section."""
    parts = [HEAD]
    for section, settings in settings_of().items():
        rows = [
            [f"`{item.key}`", _cell(item.values), _cell(item.default), _cell(item.description)] for item in settings
        ]
        parts.append(
            f"## {section}\n\n{SECTIONS[section]}\n\n"
            + table(["key", "values", "default", "meaning"], rows, are_numbers=False)
        )
    return "\n".join(part.rstrip("\n") + "\n" for part in parts)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--check", action="store_true", help="fail where a file is not what the code says")
    is_check = parser.parse_args().check
    schema = json.dumps(task_schema(), indent=1, ensure_ascii=True) + "\n"
    stale = False
    for path, text in ((PAGE, page_text()), (SCHEMA_FILE, schema)):
        if is_check and (not path.exists() or path.read_text(encoding="utf-8") != text):
            print(f"{path.name} is not what the options say: make docs")
            stale = True
        elif not is_check:
            write_atomic(path, text)
    sys.exit(stale)


if __name__ == "__main__":
    main()
