"""Requests that a model cannot meet: each is one clear error, before anything runs."""

from overture.core.errors import BackboneError
from overture.core.injection import Injection, ModelKind
from overture.core.rows import Answer, AtMarks, Encoded, OneOf
from overture.engine.backbone import Backbone

NAMES: dict[ModelKind, str] = {"decoder": "a decoder", "encoder": "an encoder", "encoder-decoder": "an encoder-decoder"}


def check_reading(backbone: Backbone, row: Encoded, injection: Injection | None) -> None:
    """Whether a model can answer such rows under such a prompt; decoders can answer all.

    Raises:
        BackboneError: it cannot.
    """
    if backbone.family.kind == "encoder":
        _check_labels(backbone, row, injection)
    refusal = refused_prompt(backbone.family.kind, injection) if injection else None
    if refusal:
        raise _refused(backbone, *refusal)


def refused_prompt(kind: ModelKind, injection: Injection) -> tuple[str, str] | None:
    """Why a kind of model cannot take a prompt, and what to use instead; None when it can. Its parts decide it."""
    if kind == "decoder":
        return None
    if injection.vectors and injection.vectors.targets:
        sees = "which an encoder sees" if kind == "encoder" else "and an encoder-decoder's text has none"
        fix = "another method, or a decoder as --backbone"
        return f"this prompt must predict its own next tokens, {sees}", fix
    if kind == "encoder" and injection.memory and injection.memory.place == "after":
        what = "an encoder keeps no memory of its input for a prompt to follow"
        return what, "--place memory: an encoder sees it from everywhere"
    return None


def _check_labels(backbone: Backbone, row: Encoded, injection: Injection | None) -> None:
    target = row.target
    if isinstance(target, Answer):
        raise _writes_nothing(backbone)
    has_labels = injection is not None and injection.labels is not None
    if isinstance(target, AtMarks) and not has_labels:
        raise _refused(
            backbone,
            "an encoder scores labels at many tokens by a vector for each label",
            fix="--set prompt.labels=auto, which trains them beside the prompt",
        )
    if isinstance(target, AtMarks) and injection is not None and injection.head is not None:
        raise _refused(
            backbone,
            "this prompt brings a classifier of whole texts, and the task asks for labels of tokens",
            fix="use it in a task of kind classification",
        )
    if isinstance(target, OneOf) and not has_labels:
        _check_words(backbone, target)


def _check_words(backbone: Backbone, target: OneOf) -> None:
    if not backbone.has_head:
        raise _refused(
            backbone,
            "this encoder has no head over its vocabulary, so it predicts no label words",
            fix="--set prompt.labels=vectors trains a vector for each label; or a masked language model as --backbone",
        )
    if not target.is_mask:
        raise _refused(
            backbone,
            "an encoder predicts label words at a mask",
            fix="write {mask} where the word stands in the template, or --set prompt.labels=vectors",
        )
    several = [backbone.text.tokenizer.decode(word) for word in target.candidates.words if len(word) > 1]
    if several:
        raise _refused(
            backbone,
            "a mask stands for one token, and these label words have several",
            got=", ".join(map(repr, several[:5])),
            fix="choose words that are one token each, or --set prompt.labels=vectors",
        )


def check_likelihoods(backbone: Backbone, row: Encoded, injection: Injection | None) -> None:
    """Whether a row's candidate words have likelihoods over the vocabulary.

    Raises:
        BackboneError: they have none.
    """
    check_writing(backbone)
    check_reading(backbone, row, injection)
    if not isinstance(row.target, OneOf):
        raise _refused(backbone, f"row {row.row} has no candidate words whose likelihood is asked for", fix="name some")
    if injection is not None and injection.labels is not None:
        raise _refused(backbone, "this prompt has vectors for its labels, not words", fix="a prompt with label words")


def check_writing(backbone: Backbone) -> None:
    """Whether the model can write at all.

    Raises:
        BackboneError: it is an encoder.
    """
    if backbone.family.kind == "encoder":
        raise _writes_nothing(backbone)


def check_text_in_memory(backbone: Backbone) -> None:
    """Whether a memory can stand for a text that the model answers from.

    Raises:
        BackboneError: it cannot, since what answers does not attend to a memory of the text.
    """
    if refusal := refused_text_in_memory(backbone.family.kind):
        raise _refused(backbone, *refusal)


def refused_text_in_memory(kind: ModelKind) -> tuple[str, str] | None:
    """Why no memory stands for a text that a kind of model answers from, and what to use instead; None if it can."""
    if kind == "encoder":
        return _WRITES_NOTHING
    if kind == "encoder-decoder":
        what = "an encoder-decoder answers from its encoder's output, in which no memory stands for a text"
        return what, "a decoder as --backbone"
    return None


_WRITES_NOTHING = ("an encoder writes no answers", "choose a decoder with --backbone, or a task with labels")


def _writes_nothing(backbone: Backbone) -> BackboneError:
    return _refused(backbone, *_WRITES_NOTHING)


def _refused(backbone: Backbone, what: str, fix: str, got: str = "") -> BackboneError:
    model = f"{NAMES[backbone.family.kind]} ({backbone.info.model_type})"
    return BackboneError(what, where=backbone.info.id, got=got or model, fix=fix)
