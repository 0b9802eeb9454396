"""``overture cache``: the inputs that earlier runs kept on disk, and the copies of models."""

import time
from typing import Annotated, Any

import typer

from overture.cli.options import JsonOption
from overture.cli.out import console, emit, show_text, size_text
from overture.cli.report import show_next
from overture.cli.tables import show_facts
from overture.core.files import cache_dir
from overture.core.kept_files import LIMIT, kept_inputs

_DAY_S = 86_400.0


def command(
    is_cleared: Annotated[bool, typer.Option("--clear", help="Remove all kept inputs; models stay.")] = False,
    is_json: JsonOption = False,
) -> None:
    """Show what is kept on disk between runs, or clear it.

    Kept inputs are what the model computed from your texts. With them later runs on the same texts start at once. They
    can be removed at any time.
    """
    inputs = kept_inputs()
    files = inputs.files()
    num_removed, removed_bytes = inputs.clear() if is_cleared else (0, 0)
    models = [path for path in (cache_dir() / "models").glob("*/*") if path.is_file()]
    facts: dict[str, Any] = {
        "folder": str(inputs.folder),
        "files": len(files) - num_removed,
        "bytes": sum(file.size_bytes for file in files) - removed_bytes,
        "limit_bytes": inputs.limit_bytes,
        "oldest_use_days": round((time.time() - files[0].used_at) / _DAY_S, 1) if files and not num_removed else None,
        "removed_files": num_removed,
        "removed_bytes": removed_bytes,
        "model_copies_bytes": sum(path.stat().st_size for path in models),
    }
    if is_json:
        emit(facts)
        return
    out = console()
    if is_cleared:
        show_text(out, f"removed {size_text(removed_bytes)} of kept inputs in {num_removed} files")
        return
    size, limit = size_text(facts["bytes"]), size_text(inputs.limit_bytes)
    show_facts(
        out,
        {
            "folder": str(inputs.folder),
            "kept inputs": f"{size} in {len(files)} files, at most {limit}",
            "longest unused": f"{facts['oldest_use_days']} days" if files else "-",
            "copies of models": size_text(facts["model_copies_bytes"]),
        },
    )
    hint = f"{LIMIT}=GB sets another limit, 0 keeps nothing."
    show_text(out, hint if inputs.limit_bytes else f"{LIMIT} is 0: nothing is kept.")
    if files:
        show_next("Free the disk:", ["overture cache --clear"])
