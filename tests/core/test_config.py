import contextlib
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field

from overture.core.config import Config, overridden, read_yaml, validated
from overture.core.errors import ConfigError


class Inner(Config):
    epochs: int = Field(3, ge=1, description="How often.")
    lr: float | None = Field(None, gt=0, description="How fast.")


class Outer(Config):
    name: str = Field("x", pattern="^[a-z]+$", description="Small letters.")
    train: Inner = Field(Inner(), description="How it is trained.")
    other: Inner | None = Field(None, description="Another one.")
    words: list[str] = Field(["a"], min_length=1, description="Words.")


def problems(values):
    with pytest.raises(ConfigError) as caught:
        validated(Outer, values, "file.yaml")
    assert caught.value.where == "file.yaml"
    return {problem.where: problem for problem in caught.value.problems}


def read(tmp_path, text):
    path = tmp_path / "task.yaml"
    path.write_text(text, encoding="utf-8")
    return read_yaml(path)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: 1\nb: [\n", 3),
        ("a: 1\na: 2\n", 2),
        ("labels:\n  x: 1\n  y: 2\n  x: 3\n", 4),
        ("a: !!bool x", None),
        ("a: !!int x", None),
        ("a: !!timestamp x", 1),
        ("a: !!python/object:os.system x", 1),
        (f"a: {'9' * 5000}", None),
        ("a: " + "[" * 2000, None),
        ("a: &x [*x]", None),
        ("a: \x07", None),
        ("? [1, 2]\n: 3\n", 1),
        ("", None),
        ("- 1\n", None),
    ],
)
def test_what_is_no_settings_file_is_one_error_with_its_line(tmp_path, text, line):
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text)
    assert caught.value.where == str(tmp_path / "task.yaml") + (f":{line}" if line else "")


def test_a_bomb_of_aliases_is_refused_at_once(tmp_path):
    lines = ["a: &a [x, x, x, x, x, x, x, x, x, x]"]
    lines += [
        f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]" for before, name in zip("abcdefg", "bcdefgh", strict=True)
    ]
    start = time.process_time()
    with pytest.raises(ConfigError):
        read(tmp_path, "\n".join(lines))
    assert time.process_time() - start < 1


def test_a_few_aliases_and_merges_are_read(tmp_path):
    text = "base: &base {lr: 1, epochs: 2}\ntrain:\n  <<: *base\n  lr: 3\n"
    assert read(tmp_path, text)["train"] == {"lr": 3, "epochs": 2}


def test_words_that_yaml_1_1_would_read_as_something_else(tmp_path):
    text = "NO: yes\n'on': off\n007: 12:30:00\nday: 2024-01-01\nlr: 1e-3\nsmall: 1.5e3\ntrue: ~\nn: -7\n"
    assert read(tmp_path, text) == {
        "NO": "yes",
        "on": "off",
        "007": "12:30:00",
        "day": "2024-01-01",
        "lr": 0.001,
        "small": 1500.0,
        True: None,
        "n": -7,
    }


def test_settings_of_the_command_line():
    values = overridden({}, ["train.lr=1e-3", "train.name=a: b", "x=2024-99-99", "y={a: 1}", "z=NO", 'q="1e-3"'])
    assert values == {
        "train": {"lr": 0.001, "name": "a: b"},
        "x": "2024-99-99",
        "y": {"a": 1},
        "z": "NO",
        "q": "1e-3",
    }
    for wrong in ("x=[", "x=!!int y", "novalue", "=3"):
        with pytest.raises(ConfigError):
            overridden({}, [wrong])


@settings(max_examples=300, deadline=None)
@given(st.text(st.sampled_from("ab:-[]{}!&*<>|'\"#%@`, \n\t0129.~?"), max_size=40))
def test_any_text_is_read_or_refused(text):
    with contextlib.suppress(ConfigError):
        overridden({}, [f"key={text}"])


@pytest.mark.parametrize(
    ("key", "meant"),
    [("epochs", "train.epochs"), ("epoch", "train.epochs"), ("nam", "name"), ("train.epoch", "epochs"), ("lr", ".lr")],
)
def test_the_nearest_key_wherever_it_stands(key, meant):
    outer, _, inner = key.rpartition(".")
    problem = problems({outer: {inner: 1}} if outer else {inner: 1})[key]
    assert meant in problem.fix


def test_a_key_in_a_section_that_may_be_left_out():
    assert "epochs" in problems({"other": {"epoch": 1}})["other.epoch"].fix


@pytest.mark.parametrize(
    ("values", "where"),
    [
        ({"name": "A"}, "name"),
        ({"name": 3}, "name"),
        ({"train": 3}, "train"),
        ({"train": {"epochs": 0}}, "train.epochs"),
        ({"train": {"epochs": "many"}}, "train.epochs"),
        ({"train": {"epochs": 1.5}}, "train.epochs"),
        ({"train": {"lr": float("inf")}}, "train.lr"),
        ({"words": []}, "words"),
        ({"words": "a"}, "words"),
    ],
)
def test_errors_are_in_words_of_our_own(values, where):
    problem = problems(values)[where]
    for phrase in ("Input should", "Value error", "String should", "pydantic", "valid integer", "unable to parse"):
        assert phrase not in str(problem)


def test_a_pattern_is_explained_by_the_fields_description():
    assert problems({"name": "A B"})["name"].fix == "Small letters."


def test_a_huge_value_is_cut_before_it_is_written():
    huge: list = ["x" * 100]
    for _ in range(40):
        huge = [huge] * 10
    start = time.process_time()
    assert len(str(problems({"name": huge})["name"])) < 200
    assert time.process_time() - start < 1
