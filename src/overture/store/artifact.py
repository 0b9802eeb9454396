"""A prompt as a folder: ``prompt.safetensors``, ``prompt.json`` and a generated ``README.md``.

A prompt of words has no tensors: its text and tokens stand in the manifest.

The manifest says what the tensors are, which model they were made for, and how good they are.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from overture.core.config import validated
from overture.core.errors import ArtifactError, ConfigError, Problem
from overture.core.files import write_folder
from overture.core.records.base import FROM_JSON
from overture.store import precheck
from overture.store.card import model_card
from overture.store.manifest import FORMAT_VERSION, Manifest, check_answers

if TYPE_CHECKING:
    import torch

TENSORS_FILE = "prompt.safetensors"
MANIFEST_FILE = "prompt.json"
CARD_FILE = "README.md"
_DTYPES = ("float64", "float32", "float16", "bfloat16")


def save_artifact(folder: Path, manifest: Manifest, tensors: "dict[str, torch.Tensor] | bytes") -> Manifest:
    """Write a prompt's folder, whole or not at all; it is on the disk when this returns.

    Args:
        folder: the folder to make; it must not exist.
        manifest: what the tensors are; ``tensors_sha256`` is filled in.
        tensors: the prompt's values by name, saved bit by bit in their own dtype; or a safetensors file's bytes.

    Returns:
        The manifest as it was written.

    Raises:
        ArtifactError: NaN, infinity, or a tensor that no prompt holds.
        StoreError: the folder exists.
        DiskFull: no room; nothing is left behind.
    """
    if manifest.text and tensors:
        tensors_text = f"{len(tensors)} bytes" if isinstance(tensors, bytes) else ", ".join(tensors)
        raise ArtifactError("a prompt of words has no tensors", where=str(folder), got=tensors_text)
    if manifest.text:
        raw = b""
    elif isinstance(tensors, bytes):
        precheck.check_finite_bytes(raw := tensors, str(folder))
    else:
        raw = tensor_bytes(tensors, str(folder))
    digest = manifest.text.sha256 if manifest.text else hashlib.sha256(raw).hexdigest()
    stored_manifest = manifest.model_copy(update={"tensors_sha256": digest, "manifest_sha256": ""})
    stored_manifest = stored_manifest.model_copy(
        update={"manifest_sha256": manifest_digest(stored_manifest.model_dump(mode="json"))}
    )
    text = json.dumps(stored_manifest.model_dump(mode="json"), indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    if len(text.encode()) > precheck.MAX_MANIFEST_BYTES:
        raise ArtifactError(
            "the manifest is too long to be read back",
            where=str(folder / MANIFEST_FILE),
            got=f"{len(text.encode())} bytes",
            wanted=f"at most {precheck.MAX_MANIFEST_BYTES}",
            fix="keep data out of task, metrics and lineage",
        )
    files = {} if manifest.text else {TENSORS_FILE: raw}
    files |= {MANIFEST_FILE: text.encode(), CARD_FILE: model_card(stored_manifest).encode()}
    write_folder(Path(folder), lambda temporary: fill(temporary, files))
    return stored_manifest


def fill(folder: Path, files: dict[str, bytes]) -> None:
    """Write files into a folder, readable for everybody."""
    for name, raw in files.items():
        (folder / name).write_bytes(raw)
        (folder / name).chmod(0o644)


def tensor_bytes(tensors: "dict[str, torch.Tensor]", where: str) -> bytes:
    """Tensors as the bytes of a safetensors file.

    Raises:
        ArtifactError: NaN, infinity, or a tensor that no prompt holds; ``where`` tells the folder.
    """
    # In memory, not by save_file: that hides "no space left", writes mode 0600 and leaves temporary files.
    import safetensors.torch

    problems = [Problem(f"{name!r:.80}", fault) for name, t in tensors.items() if (fault := _unsavable(name, t))]
    if not 1 <= len(tensors) <= precheck.MAX_TENSORS:
        problems.append(Problem("tensors", f"{len(tensors)} of them, wanted 1 to {precheck.MAX_TENSORS}"))
    if problems:
        raise ArtifactError("the tensors cannot be kept as a prompt", where=where, problems=problems)
    check_finite(tensors, where)
    # A clone of its own storage each: safetensors refuses views that share one.
    clones = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    raw: bytes = safetensors.torch.save(clones, {"format": "pt"})
    return raw


def tensors_sha256(tensors: "dict[str, torch.Tensor]", where: str) -> str:
    """The digest that the manifest of such a prompt holds.

    Raises:
        ArtifactError: as for `tensor_bytes`.
    """
    return hashlib.sha256(tensor_bytes(tensors, where)).hexdigest()


def manifest_digest(values: Mapping[str, Any]) -> str:
    """SHA-256 of a manifest's values, but for the digest itself; white space and the order of keys do not matter."""
    return hashlib.sha256(_canonical(values).encode()).hexdigest()


def _canonical(values: Mapping[str, Any]) -> str:
    facts = {name: value for name, value in values.items() if name != "manifest_sha256"}
    return json.dumps(facts, sort_keys=True)


def _unsavable(name: str, tensor: "torch.Tensor") -> str:
    if not name.isprintable() or name in ("", "__metadata__"):
        return "is no name for a tensor"
    if str(tensor.dtype).removeprefix("torch.") not in _DTYPES:
        return f"dtype {tensor.dtype}, wanted one of {', '.join(_DTYPES)}"
    if tensor.numel() == 0 or tensor.dim() > precheck.MAX_DIMENSIONS:
        return f"shape {list(tensor.shape)}, wanted values in at most {precheck.MAX_DIMENSIONS} dimensions"
    return ""


def check_finite(tensors: "dict[str, torch.Tensor]", where: str) -> None:
    """Refuse NaN and infinity.

    Raises:
        ArtifactError: names the first such value of each tensor by its index.
    """
    problems = []
    for name, tensor in tensors.items():
        is_finite = tensor.isfinite()
        if not is_finite.all():
            index = (~is_finite).nonzero()[0].tolist()
            problems.append(Problem(f"{name}{index}", f"is {tensor[tuple(index)].item()}"))
    if problems:
        raise ArtifactError(
            "the prompt holds values that are no numbers",
            where=where,
            wanted="finite values",
            fix="train again with a lower learning rate, or take an earlier version",
            problems=problems,
        )


def read_manifest(folder: Path) -> Manifest:
    """A prompt folder's manifest; the tensors are not touched.

    Raises:
        ArtifactError: the folder is unsafe, or ``prompt.json`` cannot be read.
    """
    return read_manifest_json(folder)[0]


def read_manifest_json(folder: Path) -> tuple[Manifest, str]:
    """A prompt folder's manifest, and the JSON that its digest is of, with the digest: what an index keeps.

    Raises:
        ArtifactError: as for `read_manifest`.
    """
    folder = Path(folder)
    precheck.check_folder(folder)
    path = folder / MANIFEST_FILE
    with precheck.open_plain(path) as handle:
        # Read by the file's size: a buffer for the longest manifest would be allocated anew for each of many.
        num_bytes = os.fstat(handle.fileno()).st_size
        raw = handle.read(min(num_bytes, precheck.MAX_MANIFEST_BYTES) + 1)
    if len(raw) > precheck.MAX_MANIFEST_BYTES:
        raise ArtifactError(
            "the manifest is too long", where=str(path), wanted=f"at most {precheck.MAX_MANIFEST_BYTES} bytes"
        )
    values = precheck.strict_json(raw, str(path))
    where = str(path)
    version = values.get("format_version") if isinstance(values, dict) else None
    if isinstance(version, int) and version != FORMAT_VERSION:
        raise ArtifactError(
            "the prompt has a format that this Overture does not know",
            where=where,
            got=f"format_version {version}",
            wanted=str(FORMAT_VERSION),
            fix="update Overture",
        )
    try:
        manifest = validated(Manifest, values, where, FROM_JSON)
    except ConfigError as error:
        raise ArtifactError("the manifest cannot be read", where=where, problems=error.problems) from error
    text = _canonical(values)
    if not manifest.manifest_sha256:
        return manifest, text
    if manifest.manifest_sha256 != (digest := hashlib.sha256(text.encode()).hexdigest()):
        raise ArtifactError(
            "the manifest has changed since it was written",
            where=where,
            got=f"SHA-256 {digest}",
            wanted=f"{manifest.manifest_sha256:.64}",
            fix="fetch the prompt again; if you have edited the file yourself, take manifest_sha256 out of it",
        )
    return manifest, f'{text[:-1]}, "manifest_sha256": "{digest}"}}'


def tensor_names(folder: Path, manifest: Manifest) -> tuple[str, ...]:
    """The names of a prompt's tensors, from the file's header alone; none of a prompt of words.

    Raises:
        ArtifactError: the file is damaged.
    """
    if manifest.text:
        return ()
    with precheck.open_plain(folder / TENSORS_FILE) as handle:
        return precheck.check_tensors(handle, str(folder / TENSORS_FILE))


def load_artifact(folder: Path, *, may_draw: bool = False) -> "tuple[Manifest, dict[str, torch.Tensor]]":
    """Read a prompt's folder; what is unsafe or damaged is refused before it is parsed.

    Args:
        folder: the prompt's.
        may_draw: whether a concept will do as well, which answers no rows.

    Returns:
        The manifest, and the tensors by name, bit-equal to what was saved; none of a prompt of words.

    Raises:
        ArtifactError: the folder is damaged, unsafe, holds values that are no numbers, or is a concept.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    if not may_draw:
        check_answers(manifest)
    if manifest.text:
        _check_digest(manifest.text.sha256, manifest, folder / MANIFEST_FILE)
        return manifest, {}
    path = folder / TENSORS_FILE
    with precheck.open_plain(path) as handle:
        precheck.check_tensors(handle, str(path))
        raw = handle.read()
    _check_digest(hashlib.sha256(raw).hexdigest(), manifest, path)
    import safetensors.torch

    tensors: dict[str, torch.Tensor] = safetensors.torch.load(raw)
    check_finite(tensors, str(path))
    return manifest, tensors


def _check_digest(digest: str, manifest: Manifest, path: Path) -> None:
    if digest != manifest.tensors_sha256:
        raise ArtifactError(
            f"the {'text and its tokens' if manifest.text else 'tensors'} are not the ones that the manifest describes",
            where=str(path),
            got=f"SHA-256 {digest}",
            wanted=manifest.tensors_sha256 or "a SHA-256 in prompt.json",
            fix="fetch the prompt again from where it was made",
        )
