import pytest
from hypothesis import given
from hypothesis import strategies as st

from overture.data.template import Slot, column_of, parse


def test_fields_and_braces():
    assert parse("{{a}} {b c}{d}\n}}{{{e}") == ("{a} ", Slot("b c"), Slot("d"), "\n}{", Slot("e"))


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "}",
        "{}",
        "{ a}",
        "{a.b}",
        "{a[-1]}",
        "{a[b]}",
        "{a[0][1]}",
        "{[0]}",
        "{mask[0]}",
        "{a!r}",
        "{a:9}",
        "{a{b}}",
    ],
)
def test_nothing_but_fields(text):
    with pytest.raises(ValueError, match="is not a field"):
        parse(text)


def test_an_entry_of_a_list():
    assert parse("A. {a b[0]}{a[12]}") == ("A. ", Slot("a b[0]"), Slot("a[12]"))
    assert [column_of(name) for name in ("a", "a b[0]", "a[12]")] == [("a", None), ("a b", 0), ("a", 12)]


@given(st.text())
def test_doubled_braces_give_any_text_back(text):
    assert "".join(map(str, parse(text.replace("{", "{{").replace("}", "}}")))) == text
