"""A model's head: the map from hidden states to logits over the vocabulary.

Shape letters: D width, V vocabulary, R rows of the head that are asked for.
"""

import copy
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from overture.engine.families import Family
from overture.engine.packed import Map, packed_map


class WordsHead:
    """Logits over the vocabulary, or over some of its rows.

    Args:
        model: a transformers model with a head.
        family: names the steps between the last layer and the head.

    Attributes:
        transform: maps of hidden states before the head; empty but in masked language models.
        map: the head as a module, [V, D].
    """

    def __init__(self, model: Any, family: Family) -> None:
        self.map = model.get_output_embeddings()
        self.transform = family.transform_of(model)
        self._model, self._family = model, family
        self._packed: Map | None = None

    @property
    def bias(self) -> Tensor | None:
        """Of each row, [V]; None in most models."""
        # BART keeps the bias beside the head.
        beside = getattr(self._model, "final_logits_bias", None)
        bias: Tensor | None = self.map.bias if beside is None else beside[0]
        return bias

    @cached_property
    def unwritten(self) -> tuple[list[int], list[int]]:
        """Tokens that the model's files say it never writes, and those that it does not begin with.

        Without them Whisper would transcribe noise as brackets and notes, or write nothing at all.
        """
        config = getattr(self._model, "generation_config", None)
        is_speech = self._family.encoder is not None and not self._family.encoder.has_words
        names = ("suppress_tokens", "begin_suppress_tokens") if is_speech else ()
        lists = [getattr(config, name, None) or [] for name in names] or [[], []]
        always, not_first = [[token for token in tokens if 0 <= token < len(self.map.weight)] for tokens in lists]
        return always, not_first

    def packed(self) -> "WordsHead":
        """The same head by a packed matrix, without gradients (`engine.packed`)."""
        packed_head = copy.copy(self)
        packed_head._packed = packed_map(self.map.weight.detach(), self.bias)
        return packed_head

    def transformed(self, hidden: Tensor) -> Tensor:
        """Hidden states as the head's rows are compared with them: masked language models map them first."""
        for part in self.transform:
            hidden = part(hidden)
        return hidden

    def logits(self, hidden: Tensor, rows: Tensor | None = None) -> Tensor:
        """Logits of all rows or of some, as `Backbone.head` describes them."""
        weight, bias, hidden = self.map.weight, self.bias, self.transformed(hidden)
        if rows is not None:
            weight, bias = weight[rows], bias[rows] if bias is not None else None
        wide = torch.promote_types(hidden.dtype, torch.float32)
        if rows is not None:
            # Few rows: in half precision the logits of like words would often be the same number.
            hidden, weight, bias = hidden.to(wide), weight.to(wide), None if bias is None else bias.to(wide)
        if rows is None and self._packed is not None:
            logits = self._packed(hidden)
        else:
            logits = linear(hidden, weight, bias).to(wide)
        cap = getattr(self._model.config, "final_logit_softcapping", None)
        return torch.tanh(logits / cap) * cap if cap else logits
