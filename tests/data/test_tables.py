"""Tables as spreadsheets, pandas and people write them."""

import codecs
import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reading import noticed, problems_of, table_of_file

from overture.core.config import validated
from overture.core.errors import ConfigError
from overture.data.formats.options import SEPARATORS, FileOptions
from overture.data.read import read_table

GOOD = {"text": "a fine film, really", "label": "good"}
BAD = {"text": "dull", "label": "bad"}


# -- separators


@pytest.mark.parametrize(("name", "separator"), [("semicolon", ";"), ("tab", "\t"), ("pipe", "|"), ("comma", ",")])
def test_separators_are_found(tmp_path, name, separator):
    text = io.StringIO()
    writer = csv.writer(text, delimiter=separator)
    writer.writerows([["text", "label"], *(row.values() for row in (GOOD, BAD))])
    table = table_of_file(tmp_path, "a.csv", text.getvalue())
    assert table.rows == [GOOD, BAD]
    assert table.settings == ({} if name == "comma" else {"separator": name})
    assert len(table.notices) == (name != "comma")


def test_one_column_with_other_signs_in_its_texts_stays_one_column(tmp_path):
    rows = table_of_file(tmp_path, "a.csv", "text\nfirst; second\nthird | fourth; fifth\n").rows
    assert rows == [{"text": "first; second"}, {"text": "third | fourth; fifth"}]


def test_a_decimal_comma_is_no_separator(tmp_path):
    rows = table_of_file(tmp_path, "a.csv", "text;score\ngut;1,5\nschlecht;0,5\n").rows
    assert rows == [{"text": "gut", "score": "1,5"}, {"text": "schlecht", "score": "0,5"}]


def test_excels_hint_is_no_row(tmp_path):
    table = table_of_file(tmp_path, "a.csv", "sep=;\r\ntext;label\r\nfine;good\r\n")
    assert (table.rows, table.lines) == ([{"text": "fine", "label": "good"}], [3])


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ('text, label\n"fine, very", good\ndull, bad\n', "fine, very"),
        ('label, text\ngood, "fine, very"\nbad, dull\n', "fine, very"),
        ('text,label\n"a \\"fine\\", odd film",good\ndull,bad\n', 'a "fine", odd film'),
    ],
)
def test_other_ways_of_writing_quotes(tmp_path, content, text):
    table = table_of_file(tmp_path, "a.csv", content)
    assert table.rows[0]["text"] == text
    assert len(table.rows) == 2


def test_a_backslash_is_text_where_quotes_are_doubled(tmp_path):
    (row,) = table_of_file(tmp_path, "a.csv", 'text,label\n"C:\\dir\\""x""",good\n').rows
    assert row["text"] == 'C:\\dir\\"x"'


def test_a_separator_that_is_asked_for_is_taken(tmp_path):
    rows = table_of_file(tmp_path, "a.csv", "a;b,c\n1;2,3\n", separator="comma").rows
    assert rows == [{"a;b": "1;2", "c": "3"}]


# -- header


@pytest.mark.parametrize(
    "content",
    [
        "fine film,positive\ndull,negative\ngreat,positive\nbad,negative\n",
        '"0","a1","fine film"\n"4","a2","dull"\n"0","a3","great"\n',
        "good film,0\nbad film,1\n",
        "1,7,3,9,good film\n2,1,4,0,bad film\n",
    ],
)
def test_a_first_line_of_values_is_a_row(tmp_path, content):
    table = table_of_file(tmp_path, "a.csv", content)
    assert len(table.rows) == content.count("\n")
    assert list(table.rows[0]) == [f"column_{i}" for i in range(1, len(table.rows[0]) + 1)]
    assert table.lines[0] == 1
    assert table.settings == {"header": False}
    assert len(table.notices) == 1


@pytest.mark.parametrize(
    "content",
    [
        "text,label\nfine,good\ndull,bad\n",
        "place,2019,2020,2021\n1,2,3,4\n2,3,4,5\n",
        "0,1,2,words\n5,6,7,fine\n1,1,0,dull\n",
        "Ticket ID,Body\n1,a\n2,b\n",
        "label,text\n1,a\n2,b\n1,c\n",
        "x,y\n",
    ],
)
def test_names_are_names(tmp_path, content):
    path = tmp_path / "a.csv"
    path.write_text(content + ("1,2\n" if content == "x,y\n" else ""))
    table = read_table(path)
    assert list(table.rows[0]) == content.split("\n")[0].split(",")
    assert not table.notices


def test_the_header_that_is_asked_for(tmp_path):
    text = "fine film,positive\ndull,negative\ngreat,positive\n"
    named = table_of_file(tmp_path, "a.csv", text, header=["text", "label"])
    assert named.rows[0] == {"text": "fine film", "label": "positive"}
    assert len(named.rows) == 3
    assert not named.notices
    # The names may stand in the file all the same.
    again = table_of_file(tmp_path, "b.csv", "text,label\n" + text, header=["text", "label"])
    assert again.rows == named.rows
    assert list(table_of_file(tmp_path, "c.csv", text, header=True).rows[0]) == ["fine film", "positive"]
    assert problems_of(tmp_path, "d.csv", text, header=["text"])[0] == ("d.csv:1", "2 columns")
    with pytest.raises(ConfigError):
        validated(FileOptions, {"header": ["a", "a"]}, "data")


def test_names_lose_the_white_space_around_them(tmp_path):
    table = table_of_file(tmp_path, "a.csv", "text, label \nfine,good\n")
    assert list(table.rows[0]) == ["text", "label"]
    assert len(table.notices) == 1


# -- what spreadsheets and pandas leave


def test_row_numbers_of_pandas_are_left_out(tmp_path):
    for first in ("", "Unnamed: 0"):
        table = table_of_file(tmp_path, "a.csv", f"{first},text,label\n0,fine,good\n7,dull,bad\n")
        assert table.rows == [{"text": "fine", "label": "good"}, {"text": "dull", "label": "bad"}]
        assert list(noticed(table)) == ["row numbers in a column without a name"]


def test_other_columns_without_a_name_get_one(tmp_path):
    table = table_of_file(tmp_path, "a.csv", ",text,\nx,fine,good\ny,dull,bad\n")
    assert table.rows[0] == {"column_1": "x", "text": "fine", "column_3": "good"}
    assert len(table.notices) == 1


def test_empty_columns_and_rows_are_left_out_and_counted(tmp_path):
    table = table_of_file(tmp_path, "a.csv", "\ufefftext,label,,\r\nfine,good,,\r\n,,,\r\ndull,bad,,\r\n , ,,\r\n")
    assert table.rows == [{"text": "fine", "label": "good"}, {"text": "dull", "label": "bad"}]
    assert table.lines == [2, 4]
    assert noticed(table) == {"blank rows": 2, "empty columns": 2}


def test_a_row_with_empty_cells_behind_it_is_trimmed_and_told(tmp_path):
    table = table_of_file(tmp_path, "a.csv", "text,label\nfine,good,,\ndull,bad\nodd,bad\n")
    assert [row["label"] for row in table.rows] == ["good", "bad", "bad"]
    assert noticed(table) == {"empty cells at the end of rows": 1}


def test_header_lines_of_joined_files_are_left_out(tmp_path):
    table = table_of_file(tmp_path, "a.csv", "text,label\nfine,good\ntext,label\ndull,bad\n")
    assert [row["text"] for row in table.rows] == ["fine", "dull"]
    assert noticed(table) == {"repeated header lines": 1}


def test_columns_of_one_name_are_refused_in_no_time(tmp_path):
    names = [f"c{i}" for i in range(40_000)]
    table = table_of_file(tmp_path, "wide.csv", ",".join(names) + "\n" + ",".join("x" * len(names)) + "\n")
    assert len(table.rows[0]) == len(names)
    assert problems_of(tmp_path, "a.csv", "text,text\na,b\n") == [("a.csv:1", "columns with the same name: text")]


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        ("\"['a', 'b c']\"", ["a", "b c"]),
        ("\"['a' 'b']\"", ["a", "b"]),
        ('"[""a"", ""it\'s""]"', ["a", "it's"]),
        ('"[1, 2]"', [1, 2]),
        ("[]", []),
        ("\"[['a', 'b'], ['c']]\"", [["a", "b"], ["c"]]),
    ],
)
def test_cells_that_spell_lists_are_lists(tmp_path, cell, value):
    table = table_of_file(tmp_path, "a.csv", f"text,labels\nfine,{cell}\ndull,\n")
    assert [row["labels"] for row in table.rows] == [value, None]
    assert "cells that spell lists are read as lists" in noticed(table)


@pytest.mark.parametrize("cell", ["[removed]", '"[a, b] and more"', "\"[['a' 'b']]\"", '"[__import__(1)]"'])
def test_other_texts_in_brackets_stay_texts(tmp_path, cell):
    (row,) = table_of_file(tmp_path, "a.csv", f"text,note\nfine,{cell}\n").rows
    assert isinstance(row["note"], str)


# -- quotes in tables with tabs


def test_quoted_cells_of_pandas(tmp_path):
    content = 'text\tlabel\n"She said ""no"" twice"\tbad\nplain\tgood\n"two\nlines"\tgood\n'
    table = table_of_file(tmp_path, "a.tsv", content)
    assert [row["text"] for row in table.rows] == ['She said "no" twice', "plain", "two\nlines"]
    assert table.lines == [2, 3, 4]
    assert len(table.notices) == 1


def test_all_cells_quoted(tmp_path):
    rows = table_of_file(tmp_path, "a.tsv", '"text"\t"label"\n"fine"\t1\n').rows
    assert rows == [{"text": "fine", "label": "1"}]


def test_quotes_that_are_text(tmp_path):
    content = 'text\tlabel\n"Wow" he said\tgood\n"Great"\tgood\n'
    table = table_of_file(tmp_path, "a.tsv", content)
    assert [row["text"] for row in table.rows] == ['"Wow" he said', '"Great"']
    assert len(table.notices) == 1
    asked = table_of_file(tmp_path, "b.tsv", 'text\tlabel\n"Great"\tgood\n', quotes=True)
    assert asked.rows == [{"text": "Great", "label": "good"}]
    assert not asked.notices


# -- encodings


@pytest.mark.parametrize("text", ["Grüße aus Köln", "Äpfel, „süß“, 5 €", "Straße 1", "It\u2019s an été…"])
def test_western_text_of_excel_is_read(tmp_path, text):
    table = table_of_file(tmp_path, "a.csv", f"text;label\r\n{text};gut\r\n".encode("cp1252"))
    assert table.rows[0]["text"] == text
    assert table.settings["encoding"] == "cp1252"


@pytest.mark.parametrize(
    ("encoding", "text"),
    [
        ("cp1251", "Хороший фильм"),
        ("cp1250", "łódź jest piękna"),
        ("cp850", "schöne Grüße"),
        ("mac-roman", "schöne Grüße"),
        ("shift-jis", "とても良い映画"),
        ("gb18030", "很好的电影"),
    ],
)
def test_an_encoding_in_doubt_is_asked_for(tmp_path, encoding, text):
    content = f"text,label\n{text},x\n".encode(encoding)
    ((where, what),) = problems_of(tmp_path, "a.csv", content)
    assert where == "a.csv:2"
    assert "not UTF-8" in what
    assert table_of_file(tmp_path, "a.csv", content, encoding=encoding).rows[0]["text"] == text


def test_the_first_bytes_win_over_what_is_asked_for(tmp_path):
    content = "text,label\nGrüße,x\n"
    for encoding in ("utf-8-sig", "utf-16"):
        assert table_of_file(tmp_path, "a.csv", content.encode(encoding), encoding="cp1252").rows[0]["text"] == "Grüße"


def test_a_wrong_byte_behind_the_mark_of_utf_8_is_found(tmp_path):
    ((where, what),) = problems_of(tmp_path, "a.csv", codecs.BOM_UTF8 + b"text,label\nGr\xfc\xdfe,x\n")
    assert where == "a.csv:2"
    assert what.startswith("not UTF-8 text (byte 0xfc)")


@pytest.mark.parametrize("name", ["utf-9", "hex", "rot13", "a\0b"])
def test_unknown_encodings_are_told(name):
    with pytest.raises(ConfigError):
        validated(FileOptions, {"encoding": name}, "data")


def test_line_ends_of_old_macs(tmp_path):
    for name, content in {
        "a.csv": "text,label\rfine,good\rdull,bad\r",
        "a.jsonl": '{"text": "fine", "label": "good"}\r{"text": "dull", "label": "bad"}\r',
        "a.tsv": "text\tlabel\rfine\tgood\rdull\tbad\r",
    }.items():
        assert [row["text"] for row in table_of_file(tmp_path, name, content).rows] == ["fine", "dull"]
    assert table_of_file(tmp_path, "a.conll", "a O\rb B-X\r\rc O\r").rows[0]["tokens"] == ["a", "b"]


# -- any table


CELLS = st.text(st.characters(exclude_categories=["Cs", "Cc"]) | st.sampled_from('",;\t|\n'), max_size=12)


@given(
    rows=st.lists(st.tuples(CELLS.map(lambda cell: "x" + cell), CELLS), min_size=1, max_size=6),
    separator=st.sampled_from(sorted(SEPARATORS)),
    has_all_quoted=st.booleans(),
)
def test_what_the_csv_module_writes_is_read(tmp_path_factory, rows, separator, has_all_quoted):
    path = tmp_path_factory.getbasetemp() / "any.csv"
    text = io.StringIO(newline="")
    quoting = csv.QUOTE_ALL if has_all_quoted else csv.QUOTE_MINIMAL
    csv.writer(text, delimiter=SEPARATORS[separator], quoting=quoting).writerows([("text", "note"), *rows])
    path.write_bytes(text.getvalue().encode())
    table = read_table(path, FileOptions(separator=separator, header=["text", "note"], quotes=True))
    values = [tuple(row.get(name) or "" for name in ("text", "note")) for row in table.rows]
    if not any(notice.kind.startswith(("cells", "empty")) for notice in table.notices):
        assert values == rows
