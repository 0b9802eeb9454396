"""The files of a comparison: single ones while it runs, one once it is packed."""

import json
from pathlib import Path
from typing import Any

import pytest

from overture.core.errors import StoreError
from overture.core.records.cells import BEFORE_RECORDED, CELLS, Cell, Identity, Key, RateChoice, RightAnswers
from overture.data.task import Task
from overture.jobs.verdict.files import CellFiles
from overture.prompt.config import PromptConfig
from overture.train.options import TrainConfig


def cell(way: str, size: int, seed: int, **changed: Any) -> Cell:
    score = {"value": 0.5, "low": 0.1, "high": 0.9, "n": 2}
    values = {
        "kind": "built",
        "way": way,
        "size": size,
        "seed": seed,
        "status": "finished",
        "lr": None,
        "rows": {"train": size, "validation": size, "test": 2},
        "trainable": 0,
        "ledger": {"serving": {"seconds": 1.5}, "peak_bytes": 10, "grown_bytes": 0, "energy_meter": ""},
        "metrics": {"test": {"entity_f1": score}},
        "predicted": [[["PER", 0, 3]], []],
        "stored_bytes": 0,
        "base": {
            "is_intact": True,
            "is_shared": True,
            "own_bytes": 0,
            "perplexity_before": None,
            "perplexity_after": None,
        },
        **changed,
    }
    return CELLS.validate_python(values)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    files = CellFiles(tmp_path)
    for kept in (cell("in-context:nearest", 4, 0), cell("in-context:nearest", 4, 1), cell("in-context", 4, 0)):
        files.keep(kept)
    files.keep_answers(RightAnswers(data="abc", gold=((("PER", 0, 3),), ())))
    files.keep_rate(RateChoice(way="in-context", size=4, seed=0, lr=0.1))
    (tmp_path / "plan.json").write_text("{}")
    (tmp_path / "charts").mkdir()
    (tmp_path / "report.html").write_text("a page")
    return tmp_path


def everything(folder: Path) -> tuple[Any, ...]:
    files = CellFiles(folder)
    return files.cells(), files.answers(), files.rate("in-context"), files.rate("none"), files.slugs()


def test_a_packed_folder_holds_what_its_single_files_held(folder: Path) -> None:
    before = everything(folder)
    CellFiles(folder).pack()
    assert {path.name for path in folder.iterdir()} == {"cells.jsonl", "report.html"}
    assert len((folder / "cells.jsonl").read_text().splitlines()) == 4
    assert everything(folder) == before
    assert CellFiles(folder).cell(Key(way="in-context", size=4, seed=0)).ledger.serving.seconds == 1.5


def test_single_files_count_before_packed_ones(folder: Path) -> None:
    CellFiles(folder).pack()
    files = CellFiles(folder)
    files.keep(cell("in-context", 4, 0, trainable=7))
    files.keep(cell("in-context", 8, 0))
    assert [(key.size, kept.trainable) for key, kept in files.cells("in-context").items()] == [(4, 7), (8, 0)]
    files.pack()
    assert [kept.trainable for kept in CellFiles(folder).cells("in-context").values()] == [7, 0]
    assert len(CellFiles(folder).cells()) == 4


def test_damaged_files_are_refused(folder: Path) -> None:
    path = folder / "cells" / "in-context--4--0.json"
    path.write_text(json.dumps({"kind": "built"}))
    with pytest.raises(StoreError) as error:
        CellFiles(folder).pack()
    assert error.value.where == str(path)
    (folder / "cells.jsonl").write_text("{}\n")
    with pytest.raises(StoreError) as error:
        CellFiles(folder)
    assert str(error.value.where).endswith("cells.jsonl")


def test_nothing_to_pack(tmp_path: Path) -> None:
    with pytest.raises(StoreError):
        CellFiles(tmp_path).pack()


def test_cells_of_a_model_with_another_config_are_another_requests() -> None:
    model = {"tokenizer": "t", "config": {"hidden_act": "silu", "rope_parameters": {"rope_theta": 1e4}}}
    values = {"task": {}, "data": "d", "settings": {}, "train": None, "weights": "w", "dtype": "float32"}
    wanted = Identity(**values, unrelated="u", model=model)
    other = Identity(**values, unrelated="u", model=model | {"config": {"rope_parameters": {"rope_theta": 500.0}}})
    older = Identity(**values, unrelated="u")
    assert other.differences(wanted) == ["model.config.rope_parameters.rope_theta"]
    assert older.differences(wanted) == wanted.differences(wanted) == []


OPTIONS = {"task": Task, "settings": PromptConfig, "train": TrainConfig}


def identity(**parts: dict[str, Any] | None) -> Identity:
    values = {"task": {}, "settings": {}, "train": None} | parts
    return Identity(**values, data="d", weights="w", dtype="float32", unrelated="u")


@pytest.mark.parametrize(("part", "option"), [(p, option) for p, added in BEFORE_RECORDED.items() for option in added])
def test_cells_without_a_later_option_are_those_of_what_was_done_before(part: str, option: str) -> None:
    default = BEFORE_RECORDED[part][option]
    older = identity(**{part: {"length": 10}})
    assert older.differences(identity(**{part: {"length": 10, option: default}})) == []
    assert older.differences(identity(**{part: {"length": 10, option: "else"}})) == [f"{part}.{option}"]
    # A part that has no such option, such as a baseline's settings, is not given one.
    assert older.differences(identity(**{part: {"length": 10}})) == []
    # Nor is an option taken for one that came later.
    other = identity(**{part: {"length": 10, option: default, "unknown": None}})
    known = identity(**{part: {"length": 10, option: default}})
    assert older.differences(other) == known.differences(other) == other.differences(known) == [f"{part}.unknown"]


def test_a_new_option_says_what_cells_did_before_it() -> None:
    """An option added to one of these classes makes every finished cell useless unless it is in `BEFORE_RECORDED`."""
    recorded = {
        "task": "name template label_field labels read answer_field kind options metric decoding max_new_tokens stop "
        "too_long max_length backbone data",
        "settings": "method place length init init_text init_prompt labels label_rate options",
        "train": "epochs batch_size lr optimiser weight_decay warmup_steps schedule clip patience max_tokens "
        "shared_tokens checkpoint_seconds fit_memory gradient_checkpointing",
    }
    for part, config in OPTIONS.items():
        assert set(config.model_fields) - set(recorded[part].split()) == set(BEFORE_RECORDED[part])
