"""Records that several threads use for the first time at once: their validators are built then."""

import sys
import threading
from typing import Annotated, Literal

import pytest
from pydantic import Field, ValidationError

from overture.core.records.base import Record


def fresh_class() -> type[Record]:
    """A record of records that nobody has used."""

    class Leaf(Record):
        kind: Literal["leaf"] = "leaf"
        size: int = Field(ge=0)

    class Word(Record):
        kind: Literal["word"] = "word"
        text: str

    class Tree(Record):
        parts: list[Annotated[Leaf | Word, Field(discriminator="kind")]]

    return Tree


@pytest.fixture
def quick_switches():
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_a_record_is_whole_for_every_thread(quick_switches):
    problems: list[str] = []

    def use(tree: type[Record], start: threading.Barrier, number: int) -> None:
        start.wait()
        try:
            made = tree.model_validate({"parts": [{"kind": "leaf", "size": number}, {"kind": "word", "text": "x"}]})
            assert made.dump()["parts"][0]["size"] == number
            with pytest.raises(ValidationError):
                tree.model_validate({"parts": [], "more": 1})
            with pytest.raises(ValidationError):
                tree.model_validate({"parts": [{"kind": "leaf", "size": -1}]})
        except BaseException as error:
            problems.append(repr(error))

    for _ in range(30):
        tree, start = fresh_class(), threading.Barrier(6)
        threads = [threading.Thread(target=use, args=(tree, start, number)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert problems == []
