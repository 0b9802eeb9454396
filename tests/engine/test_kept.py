"""Inputs that are kept from run to run, and kept in another precision."""

import multiprocessing
import os
import stat
import time

import pytest
import torch

from fakes import Case, backbone_of, make_prompt, make_rows
from overture.core.errors import ConfigError, DiskFull
from overture.core.kept_files import KeptFiles, kept_inputs
from overture.engine import kept as kept_module
from overture.engine.cache import InputCache
from overture.engine.lora import with_lora
from overture.engine.options import LoraOptions
from overture.engine.prompted import PromptedModel

AFTER, LATE = Case("vectors", "after"), Case("late", "before", {"layer": 2})
ENTRIES = [("llama", AFTER), ("gpt2", AFTER), ("llama", LATE), ("bert", LATE), ("t5", AFTER)]
LENGTHS = (5, 19, 2, 11, 3, 30)


def warmed(family, case, files, lengths=LENGTHS, budget=1 << 24, notices=None, backbone=None, **options):
    """A model whose cache is full, and how many passes of texts that took."""
    backbone = backbone or backbone_of(family, torch.float32)
    rows = make_rows("mask" if family == "bert" else "several tokens", lengths)
    notify = None if notices is None else notices.append
    cache = InputCache(budget, files=files, notify=notify, **options)
    model = PromptedModel(backbone, make_prompt(case, backbone), cache, max_tokens=60)
    stack = (backbone.encoder or backbone).stack
    runs, run = [], stack.run_together
    stack.run_together = lambda *arguments: runs.append(1) or run(*arguments)
    try:
        model.warm(rows)
    finally:
        del stack.run_together
    return model, rows, len(runs)


def losses(model, rows):
    return model.answerer.losses(rows, model.injections(rows)).detach()


@pytest.mark.parametrize(("family", "case"), ENTRIES, ids=str)
def test_a_later_run_computes_no_text_and_has_the_same_bits(family, case, tmp_path):
    alone, rows, _ = warmed(family, case, None)
    first, _, num_first = warmed(family, case, KeptFiles(tmp_path / "kept", 1 << 30))
    second, _, num_second = warmed(family, case, KeptFiles(tmp_path / "kept", 1 << 30))
    assert (num_first > 0, num_second) == (True, 0)
    assert torch.equal(losses(second, rows), losses(first, rows))
    assert torch.equal(losses(second, rows), losses(alone, rows))


def test_only_texts_that_were_never_read_count_as_unread(tmp_path):
    first, rows, _ = warmed("llama", AFTER, KeptFiles(tmp_path / "kept", 1 << 30))
    texts = [row.input_elements for row in rows]
    later = PromptedModel(
        first.backbone, first.prompt, InputCache(1 << 24, files=KeptFiles(tmp_path / "kept", 1 << 30)), max_tokens=60
    )
    alone = PromptedModel(first.backbone, first.prompt, None, max_tokens=60)
    assert [model.answerer.inputs.num_unread(texts) for model in (first, later, alone)] == [0, 0, sum(LENGTHS)]
    assert later.answerer.inputs.num_unread(texts[1:]) > 0


def test_other_texts_models_and_precisions_share_no_file(tmp_path):
    files = KeptFiles(tmp_path, 1 << 30)
    runs = [
        warmed("llama", AFTER, files)[2],
        warmed("llama", AFTER, files, (5, 19, 2, 11, 3, 29))[2],
        warmed("qwen2", AFTER, files)[2],
        warmed("llama", AFTER, files, dtype=torch.bfloat16)[2],
        warmed("llama", AFTER, files, backbone=backbone_of("llama", torch.float64))[2],
    ]
    assert all(runs)


def test_nothing_is_kept_of_a_model_with_values_of_its_own(tmp_path):
    adapted = with_lora(backbone_of("llama", torch.float32), LoraOptions(rank=2), 0)
    adapted.freeze()
    model, rows, num_runs = warmed("llama", AFTER, KeptFiles(tmp_path, 1 << 30), backbone=adapted)
    assert num_runs
    assert len(model.cache) == len(rows)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("damage", ["a bit", "cut", "empty"])
def test_a_damaged_file_is_computed_again(tmp_path, damage):
    files = KeptFiles(tmp_path, 1 << 30)
    model, rows, _ = warmed("llama", AFTER, files)
    expected = losses(model, rows)
    path = files.files()[0].path
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.unlink()
    path.write_bytes({"a bit": raw, "cut": raw[:99], "empty": b""}[damage])
    again, _, num_runs = warmed("llama", AFTER, files)
    assert num_runs
    assert torch.equal(losses(again, rows), expected)
    assert warmed("llama", AFTER, files)[2] == 0


def test_files_are_the_users_alone(tmp_path):
    files = KeptFiles(tmp_path / "kept", 1 << 30)
    warmed("llama", AFTER, files)
    assert stat.S_IMODE(files.folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.path.stat().st_mode) for file in files.files()} == {0o600}


def test_beyond_the_memory_the_file_is_read_where_it_lies(tmp_path):
    model, rows, _ = warmed("llama", AFTER, KeptFiles(tmp_path, 1 << 30), budget=0)
    assert (model.cache.used_bytes, model.cache.spilled_bytes, len(model.cache)) == (0, 0, len(rows))


def test_the_oldest_files_make_room_but_not_those_of_this_run(tmp_path):
    size = KeptFiles(tmp_path, 1 << 30)
    warmed("llama", AFTER, size)
    total = sum(file.size_bytes for file in size.files())
    for number, file in enumerate(size.files()):
        os.utime(file.path, (number, number))
    later = KeptFiles(tmp_path, total)
    oldest = size.files()[0].path
    warmed("llama", AFTER, later, (30, 31, 32))
    assert not oldest.exists()
    assert sum(file.size_bytes for file in later.files()) <= total
    before = {file.path for file in later.files() if file.used_at > 1e6}
    warmed("llama", AFTER, later, (33, 34, 35, 36, 37, 38))
    assert before <= {file.path for file in later.files()}


def test_a_full_disk_is_told_once_and_survived(tmp_path, monkeypatch):
    def full(*arguments, **options):
        raise DiskFull("the disk is full", where="kept")

    monkeypatch.setattr(kept_module, "write_sealed", full)
    notices = []
    model, rows, _ = warmed("llama", AFTER, KeptFiles(tmp_path, 1 << 30), notices=notices)
    assert len(notices) == 1
    assert len(model.cache) == len(rows)


def test_leftovers_of_killed_writers_are_removed(tmp_path):
    leftover, fresh = tmp_path / ".overture-tmp-1-x", tmp_path / ".overture-tmp-2-x"
    for path in (leftover, fresh):
        path.write_bytes(b"x" * 99)
    os.utime(leftover, (time.time() - 7200,) * 2)
    assert KeptFiles(tmp_path, 1 << 20).make_room(9)
    assert (leftover.exists(), fresh.exists()) == (False, True)


def _fill(folder, number):
    torch.set_num_threads(1)
    files = KeptFiles(folder, 1 << 20)
    for key in range(40):
        if files.make_room(1 << 10):
            kept_module.write_sealed(files.path_of(f"{key}"), {"0": torch.full((64,), float(key))}, is_private=True)
        if files.use(f"{(key * 7 + number) % 40}"):
            tensors, _ = kept_module.read_sealed(files.path_of(f"{(key * 7 + number) % 40}"), "")
            assert tensors["0"][0] == (key * 7 + number) % 40


def test_several_processes_write_and_read_at_once(tmp_path):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_fill, args=(tmp_path, number)) for number in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert len(list(tmp_path.iterdir())) == 40


@pytest.mark.parametrize(("family", "case"), ENTRIES[:4], ids=str)
def test_kept_in_bfloat16_the_loss_is_close_and_the_memory_half(family, case):
    whole, rows, _ = warmed(family, case, None)
    half, _, _ = warmed(family, case, None, dtype=torch.bfloat16)
    assert half.cache.used_bytes * 2 == whole.cache.used_bytes
    # Kept or computed in the moment, a text gives the same.
    fresh = PromptedModel(half.backbone, half.prompt, InputCache(1 << 24, dtype=torch.bfloat16), max_tokens=60)
    torch.testing.assert_close(losses(fresh, rows), losses(half, rows), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(losses(half, rows), losses(whole, rows), rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize(("given", "limit"), [("2", 2 * 10**9), ("0", 0), ("0.5", 5 * 10**8)])
def test_the_limit_of_the_environment(tmp_path, monkeypatch, given, limit):
    monkeypatch.setenv("OVERTURE_CACHE", str(tmp_path))
    monkeypatch.setenv("OVERTURE_CACHE_LIMIT", given)
    assert kept_inputs().limit_bytes == limit


@pytest.mark.parametrize("given", ["much", "-1", "inf", "nan"])
def test_a_limit_that_is_no_size_is_refused(monkeypatch, given):
    monkeypatch.setenv("OVERTURE_CACHE_LIMIT", given)
    with pytest.raises(ConfigError) as refused:
        kept_inputs()
    assert (refused.value.where, refused.value.got) == ("OVERTURE_CACHE_LIMIT", given)
