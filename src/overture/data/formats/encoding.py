"""The text of a file: UTF-8, what its first bytes say, what `data.encoding` says, or cp1252 where that is certain."""

import codecs
import re

from overture.data.formats.form import Source

_BOMS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
# Bytes above 127 that leave no doubt: letters that cp1252 shares with cp1250 and cp1254, inside words; typographic
# marks at the beginning or the end of words. Other code pages have letters in the places of the marks.
_LETTERS = "äöüßÄÖÜáéíóúÁÉÍÓÚçÇëâîô".encode("cp1252")
_OPENING = "€\u201e\u201a\u201c\u2018«\u2013\u2014•\xa0§©®°".encode("cp1252")
_CLOSING = "\u201d\u201c\u2019\u2026»\xa0\u2013\u2014°®".encode("cp1252")
_WESTERN = re.compile(
    rb"(?<=[A-Za-z])[%(letters)s]{1,2}(?![%(letters)s])|(?<![%(letters)s])[%(letters)s]{1,2}(?=[A-Za-z])"
    rb"|(?<![A-Za-z])[%(opening)s]|[%(closing)s](?![A-Za-z])|(?<=[A-Za-z])\x92(?=[A-Za-z])"
    % {b"letters": _LETTERS, b"opening": _OPENING, b"closing": _CLOSING}
)
_HIGH = re.compile(rb"[\x80-\xff]")


def text_of(source: Source) -> str:
    """A file's text; empty, with a problem, where its encoding is wrong or unknown.

    Lines that end as on old Macs, with a carriage return alone, end with a line feed.
    """
    raw = source.raw
    encoding = next((name for bom, name in _BOMS.items() if raw.startswith(bom)), source.options.encoding)
    if encoding is None:
        encoding = _guessed(raw)
        if encoding != "utf-8":
            source.settings["encoding"] = encoding
            kind = f"text that is not UTF-8 is read as {encoding}"
            source.notices.add(kind, source.name, setting="or set data.encoding")
    try:
        text = raw.decode(encoding)
    except UnicodeDecodeError as error:
        # A decoder counts from behind the mark that says UTF-8, in bytes that it hands back.
        line = error.object.count(b"\n", 0, error.start) + 1
        name = "UTF-8" if encoding in ("utf-8", "utf-8-sig") else encoding
        what = f"not {name} text (byte 0x{error.object[error.start]:02x})"
        setting = "or name its encoding with data.encoding, such as cp1252 or utf-16"
        source.problem(line, what, "save it as UTF-8", setting)
        return ""
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        source.problem(line, "not text: it holds a zero byte", "save it as UTF-8")
        return ""
    return text.replace("\r", "\n") if "\r" in text and "\n" not in text else text


def _guessed(raw: bytes) -> str:
    """UTF-8, or another encoding if the bytes leave no doubt."""
    # UTF-16 without its mark: nearly every second byte of a Western text is zero.
    for start, name in ((1, "utf-16-le"), (0, "utf-16-be")):
        if len(raw) >= 8 and len(raw) % 2 == 0 and raw[start::2].count(0) > 0.4 * len(raw):
            return name
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError:
        return "cp1252" if not _HIGH.search(_WESTERN.sub(b"", raw)) else "utf-8"
    return "utf-8"
