"""Text-to-image models of diffusers, as far as a concept of its own vectors needs them.

A concept is a few vectors that stand in captions like words. They are put where the token table's rows come out, so
nothing of the model changes. What the vectors are trained on is the denoiser's error:

    z_t = sqrt(a_t) z + sqrt(1 - a_t) e,   error = mean over C, h, w of (e - U(z_t, t, c(caption with the vectors)))^2

z is an image's latent, e noise, a_t the scheduler's; a model that predicts velocities is asked for sqrt(a_t) e -
sqrt(1 - a_t) z instead. The autoencoder is frozen, so an image's latents are computed once; a random latent is drawn
from the kept mean and deviation, as the autoencoder would draw it.

diffusers is an extra and is imported where a model is loaded.

Source: Gal et al. 2022, "An Image is Worth One Word", section 4.

Shape letters: B rows, L tokens of a caption, V vectors of the concept, D width of a text encoder, C channels of a
latent, h and w its height and width.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import JsonValue
from torch import Tensor

from overture.core.errors import BackboneError, ConfigError
from overture.core.packages import install
from overture.engine.frontends.pixels import ImageProcessor
from overture.engine.model_files import digest_of
from overture.engine.options import sized
from overture.engine.transformers_calls import LOADING, quiet, readable_errors

PIPELINES = {
    "StableDiffusionPipeline": ("text_encoder",),
    "StableDiffusionXLPipeline": ("text_encoder", "text_encoder_2"),
}
"""The kinds of models, as ``model_index.json`` names them, with their text encoders."""
HOLE = "{}"
"""Where a caption has the concept."""

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
        id: how the user named it.
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
class _Files:
    """A model's folder, looked at without its weights."""

    folder: Path
    info: DiffusionInfo
    processor: ImageProcessor
    size: int


def diffusion_info(name: str, revision: str | None = None) -> DiffusionInfo:
    """A model's facts, from its files; no weights are loaded.

    Args:
        name: a folder, or the Hub id of a model whose files are on this machine; with ``@512px`` behind it the size
            that images are shown to it at.
        revision: commit of a Hub model.

    Raises:
        BackboneError: there is no such model, or it is of a kind that is not supported.
    """
    return _files_of(name, revision).info


def _files_of(name: str, revision: str | None) -> _Files:
    plain, number, unit = sized(name)
    folder, commit = _folder_of(plain, revision)
    index = _json(folder / _INDEX, name)
    kind = str(index.get("_class_name"))
    if kind not in PIPELINES:
        raise BackboneError(
            "concepts are not learnt in this kind of model", where=name, got=kind, wanted=" or ".join(PIPELINES)
        )
    odd = [str(index[part][1]) for part in PIPELINES[kind] if (index.get(part) or ("", ""))[1] not in _ENCODERS]
    if odd:
        raise BackboneError("a text encoder is no CLIP", where=name, got=odd[0], wanted=" or ".join(_ENCODERS))
    unet, vae = [_json(folder / part / "config.json", name) for part in ("unet", "vae")]
    texts = {part: _json(folder / part / "config.json", name) for part in PIPELINES[kind]}
    scheduler = _json(folder / "scheduler" / "scheduler_config.json", name)
    predicts = scheduler.get("prediction_type", "epsilon")
    if unet["in_channels"] != vae["latent_channels"] or predicts not in ("epsilon", "v_prediction"):
        got = f"{unet['in_channels']} channels in, {vae['latent_channels']} of a latent; it predicts {predicts}"
        raise BackboneError(
            "the denoiser is not asked for noise alone", where=name, got=got, wanted="a model of texts to images"
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
    first = texts["text_encoder"]
    weights = [path for part in ("unet", "vae", *texts) for path in _weight_files(folder / part, part)]
    info = DiffusionInfo(
        id=name,
        model_type=kind,
        hidden_size=first["hidden_size"],
        num_layers=first["num_hidden_layers"],
        weights_sha256=digest_of(weights),
        tokenizer_sha256=_tokenizers_digest(folder, PIPELINES[kind]),
        processor_sha256=processor.sha256,
        config=config,
        revision=commit,
    )
    return _Files(folder, info, processor, size)


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
    whole, index = folder / f"{stem}.safetensors", folder / f"{stem}.safetensors.index.json"
    if whole.is_file():
        return [whole]
    if index.is_file():
        return [folder / name for name in sorted(set(_json(index, str(folder))["weight_map"].values()))]
    there = sorted(path.name for path in folder.glob("*") if path.suffix in (".bin", ".safetensors"))
    raise BackboneError(
        f"the model's {part} has no safetensors weights of full precision",
        where=str(folder),
        got=", ".join(there) or "no weights",
        wanted=whole.name,
        fix="fetch the file, or convert pickled weights to safetensors; they are never read here",
    )


def _tokenizers_digest(folder: Path, encoders: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for part in encoders:
        files = [folder / _tokenizer_of(part) / name for name in ("tokenizer.json", "vocab.json", "merges.txt")]
        there = [path for path in files if path.is_file()]
        if not there:
            raise BackboneError(
                "a tokenizer is missing", where=str(files[0].parent), wanted="tokenizer.json or vocab.json"
            )
        for path in there:
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _tokenizer_of(encoder: str) -> str:
    return encoder.replace("text_encoder", "tokenizer")


@dataclass(frozen=True, slots=True)
class Latent:
    """What the autoencoder makes of an image: mean and deviation of its latents, [C, h, w]."""

    mean: Tensor
    deviation: Tensor


@dataclass(frozen=True, slots=True)
class Conditions:
    """Captions as the denoiser reads them.

    Args:
        states: of the text encoders, [B, L, D].
        added: what Stable Diffusion XL reads besides, by its name there.
    """

    states: Tensor
    added: dict[str, Tensor] = field(default_factory=dict)


class TextEncoder:
    """A text encoder of CLIP with its tokenizer; its captions may hold vectors that no token has.

    Args:
        model: transformers' model.
        tokenizer: transformers' tokenizer.

    Raises:
        BackboneError: the tokenizer is another model's.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model, self.tokenizer = model, tokenizer
        marks = [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id]
        num_rows = len(model.get_input_embeddings().weight)
        if not all(mark is not None and mark < num_rows for mark in marks):
            got = f"start, end and padding {', '.join(map(str, marks))}"
            raise BackboneError("the tokenizer is of another model", got=got, wanted=f"tokens below {num_rows}")
        self.context = int(min(tokenizer.model_max_length, model.config.max_position_embeddings))

    def ids_of(self, text: str) -> list[int]:
        """Tokens of a stretch of a caption."""
        return list(self.tokenizer.encode(text, add_special_tokens=False)) if text.strip() else []

    def rows_of(self, word: str) -> Tensor:
        """The token table's rows of a word, float32 [n, D]."""
        table = self.model.get_input_embeddings().weight
        return table[torch.tensor(self.ids_of(word), dtype=torch.long, device=table.device)].detach().float()

    def laid_out(self, caption: str, num_vectors: int) -> tuple[list[int], int]:
        """Tokens of a caption, padded, and the place of the concept's first vector in it.

        Raises:
            ConfigError: the caption has not one place for the concept, or is too long with it.
        """
        if caption.count(HOLE) != 1:
            raise ConfigError("a caption has one place for the concept", where="captions", got=caption, wanted=HOLE)
        before, behind = [self.ids_of(part) for part in caption.split(HOLE)]
        tokenizer = self.tokenizer
        # Any token will do where the vectors stand: its row is replaced. The largest id marks the end for some models.
        ids = [tokenizer.bos_token_id, *before, *([0] * num_vectors), *behind, tokenizer.eos_token_id]
        if len(ids) > self.context:
            raise ConfigError(
                "a caption is too long with the concept's vectors in it",
                where=caption,
                got=f"{len(ids)} tokens",
                wanted=f"at most {self.context}",
                fix="fewer vectors, with --length",
            )
        return ids + [tokenizer.pad_token_id] * (self.context - len(ids)), 1 + len(before)

    def states(self, captions: Sequence[str], vectors: Tensor, **options: Any) -> Any:
        """The model's outputs for captions with the concept's vectors [V, D] in them."""
        laid_out = [self.laid_out(caption, len(vectors)) for caption in captions]
        ids = torch.tensor([ids for ids, _ in laid_out], device=self.model.device)
        with self._vectors_at([first for _, first in laid_out], vectors):
            return self.model(ids, **options)

    @contextmanager
    def _vectors_at(self, places: Sequence[int], vectors: Tensor) -> Iterator[None]:
        """The token table gives a concept's vectors at these places, one for each caption."""

        def put_in(module: Any, arguments: Any, rows: Tensor) -> Tensor:
            placed = vectors.to(rows)
            parts = [
                torch.cat([row[:first], placed, row[first + len(placed) :]])
                for row, first in zip(rows, places, strict=True)
            ]
            return torch.stack(parts)

        hook = self.model.get_input_embeddings().register_forward_hook(put_in)
        try:
            yield
        finally:
            hook.remove()


class Diffusion:
    """A frozen text-to-image model.

    Args:
        info: its facts.
        processor: how images are prepared.
        encoders: its text encoders by name, in their order.
        unet: the denoiser.
        vae: the autoencoder, in float32.
        scheduler: a DDPM scheduler of the model's config.
    """

    def __init__(
        self,
        info: DiffusionInfo,
        processor: ImageProcessor,
        encoders: Mapping[str, TextEncoder],
        unet: Any,
        vae: Any,
        scheduler: Any,
    ) -> None:
        self.info, self.processor, self.encoders = info, processor, dict(encoders)
        self.unet, self.vae, self.scheduler = unet, vae, scheduler
        self.size = (processor.crop or (0, 0))[0]

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return torch.device(self.unet.device)

    @property
    def num_times(self) -> int:
        """Number of noise levels."""
        return int(self.scheduler.config.num_train_timesteps)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """Shape of an image's latents, (C, h, w)."""
        side = self.size // 2 ** (len(self.vae.config.block_out_channels) - 1)
        return int(self.vae.config.latent_channels), side, side

    def is_word(self, text: str) -> bool:
        """Whether a tokenizer knows the text as one token."""
        return any(len(encoder.ids_of(text)) == 1 for encoder in self.encoders.values())

    def start(self, word: str, length: int) -> dict[str, Tensor]:
        """Vectors that begin at a word's, float32 [V, D] by text encoder; a short word's repeat.

        Raises:
            ConfigError: the word has more tokens than there are vectors, or none.
        """
        vectors = {}
        for name, encoder in self.encoders.items():
            rows = encoder.rows_of(word)
            if not 1 <= len(rows) <= length:
                raise ConfigError(
                    "the word has more tokens than the concept has vectors" if len(rows) else "the word has no tokens",
                    where="word",
                    got=f"{word!r:.80}, {len(rows)} tokens",
                    wanted=f"1 to {length}",
                    fix=f"--length {len(rows)}, or a shorter word" if len(rows) else "name a word with --word",
                )
            vectors[name] = rows[[number * len(rows) // length for number in range(length)]].clone()
        return vectors

    @torch.no_grad()
    def latent(self, pixels: Tensor) -> Latent:
        """The latents of a prepared image, float32 [3, H, W]."""
        drawn = self.vae.encode(pixels[None].to(self.vae.device, self.vae.dtype)).latent_dist
        return Latent(drawn.mean[0].to(self.device), drawn.std[0].to(self.device))

    def conditions(self, captions: Sequence[str], vectors: Mapping[str, Tensor]) -> Conditions:
        """Captions with a concept in them.

        Args:
            captions: each with one ``{}``, B of them.
            vectors: of the concept, [V, D] by text encoder.
        """
        names = list(self.encoders)
        if len(names) == 1:
            return Conditions(self.encoders[names[0]].states(captions, vectors[names[0]])[0])
        outputs = [self.encoders[name].states(captions, vectors[name], output_hidden_states=True) for name in names]
        # Stable Diffusion XL reads the last layer but one of both, side by side.
        states = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1)
        size = self.size
        times = torch.tensor([[size, size, 0, 0, size, size]] * len(captions)).to(states)
        return Conditions(states, {"text_embeds": outputs[-1].text_embeds, "time_ids": times})

    def errors(self, latents: Tensor, noise: Tensor, times: Tensor, conditions: Conditions) -> Tensor:
        """The denoiser's error on each row, float32 [B].

        Args:
            latents: clean and scaled, [B, C, h, w].
            noise: [B, C, h, w].
            times: noise levels, integers [B].
            conditions: captions, one for each row.
        """
        noisy = self.scheduler.add_noise(latents, noise, times).to(self.unet.dtype)
        added = {"added_cond_kwargs": conditions.added} if conditions.added else {}
        predicted = self.unet(noisy, times, conditions.states.to(self.unet.dtype), **added).sample.float()
        is_velocity = self.scheduler.config.prediction_type == "v_prediction"
        wanted = self.scheduler.get_velocity(latents, noise, times) if is_velocity else noise
        return (predicted - wanted.float()).square().flatten(1).mean(1)

    def scaled(self, latent: Latent, draw: Tensor) -> Tensor:
        """A random latent as the denoiser is trained on it, [C, h, w].

        Args:
            latent: of an image.
            draw: standard normal numbers, [C, h, w].
        """
        shift = getattr(self.vae.config, "shift_factor", None) or 0.0
        return (latent.mean + latent.deviation * draw - shift) * float(self.vae.config.scaling_factor)

    @contextmanager
    def checkpointing(self, is_wanted: bool) -> Iterator[None]:
        """Whether the denoiser keeps less for its gradient and computes it again."""
        if is_wanted:
            self.unet.enable_gradient_checkpointing()
        try:
            yield
        finally:
            self.unet.disable_gradient_checkpointing()


def load_diffusion(
    name: str,
    *,
    revision: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    notify: Callable[[str], None] = print,
) -> Diffusion:
    """Load a frozen text-to-image model: Stable Diffusion 1 and 2, or XL. Nothing is fetched.

    Args:
        name: as for `diffusion_info`.
        revision: commit of a Hub model.
        device: ``auto`` takes a GPU where there is one.
        dtype: ``auto`` is float32 on the CPU and bfloat16 on a GPU. The autoencoder is float32: in half precision some
            overflow.
        notify: told of work that takes long.

    Raises:
        BackboneError: diffusers is missing, there is no such model, or it is not supported.
    """
    files = _files_of(name, revision)
    where = torch.device("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else torch.device(device)
    kind = (torch.float32 if where.type == "cpu" else torch.bfloat16) if dtype == "auto" else getattr(torch, dtype)
    notify(f"loading {name} ...")
    with LOADING, readable_errors(name), quiet():
        try:
            import diffusers
        except ImportError:
            raise BackboneError(
                "models that draw need diffusers, which is not installed", where=name, fix=install("diffusion")
            ) from None
        import transformers

        options: dict[str, Any] = {"use_safetensors": True, "local_files_only": True}

        def read(model: Any, part: str, **others: Any) -> Any:
            made = model.from_pretrained(files.folder, subfolder=part, **others, **options)
            return made.to(where).eval().requires_grad_(False)

        classes = {part: _json(files.folder / _INDEX, name)[part][1] for part in PIPELINES[files.info.model_type]}
        encoders = {
            part: TextEncoder(
                read(getattr(transformers, classes[part]), part, dtype=kind, trust_remote_code=False),
                transformers.CLIPTokenizer.from_pretrained(
                    files.folder, subfolder=_tokenizer_of(part), local_files_only=True
                ),
            )
            for part in classes
        }
        unet = read(diffusers.UNet2DConditionModel, "unet", torch_dtype=kind)
        vae = read(diffusers.AutoencoderKL, "vae", torch_dtype=torch.float32)
        scheduler = diffusers.DDPMScheduler.from_pretrained(files.folder, subfolder="scheduler", local_files_only=True)
    info = replace(files.info, dtype=str(kind).removeprefix("torch."))
    return Diffusion(info, files.processor, encoders, unet, vae, scheduler)
