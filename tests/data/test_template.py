import pytest
from hypothesis import given
from hypothesis import strategies as st

from overture.data.template import Slot, parse


def test_fields_and_braces():
    assert parse("{{a}} {b c}{d}\n}}{{{e}") == ("{a} ", Slot("b c"), Slot("d"), "\n}{", Slot("e"))


@pytest.mark.parametrize("text", ["{", "}", "{}", "{ a}", "{a.b}", "{a[0]}", "{a!r}", "{a:9}", "{a{b}}"])
def test_nothing_but_fields(text):
    with pytest.raises(ValueError, match="is not a field"):
        parse(text)


@given(st.text())
def test_doubled_braces_give_any_text_back(text):
    assert "".join(map(str, parse(text.replace("{", "{{").replace("}", "}}")))) == text
