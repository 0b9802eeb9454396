"""A fresh prompt from its config."""

from dataclasses import replace

from overture.core.config import Config, validated
from overture.core.errors import ConfigError
from overture.core.injection import LayerMemory
from overture.core.media import PLURALS
from overture.prompt.config import PromptConfig
from overture.prompt.inits import start_of
from overture.prompt.labels import LABEL_RATE, label_start, with_labels
from overture.prompt.method import Method
from overture.prompt.methods import METHODS
from overture.prompt.module import Built, Request
from overture.prompt.registry import method_of
from overture.prompt.source import PromptSource


def _check_memory(config: PromptConfig, method: Method, memory: LayerMemory) -> None:
    """Check that a method can start from a stored prompt's keys and values.

    Raises:
        ConfigError: it cannot, or not from their gates.
    """
    is_gated = memory.weights is not None
    if method.takes_weights if is_gated else method.takes_memory:
        return
    able = [
        name for name, candidate in METHODS.items() if (candidate.takes_weights if is_gated else candidate.takes_memory)
    ]
    raise ConfigError(
        f"method {config.method!r} cannot start from keys and values{' with gates' if is_gated else ''}",
        where="prompt.init_prompt",
        got=config.init_prompt,
        wanted="a stored prompt without gates" if is_gated and method.takes_memory else "a stored prompt of vectors",
        fix=f"--method {' or '.join(able)}",
    )


def build_prompt(config: PromptConfig, source: PromptSource, seed: int) -> Built:
    """A fresh prompt, ready to train; it meets `core.contracts.PromptMethod` or `core.contracts.RowMethod`.

    Raises:
        ConfigError: the method, its place or its options do not fit.
    """
    method = method_of(config)
    if method.needs_labels and source.candidates is None:
        raise ConfigError(f"method {config.method!r} needs label words", where="prompt.method", got="a free-text task")
    options = validated(method.options, config.options, "prompt.options")
    if method.in_captions:
        return _in_captions(config, method, options, source, seed)
    has_vectors = not method.needs_labels and wants_label_vectors(config, source)
    read_at = config.read_at if has_vectors else None
    if read_at is not None and read_at.layer is not None:
        _check_read_layer(config, read_at.layer, source.num_layers)
        # The layers above are not run, so nothing is trained there.
        source = source.lowest(read_at.layer)
    side = source.at(config.place)
    start, memory, states = start_of(config, source, seed)
    if memory:
        memory = memory.lowest(side.num_layers)
    if config.init == "prompt" and memory:
        _check_memory(config, method, memory)
    prompt = method.maths.build(Request(options, config.place, start, side, seed, memory, states))
    # Labels are read where the decoder writes, wherever the prompt stands.
    if not has_vectors:
        return prompt
    labels, bias = label_start(source, read_at)
    assert source.candidates is not None
    return with_labels(prompt, labels, label_rate_of(config, source.candidates.is_of_tokens), bias, read_at)


def label_rate_of(config: PromptConfig, is_of_tokens: bool) -> float:
    """The factor on the learning rate of label vectors: the one that is given, or the default.

    Args:
        config: the prompt.
        is_of_tokens: whether the labels are compared at many tokens of a row.
    """
    slower = 1.0 if is_of_tokens else LABEL_RATE / method_of(config).rate(config.place, config.length)
    return config.label_rate or min(1.0, slower)


def _check_read_layer(config: PromptConfig, layer: int, num_layers: int) -> None:
    """Check that labels are read at a layer of the model, above the one at which the prompt enters.

    Raises:
        ConfigError: it has not.
    """
    first = int(config.options.get("layer") or 0)
    if not first < layer <= num_layers:
        raise ConfigError(
            "labels cannot be read at this layer",
            where="prompt.read_layer",
            got=str(layer),
            wanted=f"{first + 1} to {num_layers}",
        )


def _in_captions(config: PromptConfig, method: Method, options: Config, source: PromptSource, seed: int) -> Built:
    """A prompt whose vectors start as tokens of the tower of texts.

    Raises:
        ConfigError: the model has no such tower, or the start is none of texts.
    """
    if source.captions is None or source.texts is None:
        reads_images = "image" in source.modalities
        modality_names = " and ".join(PLURALS[modality] for modality in sorted(source.modalities))
        raise ConfigError(
            f"method {method.name!r} needs a model that compares images with texts",
            where="prompt.method",
            got="a model without a tower of texts, or without the files of its tokenizer"
            if reads_images
            else f"a model of {modality_names}",
            wanted="a model such as CLIP, with tokenizer.json beside its weights",
            fix="--backbone openai/clip-vit-base-patch16, or --method deep" if reads_images else "--method deep",
        )
    if config.init in ("labels", "patches", "zero"):
        raise ConfigError(
            "a prompt among the labels' words starts from words",
            where="prompt.init",
            got=config.init,
            wanted="random, vocabulary, text or prompt",
            fix="--set prompt.init=text --set 'prompt.init_text=a photo of a'",
        )
    if config.read_at is not None:
        raise ConfigError(
            "images are compared with texts by their last states",
            where="prompt.read_layer",
            got=f"{config.read_layer}, {config.read_features}",
            fix="leave out prompt.read_layer and prompt.read_features",
        )
    start, _, _ = start_of(config, replace(source.texts, prompt=source.prompt), seed)
    prompt: Built = method.maths.build(Request(options, config.place, start, source, seed))
    return prompt


def wants_label_vectors(config: PromptConfig, source: PromptSource) -> bool:
    """Whether labels are to be compared with vectors of their own.

    Raises:
        ConfigError: they are, but the task has no labels.
    """
    if config.labels == "auto":
        return source.candidates is not None and not source.predicts_words
    if config.labels == "vectors" and source.candidates is None:
        raise ConfigError("label vectors need labels", where="prompt.labels", got="a free-text task")
    return config.labels == "vectors"
