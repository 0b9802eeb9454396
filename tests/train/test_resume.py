"""Law 6: a run that was interrupted or killed, and resumed, is bit-equal to one that was not."""

import errno
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny import CASE, ROWS, Recorded, assert_equal, copied, make_fit, optimiser_tensors

from fakes import Case
from overture.core.averaging import Averaging
from overture.core.errors import ArtifactError, DiskFull
from overture.train.checkpoint import load_checkpoint

MLP = Case("prefix", "after", {"reparameterise": "mlp", "mlp_width": 6})


def uninterrupted(case: Case = CASE, **changes):
    trainee = Recorded(case)
    fit = make_fit(trainee, **changes)
    return fit, fit.run(), trainee


def in_sittings(path: Path, chances: list[int], case: Case = CASE, **changes):
    """Stop after so many batches, then go on in a new fit of a new trainee, until the run ends."""
    seen, status = [], "interrupted"
    while status == "interrupted":
        left = chances.pop(0) if chances else 10_000
        trainee = Recorded(case)
        # What was random elsewhere in the process must not matter.
        torch.manual_seed(len(chances))
        fit = make_fit(trainee, path, is_stop_asked=lambda trainee=trainee, n=left: len(trainee.seen) >= n, **changes)
        result = fit.run()
        status = result.status
        seen += trainee.seen
    return fit, result, seen


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("optimiser", ["adamw", "adafactor"])
@pytest.mark.parametrize("case", [CASE, Case("vectors", "before"), MLP], ids=str)
def test_interrupted_and_resumed_is_bit_equal(tmp_path, case, optimiser, seed):
    whole, wanted, trainee = uninterrupted(case, optimiser=optimiser, weight_decay=0.01)
    chances = random.Random(seed).choices(range(1, 6), k=4)
    fit, found, seen = in_sittings(tmp_path / "run", chances, case, optimiser=optimiser, weight_decay=0.01)
    assert found.status == wanted.status == "finished"
    assert seen == trainee.seen
    assert_equal(found.best, wanted.best)
    assert_equal(copied(fit.values), copied(whole.values))
    assert_equal(optimiser_tensors(fit), optimiser_tensors(whole))
    assert without_seconds(found) == without_seconds(wanted)


def without_seconds(result):
    history = [entry.model_copy(update={"seconds": 0.0}) for entry in result.progress.history]
    return history, result.progress.best_epoch, result.progress.step, result.progress.epoch


@pytest.mark.parametrize("mean", [{}, {"averaging": Averaging(0.5, 0.3)}, {"average": 0.8}], ids=str)
@pytest.mark.parametrize("passes", [1, 2])
def test_stopped_after_every_batch(tmp_path, passes, mean):
    _, wanted, trainee = uninterrupted(passes=passes, **mean)
    _, found, seen = in_sittings(tmp_path / "run", [1] * 12 * passes, passes=passes, **mean)
    assert seen == trainee.seen
    assert_equal(found.best, wanted.best)
    assert without_seconds(found) == without_seconds(wanted)


def test_a_finished_run_does_nothing_more(tmp_path):
    _, wanted, _ = in_sittings(tmp_path / "run", [])
    fit, found, seen = in_sittings(tmp_path / "run", [])
    assert seen == []
    assert found.status == "finished"
    assert_equal(copied(fit.values), wanted.best)


def test_random_numbers_go_on(tmp_path):
    fit = make_fit(Recorded(), tmp_path / "run", is_stop_asked=lambda: True)
    torch.manual_seed(11)
    fit.run()
    expected = torch.rand(3)
    torch.manual_seed(99)
    load_checkpoint(tmp_path / "run", {fit.key: fit})
    assert torch.equal(torch.rand(3), expected)


# One process imports torch once; its forks train and are killed.
_SCRIPT = """
import os, random, signal, sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)
from safetensors.torch import save_file
from tiny import Recorded, make_fit

folder, randomness, num_kills = Path(sys.argv[1]), random.Random(0), 0
kept = folder / "run"
stamp = lambda: kept.stat().st_mtime_ns if kept.exists() else 0
while True:
    child = os.fork()
    if child == 0:
        result = make_fit(Recorded(), folder / "run", epochs=12, checkpoint_seconds=0.0, patience=12).run()
        assert result.status == "finished"
        save_file(result.best, folder / "best.safetensors")
        os._exit(0)
    if num_kills < 6:
        # Each is killed soon after it has kept its first step, however fast the machine is.
        seen, deadline = stamp(), time.monotonic() + 30
        while stamp() == seen and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(randomness.uniform(0.0, 0.03))
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status):
        break
    num_kills += 1
print(num_kills, status)
"""


@pytest.mark.slow
def test_killed_and_resumed_is_bit_equal(tmp_path):
    wanted = make_fit(Recorded(), epochs=12, patience=12).run()
    here = Path(__file__).parent
    paths = os.pathsep.join([str(here), str(here.parent), *sys.path])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", _SCRIPT, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True, timeout=300)
    num_kills, status = map(int, done.stdout.split())
    assert num_kills > 1
    assert status == 0
    assert_equal(load_file(tmp_path / "best.safetensors"), wanted.best)


def interrupted(path: Path) -> None:
    assert make_fit(Recorded(), path, is_stop_asked=lambda: True).run().status == "interrupted"


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "run"
    interrupted(path)
    before = path.read_bytes()

    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    fit = make_fit(Recorded(), path, checkpoint_seconds=0.0)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(DiskFull, match="disk is full"):
            fit.run()
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["run"]
    _, wanted, _ = uninterrupted()
    _, found, _ = in_sittings(path, [])
    assert_equal(found.best, wanted.best)


@pytest.mark.parametrize("keep", [0, 5, 100, -1])
def test_a_cut_checkpoint_is_refused(tmp_path, keep):
    path = tmp_path / "run"
    interrupted(path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ArtifactError, match="damaged") as caught:
        make_fit(Recorded(), path).run()
    assert caught.value.where == str(path)
    assert caught.value.fix


@pytest.mark.parametrize("damage", ["no metadata", "no random state", "bad json"])
def test_a_checkpoint_without_its_parts_is_refused(tmp_path, damage):
    path = tmp_path / "run"
    interrupted(path)
    tensors = load_file(path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    if damage == "no random state":
        del tensors["random/torch"]
    save_file(tensors, path, {"no metadata": None, "bad json": {"overture": "{"}}.get(damage, metadata))
    with pytest.raises(ArtifactError, match="damaged"):
        make_fit(Recorded(), path).run()


def test_a_checkpoint_of_another_prompt_is_refused(tmp_path):
    interrupted(tmp_path / "run")
    other = Recorded(Case("vectors", "after"))
    before = copied(other.trainable())
    with pytest.raises(ArtifactError, match="another prompt"):
        make_fit(other, tmp_path / "run").run()
    assert_equal(copied(other.trainable()), before)


def test_a_checkpoint_of_another_optimiser_is_refused(tmp_path):
    interrupted(tmp_path / "run")
    with pytest.raises(ArtifactError, match="another optimiser"):
        make_fit(Recorded(), tmp_path / "run", optimiser="adafactor").run()


def test_any_flipped_bit_of_a_checkpoint_is_refused_or_harmless(tmp_path):
    path = tmp_path / "run"
    interrupted(path)
    whole, chance = path.read_bytes(), random.Random(0)
    header_bytes = 8 + int.from_bytes(whole[:8], "little")
    _, wanted, _ = in_sittings(path, [])
    # Half of them in the header, where the progress stands.
    places = [*(chance.randrange(header_bytes) for _ in range(40)), *(chance.randrange(len(whole)) for _ in range(40))]
    refused = 0
    for place in places:
        raw = bytearray(whole)
        raw[place] ^= 1 << chance.randrange(8)
        path.write_bytes(raw)
        try:
            result = make_fit(Recorded(), path).run()
        except ArtifactError:
            refused += 1
        else:
            assert_equal(result.best, wanted.best)
    assert refused > 60


def test_a_checkpoint_of_other_rows_is_refused(tmp_path):
    interrupted(tmp_path / "run")
    trainee = Recorded()
    fit = make_fit(trainee, tmp_path / "run")
    fit.rows = ROWS[::-1]
    before = copied(trainee.trainable())
    with pytest.raises(ArtifactError) as refused:
        fit.run()
    assert refused.value.where == str(tmp_path / "run")
    assert_equal(copied(trainee.trainable()), before)
