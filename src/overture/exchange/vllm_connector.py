"""vLLM's side of a soft prompt: a connector that puts a prompt's keys and values into vLLM's own cache.

A request sends one placeholder token for each column of its prompt in front of its text, and names the prompt in
``kv_transfer_params``. To vLLM the placeholders are tokens whose keys and values exist elsewhere already; the
connector writes them into the request's first blocks. From then on the blocks are vLLM's: its prefix cache keeps them
for the next request of the same salt, and any prompts share a batch.

This module is imported by vLLM, in vLLM's environment, and by nothing else:

    vllm serve MODEL --kv-transfer-config '{"kv_connector": "OvertureConnector", "kv_role": "kv_both",
        "kv_connector_module_path": "overture.exchange.vllm_connector",
        "kv_connector_extra_config": {"prompts": "DIR"}}'

It raises only when vLLM starts. A request whose prompt cannot be used fails alone and is never answered without it.
"""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorMetadata,
    KVConnectorRole,
    KVConnectorTransferResults,
)

from overture.core.errors import OvertureError
from overture.exchange.vllm_files import (
    PARAMETER,
    PLACEHOLDER,
    ModelFacts,
    PromptFolder,
    weight_files_digest,
)

_log = logging.getLogger("vllm.overture")
_BUDGET_BYTES = 4 << 30
_FOLDERS: dict[tuple[Any, ...], PromptFolder] = {}
"""Prompts of this process: scheduler and worker are one where the model is on one device."""


@dataclass(slots=True)
class Load:
    """Columns of a prompt that a request's blocks lack.

    Args:
        prompt: its name.
        source_sha256: digest of the stored prompt; None for any.
        first: the first column that is written; those before it are in the cache.
        end: behind the last one.
        blocks: the request's blocks up to there.
    """

    prompt: str
    source_sha256: str | None
    first: int
    end: int
    blocks: list[int] = field(default_factory=list)


@dataclass
class OvertureMetadata(KVConnectorMetadata):  # type: ignore[misc]
    """The scheduler's message to the workers for one step: blocks to write, and requests that fail."""

    loads: list[Load] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


class OvertureConnector(KVConnectorBase_V1):  # type: ignore[misc]
    """Meets vLLM's `KVConnectorBase_V1`; tested with vLLM 0.32.

    Args:
        vllm_config: extra config: ``prompts``, the folder; ``budget_bytes``, memory for prompts; ``check_weights``,
            false where the weights shall not be compared with those that prompts were made for.
        role: of the scheduler, or of a worker.
        kv_cache_config: the groups of layers with caches of one form.

    Raises:
        ValueError: the model, or an option of vLLM, with which this was not tested.
    """

    def __init__(self, vllm_config: Any, role: KVConnectorRole, kv_cache_config: Any) -> None:
        super().__init__(vllm_config=vllm_config, role=role, kv_cache_config=kv_cache_config)
        _refuse_untested(vllm_config, kv_cache_config)
        self.block_size = int(vllm_config.cache_config.block_size)
        self.num_loads = 0
        extra = vllm_config.kv_transfer_config.kv_connector_extra_config
        if not (folder := extra.get("prompts")) or not Path(folder).is_dir():
            raise ValueError(f'kv_connector_extra_config needs "prompts", a folder, not {folder!r}')
        model, budget_bytes = vllm_config.model_config, int(extra.get("budget_bytes", _BUDGET_BYTES))
        key = (str(folder), budget_bytes, str(model.model), bool(extra.get("check_weights", True)))
        if key not in _FOLDERS:
            digest = weight_files_digest(Path(model.model)) if key[-1] else ""
            if key[-1] and not digest:
                raise ValueError(
                    f"the weights of {model.model} cannot be compared with those that prompts were made for: it is no "
                    "folder of safetensors files; name the folder, or set check_weights to false"
                )
            facts = ModelFacts(
                int(model.hf_text_config.num_hidden_layers),
                int(model.get_total_num_kv_heads()),
                int(model.get_head_size()),
                digest,
            )
            _FOLDERS[key] = PromptFolder(Path(folder), facts, budget_bytes)
        self.prompts = _FOLDERS[key]
        self._asked: dict[str, Load | None] = {}
        self._loads: list[Load] = []
        self._failed: list[str] = []
        self._reported: set[str] = set()
        self._broken_blocks: set[int] = set()

    # -- scheduler

    def get_num_new_matched_tokens(self, request: Any, num_computed_tokens: int) -> tuple[int, bool]:
        """How many columns of the request's prompt are not in the cache, and whether the request waits for them.

        A request whose prompt cannot be used waits, and the worker then reports that nothing came.
        """
        try:
            load = self._load_of(request, num_computed_tokens)
        except Exception as error:
            _warn(request.request_id, error)
            self._asked[request.request_id] = None
            return 1, True
        if load is None:
            return 0, False
        self._asked[request.request_id] = load
        return load.end - load.first, False

    def _load_of(self, request: Any, num_computed_tokens: int) -> Load | None:
        """The part of a request's prompt that its blocks lack; None without a prompt or with all of it cached.

        Raises:
            OvertureError: the prompt cannot be used.
            ValueError: the request has no room for it, or asks for what no prompt can give.
        """
        parameters = request.kv_transfer_params
        if not isinstance(parameters, dict) or PARAMETER not in parameters:
            return None
        source_sha256 = parameters.get("sha256")
        facts = self.prompts.get(parameters[PARAMETER], source_sha256).facts
        length, ids = facts.length, request.prompt_token_ids or ()
        if len(ids) <= length or any(token != PLACEHOLDER for token in ids[:length]):
            raise ValueError(f"the text does not begin with {length} placeholders, tokens {PLACEHOLDER}")
        if request.skip_reading_prefix_cache:
            raise ValueError("log-probabilities of the text's own tokens cannot be asked for under a prompt")
        if num_computed_tokens >= length:
            return None
        return Load(facts.prompt, source_sha256, num_computed_tokens, length)

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        """The request has its blocks; after a preemption it gets new ones, and is asked for again."""
        if num_external_tokens <= 0 or request.request_id not in self._asked:
            return
        if (load := self._asked.pop(request.request_id)) is None:
            self._failed.append(request.request_id)
            return
        load.first = load.end - num_external_tokens
        load.blocks = list(blocks.get_block_ids()[0])[: -(-load.end // self.block_size)]
        self._loads.append(load)

    def request_finished(self, request: Any, block_ids: list[int]) -> tuple[bool, dict[str, Any] | None]:
        """Nothing is left of a request that was given up before it had blocks."""
        del block_ids
        self._asked.pop(request.request_id, None)
        return False, None

    def build_connector_meta(self, scheduler_output: Any) -> OvertureMetadata:
        """The workers' orders for this step; they are cleared here."""
        del scheduler_output
        meta = OvertureMetadata(self._loads, self._failed)
        self._loads, self._failed = [], []
        return meta

    # -- worker

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        """Write what this step's requests lack; blocks that cannot be filled are reported and their requests fail."""
        del kwargs
        meta = self._get_connector_metadata()
        assert isinstance(meta, OvertureMetadata)
        self._reported.update(meta.failed)
        for load in meta.loads:
            try:
                self._write(load, forward_context)
            except Exception as error:
                self._broken_blocks.update(load.blocks[load.first // self.block_size :])
                _warn(load.prompt, error)

    def _write(self, load: Load, forward_context: Any) -> None:
        prompt = self.prompts.get(load.prompt, load.source_sha256)
        positions = torch.arange(load.first, load.end)
        slots = torch.tensor(load.blocks)[positions // self.block_size] * self.block_size + positions % self.block_size
        heads = self._heads(prompt.facts.num_kv_heads)
        num_written = 0
        for name, layer in forward_context.no_compile_layers.items():
            cache, number = getattr(layer, "kv_cache", None), _layer_number(name)
            if cache is None or number is None:
                continue
            keys, values = (
                part[number, load.first : load.end, heads].to(cache.device, cache.dtype).contiguous()
                for part in (prompt.keys, prompt.values)
            )
            layer.impl.do_kv_cache_update(layer, keys, values, cache, slots.to(cache.device))
            num_written += 1
        if not num_written:
            raise ValueError("no layer of the model has a cache")
        self.num_loads += 1
        _log.debug("wrote columns %d to %d of %s", load.first, load.end, load.prompt)

    def _heads(self, num_kv_heads: int) -> slice:
        """The key/value heads of this process, of tensor-parallel ones."""
        size = self._vllm_config.parallel_config.tensor_parallel_size
        rank = _tensor_parallel_rank() if size > 1 else 0
        if size <= num_kv_heads:
            heads_each = num_kv_heads // size
            return slice(rank * heads_each, (rank + 1) * heads_each)
        # More processes than heads: several have the same one.
        head = rank // (size // num_kv_heads)
        return slice(head, head + 1)

    def get_transfer_results(self, finished_req_ids: set[str]) -> KVConnectorTransferResults:
        """Requests that waited for a prompt that cannot be used."""
        del finished_req_ids
        request_ids, self._reported = self._reported, set()
        return KVConnectorTransferResults(finished_recving=set(request_ids), failed_recving=set(request_ids))

    def get_block_ids_with_load_errors(self) -> set[int]:
        """Blocks that could not be filled since they were asked for last."""
        broken, self._broken_blocks = self._broken_blocks, set()
        return broken

    def wait_for_layer_load(self, layer_name: str) -> None:
        """All is written before the first layer runs."""

    def save_kv_layer(self, layer_name: str, kv_layer: Any, attn_metadata: Any, **kwargs: Any) -> None:
        """Nothing is saved."""

    def wait_for_save(self) -> None:
        """Nothing is saved."""


def _warn(subject: str, error: Exception) -> None:
    """One line: what a request sent may hold anything."""
    text = error.args[0] if isinstance(error, OvertureError) else f"{type(error).__name__}: {error}"
    _log.warning("Overture: %r fails: %.400r", subject, str(text))


def _layer_number(name: str) -> int | None:
    _, separator, tail = name.partition("layers.")
    number = tail.partition(".")[0]
    return int(number) if separator and number.isdigit() else None


def _tensor_parallel_rank() -> int:
    from vllm.distributed.parallel_state import get_tensor_model_parallel_rank

    return int(get_tensor_model_parallel_rank())


def _refuse_untested(vllm_config: Any, kv_cache_config: Any) -> None:
    """Refuse what no test has shown to work.

    Raises:
        ValueError: names each of it.
    """
    groups = kv_cache_config.kv_cache_groups
    specs = [group.kv_cache_spec for group in groups]
    parallel, model = vllm_config.parallel_config, vllm_config.model_config
    size, num_kv_heads = parallel.tensor_parallel_size, model.get_total_num_kv_heads()
    problems = {
        "models with several kinds of layers, or without attention": len(groups) != 1,
        "attention of another kind than full attention": any(
            type(spec).__name__ != "FullAttentionSpec" for spec in specs
        ),
        "sliding windows and chunks": any(
            getattr(spec, name, None) is not None
            for spec in specs
            for name in ("sliding_window", "attention_chunk_size")
        ),
        "a quantised cache": str(vllm_config.cache_config.cache_dtype)
        not in ("auto", "bfloat16", "float16", "float32"),
        "heads that tensor parallelism does not divide evenly": max(size, num_kv_heads) % min(size, num_kv_heads) != 0,
        "context parallelism": any(
            getattr(parallel, name, 1) != 1
            for name in ("decode_context_parallel_size", "prefill_context_parallel_size")
        ),
        "speculative decoding": getattr(vllm_config, "speculative_config", None) is not None,
        'kv_load_failure_policy "recompute", which would answer without the prompt': (
            getattr(vllm_config.kv_transfer_config, "kv_load_failure_policy", "fail") != "fail"
        ),
    }
    if features := [feature for feature, is_so in problems.items() if is_so]:
        raise ValueError(f"Overture's connector was not tested with {'; '.join(features)}")
