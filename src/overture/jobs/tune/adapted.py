"""A prompt and an adapter in the same model: trained jointly, or one after the other.

While an adapter that reaches all tokens is trained nothing is kept of the inputs, for it changes them. An adapter that
is finished belongs to the frozen model: a prompt that is trained on it keeps its inputs, in a cache of its own. An
adapter at `after` leaves inputs to the frozen model, whose cache serves all stages.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from overture.core.contracts import PromptMethod, RowMethod
from overture.core.injection import Injection
from overture.engine.backbone import Backbone
from overture.engine.lora import with_lora
from overture.engine.options import LoraOptions
from overture.engine.prompted import OnePrompt, PromptedModel
from overture.evaluate.source import prompt_source
from overture.jobs.run.request import AdapterConfig
from overture.jobs.run.work import Work, input_cache
from overture.prompt.build import wants_label_vectors
from overture.prompt.labels import LabelVectors, RowLabelVectors, label_start, with_labels
from overture.train.fit import FitResult


@dataclass(frozen=True, slots=True)
class Tuned:
    """The outcome of a seed's training.

    Args:
        model: the model under the prompt.
        result: of the last stage.
        trainable: trained values of all stages.
        seconds: of all stages.
    """

    model: PromptedModel
    result: FitResult
    trainable: int
    seconds: float


def tuned_alone(model: PromptedModel, *results: FitResult, trainable: int | None = None) -> Tuned:
    """The outcome of a training in stages: the last result, and the seconds of all."""
    num_values = sum(value.numel() for value in model.trainable().values())
    seconds = sum(result.progress.seconds for result in results)
    return Tuned(model, results[-1], num_values if trainable is None else trainable, seconds)


def tuned_with_adapter(work: Work, adapter: AdapterConfig, seed: int, rate: float, folder: Path) -> Tuned:
    """Train a prompt and an adapter as the adapter's `stage` says.

    Args:
        work: rows, the frozen model and the prompt's config.
        adapter: which adapter, when and how fast.
        seed: of the run.
        rate: the prompt's learning rate.
        folder: where checkpoints are kept.
    """
    options = LoraOptions(**{name: getattr(adapter, name) for name in LoraOptions.model_fields})
    adapted_backbone = with_lora(work.backbone, options, seed)
    with adapted_backbone.checkpointing(work.config.train.gradient_checkpointing):
        return _STAGES[adapter.stage](_Stage(work, adapted_backbone, adapter.lr, rate, seed, folder))


@dataclass(frozen=True, slots=True)
class _Stage:
    work: Work
    adapted: Backbone
    adapter_rate: float
    rate: float
    seed: int
    folder: Path

    @property
    def leaves_texts(self) -> bool:
        """Whether texts are the frozen model's, read once for all stages."""
        return self.adapted.reader is self.work.backbone

    @property
    def on_adapted(self) -> Work:
        """The same work on the adapted model; its inputs are its own, if the adapter changes them."""
        work = self.work
        cache = work.cache if self.leaves_texts else input_cache(work.config, work.notice)
        return replace(work, backbone=self.adapted, cache=cache)

    def under(self, prompt: OnePrompt | None) -> PromptedModel:
        """The adapted model, whose adapter is trained under a prompt that is not."""
        model = PromptedModel(self.adapted, prompt, self.work.cache if self.leaves_texts else None)
        if self.leaves_texts:
            self.work.warm(model)
        return model

    def fitted(self, model: PromptedModel, rate: float, name: str = "checkpoint") -> FitResult:
        train = self.work.config.train.model_copy(update={"lr": rate})
        return self.work.fit(model, train, self.seed, self.folder / f"{name}.safetensors")


def _jointly(stage: _Stage) -> Tuned:
    stage.adapted.inner_rate = stage.adapter_rate / stage.rate
    work = stage.on_adapted
    model = (work.fresh if stage.leaves_texts else work.built)(work.config.prompt, stage.seed)
    return _finished(stage, model, stage.fitted(model, stage.rate))


def _prompt_first(stage: _Stage) -> Tuned:
    plain = stage.work.fresh(stage.work.config.prompt, stage.seed)
    first = stage.fitted(plain, stage.rate, "checkpoint-first")
    if first.status == "interrupted" or not first.best:
        return tuned_alone(plain, first)
    second = stage.fitted(stage.under(_fixed(plain.prompt)), stage.adapter_rate)
    return _finished(stage, PromptedModel(stage.adapted, plain.prompt), first, second)


def _adapter_first(stage: _Stage) -> Tuned:
    work = stage.work
    source = prompt_source(work.backbone, work.encoder, work.rows["train"], cache=work.cache)
    labels = None
    if wants_label_vectors(work.config.prompt, source):
        start, bias = label_start(source)
        labels = with_labels(None, start, work.config.prompt.label_rate or 1.0, bias)
    alone = stage.under(labels)
    first = stage.fitted(alone, stage.adapter_rate, "checkpoint-first")
    if first.status == "interrupted" or not first.best:
        return tuned_alone(alone, first)
    stage.adapted.freeze()
    model = stage.on_adapted.fresh(work.config.prompt, stage.seed)
    if labels is not None:
        # The adapter was trained with these vectors; the prompt's stage trains them on.
        assert isinstance(model.prompt, LabelVectors | RowLabelVectors)
        with torch.no_grad():
            model.prompt.labels.copy_(labels.labels)
    return _finished(stage, model, first, stage.fitted(model, stage.rate))


_STAGES = {"joint": _jointly, "prompt first": _prompt_first, "adapter first": _adapter_first}


def _finished(stage: _Stage, model: PromptedModel, *results: FitResult) -> Tuned:
    """The pair, with the values of both counted."""
    of_adapter = set(PromptedModel(stage.adapted).trainable())
    prompt = sum(value.numel() for name, value in model.trainable().items() if name not in of_adapter)
    inner = sum(value.numel() for value in stage.adapted.inner.values())
    return tuned_alone(model, *results, trainable=prompt + inner)


def _fixed(prompt: object) -> OnePrompt:
    """A trained prompt as it is; nothing of it is trained any more."""
    if isinstance(prompt, RowMethod):
        return _FixedRows(prompt)
    assert isinstance(prompt, PromptMethod)
    with torch.no_grad():
        # Without gradients a method draws nothing at random: the prompt has the values that it has in use.
        return _detached(prompt.injection())


def _detached(injection: Injection) -> Injection:
    constant = injection.map(Tensor.detach)
    # Targets of the vectors are a loss of their own training.
    return replace(constant, vectors=replace(constant.vectors, targets=())) if constant.vectors else constant


class _FixedRows:
    """A method that depends on the row, finished."""

    def __init__(self, method: RowMethod) -> None:
        self.method = method

    def injections(self, features: Tensor) -> Sequence[Injection]:
        """Each row's prompt; no gradient reaches the method."""
        return [_detached(injection) for injection in self.method.injections(features)]

    def rates(self) -> dict[str, float]:
        """None."""
        return {}

    def trainable(self) -> dict[str, Tensor]:
        """Nothing."""
        return {}
