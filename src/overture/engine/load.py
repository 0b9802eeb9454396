"""Backbones by name: the embedded alias, a Hub id, a local folder or a GGUF file.

Code that a repository brings never runs, and pickled weights are never read.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack

import torch
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
from transformers.utils import cached_file

from overture.core.errors import BackboneError
from overture.engine.backbone import Backbone
from overture.engine.captions import CaptionTower
from overture.engine.connectors import CONNECTORS, language_model
from overture.engine.families import Family, family_of, max_length
from overture.engine.frontends.preparation import FILES as PREPARATION
from overture.engine.frontends.text import text_backbone
from overture.engine.hub import copies_of, fetch_preparation, has_only_copies
from overture.engine.model_files import Notify, hub_digest, located
from overture.engine.options import EMBEDDED, TOWERS, sized
from overture.engine.precision import fastest_dtype
from overture.engine.ranks import Ranks
from overture.engine.tokenizer import Tokenizer
from overture.engine.transformers_calls import LOADING, Unfilled, quiet, readable_errors
from overture.engine.unread import Unread, without_weights


def load_backbone(
    name: str = "smollm2",
    *,
    revision: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    compile_layers: bool = False,
    ranks: Ranks | None = None,
    is_read_late: bool = False,
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
        is_read_late: the weights of a decoder of texts are not read before something is computed with them
            (`engine.unread`).
        notify: told of work that takes long.

    Raises:
        BackboneError: there is no such model, it cannot be read, its weights are pickled, its family is unsupported, or
            its layers cannot be compiled.
    """
    where = torch.device("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else torch.device(device)
    where = ranks.device if ranks else where
    dtype = fastest_dtype(device) if dtype == "fastest" else dtype
    kind = (torch.float32 if where.type == "cpu" else torch.bfloat16) if dtype == "auto" else getattr(torch, dtype)
    is_shared = ranks is not None and ranks.is_shared
    plain, _, _ = sized(name)
    path, digest = located(plain, notify)
    if path is None:
        notify(f"looking for {plain} in the local copies of the Hub, then on the Hub ...")
    source = str(path) if path else plain
    with LOADING, readable_errors(name), quiet(), Unfilled():
        options: dict[str, Any] = {} if path else _hub_options(plain, revision)
        whole = AutoConfig.from_pretrained(source, trust_remote_code=False, **options)
        config = _read_config(whole)
        family = family_of(config.model_type, name)
        connector = CONNECTORS.get(whole.model_type)
        has_captions = whole.model_type in TOWERS
        inner = _tokenizer_of(source, path, family.has_words, has_captions, notify, **options)
        made: dict[str, Any] = {"add_pooling_layer": False} if config.model_type in _WITH_POOLER else {}
        # Where peft is installed the library looks for an adapter beside the weights, and does not pass this on to it.
        made |= {"adapter_kwargs": {"local_files_only": options["local_files_only"]}} if options else {}
        kind_of_model = AutoModelForImageTextToText if connector else _class_for(config, family, name)
        read: Callable[[], tuple[Any, dict[str, Any]]] = partial(
            kind_of_model.from_pretrained,
            source,
            config=whole if connector or (inner and has_captions) else config,
            dtype=kind,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            **options,
            **made,
        )
        is_late = (
            is_read_late
            and (family.kind, connector, has_captions) == ("decoder", None, False)
            and _has_weights(path or copies_of(plain, revision))
        )
        model, loading = (without_weights(kind_of_model, config, kind), {"missing_keys": []}) if is_late else read()
        may_be_of_texts = connector is not None and connector.has_texts_alone
        if connector and may_be_of_texts and (is_shared or not _has_file(PREPARATION, source, path, **options)):
            model, connector = language_model(model, connector), None
        reads = "image" if connector else (family.encoder or family).reads
        if reads == "image" or family.kind == "decoder":
            _check_whole(loading["missing_keys"], name)
        if not path and reads:
            fetch_preparation(plain, **options)
    snapshot = None if path else copies_of(plain, revision)
    assembled = _of_both if connector else _of_media if reads else _of_texts
    folder = path or snapshot or Path(plain)
    # A model that several processes share may not fit whole into one's device.
    model = model if is_shared or is_late else model.to(where)
    facts: _Facts = {
        "id": name,
        "revision": snapshot.name if snapshot else revision,
        "weights_sha256": hub_digest(snapshot) if snapshot else digest,
    }
    if inner and has_captions:
        backbone = assembled(model.vision_model.eval(), family, None, folder, **facts)
        backbone.captions = caption_tower(model, inner, **facts)
    else:
        backbone = assembled(model, family, inner, folder, **facts)
    if is_late:
        Unread(model, where, partial(_late, read, name, notify), folder)
    backbone = backbone.with_compiled_layers() if compile_layers else backbone
    if ranks and is_shared:
        from overture.engine.split import spread

        spread(backbone, ranks)
        model.to(where)
    return backbone


def _has_weights(folder: Path | None) -> bool:
    return folder is not None and any(folder.glob("*.safetensors"))


def _late(read: Callable[[], tuple[Any, dict[str, Any]]], name: str, notify: Notify) -> Any:
    """A model's weights, in the model that `load_backbone` would have made."""
    notify(f"reading the weights of {name} ...")
    with LOADING, readable_errors(name), quiet(), Unfilled():
        model, loading = read()
        _check_whole(loading["missing_keys"], name)
        return model


class _Facts(TypedDict):
    """Names of a backbone."""

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
    if texts.family.is_causal:
        return CaptionTower(texts, model.text_projection, model.visual_projection, model.logit_scale)
    # SigLIP's bias is the same for all labels, of which one is right, so it changes no probability.
    return CaptionTower(texts, model.text_model.head, model.vision_model.head, model.logit_scale, inner.pad_token_id)


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
    """First tokens of Whisper's decoder: start, language and task where there are several, and no timestamps."""
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
    with readable_errors(name), quiet():
        options = {} if Path(name).expanduser().is_dir() else _hub_options(name, None)
        config = _read_config(AutoConfig.from_pretrained(name, trust_remote_code=False, **options))
        family = family_of(config.model_type, name)
        if family.is_causal:
            return "end"
        if not family.has_words:
            return "vectors"
        inner = AutoTokenizer.from_pretrained(name, trust_remote_code=False, **options)
        has_head = _class_for(config, family, name) is AutoModelForMaskedLM
    is_short = all(len(inner.encode(w, add_special_tokens=False, split_special_tokens=True)) == 1 for w in words)
    return "mask" if has_head and inner.mask_token_id is not None and is_short else "vectors"


def _hub_options(name: str, revision: str | None) -> dict[str, Any]:
    """What the library is told of a Hub model's files."""
    return {"revision": revision, "local_files_only": has_only_copies(name, revision)}


def _read_config(config: Any) -> Any:
    """A model's config; of one that reads pictures too, that of its texts; of two towers, that of the images'."""
    if config.model_type in TOWERS:
        return config.vision_config
    return config.text_config if config.model_type in CONNECTORS else config


def _has_file(names: Sequence[str], source: str, folder: Path | None, **options: Any) -> bool:
    """Whether a model's files have one of several names."""
    if folder:
        return any((folder / name).is_file() for name in names)
    return any(cached_file(source, name, _raise_exceptions_for_missing_entries=False, **options) for name in names)


def _tokenizer_of(
    source: str, folder: Path | None, has_words: bool, has_captions: bool, notify: Notify, **options: Any
) -> Any:
    """transformers' tokenizer; None of models without words, and of two towers where it cannot be loaded."""
    if not has_words and not (has_captions and _has_file(_TOKENIZER_FILES, source, folder, **options)):
        return None
    try:
        return AutoTokenizer.from_pretrained(source, trust_remote_code=False, **options)
    except (ImportError, ValueError) as error:
        if has_words:
            raise
        # SigLIP's may need a package of its own, which its images do not.
        notify(f"{source}: its images are read alone, since its tokenizer cannot be loaded: {error}")
        return None


_TOKENIZER_FILES = ("tokenizer.json", "vocab.json")
"""Without one of them a model of two towers is one of images."""
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
