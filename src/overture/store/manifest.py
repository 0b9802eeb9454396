"""The manifest of a prompt, ``prompt.json``, and the model that the prompt was made for."""

from datetime import UTC, datetime
from typing import Annotated, Any, get_args

from pydantic import AfterValidator, Field

from overture.core.config import Config, unequal_values
from overture.core.errors import ArtifactError, Problem
from overture.core.records.base import Options, optional
from overture.core.records.prompt import Concept, Lineage, MadeWith, PromptScores, TextPrompt
from overture.core.records.shares import KeptShares
from overture.engine.options import DType

FORMAT_VERSION = 1
_PRECISIONS = {*get_args(DType)} - {"auto", "fastest"}


def _moment(text: str) -> str:
    """The text, if it is a moment that can be shown."""
    datetime.fromisoformat(text).timestamp()
    return text


class BackboneRef(Config):
    """The model that a prompt was made for, as exactly as it can be told again."""

    id: str = Field(description="Hub id, folder or file of the model", min_length=1)
    revision: str | None = Field(default=None, description="commit of the model on the Hub; none for local files")
    model_type: str = Field(description="architecture, as the model's config names it")
    hidden_size: int = Field(description="width of the hidden states", gt=0)
    num_layers: int = Field(description="number of layers", gt=0)
    embedding_size: int | None = Field(
        default=None, description="width of its token vectors, where it maps them to the hidden states'", gt=0
    )
    weights_sha256: str = Field(description="fingerprint of the weights", min_length=1)
    tokenizer_sha256: str = Field(description="fingerprint of the tokenizer")
    chat_template_sha256: str | None = Field(
        default=None, description="fingerprint of the chat template; none without one"
    )
    processor_sha256: str | None = Field(
        default=None, description="fingerprint of what prepares images or sounds; none for models of texts"
    )
    dtype: str | None = Field(
        default=None, description="precision that the prompt was made in; none in prompts of earlier versions"
    )
    config: Options | None = Field(
        default=None,
        description="values of the model's config that change its answers; none in prompts of earlier versions",
    )

    @property
    def precision(self) -> DType:
        """The precision that a prompt was made in, so that its scores hold; ``auto`` where it is not known."""
        return self.dtype if self.dtype in _PRECISIONS else "auto"  # type: ignore[return-value]


class Manifest(Config):
    """The contents of ``prompt.json``."""

    format_version: int = Field(default=FORMAT_VERSION, description="version of the folder's format")
    name: str = Field(description="the prompt's name", min_length=1)
    version: int = Field(default=0, description="the prompt's version in its store, from 1; 0 outside a store", ge=0)
    method: str = Field(description="how the prompt's values are parameterised")
    place: str = Field(description="where the prompt enters the model")
    length: int = Field(description="prompt length in tokens", ge=0)
    text: TextPrompt | None = optional("text and tokens of a prompt of words; such a prompt has no tensors")
    concept: Concept | None = optional("words of vectors that stand in captions of a model that draws")
    options: MadeWith = Field(default=MadeWith(), description="the resolved options that made it")
    backbone: BackboneRef = Field(description="the model that the prompt was made for")
    task: Options = Field(default={}, description="the resolved task, template included")
    metrics: PromptScores = Field(
        default=PromptScores(), description="scores, each with its interval and number of rows"
    )
    shares: KeptShares | None = optional(
        "label shares of rows with known labels, by which answers tell how sure they are"
    )
    lineage: Lineage = Field(default=Lineage(), description="where it comes from: run, seed, parent prompt")
    versions: dict[str, str] = Field(default={}, description="versions of the software that made it")
    created: Annotated[str, AfterValidator(_moment)] = Field(
        default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"),
        description="when it was made, UTC, ISO 8601",
    )
    trainable: int = Field(description="number of trained values", ge=0)
    seconds: float | None = Field(default=None, description="training time in seconds", ge=0)
    tensors_sha256: str = Field(
        default="",
        description="SHA-256 of prompt.safetensors; filled in when it is saved; of a text prompt that of its text",
    )
    manifest_sha256: str = Field(
        default="", description="SHA-256 of all other fields; filled in when it is saved, empty in older prompts"
    )

    @property
    def ref(self) -> str:
        """Name and version, as commands take them."""
        return f"{self.name}@{self.version}" if self.version else self.name

    @property
    def is_probe(self) -> bool:
        """Whether it is a linear probe alone: trained values for labels, and no prompt."""
        return self.length == 0 and self.trainable > 0 and self.text is None and self.concept is None

    @property
    def own_options(self) -> dict[str, Any]:
        """The method's own options, as far as they were set; none of imported prompts."""
        options = (self.options.prompt or {}).get("options")
        return options if isinstance(options, dict) else {}

    @property
    def layer(self) -> int:
        """The first layer that sees the prompt; 0 for all but late prompts."""
        layer = self.own_options.get("layer", 0)
        return layer if isinstance(layer, int) else 0


def check_answers(manifest: Manifest) -> None:
    """Refuse a concept where a prompt is wanted that answers rows.

    Raises:
        ArtifactError: it is of a model that draws.
    """
    if manifest.concept:
        raise ArtifactError(
            "this is a concept of a model that draws, and answers nothing",
            where=manifest.ref,
            got=f"{manifest.concept.token} for {manifest.backbone.id}",
            wanted="a prompt of a task",
            fix=f"overture export {manifest.ref} --to diffusers, or --to webui",
        )


def check_fingerprint(expected: BackboneRef, actual: BackboneRef, allow_drift: bool = False) -> list[str]:
    """Refuse to put a prompt before a model that it was not made for.

    Args:
        expected: the model that the prompt was made for.
        actual: the model that is loaded. Its id may differ: the weights decide.
        allow_drift: accept another config, tokenizer, chat template, processor or revision around the same weights.

    Returns:
        Sentences on what could not be compared, and on another precision.

    Raises:
        ArtifactError: another model, always; drift, unless it is allowed.
    """
    unequal = _differences(expected, actual, ("model_type", "hidden_size", "num_layers", "weights_sha256"))
    if unequal:
        raise ArtifactError(
            "the prompt was made for another model",
            got=_model_name(actual),
            wanted=_model_name(expected),
            fix=f"load {expected.id}, or train a prompt for {actual.id}",
            problems=unequal,
        )
    drift = _differences(expected, actual, ("tokenizer_sha256", "chat_template_sha256"))
    if expected.processor_sha256 is not None:
        # Made where the model read texts alone, a prompt has no part in how images are prepared.
        drift += _differences(expected, actual, ("processor_sha256",))
    if None not in (expected.revision, actual.revision):
        drift += _differences(expected, actual, ("revision",))
    if expected.config is not None:
        drift += unequal_values(expected.config, actual.config or {}, "config")
    if drift and not allow_drift:
        raise ArtifactError(
            "the model has changed around the same weights since the prompt was made",
            got=_model_name(actual),
            wanted=_model_name(expected),
            fix="load the model as it was, or accept the change with --allow-drift and measure the prompt again",
            problems=drift,
        )
    notices = []
    if expected.config is None:
        notices += ["made before Overture recorded the model's config, so only the weights were compared"]
    if None not in (expected.dtype, actual.dtype) and expected.dtype != actual.dtype:
        notices += [f"made in {expected.dtype}, but the model runs in {actual.dtype}, so scores may differ"]
    return notices


def _differences(expected: BackboneRef, actual: BackboneRef, fields: tuple[str, ...]) -> list[Problem]:
    pairs = {field: (getattr(actual, field), getattr(expected, field)) for field in fields}
    return [Problem(field, f"{got!s:.16}, wanted {want!s:.16}") for field, (got, want) in pairs.items() if got != want]


def _model_name(ref: BackboneRef) -> str:
    revision = f" at {ref.revision:.12}" if ref.revision else ""
    return f"{ref.id}{revision} ({ref.model_type}, {ref.num_layers} layers of width {ref.hidden_size})"
