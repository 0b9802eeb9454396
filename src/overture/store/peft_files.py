"""Prompts in the files of peft: ``adapter_config.json`` and ``adapter_model.safetensors``.

The peft package is never imported: the format is one JSON object and at most three tensors.
Shape letters as in `core.types`; T tasks, R ranks.

Source: peft 0.21.2: `peft_model.py::get_prompt` (order of a prefix's numbers) and, under `tuners/`,
`multitask_prompt_tuning/model.py` (a task's prompt), `cpt/model.py` and `cartridge/model.py` (both are saved as what
the model reads: the projected delta is added, the frozen first tokens stand in front).
"""

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from overture.core.config import validated
from overture.core.errors import ArtifactError, ConfigError, Problem
from overture.store import precheck
from overture.store.artifact import check_finite, tensor_bytes
from overture.store.card import code_block

if TYPE_CHECKING:
    import torch

    from overture.store.manifest import Manifest

CONFIG_FILE = "adapter_config.json"
TENSORS_FILE = "adapter_model.safetensors"
MAX_TENSOR_FILE_BYTES = 4 << 30
PEFT_VERSION = "0.21.2"
"""The version whose files are written."""
TABLE = "prompt_embeddings"
TASK_TYPES = ("CAUSAL_LM",)
"""Kinds of models whose adapters can be read. Others need a backbone of their kind, and their own order of numbers."""

# Keys that make a loader import modules or run code that a repository brings.
_DANGEROUS = ("auto_mapping", "trust_remote_code")
_PICKLE = re.compile(r"adapter_model.*\.(bin|pt|pth|pkl|pickle|ckpt)", re.IGNORECASE)
_DOWNLOAD = "for an adapter of the Hub: hf download OWNER/NAME --local-dir DIR"

Count = Annotated[int, Field(gt=0)]
# No control characters: names are shown on terminals.
Name = Annotated[str, StringConstraints(max_length=1000, pattern=r"^[^\x00-\x1f\x7f-\x9f]*$")]


class AdapterConfig(BaseModel):
    """What of ``adapter_config.json`` decides how the tensors are read; how they were trained is not looked at."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    peft_type: Name = Field(description="the method")
    task_type: Name = Field(description="the kind of model")
    base_model_name_or_path: Name | None = Field(None, description="the model that the adapter was trained on")
    revision: Name | None = Field(None, description="branch, tag or commit of that model")
    peft_version: Name | None = Field(None, description="the peft that wrote the files")
    num_virtual_tokens: Count | None = Field(None, description="prompt length, P")
    token_dim: Count | None = Field(None, description="width of a vector, D; of a prefix H * K")
    num_layers: Count | None = Field(None, description="layers of the model, N")
    num_attention_heads: Count | None = Field(None, description="heads; of a prefix key/value heads, H")
    num_transformer_submodules: Literal[1] | None = Field(None, description="2 for encoder-decoders")


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What of a model decides whether a prompt fits.

    Args:
        id: how the user named it.
        hidden_size: width of a token vector, D.
        num_layers: N.
        num_kv_heads: H.
        head_dim: K.
        max_length: the context, in tokens.
    """

    id: str
    hidden_size: int
    num_layers: int
    num_kv_heads: int
    head_dim: int
    max_length: int


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter as it was read: checked in itself, not yet against a model.

    Args:
        config: its facts.
        format: how its type keeps a prompt.
        table: one row for each virtual token, [P, D] or [P, N * 2 * H * K].
        where: its folder.
    """

    config: AdapterConfig
    format: "Format"
    table: "torch.Tensor"
    where: str

    @property
    def length(self) -> int:
        """Prompt length, P."""
        return int(self.table.shape[0])


@dataclass(frozen=True, slots=True)
class Format:
    """How a type of adapter keeps a prompt.

    Args:
        method: our method of the same form.
        place: where the prompt enters.
        table: from the file's tensors, the task's number and a name for errors: one row for each virtual token.
        misfits: what of an adapter does not fit a model.
        tensors: from a table that fits: the tensors of our artifact.
        extra: tensors beside the table.
    """

    method: str
    place: str
    table: "Callable[[dict[str, torch.Tensor], int, str], torch.Tensor]"
    misfits: "Callable[[Adapter, ModelShape], Iterator[Problem]]"
    tensors: "Callable[[torch.Tensor, ModelShape], dict[str, torch.Tensor]]"
    extra: tuple[str, ...] = ()


# -- reading


def read_adapter(folder: Path, task_id: int | None = None) -> Adapter:
    """Read an adapter's folder; what is unsafe or damaged is refused before it is parsed.

    Args:
        folder: as `save_pretrained` writes it.
        task_id: which task's prompt of an adapter for several tasks; the first when None.

    Raises:
        ArtifactError: the folder is no adapter, holds no prompt, is unsafe or damaged, or its kind is not supported.
        ConfigError: there is no such task.
    """
    folder = Path(folder)
    _check_listing(folder)
    config = _config(folder / CONFIG_FILE)
    found = FORMATS[config.peft_type]
    if task_id is not None and not found.extra:
        raise ConfigError(
            "only an adapter for several tasks has a task number",
            where="task id",
            got=f"{task_id}, for an adapter of type {config.peft_type}",
            fix="leave it out",
        )
    path = folder / TENSORS_FILE
    tensors = _tensors(path, (TABLE, *found.extra))
    problems = list(_contradictions(config, found, tensors))
    if problems:
        raise ArtifactError("the adapter's tensors do not fit its own config", where=str(folder), problems=problems)
    table = found.table(tensors, task_id or 0, str(path))
    # Folding multiplies: finite values can give infinite ones.
    check_finite({TABLE: table}, str(path))
    return Adapter(config, found, table, str(folder))


def _check_listing(folder: Path) -> None:
    try:
        names = sorted(os.listdir(folder))
    except (OSError, ValueError) as error:
        raise ArtifactError(
            "the adapter's folder cannot be read",
            where=f"{str(folder)!r:.200}",
            got=str(error),
            wanted=f"a folder with {CONFIG_FILE} and {TENSORS_FILE}",
            fix=_DOWNLOAD,
        ) from error
    pickles = [name for name in names if _PICKLE.fullmatch(name)]
    if pickles:
        raise ArtifactError(
            "the adapter is pickled",
            where=str(folder),
            wanted=TENSORS_FILE,
            fix="where you trust it, load it with peft and save it again with save_pretrained",
            problems=[Problem(name, "a pickle can run code when it is read; it was not opened") for name in pickles],
        )
    missing = [name for name in (CONFIG_FILE, TENSORS_FILE) if name not in names]
    if missing:
        raise ArtifactError(
            "the folder is no peft adapter",
            where=str(folder),
            got=f"no {' and no '.join(missing)}",
            wanted=f"{CONFIG_FILE} and {TENSORS_FILE}",
            fix=_DOWNLOAD,
        )


def _config(path: Path) -> AdapterConfig:
    with precheck.open_plain(path) as handle:
        raw = handle.read(precheck.MAX_MANIFEST_BYTES + 1)
    if len(raw) > precheck.MAX_MANIFEST_BYTES:
        raise ArtifactError(
            "the adapter's config is too long", where=str(path), wanted=f"at most {precheck.MAX_MANIFEST_BYTES} bytes"
        )
    values = precheck.strict_json(raw, str(path))
    if not isinstance(values, dict):
        raise ArtifactError("the adapter's config is not a mapping", where=str(path), got=type(values).__name__)
    _check_kind(values, str(path))
    try:
        return validated(AdapterConfig, values, str(path))
    except ConfigError as error:
        raise ArtifactError("the adapter's config cannot be read", where=str(path), problems=error.problems) from error


def _check_kind(values: Mapping[str, Any], where: str) -> None:
    dangers = list(_dangers(values))
    if dangers:
        raise ArtifactError(
            "the adapter's config asks for code to be run",
            where=where,
            wanted="no " + " and no ".join(_DANGEROUS),
            fix="remove the keys where you know that the prompt does not need them",
            problems=dangers,
        )
    kind = values.get("peft_type")
    if not isinstance(kind, str) or kind not in FORMATS:
        raise ArtifactError(
            "the adapter is no prompt that can be imported",
            where=where,
            got=f"peft_type {kind!r:.80}",
            wanted=", ".join(FORMATS),
            fix="adapters that change the model's weights, such as LoRA, are no prompts: use them with peft",
        )
    task_type = values.get("task_type")
    if task_type not in TASK_TYPES:
        raise ArtifactError(
            "adapters for this kind of model are not supported yet",
            where=where,
            got=f"task_type {task_type!r:.80}",
            wanted=", ".join(TASK_TYPES),
            fix="only prompts of decoder language models can be imported",
        )
    if values.get("modules_to_save"):
        raise ArtifactError(
            "the adapter is more than a prompt: it brings trained modules of the model",
            where=where,
            got=f"modules_to_save {values['modules_to_save']!r:.80}",
            wanted="modules_to_save null",
            fix="use it with peft",
        )


def _dangers(values: Mapping[str, Any]) -> Iterator[Problem]:
    # A list instead of recursion: JSON may be nested as deep as its parser allows.
    waiting: list[tuple[str, Any]] = [("", values)]
    while waiting:
        path, value = waiting.pop()
        if isinstance(value, list):
            waiting += [(f"{path}[{index}]", inner) for index, inner in enumerate(value)]
        elif isinstance(value, dict):
            for key, inner in value.items():
                name = f"{path}.{key}".lstrip(".")
                if key in _DANGEROUS and inner not in (None, False):
                    yield Problem(f"{name!r:.120}", f"is {inner!r:.80}")
                waiting.append((name, inner))


def _tensors(path: Path, wanted: tuple[str, ...]) -> "dict[str, torch.Tensor]":
    with precheck.open_plain(path) as handle:
        size = os.fstat(handle.fileno()).st_size
        if size > MAX_TENSOR_FILE_BYTES:
            raise ArtifactError(
                "the file is too large for a prompt",
                where=str(path),
                got=f"{size} bytes",
                wanted=f"at most {MAX_TENSOR_FILE_BYTES}",
            )
        precheck.check_tensors(handle, str(path))
        raw = handle.read()
    import safetensors.torch

    tensors: dict[str, torch.Tensor] = safetensors.torch.load(raw)
    problems = [Problem(f"{name!r:.80}", "is no part of a prompt") for name in sorted(tensors) if name not in wanted]
    problems += [Problem(name, "is missing") for name in wanted if name not in tensors]
    if problems:
        raise ArtifactError(
            "the file does not hold the tensors of a prompt",
            where=str(path),
            wanted=", ".join(wanted),
            fix="an adapter with a head or embeddings of its own is more than a prompt: use it with peft",
            problems=problems,
        )
    check_finite(tensors, str(path))
    return tensors


def _contradictions(config: AdapterConfig, found: Format, tensors: "dict[str, torch.Tensor]") -> Iterator[Problem]:
    """Where config and tensors tell different things; what the config leaves open is not asked."""
    wrong = [Problem(n, f"shape {list(t.shape)}") for n, t in tensors.items() if t.dim() != (2 if n == TABLE else 3)]
    if wrong:
        yield from wrong
        return
    table = tensors[TABLE]
    if config.num_virtual_tokens not in (None, table.shape[0]):
        yield Problem(TABLE, f"{table.shape[0]} rows, num_virtual_tokens is {config.num_virtual_tokens}")
    if config.token_dim is not None:
        layers = 2 * (config.num_layers or 0) if found.place == "memory" else 1
        # A prefix without num_layers is split by the model's; its width is checked there.
        if layers and table.shape[1] != layers * config.token_dim:
            yield Problem(TABLE, f"{table.shape[1]} columns, the config tells {layers} * {config.token_dim}")
    if found.extra:
        cols, rows = (tensors[name] for name in found.extra)
        wanted = ([rows.shape[0], table.shape[0], rows.shape[1]], [cols.shape[0], cols.shape[2], table.shape[1]])
        for name, shape in zip(found.extra, wanted, strict=True):
            if list(tensors[name].shape) != shape:
                yield Problem(name, f"shape {list(tensors[name].shape)}, wanted {shape}")


def _only_table(tensors: "dict[str, torch.Tensor]", task_id: int, where: str) -> "torch.Tensor":
    del task_id, where
    return tensors[TABLE]


def _table_of_task(tensors: "dict[str, torch.Tensor]", task_id: int, where: str) -> "torch.Tensor":
    """A task's prompt: the shared vectors times the task's matrix of low rank, P * (cols @ rows)."""
    # peft computes in float32, whatever was saved.
    shared, cols, rows = (tensors[name].float() for name in (TABLE, *_TASK_TENSORS))
    if not 0 <= task_id < cols.shape[0]:
        raise ConfigError(
            "the adapter has no such task", where=where, got=str(task_id), wanted=f"0 to {cols.shape[0] - 1}"
        )
    return shared * (cols[task_id] @ rows[task_id])


# -- fitting to a model


def fitted_tensors(adapter: Adapter, model: ModelShape) -> "dict[str, torch.Tensor]":
    """An adapter's prompt as the tensors of our artifact: vectors, or keys and values.

    Raises:
        ArtifactError: the adapter was made for a model of another shape; both are named.
    """
    problems = list(adapter.format.misfits(adapter, model))
    if adapter.config.num_layers not in (None, model.num_layers):
        problems.insert(0, Problem("layers", f"{adapter.config.num_layers}, {model.id} has {model.num_layers}"))
    if adapter.length >= model.max_length:
        problems.append(Problem("length", f"{adapter.length} positions, {model.id} has {model.max_length}"))
    if problems:
        raise ArtifactError(
            "the adapter was made for another model",
            where=adapter.where,
            got=f"{model.id} ({model.num_layers} layers of width {model.hidden_size}, "
            f"{model.num_kv_heads} key/value heads of width {model.head_dim})",
            wanted=f"the adapter's {adapter.config.base_model_name_or_path or 'model, which it does not name'}",
            fix="name the adapter's own model with --backbone",
            problems=problems,
        )
    return adapter.format.tensors(adapter.table, model)


def _vector_misfits(adapter: Adapter, model: ModelShape) -> Iterator[Problem]:
    width = adapter.table.shape[1]
    if width != model.hidden_size:
        yield Problem("hidden size", f"{width}, {model.id} has {model.hidden_size}")


def _column_misfits(adapter: Adapter, model: ModelShape) -> Iterator[Problem]:
    heads, both = adapter.config.num_attention_heads, adapter.config.token_dim
    if heads not in (None, model.num_kv_heads):
        yield Problem("key/value heads", f"{heads}, {model.id} has {model.num_kv_heads}")
    wanted = model.num_kv_heads * model.head_dim
    if both not in (None, wanted):
        yield Problem("width of a layer's keys", f"{both}, {model.id} has {wanted}")
    width = adapter.table.shape[1]
    if width != model.num_layers * 2 * wanted:
        yield Problem("numbers of a token", f"{width}, {model.id} needs {model.num_layers * 2 * wanted}")


def _as_vectors(table: "torch.Tensor", model: ModelShape) -> "dict[str, torch.Tensor]":
    del model
    return {"vectors": table}


def _as_columns(table: "torch.Tensor", model: ModelShape) -> "dict[str, torch.Tensor]":
    """[P, N * 2 * H * K] to keys and values [N, H, P, K]: a token's numbers run over layers, key and value, heads."""
    shape = (table.shape[0], model.num_layers, 2, model.num_kv_heads, model.head_dim)
    both = table.reshape(shape).permute(2, 1, 3, 0, 4)
    return {"keys": both[0].contiguous(), "values": both[1].contiguous()}


_TASK_TENSORS = ("prefix_task_cols", "prefix_task_rows")
_VECTORS = Format("vectors", "before", _only_table, _vector_misfits, _as_vectors)
_OF_TASKS = Format("vectors", "before", _table_of_task, _vector_misfits, _as_vectors, _TASK_TENSORS)
_COLUMNS = Format("prefix", "memory", _only_table, _column_misfits, _as_columns)

FORMATS = {
    "PROMPT_TUNING": _VECTORS,
    "P_TUNING": _VECTORS,
    "CPT": _VECTORS,
    "MULTITASK_PROMPT_TUNING": _OF_TASKS,
    "PREFIX_TUNING": _COLUMNS,
    "CARTRIDGE": _COLUMNS,
}
"""Types of adapters that can be read. What P-tuning and prefixes trained through is folded away in the files."""


# -- writing


def adapter_files(manifest: "Manifest", tensors: "dict[str, torch.Tensor]") -> dict[str, bytes]:
    """The files of an adapter that peft 0.21 loads, by name.

    Args:
        manifest: what the tensors are.
        tensors: a prompt's values.

    Raises:
        ArtifactError: peft has no form for this prompt; the message tells why, and what to use instead.
    """
    own, table = _written(manifest, tensors)
    config = {
        "auto_mapping": None,
        "base_model_name_or_path": manifest.backbone.id,
        "inference_mode": True,
        "modules_to_save": None,
        "num_layers": manifest.backbone.num_layers,
        "num_transformer_submodules": 1,
        "num_virtual_tokens": int(table.shape[0]),
        "peft_version": PEFT_VERSION,
        "revision": manifest.backbone.revision,
        "task_type": "CAUSAL_LM",
        **own,
    }
    return {
        CONFIG_FILE: (json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode(),
        TENSORS_FILE: tensor_bytes({TABLE: table}, TENSORS_FILE),
        "README.md": _readme(manifest).encode(),
    }


def _written(manifest: "Manifest", tensors: "dict[str, torch.Tensor]") -> "tuple[dict[str, Any], torch.Tensor]":
    """The part of the config that depends on the type, and the table."""
    names = set() if manifest.layer else set(tensors)
    if manifest.place == "before" and names == {"vectors"} and tensors["vectors"].dim() == 2:
        table = tensors["vectors"]
        # Heads are left out: the manifest does not know them, and peft takes them from its model.
        own = {"prompt_tuning_init": "RANDOM", "prompt_tuning_init_text": None, "tokenizer_kwargs": None}
        own |= {"tokenizer_name_or_path": None, "num_attention_heads": None}
        return {"peft_type": "PROMPT_TUNING", "token_dim": int(table.shape[1]), **own}, table
    if manifest.place == "memory" and names == {"keys", "values"} and _is_memory(**tensors):
        return _written_columns(tensors)
    late = f", from layer {manifest.layer} up" if manifest.layer else ""
    raise ArtifactError(
        "peft has no form for this prompt",
        where=manifest.name,
        got=f"{', '.join(sorted(tensors))} at {manifest.place}{late}",
        wanted="vectors at before, or keys and values at memory: peft puts prompts in front of the text only",
        fix="export with --to npy or --to json, or tune with --method vectors --place before, "
        "or --method prefix --place memory",
    )


def _is_memory(keys: "torch.Tensor", values: "torch.Tensor") -> bool:
    return keys.dim() == 4 and keys.shape == values.shape and keys.dtype == values.dtype


def _written_columns(tensors: "dict[str, torch.Tensor]") -> "tuple[dict[str, Any], torch.Tensor]":
    import torch

    layers, heads, length, width = tensors["keys"].shape
    # [2, N, H, P, K] to [P, N, 2, H, K]: the inverse of `_as_columns`.
    both = torch.stack([tensors["keys"], tensors["values"]]).permute(3, 1, 0, 2, 4)
    own = {"peft_type": "PREFIX_TUNING", "prefix_projection": False, "init_weights": None}
    own |= {"num_attention_heads": heads, "token_dim": heads * width, "encoder_hidden_size": heads * width}
    return own, both.reshape(length, layers * 2 * heads * width)


def _readme(manifest: "Manifest") -> str:
    """What peft's files cannot tell: how the text around the prompt must read."""
    task = {name: manifest.task[name] for name in ("template", "labels", "answer_field") if manifest.task.get(name)}
    name = json.dumps(manifest.backbone.id)
    facts = {"backbone": manifest.backbone.model_dump(), "task": task, "metrics": manifest.metrics}
    return f"""---
base_model: {name}
library_name: peft
tags: [soft-prompt]
---

# A prompt from Overture

Load it with peft 0.21 or later: `PeftModel.from_pretrained(model, FOLDER)`.

The template and the label words below do not travel in peft's files. Write the text as the template has it and do not
pad it on the left: then peft gives the logits that Overture gives. The prompt stands at the first positions, the text
follows. It fits only the model named below, with these weights.

{code_block(json.dumps(facts, indent=1, ensure_ascii=False), "json")}
"""
