"""One model over several processes: its layers' heads (tensor parallelism), or all their weights (FSDP2).

Tensor parallelism cuts each layer's maps by the plan that transformers has for the model. Keys and values inside a
pass are then those of this process's heads; prompts stay whole in every process, since they are small: what enters a
layer is cut on the way in, and the gradient is gathered on the way back. The embeddings and the head stay whole too.

Where not even that fits, FSDP2 spreads the weights of each layer over all processes and gathers them while it runs.
"""

from typing import Any

import torch
from torch import Tensor
from transformers.distributed import DistributedConfig
from transformers.distributed.tensor_parallel import apply_tensor_parallelism

from overture.core.errors import BackboneError
from overture.engine.backbone import Backbone
from overture.engine.ranks import Ranks
from overture.engine.step import Step


def spread(backbone: Backbone, ranks: Ranks) -> None:
    """Split a model over several processes, each of which then holds a part of its weights.

    Args:
        backbone: a frozen decoder of texts.
        ranks: the processes; where each has a whole model, nothing changes.

    Raises:
        BackboneError: this model cannot be shared like that.
    """
    if not ranks.is_shared:
        return
    is_compiled, inner = backbone.stack.is_compiled, backbone.inner
    if backbone.family.kind != "decoder" or len(backbone.frontends) > 1 or inner or is_compiled:
        kind = f"{backbone.family.kind} of {', '.join(sorted(backbone.modalities))}"
        raise BackboneError(
            "only frozen decoders of texts are shared by several processes",
            where=backbone.info.id,
            got="compiled layers" if is_compiled else "values that are trained" if inner else kind,
            fix="leave out --tensor-parallel and --shard: each process then has a model of its own",
        )
    if ranks.is_lockstep:
        backbone.stack = backbone.stack.with_layers(sharded_layers(backbone.layers, ranks))
    else:
        split_heads(backbone.model, ranks, backbone.info.num_kv_heads, backbone.info.id)
        backbone.stack, backbone.ranks = backbone.stack.with_layers(backbone.layers), ranks


def split_heads(model: Any, ranks: Ranks, num_kv_heads: int, name: str) -> None:
    """Cut a loaded model's layers in place; each process keeps its share of the heads.

    Args:
        model: a transformers model on the CPU or on its device.
        ranks: the processes.
        num_kv_heads: of each layer.
        name: the model's, for errors.

    Raises:
        BackboneError: transformers has no plan for the model, or its heads cannot be shared evenly.
    """
    plan = dict(getattr(model, "tp_plan", None) or {})
    of_keys = [style for key, style in plan.items() if key.rsplit(".", 1)[-1] in ("k_proj", "query_key_value")]
    if not of_keys or any(style != "colwise" for style in of_keys):
        raise BackboneError(
            "this model's heads are not shared by several processes",
            where=name,
            got=f"{model.config.model_type}: transformers has no plan that keeps keys and values apart by heads",
            fix="--shard instead of --tensor-parallel, or one process for each device without either",
        )
    if num_kv_heads % ranks.tensor_parallel:
        raise BackboneError(
            "the model's key/value heads cannot be shared evenly",
            where=name,
            got=f"{num_kv_heads} heads over {ranks.tensor_parallel} processes",
            fix="a --tensor-parallel that divides the number of heads, or --shard",
        )
    # Single rows of both tables are looked up, which only whole tables allow.
    replicated = {
        key: "replicate"
        for key, style in plan.items()
        if style.startswith("embedding") or key.rsplit(".", 1)[-1] in ("lm_head", "embed_out")
    }
    distributed = DistributedConfig(tp_size=ranks.tensor_parallel, tp_plan=replicated)
    resolved, _, _ = model._resolve_parallel_plans(distributed)
    split_maps = {key: style for key, style in resolved.items() if style != "replicate"}
    apply_tensor_parallelism(model, ranks.mesh["heads"], split_maps)


def sharded_layers(layers: Any, ranks: Ranks) -> torch.nn.ModuleList:
    """Layers that run in place of a model's own, with their weights spread over all processes."""
    from torch.distributed.fsdp import fully_shard

    sharded = torch.nn.ModuleList()
    for number, layer in enumerate(layers):
        gathered = _Gathered(layer, number)
        fully_shard(gathered, mesh=ranks.mesh["data"], reshard_after_forward=True)
        sharded.append(_Sharded(gathered, number))
    return sharded


class _Gathered(torch.nn.Module):
    """A layer that also returns its keys and values: FSDP2 gathers weights again for what is returned."""

    def __init__(self, layer: torch.nn.Module, number: int) -> None:
        super().__init__()
        self.layer, self.number = layer, number

    def forward(self, *args: Any, overture: Step, **named: Any) -> tuple[Any, tuple[Tensor, Tensor] | None]:
        out = self.layer(*args, overture=overture, **named)
        return out, (overture.key_values or {}).get(self.number)


class _Sharded(torch.nn.Module):
    def __init__(self, inner: torch.nn.Module, number: int) -> None:
        super().__init__()
        self.inner, self.number = inner, number

    def __getattr__(self, name: str) -> Any:
        # Models ask their layers for facts such as the kind of their attention.
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.inner.layer, name)

    def forward(self, *args: Any, overture: Step, **named: Any) -> Any:
        out, pair = self.inner(*args, overture=overture, **named)
        if pair is not None and overture.key_values is not None:
            overture.key_values[self.number] = pair
        return out
