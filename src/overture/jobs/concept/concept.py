"""Learn a concept from a few images: vectors for a new word in the captions of a frozen model that draws.

    min over v of  mean over images, captions, t and e  of  error(z_t, t, c(caption with v))

Only the vectors are trained, through the frozen text encoders and the frozen denoiser. An image's latents are computed
once; captions depend on the vectors and are computed in each step. Which part of the training is kept is decided on
noise that is never trained on, and what the vectors are worth is measured on further noise, against the word that they
began at: the same captions, images and noise, draw by draw.

Source: Gal et al. 2022, "An Image is Worth One Word", section 4. Deviations: images stand as they are, without random
flips and crops, which would void what is kept; captions of our own; no weight decay; the gradient is clipped; of Stable
Diffusion XL's two text encoders both get vectors.

Shape letters: B rows, V vectors, D width, C channels, h and w of a latent.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import ceil
from pathlib import Path

import torch
from torch import Tensor

from overture.core.errors import ConfigError, DataError, Diverged
from overture.core.media import Media
from overture.core.records.concept import ConceptErrors, ConceptResult
from overture.core.records.events import Listener, ProgressEvent, as_notices, ignore
from overture.core.records.prompt import Concept, Lineage, MadeWith
from overture.core.rows import Answer, Encoded, Signal
from overture.core.seeds import derived_seed, named_random
from overture.data.formats.media_folders import media_files
from overture.data.media.read import media_of
from overture.data.task_text import slug
from overture.engine.diffusion import Diffusion, Latent, load_diffusion
from overture.evaluate.intervals import mean_interval, paired_mean
from overture.jobs.concept.keep import concept_manifest
from overture.jobs.concept.options import CAPTIONS, ConceptConfig
from overture.store.names import ref_of
from overture.store.store import Store
from overture.train.fit import Fit, FitResult, Validation

_CHOOSING = 8
"""Draws of each image that choose the part of the training that is kept."""


def images_of(folder: Path) -> list[Media]:
    """The images of a folder and its subfolders, each once.

    Raises:
        DataError: there are none, or some cannot be read; all of these are named.
        ConfigError: pillow is missing.
    """
    names = media_files(folder, "image") if folder.is_dir() else []
    if not names:
        reason = "no such folder" if not folder.is_dir() else "no images"
        raise DataError("there is nothing to learn a concept from", where=str(folder), got=reason, wanted="images")
    items = [media_of(name, "image", folder, name) for name in names]
    problems = [item for item in items if not isinstance(item, Media)]
    if problems:
        raise DataError("images cannot be read", where=str(folder), fix="mend or remove them", problems=problems)
    return list({image.digest: image for image in items if isinstance(image, Media)}.values())


@dataclass(frozen=True, slots=True)
class Draw:
    """One noise level of one image.

    Args:
        image: its number.
        caption: number of the caption.
        time: the noise level.
        latent: standard normal numbers that the latent is drawn by, [C, h, w].
        noise: [C, h, w].
    """

    image: int
    caption: int
    time: int
    latent: Tensor
    noise: Tensor


class Learner:
    """The vectors of a concept under training; meets `core.contracts.Trainee`.

    Args:
        model: the frozen model.
        vectors: where they begin, [V, D] by text encoder.
        latents: of the images, by number.
        captions: with one place for the concept each.
        seed: of the noise that is trained on.
    """

    def __init__(
        self,
        model: Diffusion,
        vectors: Mapping[str, Tensor],
        latents: Sequence[Latent],
        captions: Sequence[str],
        seed: int,
    ) -> None:
        self.model, self.latents, self.captions = model, latents, captions
        self.vectors = {name: start.clone().to(model.device).requires_grad_(True) for name, start in vectors.items()}
        self.random = torch.Generator().manual_seed(derived_seed(seed, "noise"))

    def trainable(self) -> dict[str, Tensor]:
        """The vectors."""
        return self.vectors

    def rates(self) -> dict[str, float]:
        """No factors."""
        return {}

    def weight(self, rows: Sequence[Encoded]) -> float:
        """Number of images."""
        return float(len(rows))

    def loss(self, rows: Sequence[Encoded]) -> Tensor:
        """Error at a random noise level of each image, summed."""
        draws = [self.draw(row.row, self.random) for row in rows]
        return self.errors(draws, self.vectors).sum()

    def draw(self, image: int, random: torch.Generator, time: int | None = None) -> Draw:
        """A random noise level of an image, or noise at one."""
        shape = self.model.latent_shape
        noise_time = int(torch.randint(self.model.num_times, (), generator=random)) if time is None else time
        caption = int(torch.randint(len(self.captions), (), generator=random))
        latent, noise = [torch.randn(shape, generator=random) for _ in range(2)]
        return Draw(image, caption, noise_time, latent, noise)

    def errors(self, draws: Sequence[Draw], vectors: Mapping[str, Tensor]) -> Tensor:
        """The denoiser's error on each draw, float32 [B], with vectors in the captions."""
        device = self.model.device
        latents = [self.model.scaled(self.latents[draw.image], draw.latent.to(device)) for draw in draws]
        conditions = self.model.conditions([self.captions[draw.caption] for draw in draws], vectors)
        noise, times = torch.stack([draw.noise for draw in draws]), torch.tensor([draw.time for draw in draws])
        return self.model.errors(torch.stack(latents), noise.to(device), times.to(device), conditions)

    def fixed(self, images: Sequence[int], count: int, seed: int, purpose: str) -> list[Draw]:
        """So many draws of each image, spread evenly over the noise levels."""
        random = torch.Generator().manual_seed(derived_seed(seed, purpose))
        times = [int((number + 0.5) * self.model.num_times / count) for number in range(count)]
        return [self.draw(image, random, time) for image in images for time in times]

    @torch.no_grad()
    def measured(self, draws: Sequence[Draw], vectors: Mapping[str, Tensor], batch_size: int) -> Tensor:
        """The errors on many draws, float64 [B] on the CPU."""
        parts = [draws[first : first + batch_size] for first in range(0, len(draws), batch_size)]
        return torch.cat([self.errors(part, vectors).double().cpu() for part in parts])


def concept(
    images: Sequence[Media],
    store: Store,
    config: ConceptConfig,
    *,
    name: str | None = None,
    model: Diffusion | None = None,
    listener: Listener = ignore,
    is_stop_asked: Callable[[], bool] = lambda: False,
) -> ConceptResult:
    """Learn a concept and keep it as a prompt.

    Args:
        images: of it, all different; three to five are usual.
        store: where the prompt goes.
        config: how it is learnt.
        name: of the prompt; from the token when None.
        model: the model of ``config.backbone``, if it is loaded already.
        listener: called with each event.
        is_stop_asked: looked at after each step; the best part so far is kept.

    Raises:
        ConfigError: the token is a word already, the word does not fit the vectors, or a caption is too long.
        DataError: no images are left to train on.
        BackboneError: the model cannot be loaded, or diffusers is missing.
        Diverged: the error became NaN or infinite before anything could be kept.
    """
    name = name or slug(config.token)
    store.check_can_add(name)
    held_out, train_images = _split(len(images), config)
    model = model or load_diffusion(
        config.backbone,
        revision=config.revision,
        device=config.device,
        dtype=config.dtype,
        notify=as_notices(listener),
    )
    start, captions = _checked(model, config), config.captions or CAPTIONS[config.about]
    latents = []
    for number, image in enumerate(images, 1):
        latents.append(model.latent(model.processor.prepared(image.open(), 1, image.where)))
        listener(ProgressEvent(what="reading images", done=number, total=len(images)))
    learner = Learner(model, start, latents, captions, config.seed)
    with model.checkpointing(config.train.gradient_checkpointing):
        fit = _fitted(learner, images, train_images, config, listener, is_stop_asked)
    facts = {"token": config.token, "word": config.word, "backbone": model.info.id, "length": config.length}
    if not fit.best:
        if fit.status != "interrupted":
            raise Diverged("the error became NaN or infinite before anything could be kept", fix="a smaller --lr")
        return ConceptResult(status="interrupted", prompt=None, **facts, images=len(train_images), notices=[])
    vectors = {key: values.detach().cpu() for key, values in fit.best.items()}
    errors = _measured(learner, start, fit.best, held_out or train_images, bool(held_out), config)
    train = config.train.model_dump(mode="json")
    manifest = concept_manifest(
        name,
        model.info,
        Concept(token=config.token, word=config.word, captions=list(captions), errors=errors),
        vectors,
        lineage=Lineage(seed=config.seed, train_rows=len(train_images), epoch=fit.progress.best_epoch),
        options=MadeWith(train=train, concept=config.model_dump(mode="json", exclude={"train", "captions"})),
        seconds=fit.progress.seconds,
    )
    folder = store.add(manifest, vectors)
    return ConceptResult(
        status="finished" if fit.status == "finished" else "interrupted",
        prompt=str(ref_of(folder)),
        **facts,
        images=len(train_images),
        folder=str(folder),
        trainable=manifest.trainable,
        errors=errors,
        history=fit.progress.history,
        seconds=fit.progress.seconds,
        notices=_notices(fit, errors),
    )


def _split(num_images: int, config: ConceptConfig) -> tuple[list[int], list[int]]:
    """Numbers of the images that are held out, drawn by the seed, and of those to train on.

    Raises:
        DataError: no images are left to train on.
    """
    order = list(range(num_images))
    named_random(config.seed, "held out").shuffle(order)
    if len(order) <= config.held_out:
        raise DataError(
            "no images are left to train on",
            where="images",
            got=f"{num_images}, {config.held_out} of them held out",
            fix="more images, or a smaller --held-out",
        )
    return sorted(order[: config.held_out]), sorted(order[config.held_out :])


def _checked(model: Diffusion, config: ConceptConfig) -> dict[str, Tensor]:
    """Where the vectors begin, after the checks that need the model.

    Raises:
        ConfigError: the token is a word already, the word does not fit the vectors, or a caption is too long.
    """
    if model.is_word(config.token):
        raise ConfigError(
            "the token is a word of the model already",
            where="token",
            got=config.token,
            wanted="a word that no caption has",
            fix=f"--token '<{config.token.strip('<>')}>'",
        )
    start = model.start(config.word, config.length)
    for encoder in model.encoders.values():
        for caption in config.captions or CAPTIONS[config.about]:
            encoder.laid_out(caption, config.length)
    return start


def _fitted(
    learner: Learner,
    images: Sequence[Media],
    train_images: Sequence[int],
    config: ConceptConfig,
    listener: Listener,
    is_stop_asked: Callable[[], bool],
) -> FitResult:
    """Train, and keep the part of the training with the least error on noise that is not trained on."""
    _, height, width = learner.model.latent_shape
    # The loop counts positions: one pass may hold as many images as fit into `max_tokens` of them.
    signals = {
        number: Signal("image", images[number].digest, height * width, partial(_mean_of, learner, number))
        for number in train_images
    }
    rows = [Encoded(number, (signal,), (), Answer()) for number, signal in signals.items()]
    batches = ceil(len(rows) / config.train.batch_size)
    epochs = min(config.train.num_epochs, ceil(config.steps / batches))
    passes = ceil(config.steps / (epochs * batches))
    train = config.train.model_copy(update={"epochs": epochs, "passes": passes})
    draws = learner.fixed(train_images, _CHOOSING, config.seed, "choosing")

    def validated() -> Validation:
        loss = float(learner.measured(draws, learner.vectors, train.batch_size).mean())
        return Validation(-loss, loss)

    return Fit(
        learner,
        rows,
        validated,
        train,
        config.seed,
        events=listener,
        who=config.token,
        is_stop_asked=is_stop_asked,
    ).run()


def _mean_of(learner: Learner, number: int) -> Tensor:
    return learner.latents[number].mean


def _measured(
    learner: Learner,
    start: Mapping[str, Tensor],
    vectors: Mapping[str, Tensor],
    images: Sequence[int],
    is_held_out: bool,
    config: ConceptConfig,
) -> ConceptErrors:
    """Errors with the vectors and with the word that they began at, on the same draws."""
    draws = learner.fixed(images, config.draws, config.seed, "measured")
    words = {name: values.to(learner.model.device) for name, values in start.items()}
    of_concept, of_word = [
        learner.measured(draws, values, config.train.batch_size).tolist() for values in (vectors, words)
    ]
    difference, p_value = paired_mean(of_word, of_concept)
    return ConceptErrors(
        images="held out" if is_held_out else "trained",
        num_images=len(images),
        concept=mean_interval(of_concept),
        word=mean_interval(of_word),
        difference=difference,
        p_value=p_value,
    )


def _notices(fit: FitResult, errors: ConceptErrors) -> list[str]:
    notices = []
    if fit.status == "diverged":
        notices.append("the error became NaN or infinite; what is kept was reached before")
    if errors.difference.low <= 0:
        notices.append("the vectors were not shown to draw these images better than the word that they began at")
    return notices
