"""Stands for the tokenizer of a model that reads no text: it has no tokens and refuses every text."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from overture.core.errors import BackboneError, DataError
from overture.core.media import PLURALS, Media
from overture.core.rows import Reading, Segment
from overture.engine.info import TextFacts

MOST_POSITIONS = 1 << 16
"""Positions that a row and its prompt may have together; such models count none, so this only bounds mistakes."""


class NoWords:
    """Meets `core.contracts.TextTokenizer`, and stands for `engine.tokenizer.Tokenizer`.

    Args:
        model: name of the model, for errors.
        reads: what it reads instead, such as ``images``.

    Attributes:
        readers: make segments of images and sounds, by what they are.
        reading: where a row's label is read if the task does not say.
    """

    has_words = False

    max_length = MOST_POSITIONS
    is_encoder = True
    start_id = None
    inner: Any = None
    bos_ids: tuple[int, ...] = ()
    end_ids: tuple[int, ...] = ()
    mask_ids: tuple[int, ...] = ()
    start_ids: tuple[int, ...] = ()
    eos_id = None
    null_id = None
    special_ids: frozenset[int] = frozenset()
    facts: ClassVar[TextFacts] = TextFacts(MOST_POSITIONS, None, (), "", "")
    sha256 = chat_template_sha256 = ""

    def __init__(self, model: str, reads: str) -> None:
        self.model, self.reads = model, reads
        self.readers: dict[str, Callable[[Media], Sequence[Segment]]] = {}
        self.reading: Reading = "first"

    def segments(self, media: Media) -> Sequence[Segment]:
        """An image or a sound as the model reads it.

        Raises:
            BackboneError: the model reads the other.
        """
        if media.modality not in self.readers:
            raise BackboneError(
                f"this model does not read this input: {media.modality}",
                where=media.where,
                wanted=", ".join(self.readers),
                fix=f"choose a model of {PLURALS[media.modality]} as --backbone",
            )
        return self.readers[media.modality](media)

    def encode_plain(self, text: str) -> list[int]:
        """Refuse a text.

        Raises:
            DataError: there is one.
        """
        if text:
            raise DataError(
                f"this model reads {self.reads} and no words",
                where=self.model,
                got=f"{text!r:.60}",
                fix="choose a task and a way of tuning without texts, or a model that reads them",
            )
        return []

    def offsets(self, text: str) -> list[tuple[int, int, int]]:
        """As `encode_plain`.

        Raises:
            DataError: there is a text.
        """
        self.encode_plain(text)
        return []

    def encode_template(self, text: str) -> list[int]:
        """As `encode_plain`.

        Raises:
            DataError: there is a text.
        """
        return self.encode_plain(text)

    def split_specials(self, text: str) -> list[tuple[str, bool]]:
        """The whole text as one piece; `encode_template` refuses it later."""
        return [(text, False)] if text else []

    def chat(self, messages: Sequence[dict[str, str]]) -> str:
        """Refuse a conversation.

        Raises:
            DataError: always.
        """
        raise DataError(f"this model reads {self.reads} and no words", where=self.model, got="a conversation")

    def speech_start(self, language: str, is_translated: bool) -> tuple[int, ...]:
        """Refuse a language: nothing is written.

        Raises:
            DataError: always.
        """
        raise DataError(
            f"this model reads {self.reads} and writes no words",
            where="language",
            got=language,
            fix="leave out language and translate",
        )

    def decode(self, ids: Sequence[int]) -> str:
        """Nothing: there are no tokens."""
        return ""
