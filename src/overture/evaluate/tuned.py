"""A stored prompt with its model, ready to answer."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from overture.core.config import validated
from overture.core.errors import DataError
from overture.core.types import Injection, LayerMemory, Vectors
from overture.data import Encoder, Task
from overture.engine import Backbone, InputCache, PromptedModel, load_backbone
from overture.evaluate.scoring import Prediction, predict
from overture.prompt import injection_from
from overture.store import BackboneRef, Manifest, check_fingerprint, load_artifact


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
        self.injection = self.backbone.compile(self._moved(injection_from(tensors, self.manifest.place)))  # type: ignore[arg-type]
        self.encoder = Encoder(self.task, self.backbone.tokenizer, reserve=self.injection.length)

    def _moved(self, injection: Injection) -> Injection:
        device = self.backbone.device
        if isinstance(injection, Vectors):
            return Vectors(injection.values.to(device), injection.place)
        memory = LayerMemory(injection.memory.keys.to(device), injection.memory.values.to(device))
        return type(injection)(memory, injection.place)

    def model(self, cache: InputCache | None = None) -> PromptedModel:
        """The model under this prompt."""
        return PromptedModel(self.backbone, self.injection, cache)

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
        if len(self.task.fields) != 1:
            raise DataError(
                "a plain text fits only a template with one field", got="a text", wanted=", ".join(self.task.fields)
            )
        return {self.task.fields[0]: row}


def backbone_ref(backbone: Backbone) -> BackboneRef:
    """The part of a backbone's facts that artifacts record and check."""
    facts = asdict(backbone.info)
    return BackboneRef(**{name: facts[name] for name in BackboneRef.model_fields})


def shown(manifest: Manifest) -> str:
    """Name and version, as commands take it."""
    return f"{manifest.name}@{manifest.version}" if manifest.version else manifest.name
