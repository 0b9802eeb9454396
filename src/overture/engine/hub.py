"""Models of the Hub: whether it can be asked at all, and the local copies of its files."""

import contextlib
from pathlib import Path

from overture.core.errors import BackboneError


def has_only_copies(name: str, revision: str | None) -> bool:
    """Whether a model's files must be local copies, since the Hub does not answer.

    One attempt: the library repeats its own for half a minute, and does so again for each file.

    Args:
        name: the model's id on the Hub.
        revision: branch, tag or commit.

    Raises:
        BackboneError: the Hub does not answer, and there is no copy of the model either.
    """
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    try:
        huggingface_hub.get_hf_file_metadata(huggingface_hub.hf_hub_url(name, "config.json", revision=revision))
    except (HfHubHTTPError, ValueError):
        # The Hub answers that there is no such file, or the name is no id: the library's own error says it better.
        return False
    except Exception as error:
        # The class of a connection error differs between versions of the library.
        if copies_of(name, revision) is None:
            raise BackboneError(
                "the Hub cannot be reached, and there is no local copy of the model",
                where=name,
                got=(str(error).strip() or type(error).__name__).splitlines()[0][:300],
                wanted="an alias, a Hub id, a folder with safetensors, or a .gguf file",
                fix="check the name and the connection",
            ) from error
        return True
    return False


def copies_of(name: str, revision: str | None) -> Path | None:
    """The folder of a Hub model's local files, named by its commit; None where there are none."""
    import huggingface_hub

    config = huggingface_hub.try_to_load_from_cache(name, "config.json", revision=revision)
    return Path(config).parent if isinstance(config, str) else None


def fetch_preparation(name: str, revision: str | None, local_files_only: bool) -> None:
    """Fetch a Hub model's configs of its processors, those that exist."""
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError

    for file in ("preprocessor_config.json", "processor_config.json"):
        with contextlib.suppress(EntryNotFoundError):
            huggingface_hub.hf_hub_download(name, file, revision=revision, local_files_only=local_files_only)
