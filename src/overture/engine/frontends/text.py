"""Text as the model's first layer gets it: rows of its token table."""

from collections.abc import Callable, Sequence
from functools import partial
from random import Random
from typing import Any, cast

import torch
from torch import Tensor

from overture.core.contracts import Frontend
from overture.core.errors import BackboneError
from overture.core.rows import Segment, Signal, Tokens
from overture.engine.backbone import Backbone
from overture.engine.frontends.wordless import NoWords
from overture.engine.tokenizer import Tokenizer

NUM_COMMON = 5000
"""Tokens that starting vectors are drawn from: tokenizers number frequent tokens first."""


class TextFrontend:
    """Meets `core.contracts.Frontend`.

    Args:
        tokenizer: makes tokens of texts.
        backbone: has the vectors of tokens.
    """

    modalities = frozenset({"text"})

    def __init__(self, tokenizer: Tokenizer | NoWords, backbone: Backbone) -> None:
        # Callers use the attributes that `NoWords` lacks only for models with words.
        self.tokenizer, self.backbone = cast(Tokenizer, tokenizer), backbone

    @property
    def fingerprint(self) -> str:
        """Of all that decides which tokens a text becomes."""
        return self.tokenizer.sha256

    def segments(self, value: object) -> list[Segment]:
        """A text as tokens, special tokens' spellings being only text.

        Raises:
            BackboneError: it is no text.
        """
        if not isinstance(value, str):
            raise BackboneError("a model of texts reads nothing else", got=type(value).__name__, wanted="a text")
        return [Tokens(tuple(self.tokenizer.encode_plain(value)))]

    def enter(self, segments: Sequence[Segment]) -> Tensor:
        """Vectors of all tokens, [L, D].

        Raises:
            BackboneError: a segment is no text.
        """
        signals = [segment.key for segment in segments if isinstance(segment, Signal)]
        if signals:
            raise BackboneError("a model of texts reads nothing else", got=f"signal {signals[0]}", wanted="tokens")
        return torch.cat([self.backbone.embed(segment.elements) for segment in segments])  # type: ignore[arg-type]

    def sample(self, num: int, random: Random) -> Tensor:
        """Vectors of common tokens, [num, D]."""
        specials = self.tokenizer.special_ids
        common = [token for token in range(self.backbone.info.vocab_size) if token not in specials][:NUM_COMMON]
        return self.backbone.embed(random.choices(common, k=num))


def text_backbone(
    model: Any,
    tokenizer: Tokenizer | NoWords,
    *others: Callable[[Backbone], Frontend],
    id: str,
    revision: str | None = None,
    weights_sha256: str = "",
) -> Backbone:
    """A frozen model that reads texts.

    Args:
        model: as in `Backbone`.
        tokenizer: the model's.
        others: make the frontends of other modalities.
        id: the user's name for it.
        revision: commit of a Hub model.
        weights_sha256: fingerprint of the weight files; computed from the tensors when empty.

    Raises:
        BackboneError: the family is not supported.
    """
    text = partial(TextFrontend, tokenizer)
    backbone = Backbone(
        model, tokenizer.facts, text, id=id, revision=revision, weights_sha256=weights_sha256, others=others
    )
    tokenizer.readers |= {
        modality: frontend.segments
        for frontend in backbone.frontends
        if frontend is not backbone.text
        for modality in frontend.modalities
    }
    return backbone
