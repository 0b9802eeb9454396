"""The manifest of a concept."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version

from torch import Tensor

from overture.core.records.prompt import Concept, Lineage, MadeWith
from overture.core.versions import versions
from overture.engine.diffusion_files import DiffusionInfo
from overture.store.manifest import BackboneRef, Manifest

METHOD, PLACE = "textual-inversion", "caption"


def concept_manifest(
    name: str,
    info: DiffusionInfo,
    concept: Concept,
    vectors: Mapping[str, Tensor],
    *,
    lineage: Lineage,
    options: MadeWith | None = None,
    seconds: float | None = None,
) -> Manifest:
    """The manifest of a concept that was made now; the store gives it its version.

    Args:
        name: the prompt's name.
        info: the model that it was made for.
        concept: its words, and what it is worth.
        vectors: its values, [V, D] by text encoder.
        lineage: where it comes from.
        options: what made it.
        seconds: of training.
    """
    packages = versions()
    with suppress(PackageNotFoundError):
        # An imported concept needs it only where it is used.
        packages["diffusers"] = version("diffusers")
    return Manifest(
        name=name,
        method=METHOD,
        place=PLACE,
        length=len(next(iter(vectors.values()))),
        concept=concept,
        options=options or MadeWith(),
        backbone=BackboneRef(**asdict(info)),
        lineage=lineage,
        versions=packages,
        trainable=sum(values.numel() for values in vectors.values()),
        seconds=seconds,
    )
