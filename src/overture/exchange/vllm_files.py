"""Prompts for vLLM: a folder for each, which holds keys and values that a server reads into its own cache.

A folder of prompts is written here, by `overture export --to vllm` and by the gateway, and read by the connector
within vLLM, which needs neither a store nor a task.

Shape letters: N layers, H key/value heads, P prompt length, K head width.
"""

import hashlib
import json
import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, ValidationError

from overture.core.errors import ArtifactError, Problem, UnknownPrompt, WrongName
from overture.core.records.base import Record
from overture.store import precheck
from overture.store.artifact import MANIFEST_FILE, TENSORS_FILE, tensor_bytes
from overture.store.manifest import BackboneRef, Manifest
from overture.store.names import parsed_ref

if TYPE_CHECKING:
    import torch

PLACEHOLDER = 0
"""The token that stands for each column of a prompt in what a client of vLLM sends."""
PARAMETER = "overture"
"""The key under which `kv_transfer_params` of a request names its prompt."""
_TENSORS = {"keys", "values"}


class ServedPrompt(Record):
    """``prompt.json`` of a prompt for vLLM."""

    format_version: Literal[1] = Field(1, description="version of the folder's format")
    prompt: str = Field(description="name@version in the store that it comes from")
    length: int = Field(gt=0, description="columns, P")
    num_layers: int = Field(gt=0, description="layers of the model, N")
    num_kv_heads: int = Field(gt=0, description="key/value heads of a layer, H")
    head_dim: int = Field(gt=0, description="width of a head, K")
    backbone: BackboneRef = Field(description="the model that the prompt was made for")
    weight_files_sha256: str = Field(description="fingerprint of the weight files that were loaded")
    source_sha256: str = Field(description="digest of the stored prompt's values")
    tensors_sha256: str = Field(description="SHA-256 of prompt.safetensors")


def gap_of(manifest: Manifest, tensor_names: Sequence[str], kind: str) -> str:
    """Why vLLM cannot serve a prompt, in a few words; empty where it can.

    Args:
        manifest: the stored prompt's.
        tensor_names: of its values.
        kind: how the model attends: decoder, encoder or encoder-decoder.
    """
    if kind != "decoder":
        return f"the model is an {kind}"
    if manifest.text is not None:
        return ""
    reasons = {
        "it goes with an adapter": manifest.options.adapter is not None,
        f"it enters at layer {manifest.layer}": manifest.layer > 0,
        f"it stands at {manifest.place!r}": manifest.place not in ("before", "memory"),
        "its values depend on the row": any(name.startswith("state.") for name in tensor_names),
        "it has vectors for its labels": "labels" in tensor_names,
        "it changes the text's embeddings": "offset" in tensor_names,
        "its columns have weights": "weights" in tensor_names,
    }
    return next((why for why, is_so in reasons.items() if is_so), "")


def vllm_files(manifest: Manifest, tensors: "Mapping[str, torch.Tensor]", weight_files_sha256: str) -> dict[str, bytes]:
    """The files of a prompt's folder.

    Args:
        manifest: the stored prompt's.
        tensors: the prompt as it is used: keys and values, [N, H, P, K], and nothing else.
        weight_files_sha256: fingerprint of the weight files that its model was loaded from.

    Raises:
        ArtifactError: the prompt is more than keys and values, or holds values that are no numbers.
    """
    if set(tensors) != _TENSORS:
        raise ArtifactError(
            "vLLM takes prompts of keys and values only",
            where=manifest.ref,
            got=", ".join(sorted(tensors)) or "no values",
            wanted="a prompt of a decoder at 'before' or 'memory', without vectors for labels",
            fix="serve it on the local engine: overture serve",
        )
    raw = tensor_bytes({name: tensors[name] for name in sorted(_TENSORS)}, manifest.ref)
    num_layers, num_kv_heads, length, head_dim = tensors["keys"].shape
    record = ServedPrompt(
        prompt=manifest.ref,
        length=length,
        num_layers=num_layers,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        backbone=manifest.backbone,
        weight_files_sha256=weight_files_sha256,
        source_sha256=manifest.tensors_sha256,
        tensors_sha256=hashlib.sha256(raw).hexdigest(),
    )
    text = json.dumps(record.model_dump(mode="json"), indent=1, ensure_ascii=False, allow_nan=False)
    return {TENSORS_FILE: raw, MANIFEST_FILE: f"{text}\n".encode()}


def read_served(folder: Path) -> ServedPrompt:
    """A prompt's facts; its values are not touched.

    Raises:
        ArtifactError: the file is missing, damaged or of another format.
    """
    path = folder / MANIFEST_FILE
    with precheck.open_plain(path) as handle:
        raw = handle.read(precheck.MAX_MANIFEST_BYTES + 1)
    if len(raw) > precheck.MAX_MANIFEST_BYTES:
        raise ArtifactError(
            "the manifest is too long", where=str(path), wanted=f"at most {precheck.MAX_MANIFEST_BYTES} bytes"
        )
    try:
        return ServedPrompt.model_validate(precheck.strict_json(raw, str(path)))
    except ValidationError as error:
        problems = [Problem(".".join(map(str, part["loc"])), part["msg"]) for part in error.errors()]
        raise ArtifactError(
            "this is no prompt for vLLM", where=str(path), fix="overture export NAME --to vllm", problems=problems
        ) from None


def weight_files_digest(folder: Path) -> str:
    """Fingerprint of a folder's safetensors files, as `engine.model_files.model_files` makes it; empty without any."""
    digests = []
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb") as handle:
            digests.append(hashlib.file_digest(handle, "sha256").hexdigest())
    return hashlib.sha256("".join(digests).encode()).hexdigest() if len(digests) > 1 else "".join(digests)


# -- within vLLM


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """The model that a server has loaded.

    Args:
        num_layers: all of its layers, N.
        num_kv_heads: all key/value heads of a layer, H, whatever part of them a process has.
        head_dim: width of a head, K.
        weight_files_sha256: fingerprint of its weight files; empty where they are not known.
    """

    num_layers: int
    num_kv_heads: int
    head_dim: int
    weight_files_sha256: str = ""


@dataclass(frozen=True, slots=True)
class LoadedPrompt:
    """A prompt in memory: its facts, and keys and values as caches of tokens have them, [N, P, H, K]."""

    facts: ServedPrompt
    keys: "torch.Tensor"
    values: "torch.Tensor"

    @property
    def num_bytes(self) -> int:
        """Memory that it takes."""
        return self.keys.nbytes + self.values.nbytes


class PromptFolder:
    """Prompts of a folder by the names that requests send; those used last are kept in memory.

    Names come from a network: one that is no name of a prompt touches no file.

    Args:
        folder: holds a folder for each prompt, by its name with the version.
        model: what they must fit.
        budget_bytes: memory for prompts; the one used longest ago is dropped first, the newest is always kept.

    Attributes:
        num_reads: how often a prompt was read from its files.
    """

    def __init__(self, folder: Path, model: ModelFacts, budget_bytes: int) -> None:
        self.folder, self.model, self.budget_bytes = folder, model, budget_bytes
        self.num_reads = 0
        self._kept: OrderedDict[str, LoadedPrompt] = OrderedDict()
        self._num_bytes = 0

    def get(self, name: Any, source_sha256: Any = None) -> LoadedPrompt:
        """A prompt by its name.

        Args:
            name: as a request sends it: name@version.
            source_sha256: digest of the stored prompt that is meant; None for any.

        Raises:
            UnknownPrompt: there is none of this name.
            ArtifactError: it is damaged, holds values that are no numbers, was made for another model, or is another.
        """
        cached_prompt = self._kept.get(name) if isinstance(name, str) else None
        prompt = cached_prompt or self._read(name)
        if source_sha256 is not None and source_sha256 != prompt.facts.source_sha256:
            raise ArtifactError(
                "another prompt of this name is in the folder",
                where=prompt.facts.prompt,
                got=f"{source_sha256!s:.64}",
                wanted=prompt.facts.source_sha256,
                fix="give each store a folder of its own",
            )
        if cached_prompt is None:
            self._kept[name], self._num_bytes = prompt, self._num_bytes + prompt.num_bytes
            while self._num_bytes > self.budget_bytes and len(self._kept) > 1:
                _, oldest = self._kept.popitem(last=False)
                self._num_bytes -= oldest.num_bytes
        self._kept.move_to_end(name)
        return prompt

    def _read(self, name: Any) -> LoadedPrompt:
        import safetensors.torch

        folder = self.folder / _checked(name)
        if not folder.is_dir():
            raise UnknownPrompt("no such prompt", where=str(self.folder), got=name)
        facts = read_served(folder)
        self._check_fit(facts)
        path = folder / TENSORS_FILE
        with precheck.open_plain(path) as handle:
            size = os.fstat(handle.fileno()).st_size
            # A header, and four or eight bytes for each value.
            num_values = 2 * facts.num_layers * facts.num_kv_heads * facts.length * facts.head_dim
            if size > precheck.MAX_HEADER_BYTES + 8 * num_values:
                raise ArtifactError("the file is too large for its prompt", where=str(path), got=f"{size} bytes")
            raw = handle.read()
        if (digest := hashlib.sha256(raw).hexdigest()) != facts.tensors_sha256:
            raise ArtifactError("the file is damaged", where=str(path), got=digest, wanted=facts.tensors_sha256)
        precheck.check_finite_bytes(raw, str(path))
        tensors = safetensors.torch.load(raw)
        shape = (facts.num_layers, facts.num_kv_heads, facts.length, facts.head_dim)
        if set(tensors) != _TENSORS or any(tuple(tensor.shape) != shape for tensor in tensors.values()):
            shapes = ", ".join(f"{key} {list(tensor.shape)}" for key, tensor in sorted(tensors.items()))
            raise ArtifactError(
                "the tensors are not the prompt's", where=str(path), got=shapes, wanted=f"keys, values {list(shape)}"
            )
        self.num_reads += 1
        keys, values = (tensors[key].transpose(1, 2).contiguous() for key in ("keys", "values"))
        return LoadedPrompt(facts, keys, values)

    def _check_fit(self, facts: ServedPrompt) -> None:
        """Refuse a prompt of another model."""
        names = ("num_layers", "num_kv_heads", "head_dim")
        problems = [
            Problem(name, f"{getattr(facts, name)}, the model has {getattr(self.model, name)}")
            for name in names
            if getattr(facts, name) != getattr(self.model, name)
        ]
        digest = self.model.weight_files_sha256
        if digest and digest not in (facts.weight_files_sha256, facts.backbone.weights_sha256):
            problems.append(Problem("weights", f"{facts.weight_files_sha256:.12}, the model has {digest:.12}"))
        if problems:
            raise ArtifactError(
                "the prompt was made for another model",
                where=facts.prompt,
                wanted=facts.backbone.id,
                fix="start vLLM with the folder that Overture has loaded the model from",
                problems=problems,
            )


def _checked(name: Any) -> str:
    """A name that may be a folder's.

    Raises:
        UnknownPrompt: it is none.
    """
    try:
        ref = parsed_ref(name) if isinstance(name, str) and len(name) <= 100 else None
    except WrongName:
        ref = None
    if ref is None or ref.version is None or str(ref) != name:
        raise UnknownPrompt("this is no name of a prompt", got=f"{name!r:.100}", wanted="name@version")
    return str(ref)
