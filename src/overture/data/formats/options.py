"""How rows lie in a file: options that a task file may set where detection is wrong."""

import codecs
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, field_validator

from overture.core.config import Config

NonEmpty = Annotated[str, StringConstraints(min_length=1)]
FormatName = Literal[
    "jsonl",
    "json",
    "csv",
    "tsv",
    "parquet",
    "conll",
    "brat",
    "fasttext",
    "label-folders",
    "media-folders",
    "media-table",
    "npz",
    "xlsx",
    "alpaca",
    "sharegpt",
    "messages",
    "squad",
    "label-studio",
    "doccano",
    "prodigy",
    "spacy",
    "token-tags",
    "word-table",
]  # as FORMATS has them; a test compares
SEPARATORS = {"comma": ",", "semicolon": ";", "tab": "\t", "pipe": "|"}


class FileOptions(Config):
    """The form of a data file. All of it is detected, with a notice, if it is not given."""

    format: FormatName | None = Field(
        None,
        description="How rows lie in the files, such as squad or sharegpt; found by name and content if not given.",
    )
    header: bool | Annotated[list[NonEmpty], Field(min_length=1)] | None = Field(
        None,
        description="Whether a table's first line holds names; false calls the columns column_1, column_2, ...; "
        "a list names them.",
    )
    separator: Literal["comma", "semicolon", "tab", "pipe"] | None = Field(
        None, description="What stands between a table's columns; found by content if not given."
    )
    quotes: bool | None = Field(
        None, description="Whether quotes enclose a table's cells or are part of the text; found by content."
    )
    encoding: NonEmpty | None = Field(
        None, description="The encoding of text files, such as cp1252 or utf-16; UTF-8 if not given."
    )
    split_field: NonEmpty | Literal[False] | None = Field(
        None,
        description="The field that names each row's split, such as train or test; false ignores a field named split.",
    )
    token_column: int | None = Field(None, ge=1, description="The CoNLL column that holds the token, from 1.")
    tag_column: int | None = Field(None, ge=1, description="The CoNLL column that holds the tag, from 1.")

    @field_validator("encoding")
    @classmethod
    def _is_known(cls, name: str | None) -> str | None:
        try:
            if name is not None and not codecs.lookup(name)._is_text_encoding:
                raise LookupError
        except (LookupError, ValueError):
            raise ValueError("no such encoding; known are utf-8, utf-16, cp1252, cp1251, gb18030, ...") from None
        return name

    @field_validator("header")
    @classmethod
    def _has_no_repeats(cls, header: bool | list[str] | None) -> bool | list[str] | None:
        if isinstance(header, list) and len(set(header)) < len(header):
            raise ValueError("two columns have the same name")
        return header
