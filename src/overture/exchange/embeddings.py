"""Concepts in the files of other programs: embeddings of textual inversion, as safetensors and never as pickles.

Of a model with one text encoder a file of diffusers holds ``{token: [V, D]}``, one of the web UI and of kohya's scripts
``{"emb_params": [V, D]}``, whose token is the file's name. Of Stable Diffusion XL all write ``clip_l`` and ``clip_g``.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from overture.core.errors import ArtifactError, Problem
from overture.store import precheck
from overture.store.artifact import check_finite, tensor_bytes
from overture.store.manifest import Manifest

if TYPE_CHECKING:
    import torch

Files = dict[str, bytes]

DIFFUSERS_FILE = "learned_embeds.safetensors"
_SINGLE = "emb_params"
_XL = {"text_encoder": "clip_l", "text_encoder_2": "clip_g"}
_MAX_TENSORS, _MAX_BYTES = 8, 1 << 28
_CONVERT = """\
where you trust it: python -c "import sys, torch; from safetensors.torch import save_file; d = torch.load(sys.argv[1], \
weights_only=True); d = {d.get('name') or 'emb_params': d['string_to_param']['*']} if 'string_to_param' in d else d; \
save_file({k: v.detach().contiguous() for k, v in d.items()}, sys.argv[2])" FILE learned_embeds.safetensors"""
_ONE = """\
from diffusers import StableDiffusionPipeline

pipeline = StableDiffusionPipeline.from_pretrained({model!r})
pipeline.load_textual_inversion(".", weight_name="learned_embeds.safetensors")
pipeline("a photo of {token}").images[0].save("picture.png")
"""
_TWO = """\
from diffusers import StableDiffusionXLPipeline
from safetensors.torch import load_file

pipeline = StableDiffusionXLPipeline.from_pretrained({model!r})
vectors, token = load_file("learned_embeds.safetensors"), {token!r}
pipeline.load_textual_inversion(vectors["clip_l"], token=token, text_encoder=pipeline.text_encoder, \
tokenizer=pipeline.tokenizer)
pipeline.load_textual_inversion(vectors["clip_g"], token=token, text_encoder=pipeline.text_encoder_2, \
tokenizer=pipeline.tokenizer_2)
pipeline("a photo of {token}").images[0].save("picture.png")
"""


@dataclass(frozen=True, slots=True)
class Embedding:
    """An embedding of textual inversion, as a file holds it.

    Args:
        vectors: [V, D] by text encoder.
        token: the word that stands for them, where the file says it.
        where: the file.
    """

    vectors: "dict[str, torch.Tensor]"
    token: str | None
    where: str


def diffusers_files(manifest: Manifest, tensors: "dict[str, torch.Tensor]") -> Files:
    """The file that diffusers' `load_textual_inversion` reads, and how to call it."""
    token, is_xl = _token(manifest), len(tensors) > 1
    by_name = _of_xl(tensors) if is_xl else {token: tensors["text_encoder"]}
    code = (_TWO if is_xl else _ONE).format(model=manifest.backbone.id.partition("@")[0], token=token)
    text = f"# {manifest.name}\n\n{token} stands for {manifest.length} vectors.\n\n```python\n{code}```\n"
    return {DIFFUSERS_FILE: tensor_bytes(by_name, manifest.name), "README.md": text.encode()}


def webui_files(manifest: Manifest, tensors: "dict[str, torch.Tensor]") -> Files:
    """The file for a web UI's folder of embeddings; its name is the word to write."""
    by_name = _of_xl(tensors) if len(tensors) > 1 else {_SINGLE: tensors["text_encoder"]}
    return {f"{_file_name(manifest)}.safetensors": tensor_bytes(by_name, manifest.name)}


def lost_in_diffusers(manifest: Manifest, tensors: "Mapping[str, torch.Tensor]") -> list[str]:
    """Sentences on what the file does not hold."""
    sentences = ["The model is not named in the file that diffusers reads; README.md names it."]
    if len(tensors) > 1:
        sentences.append(
            "Where the second text encoder's config says eos_token_id 2, diffusers reads its summary at the "
            "concept and not at the caption's end; set it to 49407 before."
        )
    return sentences


def lost_in_webui(manifest: Manifest, tensors: "Mapping[str, torch.Tensor]") -> list[str]:
    """Sentences on what the file does not hold."""
    del tensors
    return [
        f"The word to write is the file's name, {_file_name(manifest)}; the file does not say which model it is for."
    ]


def read_embedding(path: Path) -> Embedding:
    """Read an embedding; what is unsafe or damaged is refused before it is parsed.

    Args:
        path: the file, or a folder that holds one named as diffusers names it.

    Raises:
        ArtifactError: it is a pickle, damaged, or of no known form.
    """
    path = _file_of(Path(path))
    with precheck.open_plain(path) as handle:
        if path.stat().st_size > _MAX_BYTES:
            raise ArtifactError("the file is too large for an embedding", where=str(path), wanted=f"{_MAX_BYTES} bytes")
        names = precheck.check_tensors(handle, str(path), _MAX_TENSORS)
        raw = handle.read()
    import safetensors.torch

    tensors = safetensors.torch.load(raw)
    check_finite(tensors, str(path))
    encoders, token = _form_of(names, str(path))
    vectors = {encoder: _rows(tensors[name]) for encoder, name in encoders.items()}
    problems = [
        Problem(encoders[key], f"shape {list(value.shape)}") for key, value in vectors.items() if value.dim() != 2
    ]
    if problems or len({len(value) for value in vectors.values()}) > 1:
        shapes = ", ".join(str(list(value.shape)) for value in vectors.values())
        raise ArtifactError("these are no vectors of a concept", where=str(path), got=shapes, wanted="[vectors, width]")
    return Embedding(vectors, token, str(path))


def fitted_vectors(embedding: Embedding, widths: Mapping[str, int], model: str) -> "dict[str, torch.Tensor]":
    """The vectors, float32, for a model whose text encoders have these widths.

    Raises:
        ArtifactError: they are of another kind of model.
    """
    own_widths = {name: int(value.shape[1]) for name, value in embedding.vectors.items()}
    if own_widths != dict(widths):
        texts = [", ".join(f"{name} {width}" for name, width in sizes.items()) for sizes in (own_widths, widths)]
        raise ArtifactError(
            "the embedding is of another kind of model",
            where=embedding.where,
            got=f"width {texts[0]}",
            wanted=f"{texts[1]}, of {model}",
            fix="name its model with --backbone: 768 is Stable Diffusion 1, 1024 is 2, 768 and 1280 are XL",
        )
    return {name: value.float().contiguous() for name, value in embedding.vectors.items()}


def _file_of(path: Path) -> Path:
    if path.is_dir():
        names = sorted(file.name for file in path.iterdir())
        safe = [name for name in names if name.endswith(".safetensors")]
        pickle_names = [name for name in names if name.lower().endswith(precheck.PICKLE_SUFFIXES)]
        candidates = [name for name in safe if name == DIFFUSERS_FILE] or safe or pickle_names[:1]
        if len(candidates) != 1:
            got = ", ".join(names[:5]) or "nothing"
            raise ArtifactError("the folder holds no embedding", where=str(path), got=got, wanted=DIFFUSERS_FILE)
        path = path / candidates[0]
    if path.name.lower().endswith(precheck.PICKLE_SUFFIXES):
        got = "a pickle can run code when it is read; it was not opened"
        raise ArtifactError("the embedding is pickled", where=str(path), got=got, wanted="safetensors", fix=_CONVERT)
    return path


def _form_of(names: Sequence[str], where: str) -> tuple[dict[str, str], str | None]:
    """The tensor of each text encoder, and the token that the file names."""
    if set(names) == set(_XL.values()):
        return _XL, None
    if len(names) == 1:
        return {"text_encoder": names[0]}, None if names[0] == _SINGLE else names[0]
    raise ArtifactError(
        "the file is no embedding of a known form",
        where=where,
        got=", ".join(names),
        wanted=f"one tensor, named {_SINGLE} or as the word is, or clip_l and clip_g",
    )


def _rows(tensor: "torch.Tensor") -> "torch.Tensor":
    # One vector may stand alone.
    return tensor[None] if tensor.dim() == 1 else tensor


def _of_xl(tensors: "Mapping[str, torch.Tensor]") -> "dict[str, torch.Tensor]":
    return {_XL[name]: value for name, value in tensors.items()}


def _token(manifest: Manifest) -> str:
    if manifest.concept is None:
        raise ArtifactError("this prompt is no concept", where=manifest.ref, got=f"method {manifest.method}")
    return manifest.concept.token


def _file_name(manifest: Manifest) -> str:
    return re.sub(r"[^\w-]+", "", _token(manifest)) or manifest.name
