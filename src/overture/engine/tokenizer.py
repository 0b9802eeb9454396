"""A transformers tokenizer behind the few calls that other modules use."""

import hashlib
import json
import re
import secrets
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import tokenizers

from overture.core.errors import BackboneError, DataError
from overture.core.media import PLURALS, Media
from overture.core.rows import Reading, Segment
from overture.engine.info import TextFacts

_LANGUAGE = re.compile(r"<\|[a-z]{2,3}\|>")
_FREE = re.compile(r"\[unused\d+\]")


class Tokenizer:
    """Encodes users' text as text and template text with its special tokens.

    Args:
        inner: a transformers fast tokenizer.
        max_length: the model's context, in tokens.
        is_encoder: whether the model reads in both directions: its texts have an end, and may have a mask.
        start_id: the first token of an encoder-decoder's decoder; None for models of one stack.
        starts: all first tokens of a decoder whose encoder reads no words; its texts have no special tokens around.

    Attributes:
        readers: functions that make segments of images and sounds, by modality; none for models of texts.
    """

    has_words = True

    def __init__(
        self,
        inner: Any,
        max_length: int,
        is_encoder: bool = False,
        start_id: int | None = None,
        starts: Sequence[int] = (),
    ) -> None:
        self.inner = inner
        self.max_length = max_length
        self.is_encoder = is_encoder
        self.start_id, self.starts = start_id, tuple(starts)
        specials = {str(token) for token in inner.added_tokens_encoder if token.strip()}
        longest_first = sorted(specials, key=len, reverse=True)
        self.readers: dict[str, Callable[[Media], Sequence[Segment]]] = {}
        self._special = re.compile("(" + "|".join(map(re.escape, longest_first)) + ")") if specials else None

    def segments(self, media: Media) -> Sequence[Segment]:
        """An image or a sound as the model reads it.

        Raises:
            BackboneError: the model reads texts alone.
        """
        if media.modality not in self.readers:
            raise BackboneError(
                f"this model does not read this input: {media.modality}",
                where=media.where,
                wanted=", ".join(["text", *self.readers]),
                fix=f"choose a model of {PLURALS[media.modality]} as --backbone",
            )
        return self.readers[media.modality](media)

    def encode_plain(self, text: str) -> list[int]:
        """Tokens of text in which the spellings of special and other added tokens are only text."""
        if self._plain is not None:
            return [
                self._plain_ids.get(token, token) for token in self._plain.encode(text, add_special_tokens=False).ids
            ]
        return list(self.inner.encode(text, add_special_tokens=False, split_special_tokens=True, verbose=False))

    def offsets(self, text: str) -> list[tuple[int, int, int]]:
        """As `encode_plain`, with where each token stands in the text: (token, first character, end)."""
        if self._plain is not None:
            encoding = self._plain.encode(text, add_special_tokens=False)
            ids, offsets = [self._plain_ids.get(token, token) for token in encoding.ids], encoding.offsets
        else:
            encoded = self.inner(
                text, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True, verbose=False
            )
            ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
        return [(token, start, end) for token, (start, end) in zip(ids, offsets, strict=True)]

    def encode_template(self, text: str) -> list[int]:
        """Tokens of text written by the task's author: special tokens are recognised."""
        return list(self.inner.encode(text, add_special_tokens=False, verbose=False))

    def split_specials(self, text: str) -> list[tuple[str, bool]]:
        """The text cut at special tokens: (piece, is it a special token)."""
        if self._special is None:
            return [(text, False)] if text else []
        pieces = self._special.split(text)
        return [(piece, index % 2 == 1) for index, piece in enumerate(pieces) if piece]

    def chat(self, messages: Sequence[dict[str, str]]) -> str:
        """The model's chat template over messages, ending where the assistant speaks.

        Raises:
            DataError: the model has no chat template, or it refuses such messages.
        """
        from jinja2 import TemplateError

        if not self.inner.chat_template:
            raise DataError(
                "the backbone has no chat template",
                where="template",
                fix="write the template as one string, or choose a chat model",
            )
        try:
            # Templates of models that read images too want each message as a list of parts.
            parts = [{**m, "content": [{"type": "text", "text": m["content"]}]} for m in messages]
            template_messages = parts if self.readers else list(messages)
            return str(self.inner.apply_chat_template(template_messages, tokenize=False, add_generation_prompt=True))
        except TemplateError as error:
            raise DataError(
                "the model's chat template refuses these messages", where="template", got=str(error)
            ) from error

    @cached_property
    def _plain(self) -> Any:
        """A copy of the tokenizer whose only added tokens are white space; None where the library cannot make one.

        The library splits special tokens in text, but neither added tokens that are not special, such as Qwen's
        ``<think>``, nor those that are words of a Unigram vocabulary, such as T5's ``<extra_id_0>``.
        """
        added_texts = {token: text for text, token in self.inner.added_tokens_encoder.items() if text.strip()}
        texts = list(added_texts.values())
        options = {"add_special_tokens": False, "split_special_tokens": True, "verbose": False}
        encoded = self.inner(texts, **options)["input_ids"] if texts else []
        unknown_id = self.inner.unk_token_id
        if not any(token != unknown_id and token in ids for token, ids in zip(added_texts, encoded, strict=True)):
            return None
        rules = json.loads(self.inner.backend_tokenizer.to_str())
        rules["added_tokens"] = [token for token in rules["added_tokens"] if token["id"] not in added_texts]
        rules["truncation"] = rules["padding"] = None
        # A placeholder that no text contains keeps the place of each, so that other tokens keep their numbers.
        unsayable = {text: f"\0{secrets.token_hex(16)}" for token, text in added_texts.items() if token != unknown_id}
        vocabulary = rules["model"]["vocab"]
        if isinstance(vocabulary, dict):
            rules["model"]["vocab"] = {unsayable.get(text, text): token for text, token in vocabulary.items()}
        else:
            rules["model"]["vocab"] = [[unsayable.get(text, text), score] for text, score in vocabulary]
        return tokenizers.Tokenizer.from_str(json.dumps(rules))

    @cached_property
    def _plain_ids(self) -> dict[int, int]:
        """Numbers of added white-space tokens in `_plain` -> those of the model, where they differ."""
        blank = {text: token for text, token in self.inner.added_tokens_encoder.items() if not text.strip()}
        return {self._plain.token_to_id(text): token for text, token in blank.items()}

    def decode(self, ids: Sequence[int]) -> str:
        """Text of tokens, without special tokens."""
        return str(self.inner.decode(list(ids), skip_special_tokens=True))

    @property
    def reading(self) -> Reading:
        """Where an encoder's label is read if the task does not say: at its first token, as BERT does."""
        return "first"

    @property
    def bos_ids(self) -> tuple[int, ...]:
        """Tokens that the model expects before any text; often none."""
        if self._has_ends:
            return self._around[0]
        if self.starts:
            return ()
        bos = self.inner.bos_token_id
        return tuple(token for token in self.inner.encode("") if token == bos)

    @property
    def end_ids(self) -> tuple[int, ...]:
        """Tokens that the model expects behind any text; none for decoders."""
        return self._around[1] if self._has_ends else ()

    @property
    def _has_ends(self) -> bool:
        """Whether the tokenizer puts an end behind each text, as for encoders."""
        return self.is_encoder or self.start_id is not None

    @property
    def start_ids(self) -> tuple[int, ...]:
        """The start tokens of a decoder that reads an encoder's output; none for models of one stack.

        BART's decoder was trained to start with the tokens before a text too.
        """
        return self.starts if self.start_id is None else (self.start_id, *self.bos_ids)

    def speech_start(self, language: str, is_translated: bool) -> tuple[int, ...]:
        """Whisper's start for a language and a task.

        Raises:
            DataError: the model does not transcribe, or knows only English, or not this language.
        """
        task = "translate" if is_translated else "transcribe"
        added_ids = self.inner.get_added_vocab()
        tokens = ["<|startoftranscript|>", f"<|{language}|>", f"<|{task}|>", "<|notimestamps|>"]
        # English models have such tokens too, and were never trained with them.
        if len(self.starts) == len(tokens) and all(token in added_ids for token in tokens):
            return tuple(added_ids[token] for token in tokens)
        if language == "en" and not is_translated and self.starts:
            return self.starts
        languages = sorted(token[2:-2] for token in added_ids if _LANGUAGE.fullmatch(token))
        has_languages = len(self.starts) == len(tokens)
        raise DataError(
            "the model cannot transcribe with this language and task",
            where="translate" if is_translated and language == "en" else "language",
            got=f"{language}, {task}",
            wanted=", ".join(languages) if has_languages else "en, transcribe" if self.starts else "a model of sounds",
            fix="leave it out, or choose a model of several languages, such as openai/whisper-base",
        )

    @cached_property
    def _around(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The special tokens that the tokenizer puts before and behind a text."""
        encoded = self.inner("a", return_special_tokens_mask=True)
        is_special, ids = encoded["special_tokens_mask"], tuple(encoded["input_ids"])
        start = is_special.index(0)
        return ids[:start], ids[start + is_special.count(0) :]

    @property
    def mask_ids(self) -> tuple[int, ...]:
        """The token in whose place the model predicts another; none for decoders."""
        mask = self.inner.mask_token_id
        return (mask,) if self.is_encoder and mask is not None else ()

    @property
    def eos_id(self) -> int | None:
        """The token that ends an answer."""
        return self.inner.eos_token_id

    @property
    def null_id(self) -> int | None:
        """A token without content: the one that ends texts."""
        return self.end_ids[-1] if self.end_ids else self.eos_id

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Tokens that are not text, those that BERT keeps free included."""
        free = (token for text, token in self.inner.get_vocab().items() if _FREE.fullmatch(text))
        return frozenset([*self.inner.added_tokens_encoder.values(), *free])

    @property
    def facts(self) -> TextFacts:
        """The values that a backbone needs to know."""
        return TextFacts(self.max_length, self.eos_id, self.start_ids, self.sha256, self.chat_template_sha256)

    @property
    def sha256(self) -> str:
        """Fingerprint of the vocabulary and the rules."""
        return hashlib.sha256(self.inner.backend_tokenizer.to_str().encode()).hexdigest()

    @property
    def chat_template_sha256(self) -> str:
        """Fingerprint of the chat template; of the empty text where there is none."""
        return hashlib.sha256(str(self.inner.chat_template or "").encode()).hexdigest()
