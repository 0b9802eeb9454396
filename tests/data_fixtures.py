import json
import re
from pathlib import Path

import pytest

from overture.data.task import Task

SPECIALS = {"<bos>": 256, "<eos>": 257, "<|system|>": 258, "<|user|>": 259, "<|bot|>": 260, "<|end|>": 261}
# A few merges, so that tokenising two texts apart differs from tokenising them as one.
MERGES = {"\n\nz": 304, "hi": 300, "\n\n": 301, " po": 302, "xy": 303}
NAMES = {**SPECIALS, **MERGES}


class FakeTokenizer:
    """Bytes, six special tokens, four merges; a chat template in the manner of ChatML."""

    bos_ids: tuple[int, ...] = (256,)
    end_ids: tuple[int, ...] = ()
    mask_ids: tuple[int, ...] = ()
    is_encoder = False
    reading = "first"
    has_words = True
    start_ids: tuple[int, ...] = ()
    eos_id: int | None = 257
    max_length = 10_000

    def encode_plain(self, text: str) -> list[int]:
        return self._encode(text, MERGES)

    def offsets(self, text: str) -> list[tuple[int, int, int]]:
        found, begin = [], 0
        for part in self._parts(text, MERGES):
            pieces = [part] if part in MERGES else list(part)
            for piece in pieces:
                found += [(token, begin, begin + len(piece)) for token in self._encode(piece, MERGES)]
                begin += len(piece)
        return found

    def encode_template(self, text: str) -> list[int]:
        return self._encode(text, NAMES)

    def split_specials(self, text: str) -> list[tuple[str, bool]]:
        parts = re.split("(" + "|".join(map(re.escape, SPECIALS)) + ")", text)
        return [(part, part in SPECIALS) for part in parts if part]

    def chat(self, messages) -> str:
        messages = list(messages)
        if messages[0]["role"] != "system":
            messages.insert(0, {"role": "system", "content": "Default."})
        names = {"system": "<|system|>", "user": "<|user|>", "assistant": "<|bot|>"}
        turns = [f"{names[m['role']]}\n{m['content'].strip()}<|end|>\n" for m in messages]
        return "<bos>" + "".join(turns) + "<|bot|>\n"

    def decode(self, ids) -> str:
        back = {number: text.encode() for text, number in NAMES.items()}
        return b"".join(back.get(i, bytes([i % 256])) for i in ids).decode()

    @staticmethod
    def _encode(text: str, names: dict[str, int]) -> list[int]:
        ids: list[int] = []
        for part in FakeTokenizer._parts(text, names):
            ids += [names[part]] if part in names else part.encode()
        return ids

    @staticmethod
    def _parts(text: str, names: dict[str, int]) -> list[str]:
        return re.split("(" + "|".join(map(re.escape, names)) + ")", text)


@pytest.fixture
def tokenizer() -> FakeTokenizer:
    return FakeTokenizer()


@pytest.fixture
def jsonl(tmp_path):
    """Write rows as JSON lines; the path is returned."""

    def write(rows, name: str = "rows.jsonl") -> Path:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return write


@pytest.fixture
def make_task():
    """A label task over {text}, with changes."""

    def make(**changes) -> Task:
        values = {
            "name": "movie",
            "data": {"path": "rows.jsonl"},
            "template": "{text}\nLabel:",
            "labels": {"pos": " positive", "neg": " negative"},
        }
        values |= changes
        return Task.model_validate({key: value for key, value in values.items() if value is not None})

    return make
