"""Prompts for other programs: an adapter of peft, NumPy arrays, or JSON."""

import io
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from overture.core.errors import ArtifactError, ConfigError, StoreError
from overture.core.files import write_folder
from overture.engine.options import HUB_IDS
from overture.exchange.embeddings import diffusers_files, lost_in_diffusers, lost_in_webui, webui_files
from overture.exchange.peft_files import adapter_files, check_place, kind_of
from overture.exchange.texts import TEXT_FORMATS, lost_in_text
from overture.store.artifact import MANIFEST_FILE, check_finite, fill
from overture.store.manifest import Manifest
from overture.store.names import is_name

if TYPE_CHECKING:
    import torch

Files = dict[str, bytes]
VLLM = "vllm"
"""A form whose files are made with the model; `jobs.transfer.vllm` writes it."""

_AXES = {
    "vectors": ["prompt token", "width"],
    "split": ["vectors before the text"],
    "keys": ["layer", "key/value head", "prompt token", "head width"],
    "values": ["layer", "key/value head", "prompt token", "head width"],
    "weights": ["layer", "prompt token"],
    "offset": ["text token", "width"],
    "labels": ["label", "width"],
    "label_bias": ["label"],
    "label_scale": [],
    "head_weight": ["output width", "width"],
    "head_bias": ["output width"],
}
_POSITIONS = {
    "before": "the vectors stand at positions 0 to length - 1, as input embeddings; the text follows",
    "memory": "the keys and values stand at positions 0 to length - 1 of every layer's cache, keys after any rotation; "
    "the text follows at position length",
    "after": "the prompt stands after the template's last field, before the template's constant end",
    "around": "as many vectors as the place of the 1 in split stand at positions from 0; the others stand after the "
    "template's last field, before its constant end",
    "slots": "the vectors stand where the template has {prompt:N}, as input embeddings",
}
_SIDES = {"after": "the prompt stands in the decoder, at positions 0 to length - 1; the decoder's start tokens follow"}
"""Where an encoder-decoder's prompt stands; at other places as above, in the encoder."""


def able_formats(manifest: Manifest) -> list[str]:
    """The formats that hold such a prompt: of words, of a model that draws, or of trained values."""
    if manifest.text:
        return list(TEXT_FORMATS)
    if manifest.concept:
        return list(CONCEPT_FORMATS)
    return [name for name in (*FORMATS, VLLM) if name not in TEXT_FORMATS and name not in CONCEPT_FORMATS]


def _kind_of(manifest: Manifest) -> str:
    return "words" if manifest.text else "a concept" if manifest.concept else "trained values"


def check_target(folder: Path) -> None:
    """Refuse a folder that holds something.

    Raises:
        StoreError: it holds something, or is no folder.
    """
    try:
        # A link is left alone: what it leads to is not ours to replace.
        is_free = not os.path.lexists(folder) or (
            folder.is_dir() and not folder.is_symlink() and not any(folder.iterdir())
        )
    except (OSError, ValueError) as error:
        raise _unwritable(folder, str(error)) from error
    if not is_free:
        raise StoreError(
            "the target exists already",
            where=str(folder),
            wanted="a new or an empty folder",
            fix="name another folder, or remove this one",
        )


def check_form(manifest: Manifest, to: str) -> None:
    """Refuse a form that cannot hold a prompt, by its manifest alone.

    Args:
        manifest: describes the prompt.
        to: a name of `FORMATS`, or ``vllm``.

    Raises:
        ConfigError: it is for prompts of another kind.
        ArtifactError: peft has no prompts at its place.
    """
    if manifest.options.adapter is not None:
        raise ConfigError(
            "a prompt that was trained together with an adapter cannot be exported: no other format holds both",
            where=manifest.ref,
            fix="copy its folder; overture predict and eval take folders",
        )
    if to not in (able := able_formats(manifest)):
        raise ConfigError(
            "this form does not hold such a prompt",
            where=manifest.ref,
            got=f"{_kind_of(manifest)}, to {to}",
            wanted=f"one of {', '.join(able)}",
            fix=f"--to {' or '.join(able)}",
        )
    if to == "peft":
        check_place(manifest)


def write_files(folder: Path, files: Files) -> None:
    """Write an exported prompt's folder, whole or not at all.

    Raises:
        StoreError: the folder exists and holds something, or cannot be made.
        DiskFull: no room; nothing is left behind.
    """
    check_target(folder)
    try:
        write_folder(folder, lambda temporary: fill(temporary, files))
    except StoreError:
        raise
    except (OSError, ValueError) as error:
        raise _unwritable(folder, str(error)) from error


def _unwritable(folder: Path, why: str) -> StoreError:
    return StoreError("the folder cannot be written", where=f"{str(folder)!r:.200}", got=why, fix="name another folder")


def npy_files(manifest: Manifest, tensors: "dict[str, torch.Tensor]") -> Files:
    """One ``.npy`` file for each tensor, and their description in ``prompt.json``.

    Raises:
        ArtifactError: a tensor's name cannot be a file's.
    """
    import numpy
    import torch

    # NumPy has no bfloat16; float32 holds each of its values.
    arrays: dict[str, Any] = {
        name: (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).contiguous().numpy()
        for name, tensor in _checked(manifest, tensors).items()
    }
    files: Files = {}
    for name, array in arrays.items():
        buffer = io.BytesIO()
        numpy.save(buffer, array, allow_pickle=False)
        files[f"{name}.npy"] = buffer.getvalue()
    facts = {
        name: {**_facts(name, tensors[name]), "file": f"{name}.npy", "file_dtype": str(array.dtype)}
        for name, array in arrays.items()
    }
    text = json.dumps(_described(manifest, facts), indent=1, ensure_ascii=False, allow_nan=False)
    return {**files, MANIFEST_FILE: f"{text}\n".encode()}


def json_files(manifest: Manifest, tensors: "dict[str, torch.Tensor]") -> Files:
    """One ``prompt.json`` with the numbers as nested lists; each number reads back to the same value.

    Raises:
        ArtifactError: a tensor's name cannot be a file's.
    """
    facts = {
        name: {**_facts(name, tensor), "values": tensor.tolist()}
        for name, tensor in _checked(manifest, tensors).items()
    }
    # One line: with line breaks every number would stand on its own.
    text = json.dumps(_described(manifest, facts), ensure_ascii=False, allow_nan=False)
    return {MANIFEST_FILE: f"{text}\n".encode()}


def _checked(manifest: Manifest, tensors: "dict[str, torch.Tensor]") -> "dict[str, torch.Tensor]":
    odd = [name for name in tensors if not is_name(name.lower())]
    if odd:
        raise ArtifactError("a tensor's name cannot be a file's", where=manifest.name, got=f"{odd[0]!r:.80}")
    check_finite(tensors, manifest.name)
    return tensors


def _facts(name: str, tensor: "torch.Tensor") -> dict[str, Any]:
    facts: dict[str, Any] = {"shape": list(tensor.shape), "dtype": str(tensor.dtype).removeprefix("torch.")}
    return facts | ({"axes": _AXES[name]} if name in _AXES else {})


def _described(manifest: Manifest, tensors: dict[str, Any]) -> dict[str, Any]:
    # Late prompts replace no input embeddings, and the weights of a network stand nowhere.
    is_known = manifest.place in _POSITIONS and not manifest.layer and not _is_network(tensors)
    position = _POSITIONS.get(manifest.place, "")
    if kind_of(manifest) == "encoder-decoder":
        position = _SIDES.get(manifest.place, f"in the encoder: {position}")
    return {
        "manifest": manifest.model_dump(mode="json"),
        **({"positions": position} if is_known else {}),
        "lost": lost_in_arrays(manifest, tensors),
        "tensors": tensors,
    }


def _is_network(tensors: Mapping[str, Any]) -> bool:
    return any(name.startswith("state.") for name in tensors)


def lost_in_arrays(manifest: Manifest, tensors: Mapping[str, Any]) -> list[str]:
    """Sentences on how another program must use the arrays; none for plain input embeddings.

    Args:
        manifest: describes the tensors.
        tensors: by name; their values are not looked at.
    """
    ref, sentences = manifest.backbone, list[str]()
    if _is_network(tensors):
        sentences.append(
            f"The prompt depends on the row: the tensors are the weights with which method {manifest.method!r} makes "
            "it from the mean of a text's token vectors. That computation does not travel."
        )
    if manifest.layer:
        sentences.append(
            f"The vectors are no input embeddings: they join the text's hidden states before layer {manifest.layer}, "
            "counted from 0, and the text runs alone below it. A program that takes input embeddings cannot do that."
        )
    elif ref.embedding_size and "vectors" in tensors:
        sentences.append(
            f"The vectors are no input embeddings: {ref.id} maps token vectors of width {ref.embedding_size} to width "
            f"{ref.hidden_size}, and the vectors stand behind that map."
        )
    return sentences + [sentence for name, sentence in _LOST.items() if name in tensors]


_LOST = {
    "offset": "The offset is added to the vectors of the text's first tokens; a program that only puts vectors in "
    "front of the text leaves it out.",
    "weights": "The weights multiply the attention that each column gets before it is normalised; a cache of keys and "
    "values has no place for them.",
    "labels": "Labels are compared with the vectors in labels, not with label words: a label's score is the product of "
    "its vector and the hidden state that is read. A program that scores words gives other answers.",
    "head_weight": "Before the labels, the hidden state h of the first token becomes tanh(head_weight h + head_bias); "
    "label_bias is added to the scores. A program must do this itself.",
    "label_scale": "The vectors in labels are texts in the space that the model maps images and texts to: a label's "
    "score is label_scale times the cosine of its vector and the image there, plus label_bias.",
}
"""For each tensor, what a program must do that it does for no plain prompt of vectors or cache."""


def lost_in_peft(manifest: Manifest, tensors: Mapping[str, Any]) -> list[str]:
    """Sentences on what an adapter's files do not hold; prompts that peft cannot hold are refused."""
    del tensors
    sentences = ["The template and the labels are not in the files that peft reads; they stand in README.md."]
    if (hub_id := HUB_IDS.get(manifest.backbone.id)) is not None:
        sentences.append(
            f"The adapter names {hub_id}, from which the package's four-bit {manifest.backbone.id} was made: on the "
            "Hub's own weights the logits differ a little, so measure again there."
        )
    return sentences


def peft_gap(manifest: Manifest, tensors: "dict[str, torch.Tensor]") -> str:
    """Why a prompt cannot become an adapter of peft, and what can; empty where it can."""
    if manifest.options.adapter is not None:
        return "This prompt cannot be exported: no other program's files hold a prompt and an adapter together."
    try:
        adapter_files(manifest, tensors)
    except ArtifactError as error:
        return f"This prompt cannot be exported to peft ({error.got}), which takes {error.wanted}."
    return ""


CONCEPT_FORMATS: "dict[str, Callable[[Manifest, dict[str, torch.Tensor]], Files]]" = {
    "diffusers": diffusers_files,
    "webui": webui_files,
}
"""Formats of concepts."""

FORMATS: "dict[str, Callable[[Manifest, dict[str, torch.Tensor]], Files]]" = {
    "peft": adapter_files,
    "npy": npy_files,
    "json": json_files,
    **TEXT_FORMATS,
    **CONCEPT_FORMATS,
}
"""Export formats: each makes files, by name, from a prompt's manifest and tensors."""

LOST: dict[str, Callable[[Manifest, Mapping[str, Any]], list[str]]] = {
    "peft": lost_in_peft,
    "npy": lost_in_arrays,
    "json": lost_in_arrays,
    **dict.fromkeys(TEXT_FORMATS, lost_in_text),
    "diffusers": lost_in_diffusers,
    "webui": lost_in_webui,
}
"""For each format, sentences on what it cannot hold."""
