import csv
import gzip
import sys

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from overture.core.errors import ConfigError, DataError
from overture.data.formats.options import FileOptions
from overture.data.read import read_table, scan


def read_rows(path, **options):
    """The rows and lines of a file."""
    table = read_table(path, FileOptions(**options))
    return table.rows, table.lines


ROWS = [{"text": 'a, "b"\nc', "label": "x"}, {"text": "d\u2028e", "label": "y"}]


def problems(path):
    with pytest.raises(DataError) as caught:
        read_rows(path)
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"], ids=["plain", "bom"])
def test_jsonl(tmp_path, start):
    path = tmp_path / "a.jsonl"
    path.write_bytes(start + '{"text": "d\u2028e"}\r\n\n  {"text": 2}\n'.encode())
    assert read_rows(path) == ([{"text": "d\u2028e"}, {"text": 2}], [1, 3])


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_csv_lines_are_where_records_start(tmp_path, encoding):
    path = tmp_path / "a.csv"
    with open(path, "w", encoding=encoding, newline="") as handle:
        writer = csv.DictWriter(handle, ["text", "label"])
        writer.writeheader()
        writer.writerows(ROWS)
    assert read_rows(path) == (ROWS, [2, 4])


def test_csv_of_a_long_text_leaves_the_global_limit_alone(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("text,label\n" + "a" * 200_000 + ",x\n")
    before = csv.field_size_limit()
    assert len(read_rows(path)[0][0]["text"]) == 200_000
    assert csv.field_size_limit() == before


def test_parquet(tmp_path):
    path = tmp_path / "a.PARQUET"
    parquet.write_table(pa.Table.from_pylist(ROWS), path)
    assert read_rows(path) == (ROWS, [1, 2])


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    path = tmp_path / "a.parquet"
    path.write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"pip install 'pyarrow"):
        read_rows(path)


def test_every_bad_json_line_is_named(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n{"a": \n[1]\n{"a": NaN}\n' + "[" * 100_000 + "\n")
    found = problems(path)
    assert [p.split(":")[1] for p in found] == ["2", "3", "4", "5"]
    assert "not JSON" in found[0]
    assert "not a JSON object" in found[1]
    assert "NaN" in found[2]
    assert "nested too deeply" in found[3]


@pytest.mark.parametrize(
    ("name", "content", "line", "message"),
    [
        ("a.jsonl", b"", None, "no rows"),
        ("a.jsonl", b"\n \n", None, "no rows"),
        ("a.csv", b"text,label\n", None, "no rows"),
        ("a.csv", b"text,label\na,b,c\nd\n", "2", "3 columns"),
        ("a.csv", b'text,label\n"a\nb",c\nd\n', "4", "1 column"),
        ("a.csv", b'text,label\n"a,b\n', "2", "not a table"),
        ("a.csv", b"text,text\na,b\n", "1", "same name: text"),
        ("a.jsonl", b'{"a": 1}\n{"a": "\xff"}\n', "2", "not UTF-8 text (byte 0xff)"),
        ("a.csv", b"text\na\n\x00\x01\n", "3", "zero byte"),
        ("a.parquet", b"\x00\x01 nothing of the kind", None, "not Parquet"),
        ("a.parquet", b"", None, "not Parquet"),
        ("a.json", b"[]", None, "no rows"),
        ("a.xlsx", b"PK", None, "save the sheet as CSV"),
        ("a.csv.gz", b"\x1f\x8b broken", None, "cannot be read"),
        ("a.xyz.gz", b"x", None, "unknown suffix '.xyz'"),
        ("a", b"x", None, "unknown suffix ''"),
    ],
)
def test_bad_files(tmp_path, name, content, line, message):
    path = tmp_path / name
    path.write_bytes(content)
    found = problems(path)
    assert message in found[0]
    assert found[0].startswith(f"{path}:{line}: " if line else f"{path}: ")


def test_missing_file_folder_and_a_folder_for_a_file(tmp_path):
    (tmp_path / "dir.csv").mkdir()
    assert "no such file" in problems(tmp_path / "no.csv")[0]
    assert f"no such folder: {tmp_path / 'no'}" in problems(tmp_path / "no" / "a.csv")[0]
    assert "a folder, not a file" in problems(tmp_path / "dir.csv")[0]


def test_packed_files(tmp_path, monkeypatch):
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(b"text,label\nfine,good\n"))
    assert read_rows(path) == ([{"text": "fine", "label": "good"}], [2])
    path.write_bytes(gzip.compress(b"text,label\n" + b"fine,good\n" * 100_000))
    assert path.stat().st_size < 10_000
    monkeypatch.setattr("overture.data.read._MAX_BYTES", 100_000)
    assert "at most" in problems(path)[0]
    path.write_bytes(path.read_bytes()[:-20])
    monkeypatch.undo()
    assert "cannot be read" in problems(path)[0]


@given(
    raw=st.binary(max_size=200),
    suffix=st.sampled_from([".jsonl", ".json", ".csv", ".tsv", ".parquet", ".conll", ".txt"]),
)
def test_no_bytes_escape_the_report(tmp_path_factory, raw, suffix):
    path = tmp_path_factory.getbasetemp() / f"fuzz{suffix}"
    path.write_bytes(raw)
    found = []
    table = scan(path, found)
    assert len(table.rows) == len(table.lines)
    assert table.rows or found
