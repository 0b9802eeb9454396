"""A stored prompt with its model, ready to answer."""

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any

from overture.core.config import validated
from overture.core.errors import ArtifactError, DataError
from overture.core.injection import Injection
from overture.core.rows import Encoded
from overture.data.encode import Encoder
from overture.data.task import Task
from overture.engine.backbone import Backbone
from overture.engine.cache import InputCache
from overture.engine.cohort import Cohort
from overture.engine.load import load_backbone
from overture.engine.lora import with_lora
from overture.engine.prompted import PromptedModel
from overture.evaluate.facts import adapter_of, backbone_ref, config_of, parted
from overture.evaluate.scoring import Prediction, predict
from overture.evaluate.source import prompt_source
from overture.prompt.pack import prompt_from
from overture.store.artifact import load_artifact
from overture.store.manifest import Manifest, check_fingerprint


class TunedPrompt:
    """A prompt from a folder, on the frozen model that it was made for.

    Args:
        folder: the prompt's folder.
        backbone: the model; loaded as the prompt names it when None.
        allow_drift: accept another tokenizer, chat template or revision around the same weights.
        notify: told of work that takes long.

    Raises:
        ArtifactError: the folder is damaged, or the model is not the prompt's.
        BackboneError: the model cannot be loaded.
    """

    def __init__(
        self,
        folder: Path,
        backbone: Backbone | None = None,
        allow_drift: bool = False,
        notify: Callable[[str], None] = lambda message: None,
    ) -> None:
        self.manifest, tensors = load_artifact(folder)
        ref = self.manifest.backbone
        self.backbone = backbone or load_backbone(ref.id, revision=ref.revision, notify=notify)
        check_fingerprint(ref, backbone_ref(self.backbone), allow_drift)
        self.task = validated(Task, self.manifest.task, str(folder / "prompt.json"))
        self.encoder = Encoder(self.task, self.backbone.tokenizer, reserve=self.manifest.length)
        own, inner = parted({name: value.to(self.backbone.device) for name, value in tensors.items()})
        adapter = adapter_of(self.manifest)
        # A copy that shares the weights: the model that was handed in stays as it is.
        self.adapted = with_lora(self.backbone, adapter, values=inner) if adapter else self.backbone
        found = prompt_from(own, config_of(self.manifest), prompt_source(self.adapted, self.encoder))
        self.prompt = self.adapted.compile(found) if isinstance(found, Injection) else found

    @property
    def has_adapter(self) -> bool:
        """Whether the prompt goes with an adapter, so that inputs are not those of the model alone."""
        return self.adapted is not self.backbone

    def model(self, cache: InputCache | None = None) -> PromptedModel:
        """The model under this prompt, and under its adapter where it has one."""
        return PromptedModel(self.adapted, self.prompt, cache)

    def calibrated(self, is_so: bool = True) -> "TunedPrompt":
        """The same prompt, on the same loaded model, with label scores calibrated in predictions, or not.

        A label's probability is divided by what the model gives it, under this prompt, for rows without content.

        Raises:
            ConfigError: the task's kind has no labels that can be calibrated.

        Source: Zhao et al. 2021, section 4; see `overture.data.kinds.classification`.
        """
        found = copy(self)
        found.task = self.task.calibrated(is_so)
        found.encoder = Encoder(found.task, self.backbone.tokenizer, reserve=self.manifest.length)
        return found

    def predict(
        self, rows: Sequence[Mapping[str, Any] | str], progress: Callable[[int, int], None] = lambda done, total: None
    ) -> list[Prediction]:
        """What the model says of each row.

        Args:
            rows: the template's fields; a plain text when the template has one field.
            progress: called with (done, all).

        Raises:
            DataError: a row lacks a field, is no text, or is too long.
        """
        fields = [self._fields(row) for row in rows]
        return predict(self.model(), self.encoder.encode_fields(fields), self.task, progress=progress)

    def _fields(self, row: Mapping[str, Any] | str) -> Mapping[str, Any]:
        if not isinstance(row, str):
            return row
        if len(self.task.columns) != 1:
            raise DataError(
                "a plain text fits only a template with one field", got="a text", wanted=", ".join(self.task.columns)
            )
        return {self.task.columns[0]: row}


def predict_together(
    prompts: Sequence[TunedPrompt],
    rows: Sequence[Mapping[str, Any] | str],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[list[Prediction]]:
    """What the model says of each row under each of several prompts; a text runs once for all that stand after it.

    Args:
        prompts: on one backbone.
        rows: as for `TunedPrompt.predict`.
        progress: called with (done, all) for each prompt.

    Returns:
        For each prompt, in order, its predictions in the rows' order.

    Raises:
        DataError: a row lacks a field of a prompt's template, is no text, or is too long.
        ArtifactError: the prompts are of different models.
    """
    backbone = prompts[0].backbone
    others = [shown(prompt.manifest) for prompt in prompts if prompt.backbone is not backbone]
    if others:
        raise ArtifactError(
            "prompts that answer together must be on one loaded model",
            got=", ".join(others),
            fix="pass backbone=first.backbone when the others are loaded",
        )
    encoded = [prompt.encoder.encode_fields([prompt._fields(row) for row in rows]) for prompt in prompts]
    # Prompts with adapters stand each on a copy of the model, whose inputs are its own.
    caches = {prompt.adapted: InputCache() for prompt in prompts}
    alike: dict[tuple[Backbone, tuple[Encoded, ...]], list[int]] = {}
    for number, own in enumerate(encoded):
        alike.setdefault((prompts[number].adapted, tuple(own)), []).append(number)
    found: dict[int, list[Prediction]] = {}
    for (adapted, own_rows), numbers in alike.items():
        cache = caches[adapted]
        scorers = Cohort([prompts[number].model(cache) for number in numbers]).scorers()
        for number, scorer in zip(numbers, scorers, strict=True):
            found[number] = predict(scorer, own_rows, prompts[number].task, progress=progress)
    return [found[number] for number in range(len(prompts))]


def shown(manifest: Manifest) -> str:
    """Name and version, as commands take it."""
    return f"{manifest.name}@{manifest.version}" if manifest.version else manifest.name
