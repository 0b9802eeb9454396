"""Facts of a text-to-image model of diffusers, read from its files without weights and without diffusers."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from overture.core.errors import BackboneError
from overture.engine.frontends.pixels import ImageProcessor
from overture.engine.model_files import digest_of
from overture.engine.options import sized

PIPELINES = {
    "StableDiffusionPipeline": ("text_encoder",),
    "StableDiffusionXLPipeline": ("text_encoder", "text_encoder_2"),
}
"""The kinds of models, as ``model_index.json`` names them, with their text encoders."""

_INDEX = "model_index.json"
_ENCODERS = ("CLIPTextModel", "CLIPTextModelWithProjection")
_STEMS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model"}
_SCHEDULER = ("beta_start", "beta_end", "beta_schedule", "num_train_timesteps", "prediction_type", "trained_betas")
_UNET = ("in_channels", "cross_attention_dim", "addition_embed_type", "time_cond_proj_dim", "num_class_embeds")
_BICUBIC = 3


@dataclass(frozen=True, slots=True)
class DiffusionInfo:
    """The facts of a model that a concept depends on; names are those of an artifact's record of its model.

    Args:
        id: the user's name for it.
        model_type: the pipeline's class.
        hidden_size: width of the first text encoder.
        num_layers: layers of the first text encoder.
        weights_sha256: over the weight files of text encoders, denoiser and autoencoder.
        tokenizer_sha256: over the tokenizers' files.
        processor_sha256: of the preparation of images.
        config: values of the parts' configs that change the error.
        revision: commit of a Hub model.
        dtype: precision that it runs in; None before it is loaded.
    """

    id: str
    model_type: str
    hidden_size: int
    num_layers: int
    weights_sha256: str
    tokenizer_sha256: str
    processor_sha256: str
    config: Mapping[str, JsonValue]
    revision: str | None = None
    dtype: str | None = None

    @property
    def widths(self) -> dict[str, int]:
        """Width of each text encoder, D, by its name."""
        return {name: int(width) for name, width in dict(self.config["widths"]).items()}  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class DiffusionFiles:
    """A model's folder with the facts of its files; ``encoders`` holds the class of each text encoder by its name."""

    folder: Path
    info: DiffusionInfo
    processor: ImageProcessor
    encoders: Mapping[str, str]


def diffusion_info(name: str, revision: str | None = None) -> DiffusionInfo:
    """A model's facts, from its files; no weights are loaded.

    Args:
        name: a folder, or the Hub id of a model whose files are on this machine; ``@512px`` behind it sets the size of
            the images.
        revision: commit of a Hub model.

    Raises:
        BackboneError: there is no such model, or it is of a kind that is not supported.
    """
    return files_of(name, revision).info


def files_of(name: str, revision: str | None) -> DiffusionFiles:
    """A model's folder with the facts in it; name, revision and errors as for `diffusion_info`."""
    plain, number, unit = sized(name)
    folder, commit = _folder_of(plain, revision)
    index = _json(folder / _INDEX, name)
    kind = str(index.get("_class_name"))
    if kind not in PIPELINES:
        raise BackboneError(
            "concepts are not learnt in this kind of model", where=name, got=kind, wanted=" or ".join(PIPELINES)
        )
    other_encoders = [
        str(index[part][1]) for part in PIPELINES[kind] if (index.get(part) or ("", ""))[1] not in _ENCODERS
    ]
    if other_encoders:
        raise BackboneError(
            "a text encoder is no CLIP", where=name, got=other_encoders[0], wanted=" or ".join(_ENCODERS)
        )
    unet, vae = [_json(folder / part / "config.json", name) for part in ("unet", "vae")]
    texts = {part: _json(folder / part / "config.json", name) for part in PIPELINES[kind]}
    scheduler = _json(folder / "scheduler" / "scheduler_config.json", name)
    prediction_type = scheduler.get("prediction_type", "epsilon")
    if unet["in_channels"] != vae["latent_channels"] or prediction_type not in ("epsilon", "v_prediction"):
        got = f"{unet['in_channels']} channels in, {vae['latent_channels']} of a latent; it predicts {prediction_type}"
        raise BackboneError(
            "the denoiser takes other inputs or predicts something else",
            where=name,
            got=got,
            wanted="a model of texts to images",
        )
    factor = 2 ** (len(vae["block_out_channels"]) - 1)
    size = int(number) if number is not None else int(unet["sample_size"]) * factor
    step = factor * 2 ** (len(unet["block_out_channels"]) - 1)
    if unit == "s" or size % step or size < step:
        got, wanted = (
            name[len(plain) :] or f"{size} px",
            f"a multiple of {step}, such as @{max(1, size // step) * step}px",
        )
        raise BackboneError("the size of the images does not fit the model", where=name, got=got, wanted=wanted)
    half = (0.5, 0.5, 0.5)
    processor = ImageProcessor(shortest=size, crop=(size, size), resample=_BICUBIC, mean=half, std=half)
    config: dict[str, JsonValue] = {
        "unet": {key: unet.get(key) for key in _UNET},
        "scheduler": {key: scheduler.get(key) for key in _SCHEDULER},
        "scaling_factor": vae.get("scaling_factor"),
        "widths": {part: text["hidden_size"] for part, text in texts.items()},
    }
    first_encoder = texts["text_encoder"]
    weights = [path for part in ("unet", "vae", *texts) for path in _weight_files(folder / part, part)]
    info = DiffusionInfo(
        id=name,
        model_type=kind,
        hidden_size=first_encoder["hidden_size"],
        num_layers=first_encoder["num_hidden_layers"],
        weights_sha256=digest_of(weights),
        tokenizer_sha256=_tokenizers_digest(folder, PIPELINES[kind]),
        processor_sha256=processor.sha256,
        config=config,
        revision=commit,
    )
    return DiffusionFiles(folder, info, processor, {part: str(index[part][1]) for part in texts})


def _folder_of(name: str, revision: str | None) -> tuple[Path, str | None]:
    """A model's folder, and the commit that it is a copy of; nothing is fetched.

    Raises:
        BackboneError: it is not on this machine.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        if (folder / _INDEX).is_file():
            return folder, None
        raise BackboneError("the folder holds no model of diffusers", where=name, wanted=f"a folder with {_INDEX}")
    import huggingface_hub

    try:
        index = huggingface_hub.try_to_load_from_cache(name, _INDEX, revision=revision)
    except ValueError:
        index = None
    if not isinstance(index, str):
        raise BackboneError(
            "the model is not on this machine",
            where=name,
            wanted="a folder with model_index.json, or the Hub id of a model that was fetched",
            fix="check the path" if folder.is_absolute() or name.startswith(".") else f"hf download {name}",
        )
    return Path(index).parent, Path(index).parent.name


def _json(path: Path, name: str) -> dict[str, Any]:
    try:
        values = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise BackboneError("a file of the model cannot be read", where=str(path), got=str(error)) from error
    if not isinstance(values, dict):
        raise BackboneError("a file of the model is no JSON object", where=str(path), got=type(values).__name__)
    return values


def _weight_files(folder: Path, part: str) -> list[Path]:
    """The files that hold a part's weights; pickled ones are never read.

    Raises:
        BackboneError: there are none.
    """
    stem = _STEMS.get(part, "model")
    single_file, index = folder / f"{stem}.safetensors", folder / f"{stem}.safetensors.index.json"
    if single_file.is_file():
        return [single_file]
    if index.is_file():
        return [folder / name for name in sorted(set(_json(index, str(folder))["weight_map"].values()))]
    file_names = sorted(path.name for path in folder.glob("*") if path.suffix in (".bin", ".safetensors"))
    raise BackboneError(
        f"the model's {part} has no safetensors weights of full precision",
        where=str(folder),
        got=", ".join(file_names) or "no weights",
        wanted=single_file.name,
        fix="fetch the file, or convert pickled weights to safetensors; they are never read here",
    )


def _tokenizers_digest(folder: Path, encoders: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for part in encoders:
        files = [folder / tokenizer_of(part) / name for name in ("tokenizer.json", "vocab.json", "merges.txt")]
        present_files = [path for path in files if path.is_file()]
        if not present_files:
            raise BackboneError(
                "a tokenizer is missing", where=str(files[0].parent), wanted="tokenizer.json or vocab.json"
            )
        for path in present_files:
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def tokenizer_of(encoder: str) -> str:
    """The name of a text encoder's tokenizer."""
    return encoder.replace("text_encoder", "tokenizer")
