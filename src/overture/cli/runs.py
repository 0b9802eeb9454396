"""Runs that did not end, from their folders alone."""

import json
from pathlib import Path
from typing import Any

from overture.core.errors import StoreError
from overture.core.files import exclusive


def unfinished_runs(runs: Path) -> list[dict[str, Any]]:
    """Runs without a result, oldest first: name, state, when they started, why they ended."""
    found = [_facts(path.parent) for path in runs.glob("*/run.json") if not (path.parent / "result.json").exists()]
    return sorted(found, key=lambda run: (run["started"], run["run"]))


def _facts(folder: Path) -> dict[str, Any]:
    status = _read(folder / "status.json")
    state = status.get("status", "not started")
    if is_held(folder):
        state = "running"
    elif state == "running":
        state = "killed"
    why = str(status.get("why", "")).partition("\n")[0]
    return {"run": folder.name, "state": state, "started": _read(folder / "run.json").get("created", ""), "why": why}


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def is_held(folder: Path) -> bool:
    """Whether a process works on a run now."""
    try:
        with exclusive(folder / ".lock", ""):
            return False
    except StoreError:
        return True
    except OSError:
        # A store that cannot be written is worked on by nobody.
        return False
