"""Predictions into files: the rows' own columns, bad rows, names of files and texts, stopping, full disks."""

import csv
import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from overture.evaluate.host import Host

BODIES = ["my card was charged twice", "", "the app closes itself", "where is my parcel"]


@pytest.fixture(scope="module")
def prompts(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The folders of a prompt for one text field, and of one for two."""
    import overture

    folder = tmp_path_factory.mktemp("tickets")
    rows = [{"Subject": "s", "Body": f"{'fine' if n % 2 else 'poor'} {n}", "kind": f"{n % 2}"} for n in range(12)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    folders = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OVERTURE_CACHE", str(folder / "cache"))
        for name, template in (("one", "{Body}\nMood:"), ("two", "{Subject} {Body}\nMood:")):
            values = {
                "name": name,
                "backbone": str(tiny),
                "data": {"path": "rows.jsonl"},
                "template": template,
                "label_field": "kind",
                "labels": {"1": " good", "0": " bad"},
                "max_length": 60,
                "shots": 0,
                "prompt": {"length": 2},
                "train": {"epochs": 1, "passes": 1},
            }
            (folder / "task.yaml").write_text(yaml.safe_dump(values))
            folders[name] = str(overture.tune(folder / "task.yaml", store=folder / "store").folder)
    return folders


def table(path: str) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def objects(path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def tickets() -> str:
    lines = [f'T-{number},"{body}",pro\n' for number, body in enumerate(BODIES)]
    Path("tickets.csv").write_text("Ticket ID,Body,plan\n" + "".join(lines))
    return "tickets.csv"


# -- output files


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
def test_own_columns_stay_and_rows_stay_aligned(prompts, tickets, overture, suffix):
    done = overture("predict", prompts["one"], tickets, "-o", f"out.{suffix}")
    assert (done.code, done.out) == (0, "")
    assert "tickets.csv:3" in done.err
    if suffix == "jsonl":
        rows = objects("out.jsonl")
    elif suffix == "parquet":
        parquet = pytest.importorskip("pyarrow.parquet")
        rows = parquet.read_table("out.parquet").to_pylist()
    else:
        text = Path(f"out.{suffix}").read_text()
        rows = list(csv.DictReader(text.splitlines(), delimiter="," if suffix == "csv" else "\t"))
    assert [row["Ticket ID"] for row in rows] == ["T-0", "T-1", "T-2", "T-3"]
    assert [row["Body"] for row in rows] == BODIES
    assert [row["label"] in ("0", "1") for row in rows] == [True, False, True, True]
    assert not rows[1]["label"]
    assert "empty" in rows[1]["error"]
    shares = rows[0]["probabilities"] if suffix == "jsonl" else {k: rows[0][f"probability_{k}"] for k in "01"}
    assert sum(map(float, shares.values())) == pytest.approx(1, abs=1e-5)
    assert float(rows[0]["confidence"]) == pytest.approx(max(map(float, shares.values())))
    alone = overture("predict", prompts["one"], BODIES[3]).json
    assert rows[3]["label"] == alone["label"]
    assert float(rows[3]["confidence"]) == pytest.approx(alone["confidence"], abs=2e-6)


def test_columns_of_the_same_name_are_not_replaced(prompts, overture):
    Path("rows.csv").write_text("Body,label,error\nfine 1,mine,x\npoor 2,yours,y\n")
    done = overture("predict", prompts["one"], "rows.csv", "-o", "out.csv")
    assert [(row["label"], row["error"]) for row in table("out.csv")] == [("mine", "x"), ("yours", "y")]
    assert all(row["predicted_label"] in ("0", "1") for row in table("out.csv"))
    assert "predicted_label" in done.err


def test_several_prompts_have_columns_of_their_own(prompts, overture):
    Path("rows.jsonl").write_text('{"Body": "fine", "Subject": "a", "id": [7]}\n{"Body": "poor", "id": [8]}\n')
    both = ("--prompt", prompts["one"], "--prompt", prompts["two"])
    assert overture("predict", "rows.jsonl", *both, "-o", "out.csv").code == 0
    first, second = table("out.csv")
    assert (first["id"], first["Subject"], second["Subject"]) == ("[7]", "a", "")
    assert first[f"{prompts['two']}.label"] in ("0", "1")
    assert (second[f"{prompts['one']}.label"] in ("0", "1"), second[f"{prompts['two']}.label"]) == (True, "")
    assert "Subject" in second[f"{prompts['two']}.error"]
    overture("predict", "rows.jsonl", *both, "-o", "out.jsonl")
    assert objects("out.jsonl")[0]["prompts"][prompts["one"]]["label"] == first[f"{prompts['one']}.label"]


def test_rows_that_one_of_two_prompts_answers_are_no_failures(prompts, overture):
    Path("rows.csv").write_text('Body\nfine\n""\npoor\n')
    both = ("--prompt", prompts["one"], "--prompt", prompts["two"])
    done = overture("predict", "rows.csv", *both, "-o", "out.csv", "--on-error", "skip")
    assert done.code == 0
    rows = table("out.csv")
    assert [row["Body"] for row in rows] == ["fine", "poor"]
    assert all(row[f"{prompts['one']}.label"] in ("0", "1") for row in rows)
    assert not any(row[f"{prompts['two']}.label"] for row in rows)


def test_an_output_file_is_not_replaced_unasked(prompts, tickets, overture):
    Path("out.csv").write_text("precious")
    refused = overture("predict", prompts["one"], tickets, "-o", "out.csv")
    assert (refused.code, Path("out.csv").read_text()) == (2, "precious")
    assert overture("predict", prompts["one"], tickets, "-o", "out.csv", "--force").code == 0
    assert len(table("out.csv")) == 4
    for output in (tickets, "no/folder.csv", "out.xlsx", "out"):
        assert overture("predict", prompts["one"], tickets, "-o", output, "--force").code == 2
    assert Path(tickets).read_text().startswith("Ticket ID")


def test_json_tells_what_was_written(prompts, tickets, overture):
    found = overture("predict", prompts["one"], tickets, "-o", "out.csv", "--json").json
    assert (found["output"], found["rows"], found["written"], found["failed"]) == ("out.csv", 4, 4, 1)


# -- rows that cannot be predicted


def test_bad_rows_are_kept_left_out_or_fatal(prompts, overture):
    long = "word " * 40
    Path("rows.csv").write_text(f"id,Body\n1,fine\n2,\n3,{long}\n4,a,b\n5,poor\n")
    done = overture("predict", prompts["one"], "rows.csv", "-o", "null.csv", "--on-error", "null")
    assert done.code == 0
    rows = table("null.csv")
    assert [row["id"] for row in rows] == ["1", "2", "3", "4", "5"]
    assert [bool(row["label"]) for row in rows] == [True, False, False, False, True]
    assert [bool(row["error"]) for row in rows] == [False, True, True, True, False]
    for line in (3, 4, 5):
        assert f"rows.csv:{line}" in done.err
    assert "3 of 5 rows" in done.err
    skipped = overture("predict", prompts["one"], "rows.csv", "-o", "skip.csv", "--on-error", "skip")
    assert skipped.code == 0
    assert [(row["id"], bool(row["label"]), "error" in row) for row in table("skip.csv")] == [
        ("1", True, False),
        ("5", True, False),
    ]
    failed = overture("predict", prompts["one"], "rows.csv", "-o", "fail.csv", "--on-error", "fail", "--json")
    assert failed.code == 2
    assert not Path("fail.csv").exists()
    assert any("rows.csv:3" in problem for problem in failed.json["problems"])
    assert not list(Path().glob(".overture-tmp*"))


def test_cells_of_rows_with_too_few_or_too_many_are_kept(prompts, overture):
    Path("rows.csv").write_text("id,Body,plan\n1,fine,pro\n2,poor\n3,a, b,pro\n")
    assert overture("predict", prompts["one"], "rows.csv", "-o", "out.csv").code == 0
    cells = [[row[name] for name in ("id", "Body", "plan", "column_4")] for row in table("out.csv")]
    assert cells == [["1", "fine", "pro", ""], ["2", "poor", "", ""], ["3", "a", " b", "pro"]]
    assert [bool(row["error"]) for row in table("out.csv")] == [False, True, True]


@pytest.mark.parametrize("bad", ['{"id": 2, "Body": "lost', "[2]", "poor"])
def test_text_of_lines_that_are_no_objects_is_kept(prompts, overture, bad):
    lines = [json.dumps({"id": number, "Body": "fine"}) for number in (1, 3)]
    text = f"{lines[0]}\n{bad}\n{lines[1]}\n"
    Path("rows.jsonl").write_text(text)
    for output, read in (("out.jsonl", objects), ("out.csv", table)):
        assert overture("predict", prompts["one"], "rows.jsonl", "-o", output, "--on-error", "null").code == 0
        first, second, third = read(output)
        assert (second["unreadable_line"], second["label"] or None, bool(second["error"])) == (bad, None, True)
        assert not first.get("unreadable_line")
        assert str(third["id"]) == "3"
    overture("predict", prompts["one"], "rows.jsonl", "-o", "skip.csv", "--on-error", "skip")
    assert [(row["id"], "unreadable_line" in row) for row in table("skip.csv")] == [("1", False), ("3", False)]
    whole = json.dumps({"Subject": "a", "Body": "fine"})
    printed = overture("predict", prompts["two"], "-", stdin=f"{whole}\n{bad}\n")
    assert json.loads(printed.out.splitlines()[1])["input"] == bad


@pytest.mark.parametrize("text", ["id;Body\n1;fine\n2;poor\n", "1;fine\n2;poor\n3;fine\n4;poor\n"])
def test_notices_name_no_options_of_task_files(prompts, overture, text):
    Path("rows.csv").write_text(text)
    done = overture("predict", prompts["one"], "rows.csv", "-o", "out.csv")
    assert "semicolons" in done.err
    assert ".jsonl" in done.err
    assert "data." not in done.err


def test_fixes_name_no_options_of_task_files(prompts, overture):
    Path("rows.yaml").write_text("Body: fine\n")
    done = overture("predict", prompts["one"], "rows.yaml", "-o", "out.csv")
    assert (done.code, ".jsonl" in done.err, "data." in done.err) == (2, True, False)


def test_a_row_too_long_stops_all_only_where_asked(prompts, overture):
    Path("rows.csv").write_text(f"Body\nfine\n{'word ' * 40}\n")
    failed = overture("predict", prompts["one"], "rows.csv", "-o", "out.csv", "--on-error", "fail")
    assert failed.code == 2
    assert "rows.csv:3" in failed.err
    assert not Path("out.csv").exists()


def test_rows_that_are_all_wrong_are_an_error(prompts, overture):
    Path("rows.csv").write_text("text\nfine\npoor\n")
    done = overture("predict", prompts["one"], "rows.csv", "-o", "out.csv")
    assert done.code == 2
    assert "no field 'Body'" in done.err
    Path("long.csv").write_text(f"Body\n{'word ' * 40}\n{'text ' * 40}\n")
    done = overture("predict", prompts["one"], "long.csv", "-o", "out.csv")
    assert done.code == 2
    assert not Path("out.csv").exists()


def test_a_quote_left_open_loses_no_rows_silently(prompts, overture):
    Path("rows.csv").write_text('Body\nfine\n"never closed\npoor\ngrim\n')
    done = overture("predict", prompts["one"], "rows.csv", "-o", "out.csv")
    assert done.code == 2
    assert "rows.csv:3" in done.err


def test_lines_of_standard_input_stay_aligned(prompts, overture):
    done = overture("predict", prompts["one"], "-", stdin="fine\n\n-- never again --\n\n")
    found = [json.loads(line) for line in done.out.splitlines()]
    assert [line["input"] for line in found] == ["fine", "", "-- never again --", ""]
    assert [line["label"] is None for line in found] == [False, True, False, True]
    assert all("empty" in line["error"] for line in found[1::2])
    assert "stdin:2" in done.err
    assert overture("predict", prompts["one"], stdin="").code == 2
    skipped = overture("predict", prompts["one"], "--on-error", "skip", stdin="fine\n\npoor\n")
    assert [json.loads(line)["input"] for line in skipped.out.splitlines()] == ["fine", "poor"]


# -- names and texts


def test_a_file_is_never_a_text(prompts, tickets, overture):
    assert len(overture("predict", prompts["one"], tickets).out.splitlines()) == 4
    Path("data").mkdir()
    for words in ([tickets, "a text"], ["missing.csv"], ["data"], ["fine", "other/rows.jsonl"]):
        done = overture("predict", prompts["one"], *words)
        assert (done.code, done.out) == (2, ""), words
    assert overture("predict", prompts["one"], "see many.csv").json["input"] == "see many.csv"


def test_a_text_or_a_file_is_no_prompt(prompts, tickets, overture):
    for words in (["some text"], [tickets], ["-"]):
        done = overture("predict", *words, "--json")
        assert (done.code, done.json["error"]) == (2, "ConfigError")
        assert "overture predict PROMPT" in done.json["fix"]


def test_a_text_that_begins_with_a_dash(prompts, overture):
    done = overture("predict", prompts["one"], "--never again--")
    assert done.code == 2
    assert "overture predict PROMPT -- " in done.err
    assert overture("predict", prompts["one"], "--", "--never again--").json["input"] == "--never again--"
    typo = overture("predict", prompts["one"], "--calibratd", "fine")
    assert (typo.code, typo.out) == (2, "")
    assert "--calibrated" in typo.err


@pytest.mark.parametrize("name", ["semi.csv", "bom.csv", "lines.txt", "logs.jsonl"])
def test_small_files_of_other_people(prompts, overture, name):
    contents = {
        "semi.csv": "Body;note\nA dull film;x\n",
        "bom.csv": '\ufeffBody\n"A dull, long film"\n"--never again--"\n',
        "lines.txt": "A dull film\nA great film\n",
        "logs.jsonl": '{"level":"error","Body":"disk full"}\n{"level":"info","Body":"started"}\n',
    }
    Path(name).write_text(contents[name], encoding="utf-8")
    done = overture("predict", prompts["one"], name)
    assert done.code == 0
    inputs = [json.loads(line)["input"] for line in done.out.splitlines()]
    assert inputs[0] in ("A dull film", "A dull, long film", "disk full")
    assert len(inputs) == (1 if name == "semi.csv" else 2)


# -- stopping and failing


def stop_after(monkeypatch: pytest.MonkeyPatch, num_rows: int, error: BaseException) -> None:
    """Groups of four rows; the group that holds the row after `num_rows` raises."""
    monkeypatch.setattr("overture.cli.predict._FEWEST_ROWS", 4)
    monkeypatch.setattr("overture.cli.predict._MOST_ROWS", 4)
    answer, answered = Host.answer, [0]

    def answering(host: Host, requests: Any, *rest: Any) -> Any:
        answered[0] += len(requests)
        if answered[0] > num_rows:
            raise error
        return answer(host, requests, *rest)

    monkeypatch.setattr(Host, "answer", answering)


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_ctrl_c_leaves_what_is_done_under_another_name(prompts, overture, monkeypatch, suffix):
    Path("rows.csv").write_text("Body\n" + "".join(f"fine {n}\n" for n in range(20)))
    stop_after(monkeypatch, 8, KeyboardInterrupt())
    done = overture("predict", prompts["one"], "rows.csv", "-o", f"out.{suffix}")
    assert done.code == 130
    assert f"out.partial.{suffix}" in done.err
    assert "8 of 20 rows" in done.err
    assert not Path(f"out.{suffix}").exists()
    assert not list(Path().glob(".overture-tmp*"))
    partial = Path(f"out.partial.{suffix}")
    if suffix == "parquet":
        assert pytest.importorskip("pyarrow.parquet").read_table(partial).num_rows == 8
    else:
        assert len(partial.read_text().splitlines()) == 8 + (suffix == "csv")


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), RuntimeError("a bug")])
def test_any_other_error_leaves_nothing(prompts, overture, monkeypatch, error):
    Path("rows.csv").write_text("Body\n" + "".join(f"fine {n}\n" for n in range(20)))
    Path("out.csv").write_text("before")
    stop_after(monkeypatch, 8, error)
    if isinstance(error, OSError):
        done = overture("predict", prompts["one"], "rows.csv", "-o", "out.csv", "--force")
        assert done.code == 4
    else:
        with pytest.raises(RuntimeError):
            overture("predict", prompts["one"], "rows.csv", "-o", "out.csv", "--force")
    assert Path("out.csv").read_text() == "before"
    assert not list(Path().glob(".overture-tmp*"))
    assert not list(Path().glob("*partial*"))


def test_groups_do_not_change_predictions(prompts, overture, monkeypatch):
    Path("rows.csv").write_text("Body\n" + "".join(f"fine {n} {'x' * (n % 7)}\n" for n in range(23)))
    overture("predict", prompts["one"], "rows.csv", "-o", "whole.csv")
    stop_after(monkeypatch, 1000, RuntimeError())
    overture("predict", prompts["one"], "rows.csv", "-o", "groups.csv")
    for one, other in zip(table("whole.csv"), table("groups.csv"), strict=True):
        assert (one["Body"], one["label"]) == (other["Body"], other["label"])
        assert float(one["confidence"]) == pytest.approx(float(other["confidence"]), abs=2e-6)


# -- start-up


def test_mistakes_are_told_before_torch_is_imported(prompts, tickets, tmp_path):
    Path("nolabel.csv").write_text("Body,lab\nfine,1\n")
    Path("empty.csv").write_text("Body\n''\n")
    mistakes = [
        ["predict", "no-such-prompt", "text"],
        ["predict", prompts["one"], "missing.csv"],
        ["predict", prompts["one"], tickets, "-o", tickets],
        ["predict", prompts["one"], tickets, "--on-error", "fail"],
        ["predict", prompts["two"], tickets],
        ["eval", prompts["one"], "missing.csv"],
        ["eval", prompts["one"], "nolabel.csv"],
        ["eval", prompts["one"], "--store", str(tmp_path / "elsewhere")],
        ["errors", prompts["one"], "--store", str(tmp_path / "elsewhere")],
    ]
    code = f"""
import sys
from overture.cli.app import app
for words in {mistakes!r}:
    try:
        app(words, prog_name="overture")
    except SystemExit as end:
        assert end.code == 2, words
    heavy = [name for name in ("torch", "transformers", "scipy", "pandas") if name in sys.modules]
    assert not heavy, (words, heavy)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
