"""What a manifest says of a prompt and its model, in the terms of the layers below."""

from dataclasses import asdict

from overture.core.config import validated
from overture.engine import Backbone
from overture.prompt import PromptConfig
from overture.store import BackboneRef, Manifest


def backbone_ref(backbone: Backbone) -> BackboneRef:
    """The part of a backbone's facts that artifacts record and check."""
    facts = asdict(backbone.info)
    return BackboneRef(**{name: facts[name] for name in BackboneRef.model_fields})


def config_of(manifest: Manifest) -> PromptConfig:
    """The prompt's config; of imported prompts only method, place and length are known.

    Raises:
        ConfigError: a manifest that was written by hand, or by an Overture whose options differ.
    """
    known = manifest.options.get("prompt") or {
        "method": manifest.method,
        "place": manifest.place,
        "length": manifest.length,
    }
    return validated(PromptConfig, known, f"{manifest.name}: prompt.json")
