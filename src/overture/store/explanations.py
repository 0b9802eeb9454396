"""The page that explains a stored prompt, kept beside the prompts: ``ROOT/explanations/NAME@V.html``."""

from pathlib import Path

from overture.store.names import Ref


def explanation_path(root: Path, ref: Ref) -> Path:
    """Where the page of a version lies, if one was made.

    Args:
        root: the store's folder.
        ref: a name and a version, checked.
    """
    return root / "explanations" / f"{ref.name}@{ref.version}.html"
