"""The config, adapter and tensors of a stored prompt, read from its manifest by their own classes."""

from dataclasses import asdict
from typing import TYPE_CHECKING

from overture.core.config import validated
from overture.core.errors import ArtifactError
from overture.engine.backbone import Backbone
from overture.engine.info import weights_digest
from overture.engine.options import LoraOptions
from overture.prompt.config import PromptConfig
from overture.prompt.methods import METHODS
from overture.prompt.pack import ADAPTER
from overture.store.manifest import BackboneRef, Manifest, check_fingerprint

if TYPE_CHECKING:
    from torch import Tensor


def backbone_ref(backbone: Backbone) -> BackboneRef:
    """The part of a backbone's facts that artifacts record and check."""
    facts = asdict(backbone.info)
    return BackboneRef(**{name: facts[name] for name in BackboneRef.model_fields})


def check_backbone(expected: BackboneRef, backbone: Backbone, allow_drift: bool = False) -> list[str]:
    """Refuse to put a prompt before a loaded model that it was not made for, as `check_fingerprint` does.

    Raises:
        ArtifactError: another model, always; drift, unless it is allowed.
    """
    actual = backbone_ref(backbone)
    # Before refs recorded a precision, the fingerprint of a Hub model was that of its tensors as they were loaded.
    is_older = expected.dtype is None and expected.weights_sha256 != actual.weights_sha256
    if is_older and expected.weights_sha256 == weights_digest(backbone.model):
        actual = actual.model_copy(update={"weights_sha256": expected.weights_sha256})
    return check_fingerprint(expected, actual, allow_drift)


def config_of(manifest: Manifest) -> PromptConfig:
    """The prompt's config; of imported prompts only method, place and length are known.

    Raises:
        ConfigError: a manifest that was written by hand, or by an Overture whose options differ.
        ArtifactError: its method is one of a plug-in that is not loaded.
    """
    if manifest.options.plugin and manifest.method not in METHODS:
        raise ArtifactError(
            "the prompt's method is one of a plug-in that is not loaded",
            where=manifest.ref,
            got=f"method {manifest.method!r}",
            wanted=f"the plug-in {manifest.options.plugin!r:.100}",
            fix="overture --plugin FILE.py ..., or install its package; a plug-in is code, so load only what you trust",
        )
    options = manifest.options.prompt or {
        "method": manifest.method,
        "place": manifest.place,
        "length": manifest.length,
    }
    return validated(PromptConfig, options, f"{manifest.name}: prompt.json")


def values_of(manifest: Manifest, tensors: "dict[str, Tensor]", backbone: Backbone) -> "dict[str, Tensor]":
    """A stored prompt's tensors; of a prompt of words the embeddings of its tokens.

    Another model than the one that the words were found with tokenises the text anew.

    Args:
        manifest: the prompt's.
        tensors: as they are stored.
        backbone: the model that the prompt is used with.
    """
    text = manifest.text
    if text is None:
        return tensors
    before, after = text.before_ids, text.after_ids
    tokenizer = backbone.text.tokenizer
    if backbone.info.tokenizer_sha256 != manifest.backbone.tokenizer_sha256:
        before = [*(tokenizer.bos_ids if text.begins else ()), *tokenizer.encode_plain(text.before)]
        after = tokenizer.encode_plain(text.after)
    values = {"vectors": backbone.embed([*before, *after])}
    if text.place == "around":
        values["split"] = values["vectors"].new_zeros(len(before) + len(after) + 1)
        values["split"][len(before)] = 1
    return values


def adapter_of(manifest: Manifest) -> LoraOptions | None:
    """The adapter that a prompt was trained with; None for most.

    Raises:
        ConfigError: a manifest that was written by hand, or by an Overture whose options differ.
    """
    if manifest.options.adapter is None:
        return None
    options = {name: value for name, value in manifest.options.adapter.items() if name in LoraOptions.model_fields}
    return validated(LoraOptions, options, f"{manifest.name}: prompt.json")


def parted(tensors: "dict[str, Tensor]") -> "tuple[dict[str, Tensor], dict[str, Tensor]]":
    """The prompt's tensors, and the adapter's by their names in the model."""
    adapter = {name.removeprefix(ADAPTER): value for name, value in tensors.items() if name.startswith(ADAPTER)}
    return {name: value for name, value in tensors.items() if not name.startswith(ADAPTER)}, adapter
