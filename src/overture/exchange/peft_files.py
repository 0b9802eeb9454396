"""Prompts in the files of peft: ``adapter_config.json`` and ``adapter_model.safetensors``.

The peft package is never imported: the format is one JSON object and a few tensors. `peft_forms` says how each type of
adapter stores its prompt. Shape letters as in `core.injection`.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from overture.core.config import validated
from overture.core.errors import ArtifactError, ConfigError, Problem
from overture.core.injection import ModelKind
from overture.core.media import PLURALS
from overture.engine.options import ENCODER_DECODERS, HUB_IDS
from overture.exchange.peft_forms import FORMATS, HEAD, TABLE, Adapter, AdapterConfig, Format, ModelShape
from overture.exchange.peft_readme import adapter_readme
from overture.store import precheck
from overture.store.artifact import check_finite, tensor_bytes

if TYPE_CHECKING:
    import torch

    from overture.store.manifest import Manifest

CONFIG_FILE = "adapter_config.json"
TENSORS_FILE = "adapter_model.safetensors"
MAX_TENSOR_FILE_BYTES = 4 << 30
MAX_TENSORS = 64
"""In a file; a prompt and a classifier have at most seven."""
PEFT_VERSION = "0.21.2"
"""The version whose files are written."""

# Keys that make a loader import modules or run code of the repository.
_DANGEROUS = ("auto_mapping", "trust_remote_code")
_PICKLE = re.compile(r"adapter_model.*\.(bin|pt|pth|pkl|pickle|ckpt)", re.IGNORECASE)
_HEAD = re.compile(rf"(?:base_model\.)?(?:model\.)?(?:{'|'.join(HEAD)})\.(.+)")
_DOWNLOAD = "for an adapter of the Hub: hf download OWNER/NAME --local-dir DIR"


# -- reading


def read_adapter(folder: Path, task_id: int | None = None) -> Adapter:
    """Read an adapter's folder; refuse unsafe and damaged files before they are parsed.

    Args:
        folder: as `save_pretrained` writes it.
        task_id: the number of the task, in an adapter for several tasks; the first when None.

    Raises:
        ArtifactError: the folder is no adapter, holds no prompt, is unsafe or damaged, or its type is not supported.
        ConfigError: there is no such task.
    """
    folder = Path(folder)
    _check_listing(folder)
    config = _config(folder / CONFIG_FILE)
    form = FORMATS[config.task_type][config.peft_type]
    if task_id is not None and not form.extra:
        raise ConfigError(
            "only an adapter for several tasks has a task number",
            where="task id",
            got=f"{task_id}, for an adapter of type {config.peft_type}",
            fix="leave it out",
        )
    path = folder / TENSORS_FILE
    tensors, head = _tensors(path, form)
    problems = list(_contradictions(config, form, tensors))
    if problems:
        raise ArtifactError("the adapter's tensors do not fit its own config", where=str(folder), problems=problems)
    table = form.table(tensors, config, task_id or 0, str(path))
    # A multitask table is a product: finite values can give infinite ones.
    check_finite({TABLE: table}, str(path))
    return Adapter(config, form, table, str(folder), head)


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
    kind, task_type = values.get("peft_type"), values.get("task_type")
    kinds = {name for forms in FORMATS.values() for name in forms}
    if not isinstance(kind, str) or kind not in kinds:
        raise ArtifactError(
            "the adapter is no prompt that can be imported",
            where=where,
            got=f"peft_type {kind!r:.80}",
            wanted=", ".join(sorted(kinds)),
            fix="adapters that change the model's weights, such as LoRA, are no prompts: use them with peft",
        )
    if not isinstance(task_type, str) or task_type not in FORMATS or kind not in FORMATS[task_type]:
        raise ArtifactError(
            "adapters of this type for this kind of model are not supported",
            where=where,
            got=f"task_type {task_type!r:.80}, peft_type {kind}",
            wanted=", ".join(name for name, forms in FORMATS.items() if kind in forms),
            fix="only prompts of language models and of sequence classification can be imported",
        )
    modules = values.get("modules_to_save") or []
    is_only_head = FORMATS[task_type][kind].has_head and isinstance(modules, list) and set(modules) <= set(HEAD)
    if modules and not is_only_head:
        raise ArtifactError(
            "the adapter is more than a prompt: it brings trained modules of the model",
            where=where,
            got=f"modules_to_save {values['modules_to_save']!r:.80}",
            wanted="modules_to_save null, or a classifier's in an adapter for classification",
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


def _tensors(path: Path, form: Format) -> "tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]":
    """The prompt's tensors, and the classifier's by their names in it."""
    with precheck.open_plain(path) as handle:
        size = os.fstat(handle.fileno()).st_size
        if size > MAX_TENSOR_FILE_BYTES:
            raise ArtifactError(
                "the file is too large for a prompt",
                where=str(path),
                got=f"{size} bytes",
                wanted=f"at most {MAX_TENSOR_FILE_BYTES}",
            )
        _check_names(precheck.check_tensors(handle, str(path), MAX_TENSORS), form, str(path))
        raw = handle.read()
    import safetensors.torch

    tensors: dict[str, torch.Tensor] = safetensors.torch.load(raw)
    matches = {name: _HEAD.fullmatch(name) for name in tensors if form.has_head}
    head = {match[1]: tensors.pop(name) for name, match in matches.items() if match}
    check_finite(tensors | head, str(path))
    return tensors, head


def _check_names(names: Sequence[str], form: Format, where: str) -> None:
    """Refuse a file whose header names other tensors than those of a prompt and its classifier."""
    parts = (TABLE, *form.extra)
    heads = {name: match[1] for name in names if form.has_head and (match := _HEAD.fullmatch(name))}
    others = set(names).difference(heads)
    # One tensor under several names: which of them peft takes depends on their order.
    repeats = [name for name, part in heads.items() if list(heads.values()).count(part) > 1]
    problems = [Problem(f"{name!r:.80}", "stands more than once") for name in sorted(repeats)]
    problems += [Problem(f"{name!r:.80}", "is no part of a prompt") for name in sorted(others.difference(parts))]
    problems += [Problem(name, "is missing") for name in parts if name not in others]
    if problems:
        raise ArtifactError(
            "the file does not hold the tensors of a prompt",
            where=where,
            wanted=", ".join(parts),
            fix="an adapter with a head or embeddings of its own is more than a prompt: use it with peft",
            problems=problems,
        )


def _contradictions(config: AdapterConfig, form: Format, tensors: "dict[str, torch.Tensor]") -> Iterator[Problem]:
    """Differences between config and tensors; facts that the config leaves out are not compared."""
    errors = [Problem(n, f"shape {list(t.shape)}") for n, t in tensors.items() if t.dim() != (2 if n == TABLE else 3)]
    if errors:
        yield from errors
        return
    table = tensors[TABLE]
    is_seq2seq = form.kinds == ("encoder-decoder",)
    copies = (config.num_transformer_submodules or 1 + is_seq2seq) if not form.is_memory else 1
    if config.num_transformer_submodules == 2 and not is_seq2seq:
        yield Problem("num_transformer_submodules", "is 2, as for encoder-decoders alone")
    if table.shape[0] % copies or config.num_virtual_tokens not in (None, table.shape[0] // copies):
        times = f"{copies} * " if copies > 1 else ""
        yield Problem(TABLE, f"{table.shape[0]} rows, num_virtual_tokens is {times}{config.num_virtual_tokens}")
    if config.token_dim is not None:
        layers = 2 * (config.num_layers or 0) if form.is_memory else 1
        # A prefix without num_layers is split by the model's; its width is checked there.
        if layers and table.shape[1] != layers * config.token_dim:
            yield Problem(TABLE, f"{table.shape[1]} columns, the config says {layers} * {config.token_dim}")
    if form.extra:
        cols, rows = (tensors[name] for name in form.extra)
        shapes = ([rows.shape[0], table.shape[0], rows.shape[1]], [cols.shape[0], cols.shape[2], table.shape[1]])
        for name, shape in zip(form.extra, shapes, strict=True):
            if list(tensors[name].shape) != shape:
                yield Problem(name, f"shape {list(tensors[name].shape)}, wanted {shape}")


# -- fitting to a model


def fitted_tensors(adapter: Adapter, model: ModelShape) -> "dict[str, torch.Tensor]":
    """An adapter's prompt as the tensors of our artifact: vectors, or keys and values.

    Raises:
        ArtifactError: the adapter was made for a model of another shape; both are named.
    """
    if model.kind not in adapter.format.kinds:
        raise ArtifactError(
            "the adapter is for another kind of model",
            where=adapter.where,
            got=f"{model.id}, {model.kind}",
            wanted=" or ".join(adapter.format.kinds) + f", as task_type {adapter.config.task_type} says",
            fix="name the adapter's own model with --backbone",
        )
    problems = list(adapter.format.misfits(adapter, model))
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
    return adapter.format.tensors(adapter, model)


# -- writing


def adapter_files(manifest: "Manifest", tensors: "dict[str, torch.Tensor]") -> dict[str, bytes]:
    """The files of an adapter that peft 0.21 loads, by name.

    A prompt is written as peft's own type of its method where there is one; peft stores all types without the network
    that they were trained through. Other methods, and `cpt`, whose examples are not stored, are written as prompt
    tuning or prefix tuning. A multitask prompt gets factors of one, since its vectors are the product already; on
    encoder-decoders it is written as prompt tuning, because peft takes no decoder_input_ids with multitask prompts.

    Args:
        manifest: describes the tensors.
        tensors: the prompt's values.

    Raises:
        ArtifactError: peft has no form for this prompt; says why, and what to use instead.
    """
    _check_reads_texts(manifest)
    check_place(manifest)
    kind, base = kind_of(manifest), base_model(manifest.backbone.id)
    prompt = {name: tensor for name, tensor in tensors.items() if name not in _HEAD_TENSORS}
    head = _written_head(manifest, kind, {name: tensors[name] for name in tensors.keys() - prompt.keys()})
    task_type = "SEQ_CLS" if head else "SEQ_2_SEQ_LM" if kind == "encoder-decoder" else "CAUSAL_LM"
    shape, table = _written(manifest, prompt, kind)
    type_keys = _type_of_method(manifest, FORMATS[task_type], "keys" in prompt)
    if not type_keys and "keys" in prompt:
        type_keys = {"peft_type": "PREFIX_TUNING", "prefix_projection": False, "init_weights": None}
        type_keys["encoder_hidden_size"] = shape["token_dim"]
    elif not type_keys:
        empty_keys = dict.fromkeys(("prompt_tuning_init_text", "tokenizer_kwargs", "tokenizer_name_or_path"))
        type_keys = {"peft_type": "PROMPT_TUNING", "prompt_tuning_init": "RANDOM", **empty_keys}
    form = FORMATS[task_type][type_keys["peft_type"]]
    # The factors of one task, for types that have them: each vector is taken as it is.
    ones = {}
    if form.extra:
        cols, rows = form.extra
        ones = {cols: table.new_ones(1, len(table), 1), rows: table.new_ones(1, 1, table.shape[1])}
    config = {
        "auto_mapping": None,
        "base_model_name_or_path": base,
        "inference_mode": True,
        "modules_to_save": list(HEAD) if head else None,
        "num_layers": manifest.backbone.num_layers,
        "num_transformer_submodules": 1,
        "num_virtual_tokens": int(table.shape[0]),
        "peft_version": PEFT_VERSION,
        "revision": manifest.backbone.revision,
        "task_type": task_type,
        **shape,
        **type_keys,
    }
    return {
        CONFIG_FILE: (json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode(),
        TENSORS_FILE: tensor_bytes({TABLE: table, **ones, **head}, TENSORS_FILE),
        "README.md": adapter_readme(manifest, base, task_type, bool(form.extra)).encode(),
    }


def base_model(name: str) -> str:
    """A model's name for programs that know no alias of ours: its Hub id, or its folder by the whole path."""
    path = Path(name).expanduser()
    return HUB_IDS.get(name) or (str(path.resolve()) if path.exists() else name)


def check_place(manifest: "Manifest") -> None:
    """Refuse a prompt whose place peft does not have, by its manifest alone: neither torch nor the tensors are needed.

    Raises:
        ArtifactError: it stands elsewhere; says what to use instead.
    """
    prefix_place = "after" if manifest.backbone.model_type in ENCODER_DECODERS else "memory"
    if manifest.place not in ("before", prefix_place):
        raise _no_form(manifest, f"{manifest.method} at {manifest.place}", prefix_place)


def _no_form(manifest: "Manifest", form: str, prefix_place: str) -> ArtifactError:
    return ArtifactError(
        "peft has no form for this prompt",
        where=manifest.ref,
        got=form,
        wanted=f"vectors at before, or keys and values at {prefix_place}: peft puts prompts in front of the text only",
        fix="export with --to npy or --to json, or tune with --method vectors --place before, "
        f"or --method prefix --place {prefix_place}",
    )


def _check_reads_texts(manifest: "Manifest") -> None:
    """Refuse prompts for models of images and of sounds: peft puts a prompt in front of token ids.

    Raises:
        ArtifactError: it is such a prompt.
    """
    from overture.engine.families import FAMILIES

    family = FAMILIES.get(manifest.backbone.model_type)
    reads = (family.encoder or family).reads if family else None
    if reads:
        raise ArtifactError(
            "peft has no prompts for models of this input",
            where=manifest.name,
            got=f"a prompt for {manifest.backbone.model_type}, which reads {PLURALS[reads]}",
            wanted="prompts for models of texts alone: peft puts them in front of token ids",
            fix="export with --to npy or --to json",
        )


def kind_of(manifest: "Manifest") -> ModelKind:
    """The kind of model that a prompt is for."""
    from overture.engine.families import FAMILIES

    family = FAMILIES.get(manifest.backbone.model_type)
    return family.kind if family else "decoder"


_HEAD_TENSORS = ("labels", "label_bias", "head_weight", "head_bias")


def _written_head(manifest: "Manifest", kind: ModelKind, head: "dict[str, torch.Tensor]") -> "dict[str, torch.Tensor]":
    """The classifier's tensors by their names in peft; none for a prompt that answers with words."""
    if kind == "decoder" and set(head) == {"labels"}:
        return {"base_model.score.weight": head["labels"]}
    if kind == "encoder" and set(head) == set(_HEAD_TENSORS):
        rows = {"weight": head["labels"], "bias": head["label_bias"]}
        if manifest.backbone.model_type == "bert":
            # In front of it stands the pooler, which is the model's own.
            return {f"base_model.classifier.{name}": tensor for name, tensor in rows.items()}
        dense = {"dense.weight": head["head_weight"], "dense.bias": head["head_bias"]}
        rows = {f"out_proj.{name}": tensor for name, tensor in rows.items()}
        return {f"base_model.classifier.{name}": tensor for name, tensor in (dense | rows).items()}
    if kind == "encoder" or head:
        raise ArtifactError(
            "peft has no form for how this prompt's labels are read",
            where=manifest.name,
            got=f"{', '.join(sorted(head)) or 'label words at a mask'}, {kind} ({manifest.backbone.model_type})",
            wanted="label vectors of a decoder, a classifier from peft, or label words of a model that writes",
            fix="--to npy or --to json",
        )
    return {}


def _written(
    manifest: "Manifest", tensors: "dict[str, torch.Tensor]", kind: ModelKind
) -> "tuple[dict[str, Any], torch.Tensor]":
    """The keys of the config that depend on the prompt's place, and the table."""
    names = set() if manifest.layer else set(tensors)
    if manifest.place == "before" and names == {"vectors"} and tensors["vectors"].dim() == 2:
        ref, table = manifest.backbone, tensors["vectors"]
        if ref.embedding_size is not None:
            raise ArtifactError(
                "peft cannot put this prompt's vectors in front of the model's token vectors",
                where=manifest.name,
                got=f"vectors of width {ref.hidden_size}; {ref.id} maps token vectors to it",
                wanted=f"vectors of width {ref.embedding_size}, which stand before that map",
                fix="--to npy or --to json, or tune with --method prefix --place memory",
            )
        # Heads are left out: the manifest does not know them, and peft takes them from its model.
        return {"token_dim": int(table.shape[1]), "num_attention_heads": None}, table
    prefix_place = "after" if kind == "encoder-decoder" else "memory"
    if manifest.place == prefix_place and names == {"keys", "values"}:
        keys, values = tensors["keys"], tensors["values"]
        if keys.dim() == 4 and keys.shape == values.shape and keys.dtype == values.dtype:
            return _written_columns(tensors, kind)
    late = f", from layer {manifest.layer} up" if manifest.layer else ""
    raise _no_form(manifest, f"{', '.join(sorted(tensors))} at {manifest.place}{late}", prefix_place)


def _written_columns(tensors: "dict[str, torch.Tensor]", kind: ModelKind) -> "tuple[dict[str, Any], torch.Tensor]":
    import torch

    layers, heads, length, width = tensors["keys"].shape
    # [2, N, H, P, K] to [P, N, 2, H, K]: the inverse of `_as_columns`.
    memory = torch.stack([tensors["keys"], tensors["values"]]).permute(3, 1, 0, 2, 4)
    seq2seq_keys: dict[str, Any] = {}
    if kind == "encoder-decoder":
        # Layer i reads the entry of layer 2 i of twice as many; the entries between are never read.
        memory = memory.repeat_interleave(2, dim=1)
        layers *= 2
        seq2seq_keys = {"num_layers": layers, "num_transformer_submodules": 2}
    shape = {"num_attention_heads": heads, "token_dim": heads * width}
    return shape | seq2seq_keys, memory.reshape(length, layers * 2 * heads * width)


def _type_of_method(manifest: "Manifest", formats: Mapping[str, Format], is_memory: bool) -> dict[str, Any]:
    """The config's keys for peft's own type of the prompt's method; empty where peft has none that fits."""
    from overture.prompt.methods import METHODS

    method = METHODS.get(manifest.method)
    form = formats.get(method.peft) if method else None
    if not method or not form or not form.is_written or form.is_memory != is_memory:
        return {}
    options = validated(method.options, manifest.own_options, f"{manifest.name}: prompt.json")
    return {"peft_type": method.peft, **method.maths.peft_keys(options)}
