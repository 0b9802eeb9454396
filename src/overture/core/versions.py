"""Versions of the programs that decide the numbers."""

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

_PACKAGES = ("overture", "torch", "transformers", "tokenizers", "numpy")


def versions() -> dict[str, str]:
    """Versions of the packages, of Python and of Overture's own commit."""
    packages = {name: version(name) for name in _PACKAGES}
    return {**packages, "python": platform.python_version(), "git": _git_hash()}


def _git_hash() -> str:
    try:
        process = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=5,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return process.stdout.strip() if process.returncode == 0 else ""
