"""Text-to-image models of diffusers, as far as learning a concept needs them.

A concept is a few vectors that stand in captions like words. A hook on the token table puts them among its output rows,
so the model does not change. The vectors are trained on the denoiser's error:

    z_t = sqrt(a_t) z + sqrt(1 - a_t) e,   error = mean over C, h, w of (e - U(z_t, t, c(caption with the vectors)))^2

z is an image's latent, e noise, and a_t comes from the scheduler; the target of a model that predicts velocities is
sqrt(a_t) e - sqrt(1 - a_t) z. The autoencoder is frozen, so the mean and deviation of an image's latents are computed
once, and random latents are drawn from them as the autoencoder would draw them.

diffusers is an extra and is imported where a model is loaded.

Source: Gal et al. 2022, "An Image is Worth One Word", section 4.

Shape letters: B rows, L tokens of a caption, V vectors of the concept, D width of a text encoder, C channels of a
latent, h and w its height and width.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from overture.core.errors import BackboneError, ConfigError
from overture.core.packages import install
from overture.engine.diffusion_files import DiffusionInfo, files_of, tokenizer_of
from overture.engine.frontends.pixels import ImageProcessor
from overture.engine.precision import device_of, dtype_of
from overture.engine.transformers_calls import LOADING, quiet, readable_errors

HOLE = "{}"
"""Where a caption has the concept."""


@dataclass(frozen=True, slots=True)
class Latent:
    """An image's encoding by the autoencoder: mean and deviation of its latents, [C, h, w]."""

    mean: Tensor
    deviation: Tensor


@dataclass(frozen=True, slots=True)
class Conditions:
    """Captions as the denoiser reads them.

    Args:
        states: of the text encoders, [B, L, D].
        added: Stable Diffusion XL's further inputs, by its names.
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
        # Any token can hold the place of a vector, but not the largest id: for some models it marks the end.
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
        token_rows = [self.laid_out(caption, len(vectors)) for caption in captions]
        ids = torch.tensor([ids for ids, _ in token_rows], device=self.model.device)
        with self._vectors_at([place for _, place in token_rows], vectors):
            return self.model(ids, **options)

    @contextmanager
    def _vectors_at(self, places: Sequence[int], vectors: Tensor) -> Iterator[None]:
        """While entered, the token table returns a concept's vectors from these places on, one place a caption."""

        def put_in(module: Any, arguments: Any, rows: Tensor) -> Tensor:
            concept_rows = vectors.to(rows)
            parts = [
                torch.cat([row[:place], concept_rows, row[place + len(concept_rows) :]])
                for row, place in zip(rows, places, strict=True)
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
        """Start vectors from a word's token vectors, float32 [V, D] by text encoder; those of a short word repeat.

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
        distribution = self.vae.encode(pixels[None].to(self.vae.device, self.vae.dtype)).latent_dist
        return Latent(distribution.mean[0].to(self.device), distribution.std[0].to(self.device))

    def conditions(self, captions: Sequence[str], vectors: Mapping[str, Tensor]) -> Conditions:
        """Encode captions with a concept in them.

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
        extra_inputs = {"added_cond_kwargs": conditions.added} if conditions.added else {}
        prediction = self.unet(noisy, times, conditions.states.to(self.unet.dtype), **extra_inputs).sample.float()
        is_velocity = self.scheduler.config.prediction_type == "v_prediction"
        target = self.scheduler.get_velocity(latents, noise, times) if is_velocity else noise
        return (prediction - target.float()).square().flatten(1).mean(1)

    def scaled(self, latent: Latent, draw: Tensor) -> Tensor:
        """A random latent as the denoiser is trained on it, [C, h, w].

        Args:
            latent: of an image.
            draw: standard normal numbers, [C, h, w].
        """
        shift = getattr(self.vae.config, "shift_factor", None) or 0.0
        return (latent.mean + latent.deviation * draw - shift) * float(self.vae.config.scaling_factor)

    @contextmanager
    def checkpointing(self, enabled: bool) -> Iterator[None]:
        """Recompute the denoiser's activations in the backward pass: less memory, more time."""
        if enabled:
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
        notify: called before work that takes long.

    Raises:
        BackboneError: diffusers is missing, there is no such model, or it is not supported.
    """
    files = files_of(name, revision)
    torch_device = device_of(device)
    torch_dtype = dtype_of(dtype, torch_device)
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

        def load_part(model_class: Any, part: str, **arguments: Any) -> Any:
            model = model_class.from_pretrained(files.folder, subfolder=part, **arguments, **options)
            return model.to(torch_device).eval().requires_grad_(False)

        encoders = {
            part: TextEncoder(
                load_part(getattr(transformers, encoder), part, dtype=torch_dtype, trust_remote_code=False),
                transformers.CLIPTokenizer.from_pretrained(
                    files.folder, subfolder=tokenizer_of(part), local_files_only=True
                ),
            )
            for part, encoder in files.encoders.items()
        }
        unet = load_part(diffusers.UNet2DConditionModel, "unet", torch_dtype=torch_dtype)
        vae = load_part(diffusers.AutoencoderKL, "vae", torch_dtype=torch.float32)
        scheduler = diffusers.DDPMScheduler.from_pretrained(files.folder, subfolder="scheduler", local_files_only=True)
    info = replace(files.info, dtype=str(torch_dtype).removeprefix("torch."))
    return Diffusion(info, files.processor, encoders, unet, vae, scheduler)
