"""Tables that fit: names and figures are whole at every width."""

import io

import pytest
from rich.console import Console

from overture.cli.out import counted, show_text, wrapped
from overture.cli.search import _rise
from overture.cli.tables import Column, show_facts, show_table
from overture.core.records.search import RateResult


def screen(width: int) -> Console:
    return Console(file=io.StringIO(), width=width, markup=False, highlight=False, color_system=None)


def text_of(out: Console) -> str:
    assert isinstance(out.file, io.StringIO)
    return out.file.getvalue()


NAMES = ["demo-bank@1", "a-name-of-some-thirty-characters@12"]
COLUMNS = [
    Column("prompt", NAMES, is_left=True),
    Column("score", ["accuracy 0.947", "macro_f1 0.481"]),
    Column("interval", ["0.915 to 0.970", "0.401 to 0.566"], rank=1),
    Column("method", ["prefix after, 10", "vectors before, 100"], rank=2, is_left=True),
    Column("made", ["2026-11-29 08:00", "2026-11-29 09:00"], rank=3),
]


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_names_and_scores_are_whole_at_every_width(width):
    out = screen(width)
    show_table(out, COLUMNS, title="prompts")
    shown = text_of(out)
    assert max(map(len, shown.splitlines())) <= width
    assert "…" not in shown
    for column in COLUMNS[:2]:
        assert all(cell in " ".join(shown.split()) for cell in column.cells)


def test_columns_are_left_out_by_their_rank_and_named():
    out = screen(80)
    show_table(out, COLUMNS)
    shown = text_of(out)
    assert "0.915 to 0.970" in shown
    assert "2026-11-29" not in shown
    assert "not shown here: method, made" in shown


def test_a_narrow_screen_shows_all_cells_below_the_names():
    out = screen(40)
    show_table(out, COLUMNS)
    flat = " ".join(text_of(out).split())
    assert all(cell in flat for column in COLUMNS for cell in column.cells)


def test_words_are_not_broken():
    text = (
        "error: fewer epochs, or a path/that/is/longer/than/the/whole/screen/of/forty/columns, are needed\n  fix: this"
    )
    lines = wrapped(text, 40).split("\n")
    assert "path/that/is/longer/than/the/whole/screen/of/forty/columns," in [line.strip() for line in lines]
    assert " ".join(" ".join(lines).split()) == " ".join(text.split())
    # A continued line stands behind its beginning.
    assert all(line.startswith("  ") for line in lines[1:])


def test_facts_go_on_between_words():
    for width in (40, 80):
        out = screen(width)
        show_facts(out, {"template": "Message: {text}\nAbout:", "made": "by a run " * 12, "folder": "/a/" + "b" * 90})
        shown = text_of(out)
        assert "/a/" + "b" * 90 in shown
        assert max(len(line) for line in shown.splitlines() if "bbb" not in line) <= width


def test_colour_is_left_out_where_it_is_not_wanted(monkeypatch):
    def shown() -> str:
        out = Console(file=io.StringIO(), width=80, markup=False, highlight=False, force_terminal=True)
        show_text(out, "error: it is wrong")
        return text_of(out)

    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[1;31m" in shown()
    monkeypatch.setenv("NO_COLOR", "1")
    assert "31m" not in shown()
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert "\x1b" not in shown()


def test_a_range_test_says_what_the_loss_did():
    values = {"task": "t", "method": "deep", "place": "memory", "length": 4, "default": 0.01, "steepest": 0.001}
    values |= {"rates": [0.001, 0.002, 0.004], "losses": [0.7, 0.5, 0.7], "seconds": 1.0, "charts": [], "notices": []}
    result = RateResult(**values, smooth=[0.7, 0.55, 0.62], blow_up=0.004, suggested=0.0004)
    assert "rose for good, smoothed from 0.55 to 0.62, at the learning rate 0.004" in _rise(result)
    assert "no longer a number" in _rise(result.model_copy(update={"blow_up": 0.008}))


@pytest.mark.parametrize(("count", "text"), [(1, "1 sound"), (0, "0 sounds"), (2000, "2,000 sounds")])
def test_counts_have_their_plurals(count, text):
    assert counted(count, "sound") == text
