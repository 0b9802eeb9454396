"""Low-rank changes of the linear maps in a model's layers: W x + (alpha / r) B A x, with B [out, r] and A [r, in].

They go into a copy of the model that shares every tensor with the frozen one, so the frozen one cannot change, and
several adapters cost no more memory than their own values. peft makes the modules.

At `after` they change only the tokens behind the input; the input's keys and values stay the frozen model's.

Source: Hu et al. 2022, "LoRA: Low-Rank Adaptation of Large Language Models", section 4.1 (B begins at zero). Deviation:
all linear maps of attention and MLP are changed, as in Dettmers et al. 2023, "QLoRA", section 4; no dropout. `after`:
Greenewald et al. 2025, "Activated LoRA"; there the change begins at given tokens, here where the template's input ends.
"""

from importlib import import_module
from typing import Any

import torch
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from overture.core.errors import ArtifactError, BackboneError, ConfigError
from overture.core.packages import install
from overture.core.seeds import derived_seed
from overture.engine.backbone import Backbone
from overture.engine.options import LoraOptions

_NAME = "overture"


def with_lora(
    backbone: Backbone, options: LoraOptions, seed: int = 0, values: dict[str, Tensor] | None = None
) -> Backbone:
    """A copy of the model with low-rank changes as its `inner` values; the model itself does not change.

    Args:
        backbone: the frozen model.
        options: rank, scale, targets.
        seed: draws A.
        values: a finished adapter's, with which the copy is frozen; drawn from the seed when None.

    Raises:
        ConfigError: no linear map has such a name.
        BackboneError: peft is not installed, or the change cannot begin behind the input of such a model.
        ArtifactError: the values are not those of such an adapter.
    """
    try:
        # peft asks for it by its whole name, and a lean process (`engine.lean`) has not imported it.
        import_module("torch.distributed.tensor")
        import peft
    except ImportError:
        raise BackboneError("LoRA needs the package peft, which is not installed", fix=install("peft")) from None
    if options.place == "after" and (not backbone.family.is_causal or backbone.encoder):
        kind = backbone.family.kind
        raise BackboneError(
            "an adapter at 'after' needs a decoder, whose input does not see what follows it",
            where=backbone.info.id,
            got=f"an {kind} ({backbone.info.model_type})",
            fix="place everywhere",
        )
    adapted = backbone.copied()
    if options.place == "after":
        adapted.leave_texts_to(backbone)
    linear = _targets(adapted, options)
    config = peft.LoraConfig(
        r=options.rank,
        lora_alpha=options.alpha,
        target_modules=list(linear),
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in linear.values()),
    )
    with torch.random.fork_rng():
        torch.manual_seed(derived_seed(seed, "lora"))
        peft.inject_adapter_in_model(config, adapted.model, _NAME)
    for module in adapted.model.modules():
        module.eval()
    adapter = {
        name.removesuffix(f".{_NAME}.weight"): value
        for name, value in adapted.model.named_parameters()
        if f".{_NAME}." in name
    }
    for value in adapter.values():
        # Trained values are float32 at least: half precision would lose small steps.
        value.data = value.data.to(torch.promote_types(value.dtype, torch.float32))
    adapted.train_inner(adapter)
    if values is not None:
        _copy_values(adapter, values)
        adapted.freeze()
    return adapted


def _targets(backbone: Backbone, options: LoraOptions) -> dict[str, Any]:
    """The linear maps in the layers that are to be changed, by their name in the model."""
    inside = {id(module) for layer in backbone.all_layers for module in layer.modules()}
    linear = {
        name: module
        for name, module in backbone.model.named_modules()
        if id(module) in inside and isinstance(module, torch.nn.Linear | Conv1D)
    }
    targets = {
        name: module
        for name, module in linear.items()
        if not options.targets or any(f".{name}".endswith(f".{end}") for end in options.targets)
    }
    missing = [end for end in options.targets if not any(f".{name}".endswith(f".{end}") for name in linear)]
    if missing:
        raise ConfigError(
            "no linear map of the model's layers has such a name",
            where="targets",
            got=", ".join(missing),
            wanted="some of " + ", ".join(sorted({name.rsplit(".", 1)[-1] for name in linear})),
        )
    return targets


@torch.no_grad()
def _copy_values(adapter: dict[str, Tensor], values: dict[str, Tensor]) -> None:
    shapes = {name: tuple(value.shape) for name, value in adapter.items()}
    value_shapes = {name: tuple(value.shape) for name, value in values.items()}
    if shapes != value_shapes:
        odd = min(name for name in shapes | value_shapes if shapes.get(name) != value_shapes.get(name))
        raise ArtifactError(
            "the adapter's values do not fit the model",
            got=f"{len(value_shapes)} tensors, of which {odd} {value_shapes.get(odd, 'is not there')}",
            wanted=f"{len(shapes)} tensors, {odd} {shapes.get(odd, 'not among them')}",
        )
    for name, value in adapter.items():
        value.copy_(values[name])
