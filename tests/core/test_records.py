"""Records: finite numbers, known keys, and the same record read back."""

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from overture.core.errors import StoreError
from overture.core.files import write_json
from overture.core.records.base import read_record
from overture.core.records.events import Event, NormChange, NoticeEvent, StepEvent

STEP = StepEvent(seed=3, epoch=0, step=1, loss=0.5, grad_norm=2.0, num_epochs=2, num_steps=8)


def test_a_record_is_read_back_as_it_was(tmp_path: Path) -> None:
    write_json(tmp_path / "step.json", STEP.dump())
    assert read_record(StepEvent, tmp_path / "step.json") == STEP
    assert read_record(StepEvent, tmp_path / "none.json") is None


def test_an_unknown_key_is_an_error_that_names_file_and_key(tmp_path: Path) -> None:
    write_json(tmp_path / "norm.json", {"start": 1.0, "end": 2.0, "ends": 2.0})
    with pytest.raises(StoreError) as caught:
        read_record(NormChange, tmp_path / "norm.json")
    assert caught.value.where == str(tmp_path / "norm.json")
    assert [(problem.where, problem.fix) for problem in caught.value.problems] == [("ends", "did you mean 'end'?")]


def test_a_torn_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "norm.json").write_text('{"start": 1')
    with pytest.raises(StoreError) as caught:
        read_record(NormChange, tmp_path / "norm.json")
    assert caught.value.where == str(tmp_path / "norm.json")


def test_a_number_that_is_not_finite_is_refused() -> None:
    with pytest.raises(ValidationError):
        NormChange(start=float("nan"), end=1.0)


def test_optional_fields_are_left_out_of_json() -> None:
    assert NoticeEvent(text="a").dump() == {"event": "notice", "text": "a"}
    assert list(STEP.dump())[:2] == ["event", "seed"]


def test_an_event_is_read_back_by_its_kind() -> None:
    assert TypeAdapter(Event).validate_python(STEP.dump()) == STEP


def test_records_need_no_torch() -> None:
    code = (
        "import pkgutil, sys, overture.core.records as room\n"
        "for module in pkgutil.iter_modules(room.__path__):\n"
        "    __import__(f'overture.core.records.{module.name}')\n"
        "print(sorted({'torch', 'transformers', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
