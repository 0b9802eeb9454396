"""What cannot be asked of a model: each is one clear error, before anything runs."""

from overture.core.errors import BackboneError
from overture.core.types import Encoded, Injection
from overture.engine.backbone import Backbone


def check_reading(backbone: Backbone, row: Encoded, injection: Injection | None) -> None:
    """Whether an encoder can answer such rows under such a prompt; decoders can answer all.

    Raises:
        BackboneError: it cannot.
    """
    if backbone.family.is_causal:
        return
    if row.candidates is None:
        raise _writes_nothing(backbone)
    has_labels = injection is not None and injection.labels is not None
    if not has_labels:
        _check_words(backbone, row)
    if injection is not None:
        _check_prompt(backbone, injection)


def _check_words(backbone: Backbone, row: Encoded) -> None:
    assert row.candidates is not None
    if not backbone.has_head:
        raise _refused(
            backbone,
            "this encoder has no head over its vocabulary, so it predicts no label words",
            fix="--set prompt.labels=vectors trains a vector for each label; or a masked language model as --backbone",
        )
    if not row.is_mask:
        raise _refused(
            backbone,
            "an encoder predicts label words at a mask",
            fix="write {mask} where the word stands in the template, or --set prompt.labels=vectors",
        )
    several = [backbone.tokenizer.decode(word) for word in row.candidates.words if len(word) > 1]
    if several:
        raise _refused(
            backbone,
            "a mask stands for one token, and these label words have several",
            got=", ".join(map(repr, several[:5])),
            fix="choose words that are one token each, or --set prompt.labels=vectors",
        )


def check_writing(backbone: Backbone) -> None:
    """Whether the model can write at all.

    Raises:
        BackboneError: it is an encoder.
    """
    if not backbone.family.is_causal:
        raise _writes_nothing(backbone)


def _check_prompt(backbone: Backbone, injection: Injection) -> None:
    if injection.vectors and injection.vectors.targets:
        raise _refused(
            backbone,
            "this prompt must predict its own next tokens, which an encoder sees",
            fix="another method, or a decoder as --backbone",
        )
    if injection.memory and injection.memory.place == "after":
        raise _refused(
            backbone,
            "an encoder keeps no memory of its input for a prompt to follow",
            fix="--place memory: an encoder sees it from everywhere",
        )


def _writes_nothing(backbone: Backbone) -> BackboneError:
    fix = "choose a decoder with --backbone, or a task with labels"
    return _refused(backbone, "an encoder writes no answers", fix=fix)


def _refused(backbone: Backbone, what: str, fix: str, got: str = "") -> BackboneError:
    return BackboneError(what, where=backbone.info.id, got=got or f"an encoder ({backbone.info.model_type})", fix=fix)
