"""Restricts answers to JSON of a schema, by llguidance's matcher.

Source: https://github.com/guidance-ai/llguidance, "LLMatcher" (version 1.9).
"""

import json
import weakref
from collections.abc import Iterator, Sequence
from functools import cached_property
from importlib.util import find_spec
from typing import Any, overload

import numpy as np

from overture.core.errors import ConfigError, DataError
from overture.core.packages import install
from overture.engine.tokenizer import Tokenizer

_tokenizers: "weakref.WeakKeyDictionary[Tokenizer, Any]" = weakref.WeakKeyDictionary()


class TokenMask(Sequence[int]):
    """The tokens whose bit is set, in order; may hold most of a vocabulary.

    Args:
        bits: one for each token.
    """

    def __init__(self, bits: "np.ndarray[Any, Any]") -> None:
        self._bits = bits

    @cached_property
    def _ids(self) -> "np.ndarray[Any, Any]":
        return np.flatnonzero(self._bits)

    def __contains__(self, token: object) -> bool:
        return isinstance(token, int) and token < len(self._bits) and bool(self._bits[token])

    def __len__(self) -> int:
        return len(self._ids)

    def __iter__(self) -> Iterator[int]:
        return iter(self._ids.tolist())

    @overload
    def __getitem__(self, index: int) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[int]: ...
    def __getitem__(self, index: int | slice) -> int | Sequence[int]:
        """A token by its place among those that are allowed."""
        ids: list[int] = self._ids.tolist()
        return ids[index]


class OfSchema:
    """The rule of one answer; meets `core.rows.Allowed`.

    Args:
        schema: a JSON schema; ``{}`` for any JSON object.
        tokenizer: the model's.
        vocab_size: tokens that the model predicts.

    Raises:
        DataError: it is no schema, or one that the matcher does not know.
        ConfigError: llguidance is not installed.
    """

    def __init__(self, schema: dict[str, Any], tokenizer: Tokenizer, vocab_size: int) -> None:
        if find_spec("llguidance") is None:
            raise ConfigError("answers by a JSON schema need llguidance", fix=install("schema"))
        import llguidance
        import llguidance.hf

        if tokenizer not in _tokenizers:
            _tokenizers[tokenizer] = llguidance.hf.from_tokenizer(tokenizer.inner, n_vocab=vocab_size)
        text = json.dumps(schema or {"type": "object"})
        # Without flexible white space, since small models would write spaces for ever; "oneOf" is read as "anyOf".
        options: Any = {"whitespace_flexible": False, "coerce_one_of": True}
        grammar = llguidance.LLMatcher.grammar_from_json_schema(text, overrides=options)
        self._matcher = llguidance.LLMatcher(_tokenizers[tokenizer], grammar, log_level=0)
        if problem := self._matcher.get_error():
            message = "answers cannot be kept to this JSON schema"
            raise DataError(message, where="response_format", got=problem.splitlines()[0][:200])
        self._written: list[int] = []
        self._mask = self._next()

    def __call__(self, tokens: Sequence[int]) -> Sequence[int]:
        """Tokens that may follow; the end token where the JSON is complete."""
        if list(tokens) != self._written:
            if list(tokens[: len(self._written)]) != self._written:
                self._matcher.reset()
                self._written = []
            if not self._matcher.consume_tokens(list(tokens[len(self._written) :])):
                return ()
            self._written = list(tokens)
            self._mask = self._next()
        return self._mask

    def _next(self) -> Sequence[int]:
        if self._matcher.is_stopped():
            return ()
        return TokenMask(np.unpackbits(np.frombuffer(self._matcher.compute_bitmask(), np.uint8), bitorder="little"))
