from overture.core.errors import DataError, Problem


def lines_of(problems):
    return str(DataError("the data cannot be used", problems=problems)).split("\n")[1:]


def test_rows_with_one_mistake_make_one_line():
    problems = [Problem(f"a.csv:{line}", "no text", "write some") for line in range(2, 42)]
    problems += [
        Problem("a.csv:9", "no label"),
        Problem("b.csv:3", "no text", "write some"),
        Problem("b.csv", "no rows"),
    ]
    assert lines_of(problems) == [
        "  - a.csv:2, 3, 4, 5, 6 and 35 more rows: no text (write some)",
        "  - a.csv:9: no label",
        "  - b.csv:3: no text (write some)",
        "  - b.csv: no rows",
    ]
    assert len(DataError("x", problems=problems).problems) == 43


def test_only_twenty_different_mistakes_are_shown():
    lines = lines_of([Problem(f"a.csv:{line}", f"unknown label {line // 2}") for line in range(50)])
    assert len(lines) == 21
    assert lines[-1] == "  ... and 10 more"
