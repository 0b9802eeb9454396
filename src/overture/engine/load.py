"""Backbones by name: the embedded alias, a Hub id, a local folder or a GGUF file.

Code that a repository brings never runs, and pickled weights are never read.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
from overture.engine.precision import device_of, dtype_of, fastest_dtype
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
        notify: called before work that takes long.

    Raises:
        BackboneError: there is no such model, it cannot be read, its weights are pickled, its family is unsupported, or
            its layers cannot be compiled.
    """
    torch_device = ranks.device if ranks else device_of(device)
    checkpoint = _read_checkpoint(
        name,
        revision,
        dtype_of(fastest_dtype(device) if dtype == "fastest" else dtype, torch_device),
        is_shared=ranks is not None and ranks.is_shared,
        is_read_late=is_read_late,
        notify=notify,
    )
    model, family = checkpoint.model, checkpoint.family
    # A model that several processes share may not fit whole into one's device.
    if not (ranks and ranks.is_shared) and checkpoint.read is None:
        model = model.to(torch_device)
    make = _text_model if checkpoint.reads is None else _media_model
    make = _connected_model if checkpoint.has_connector else make
    if checkpoint.tokenizer and checkpoint.has_captions:
        backbone = make(model.vision_model.eval(), family, None, checkpoint.folder, **checkpoint.facts)
        backbone.captions = caption_tower(model, checkpoint.tokenizer, **checkpoint.facts)
    else:
        backbone = make(model, family, checkpoint.tokenizer, checkpoint.folder, **checkpoint.facts)
    if checkpoint.read:
        Unread(model, torch_device, partial(_read_late, checkpoint.read, name, notify), checkpoint.folder)
    backbone = backbone.with_compiled_layers() if compile_layers else backbone
    if ranks and ranks.is_shared:
        from overture.engine.split import spread

        spread(backbone, ranks)
        model.to(torch_device)
    return backbone


class _Facts(TypedDict):
    """Names of a backbone."""

    id: str
    revision: str | None
    weights_sha256: str


_Read = Callable[[], tuple[Any, dict[str, Any]]]
"""Loads a model, with the library's report on its weights."""


@dataclass(frozen=True, slots=True)
class _Checkpoint:
    """A model of transformers, as its files describe it.

    Args:
        model: the model; without weights where ``read`` is given.
        family: facts of the layers that run.
        tokenizer: transformers' tokenizer; None without words.
        has_connector: it reads images among its tokens.
        has_captions: it is a model of two towers.
        reads: the modality that it reads beside texts, or instead of them; None for texts.
        folder: of its files.
        facts: names of the backbone.
        read: reads the weights when they are needed; None where they are loaded.
    """

    model: Any
    family: Family
    tokenizer: Any
    has_connector: bool
    has_captions: bool
    reads: str | None
    folder: Path
    facts: _Facts
    read: _Read | None


def _read_checkpoint(
    name: str, revision: str | None, dtype: torch.dtype, *, is_shared: bool, is_read_late: bool, notify: Notify
) -> _Checkpoint:
    """Load a model by the library's class for its config; arguments and errors as for `load_backbone`."""
    plain, _, _ = sized(name)
    path, digest = located(plain, notify)
    if path is None:
        notify(f"looking for {plain} in the local copies of the Hub, then on the Hub ...")
    source = str(path) if path else plain
    with LOADING, readable_errors(name), quiet(), Unfilled():
        options: dict[str, Any] = {} if path else _hub_options(plain, revision)
        full_config = AutoConfig.from_pretrained(source, trust_remote_code=False, **options)
        config = _read_config(full_config)
        family = family_of(config.model_type, name)
        connector = CONNECTORS.get(full_config.model_type)
        has_captions = full_config.model_type in TOWERS
        tokenizer = _tokenizer_of(source, path, family.has_words, has_captions, notify, **options)
        arguments: dict[str, Any] = {"add_pooling_layer": False} if config.model_type in _WITH_POOLER else {}
        # Where peft is installed the library looks for an adapter beside the weights, and does not pass this on to it.
        arguments |= {"adapter_kwargs": {"local_files_only": options["local_files_only"]}} if options else {}
        model_class = AutoModelForImageTextToText if connector else _class_for(config, family, name)
        read: _Read = partial(
            model_class.from_pretrained,
            source,
            config=full_config if connector or (tokenizer and has_captions) else config,
            dtype=dtype,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            **options,
            **arguments,
        )
        is_text_decoder = family.kind == "decoder" and connector is None and not has_captions
        folder = path or copies_of(plain, revision) if is_read_late and is_text_decoder else None
        is_late = folder is not None and any(folder.glob("*.safetensors"))
        model, report = (without_weights(model_class, config, dtype), {"missing_keys": []}) if is_late else read()
        may_be_of_texts = connector is not None and connector.has_texts_alone
        if connector and may_be_of_texts and (is_shared or not _has_file(PREPARATION, source, path, **options)):
            model, connector = language_model(model, connector), None
        reads = "image" if connector else (family.encoder or family).reads
        if reads == "image" or family.kind == "decoder":
            _check_whole(report["missing_keys"], name)
        if not path and reads:
            fetch_preparation(plain, **options)
    snapshot = None if path else copies_of(plain, revision)
    facts: _Facts = {
        "id": name,
        "revision": snapshot.name if snapshot else revision,
        "weights_sha256": hub_digest(snapshot) if snapshot else digest,
    }
    return _Checkpoint(
        model,
        family,
        tokenizer,
        connector is not None,
        has_captions,
        reads,
        path or snapshot or Path(plain),
        facts,
        read if is_late else None,
    )


def _read_late(read: _Read, name: str, notify: Notify) -> Any:
    """The same model with its weights, read when they are needed."""
    notify(f"reading the weights of {name} ...")
    with LOADING, readable_errors(name), quiet(), Unfilled():
        model, loading = read()
        _check_whole(loading["missing_keys"], name)
        return model


def caption_tower(model: Any, inner: Any, **facts: Unpack[_Facts]) -> CaptionTower:
    """The tower of texts of a model of two towers.

    Args:
        model: transformers' model of both.
        inner: transformers' tokenizer.
        facts: names of the backbone.
    """
    tokenizer = Tokenizer(inner, max_length(model.text_model.config), is_encoder=True)
    texts = text_backbone(model.text_model, tokenizer, **facts)
    if texts.family.is_causal:
        return CaptionTower(texts, model.text_projection, model.visual_projection, model.logit_scale)
    # SigLIP's bias is the same for all labels, of which one is right, so it changes no probability.
    return CaptionTower(texts, model.text_model.head, model.vision_model.head, model.logit_scale, inner.pad_token_id)


def _text_model(model: Any, family: Family, inner: Any, folder: Path, **facts: Unpack[_Facts]) -> Backbone:
    if sized(facts["id"])[1] is not None:
        raise BackboneError(
            "a model of texts has no size of its input", where=facts["id"], fix="leave out what follows @"
        )
    config = model.config
    start_id = config.decoder_start_token_id if family.encoder else None
    tokenizer = Tokenizer(inner, max_length(config), is_encoder=not family.is_causal, start_id=start_id)
    return text_backbone(model, tokenizer, **facts)


def _connected_model(model: Any, family: Family, inner: Any, folder: Path, **facts: Unpack[_Facts]) -> Backbone:
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


def _media_model(model: Any, family: Family, inner: Any, folder: Path, **facts: Unpack[_Facts]) -> Backbone:
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
    """The best place to read labels in a model, found without its weights: a text's end, a mask, or label vectors.

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
    """Keyword arguments for loading a Hub model's files."""
    return {"revision": revision, "local_files_only": has_only_copies(name, revision)}


def _read_config(config: Any) -> Any:
    """The config of the layers that run: the texts' in a model with a connector, the images' in one of two towers."""
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
"""Families whose files often lack the map of the whole image, which is not used here."""


def _check_whole(missing: Sequence[str], name: str) -> None:
    """Refuse files that lack weights: the library fills them with random numbers.

    Raises:
        BackboneError: they do.
    """
    missing_names = sorted(key for key in missing if not key.endswith("mask_token"))
    if missing_names:
        raise BackboneError(
            f"the model's files lack {len(missing_names)} of its weights",
            where=name,
            got=", ".join(missing_names[:3]) + (", ..." if len(missing_names) > 3 else ""),
            fix="fetch the model again, or choose one of the family whole",
        )


def _class_for(config: Any, family: Family, name: str) -> Any:
    """The library's class that loads a model: with a head over the vocabulary where its weights have one."""
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
    other_kinds = [kind for kind in config.architectures or [] if kind.endswith(("EncoderModel", "ForCausalLM"))]
    if other_kinds or config.decoder_start_token_id is None:
        raise BackboneError(
            "this model is not a whole encoder-decoder",
            where=name,
            got=", ".join(other_kinds) or "no decoder_start_token_id in config.json",
            wanted="an encoder and a decoder that writes",
            fix="choose the whole model, such as google/flan-t5-small",
        )
    return AutoModelForSeq2SeqLM
