"""Prompts on disk: the folder that holds one, and the store that holds many. Torch is imported only for tensors."""

from overture.store.artifact import load_artifact, save_artifact
from overture.store.manifest import BackboneRef, Manifest, check_fingerprint
from overture.store.store import Store

__all__ = ["BackboneRef", "Manifest", "Store", "check_fingerprint", "load_artifact", "save_artifact"]
