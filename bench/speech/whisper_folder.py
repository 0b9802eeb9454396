"""Write a folder that transformers and Overture load from a CTranslate2 file of Whisper, as some packages carry it.

    python bench/speech/whisper_folder.py FOLDER OUT      # FOLDER holds model.bin, or its parts, and tokenizer.json

The file is a header and then tensors: name, shape, type, bytes. Queries, keys and values of one attention are one
matrix in it; keys have no bias in Whisper, and a row of zeros stands in its place.
"""

import argparse
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy
import torch
from transformers import PreTrainedTokenizerFast, WhisperConfig, WhisperFeatureExtractor
from transformers import WhisperForConditionalGeneration as Whisper
from transformers.models.whisper.configuration_whisper import NON_SPEECH_TOKENS, NON_SPEECH_TOKENS_MULTI

BLANK, MULTILINGUAL = 220, 51865
TYPES = {0: numpy.float32, 1: numpy.int8, 2: numpy.int16, 3: numpy.int32, 4: numpy.float16}


def tensors_of(raw: bytes) -> dict[str, torch.Tensor]:
    """The tensors of a CTranslate2 file, version 6, as float32."""
    place = 0

    def number(kind: str) -> int:
        nonlocal place
        (value,) = struct.unpack_from("<" + kind, raw, place)
        place += struct.calcsize("<" + kind)
        return int(value)

    def text() -> str:
        nonlocal place
        length = number("H")
        place += length
        return raw[place - length : place].rstrip(b"\0").decode()

    version, spec, _ = number("I"), text(), number("I")
    if version != 6:
        raise SystemExit(f"version {version} of the format, and 6 was expected ({spec})")
    tensors = {}
    for _ in range(number("I")):
        name = text()
        shape = [number("I") for _ in range(number("B"))]
        kind, size = TYPES[number("B")], number("I")
        values = numpy.frombuffer(raw, kind, size // numpy.dtype(kind).itemsize, place)
        place += size
        tensors[name] = torch.from_numpy(values.astype(numpy.float32).reshape(shape))
    return tensors


def names_of(num_layers: int) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Modules of the file and of the model, and the maps that one module of the file holds, if several."""
    both = (("encoder", "model.encoder"), ("decoder", "model.decoder"))
    for theirs, ours in both:
        yield f"{theirs}/layer_norm", f"{ours}.layer_norm", ()
        for n in range(num_layers):
            layer, own = f"{theirs}/layer_{n}", f"{ours}.layers.{n}"
            yield f"{layer}/ffn/layer_norm", f"{own}.final_layer_norm", ()
            yield f"{layer}/ffn/linear_0", f"{own}.fc1", ()
            yield f"{layer}/ffn/linear_1", f"{own}.fc2", ()
            yield f"{layer}/self_attention/layer_norm", f"{own}.self_attn_layer_norm", ()
            yield f"{layer}/self_attention/linear_0", f"{own}.self_attn", ("q_proj", "k_proj", "v_proj")
            yield f"{layer}/self_attention/linear_1", f"{own}.self_attn.out_proj", ()
            if theirs == "decoder":
                yield f"{layer}/attention/layer_norm", f"{own}.encoder_attn_layer_norm", ()
                yield f"{layer}/attention/linear_0", f"{own}.encoder_attn", ("q_proj",)
                yield f"{layer}/attention/linear_1", f"{own}.encoder_attn", ("k_proj", "v_proj")
                yield f"{layer}/attention/linear_2", f"{own}.encoder_attn.out_proj", ()


def state_of(tensors: Mapping[str, torch.Tensor], num_layers: int) -> dict[str, torch.Tensor]:
    """The tensors by the names of transformers."""
    state = {
        "model.encoder.embed_positions.weight": tensors["encoder/position_encodings/encodings"],
        "model.decoder.embed_positions.weight": tensors["decoder/position_encodings/encodings"],
        "model.decoder.embed_tokens.weight": tensors["decoder/embeddings/weight"],
        "proj_out.weight": tensors["decoder/embeddings/weight"],
    }
    state |= {
        f"model.encoder.conv{n}.{part}": tensors[f"encoder/conv{n}/{part}"]
        for n in (1, 2)
        for part in ("weight", "bias")
    }
    for theirs, ours, maps in names_of(num_layers):
        is_norm = f"{theirs}/gamma" in tensors
        for part, name in (("weight", "gamma"), ("bias", "beta")) if is_norm else (("weight",) * 2, ("bias",) * 2):
            values = tensors[f"{theirs}/{name}"]
            split = (
                dict(zip((f"{ours}.{m}" for m in maps), values.chunk(len(maps)), strict=True))
                if maps
                else {ours: values}
            )
            state |= {
                f"{module}.{part}": own.clone()
                for module, own in split.items()
                if not (part == "bias" and module.endswith("k_proj"))
            }
    return state


def write(folder: Path, out: Path) -> None:
    """Write config, weights, tokenizer and processor of the model that lies in a folder."""
    parts = sorted(folder.rglob("model.bin*"))
    tensors = tensors_of(b"".join(part.read_bytes() for part in parts))
    vocabulary, width = tensors["decoder/embeddings/weight"].shape
    num_layers = len({name.split("/")[1] for name in tensors if name.startswith("encoder/layer_") and "/ffn" in name})
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(next(folder.rglob("tokenizer.json"))))
    end, start = tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|startoftranscript|>"])
    tokenizer.eos_token = tokenizer.bos_token = tokenizer.unk_token = "<|endoftext|>"
    config = WhisperConfig(
        vocab_size=vocabulary,
        d_model=width,
        encoder_layers=num_layers,
        decoder_layers=num_layers,
        encoder_attention_heads=width // 64,
        decoder_attention_heads=width // 64,
        encoder_ffn_dim=4 * width,
        decoder_ffn_dim=4 * width,
        num_mel_bins=80,
        pad_token_id=end,
        bos_token_id=end,
        eos_token_id=end,
        decoder_start_token_id=start,
        begin_suppress_tokens=[BLANK, end],
        suppress_tokens=NON_SPEECH_TOKENS if vocabulary < MULTILINGUAL else NON_SPEECH_TOKENS_MULTI,
    )
    model = Whisper(config).eval()
    result = model.load_state_dict(state_of(tensors, num_layers), strict=False)
    if result.missing_keys or result.unexpected_keys:
        raise SystemExit(f"tensors without a place: {result}")
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    WhisperFeatureExtractor(feature_size=80).save_pretrained(out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    write(arguments.folder, arguments.out)
    print(f"wrote {arguments.out}")
