"""Counts tokens of texts by a model's tokenizer file, without torch, transformers or a network."""

import importlib.metadata
from collections.abc import Callable, Sequence
from pathlib import Path

from overture.core.files import cache_dir
from overture.engine.options import EMBEDDED

TokenCounter = Callable[[Sequence[str]], list[int]]


def token_counter(name: str) -> TokenCounter | None:
    """A function that counts the tokens of texts, without special tokens; None where no tokenizer file is at hand.

    Args:
        name: an alias, a Hub id, a folder or a ``.gguf`` file.
    """
    file = _tokenizer_file(name)
    if file is None or not file.is_file():
        return None
    import tokenizers

    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(file))
    except Exception:  # the library has no class of its own; loading the model will say what is wrong
        return None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return lambda texts: [len(row.ids) for row in tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]


def converted_copies(name: str) -> list[Path]:
    """Folders with the float32 copies of a ``.gguf`` file, or of the one that an alias's package carries."""
    files = importlib.metadata.files(EMBEDDED[name]) or [] if name in EMBEDDED else [Path(name)]
    stems = [Path(str(file)).stem for file in files if str(file).endswith(".gguf")]
    return [folder for stem in stems for folder in (cache_dir() / "models").glob(f"{stem}-*")]


def _tokenizer_file(name: str) -> Path | None:
    if name in EMBEDDED or name.endswith(".gguf"):
        try:
            folders = converted_copies(name)
        except importlib.metadata.PackageNotFoundError:
            return None
        # Copies of several files with this name may have several tokenizers.
        return folders[0] / "tokenizer.json" if len(folders) == 1 else None
    if (folder := Path(name).expanduser()).is_dir():
        return folder / "tokenizer.json"
    import huggingface_hub

    try:
        cached_file = huggingface_hub.try_to_load_from_cache(name, "tokenizer.json")
    except ValueError:
        return None
    return Path(cached_file) if isinstance(cached_file, str) else None
