import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from overture.store.artifact import save_artifact
from overture.store.manifest import BackboneRef, Manifest


def backbone(**changes: Any) -> BackboneRef:
    values: dict[str, Any] = {
        "id": "tiny/model",
        "revision": "abc",
        "model_type": "llama",
        "hidden_size": 8,
        "num_layers": 2,
        "weights_sha256": "w" * 64,
        "tokenizer_sha256": "t" * 64,
        "chat_template_sha256": "c" * 64,
    }
    return BackboneRef(**{**values, **changes})


@pytest.fixture
def make_backbone() -> Callable[..., BackboneRef]:
    return backbone


def accuracy(value: float, **changes: Any) -> dict[str, Any]:
    return {"value": value, "low": value - 0.1, "high": value + 0.1, "n": 100, **changes}


@pytest.fixture
def make_manifest() -> Callable[..., Manifest]:
    def make(**changes: Any) -> Manifest:
        values: dict[str, Any] = {
            "name": "movie",
            "method": "vectors",
            "place": "after",
            "length": 4,
            "options": {"prompt": {"init": "vocabulary", "betas": (0.9, 0.999)}},
            "backbone": backbone(),
            "task": {"name": "movie", "template": "{{ text }}"},
            "metrics": {"test": {"accuracy": accuracy(0.8, method="Wilson")}},
            "trainable": 32,
        }
        return Manifest(**{**values, **changes})

    return make


@pytest.fixture
def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {"values": torch.randn(4, 8, generator=generator), "half": torch.ones(3, dtype=torch.bfloat16)}


@pytest.fixture
def saved(tmp_path: Path, make_manifest: Any, tensors: dict[str, torch.Tensor]) -> Path:
    save_artifact(tmp_path / "movie", make_manifest(), tensors)
    return tmp_path / "movie"


@pytest.fixture
def rewrite(saved: Path) -> Callable[[bytes], Path]:
    """The saved prompt with other bytes as tensors, and a manifest that agrees with them."""

    def write(raw: bytes) -> Path:
        import hashlib

        (saved / "prompt.safetensors").write_bytes(raw)
        values = json.loads((saved / "prompt.json").read_text())
        values["tensors_sha256"], values["manifest_sha256"] = hashlib.sha256(raw).hexdigest(), ""
        (saved / "prompt.json").write_text(json.dumps(values))
        return saved

    return write


@pytest.fixture
def packed() -> Callable[..., bytes]:
    """The bytes of a safetensors file with any header."""

    def pack(header: Any, data: bytes = b"") -> bytes:
        raw = header if isinstance(header, bytes) else json.dumps(header).encode()
        return struct.pack("<Q", len(raw)) + raw + data

    return pack
