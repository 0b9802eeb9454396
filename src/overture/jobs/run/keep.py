"""The manifests of the prompts that jobs keep."""

from overture.core.records.base import Options
from overture.core.records.prompt import Lineage, MadeWith, PromptScores
from overture.core.records.shares import KeptShares
from overture.core.versions import versions
from overture.data.task import Task, portable
from overture.engine.backbone import Backbone
from overture.evaluate.facts import backbone_ref
from overture.prompt.config import PromptConfig
from overture.prompt.methods import METHODS
from overture.store.manifest import Manifest
from overture.train.options import TrainConfig


def made_with(
    prompt: PromptConfig,
    train: TrainConfig | None = None,
    adapter: Options | None = None,
    cartridge: Options | None = None,
    cache_dtype: str | None = None,
) -> MadeWith:
    """The options that made a prompt, as its manifest holds them."""
    train_values = train and train.model_dump(mode="json")
    method = METHODS.get(prompt.method)
    return MadeWith(
        prompt=prompt.model_dump(mode="json"),
        train=train_values,
        adapter=adapter,
        cartridge=cartridge,
        cache_dtype=cache_dtype,
        plugin=(method.plugin if method else "") or None,
    )


def new_manifest(
    name: str,
    backbone: Backbone,
    task: Task,
    *,
    method: str,
    place: str,
    length: int,
    lineage: Lineage,
    trainable: int,
    options: MadeWith | None = None,
    metrics: PromptScores | None = None,
    seconds: float | None = None,
    shares: KeptShares | None = None,
) -> Manifest:
    """The manifest of a prompt that was made now; the store gives it its version.

    Args:
        name: the prompt's name.
        backbone: the model that it was made for.
        task: the task that it answers; paths of its data are left out.
        method: how its values are parameterised.
        place: where it enters the model.
        length: its length in tokens.
        lineage: where it comes from.
        trainable: number of trained values.
        options: what made it.
        metrics: its scores.
        seconds: of training.
        shares: what it said of rows with known labels.
    """
    return Manifest(
        name=name,
        method=method,
        place=place,
        length=length,
        options=options or MadeWith(),
        backbone=backbone_ref(backbone),
        task=portable(task),
        metrics=metrics or PromptScores(),
        lineage=lineage,
        versions=versions(),
        trainable=trainable,
        seconds=seconds,
        shares=shares,
    )
