"""Killed without warning at every step of saving, and at random: what is there is whole."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from overture.store.artifact import load_artifact
from overture.store.store import Store

_STEPS = ("fsync", "rename", "replace", "mkdir", "open")

# One process imports torch once; its forks save and are killed.
_KILLER = """
import os, signal, sys
from pathlib import Path
import torch
from overture.store.manifest import Manifest
from overture.store.store import Store

store = Store(Path(sys.argv[1]))
manifest = Manifest.model_validate_json(Path(sys.argv[2]).read_text())
steps = sys.argv[3].split(",")

def save_and_die_at(last_step):
    done = 0
    def counted(real):
        def call(*args, **kwargs):
            nonlocal done
            done += 1
            if done == last_step:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)
        return call
    for name in steps:
        setattr(os, name, counted(getattr(os, name)))
    write = Path.write_bytes
    def half(path, raw):
        write(path, raw[: len(raw) // 2])
        counted(lambda: None)()
        return write(path, raw)
    Path.write_bytes = counted(half)
    store.add(manifest, {"values": torch.full((64, 64), float(last_step))})

last_step, is_killed = 0, True
while is_killed:
    last_step += 1
    child = os.fork()
    if child == 0:
        save_and_die_at(last_step)
        os._exit(0)
    is_killed = os.WIFSIGNALED(os.waitpid(child, 0)[1])
    print(last_step, int(is_killed), flush=True)
    sys.stdin.readline()
"""

_LOOP = """
import sys
from pathlib import Path
import torch
from overture.store.manifest import Manifest
from overture.store.store import Store

store = Store(Path(sys.argv[1]))
manifest = Manifest.model_validate_json(Path(sys.argv[2]).read_text())
while True:
    store.add(manifest, {"values": torch.randn(256, 64)})
    print("ready", flush=True)
"""


@pytest.fixture
def manifest_file(tmp_path, make_manifest):
    path = tmp_path / "manifest.json"
    path.write_text(make_manifest().model_dump_json())
    return path


def _is_whole(root: Path) -> int:
    """Open the store as the next process would; every version must load, and nothing else may lie about."""
    store = Store(root)
    versions = [entry.version for entry in store.list()]
    assert versions == list(range(1, len(versions) + 1))
    for version in versions:
        manifest, _ = load_artifact(store.get(f"movie@{version}"))
        assert manifest.version == version
    assert [path for path in root.rglob("*") if "tmp" in path.name] == []
    return len(versions)


def test_killed_at_every_step_of_saving(tmp_path, manifest_file, make_manifest, tensors):
    root = tmp_path / "home"
    Store(root).add(make_manifest(), tensors)
    command = [sys.executable, "-c", _KILLER, str(root), str(manifest_file), ",".join(_STEPS)]
    num_kills = 0
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        before = 1
        for line in process.stdout:
            step, is_killed = map(int, line.split())
            now = _is_whole(root)
            assert before <= now <= before + 1, step
            assert is_killed or now == before + 1
            before, num_kills = now, num_kills + is_killed
            process.stdin.write("\n")
            process.stdin.flush()
    assert process.returncode == 0
    assert num_kills > 15


def test_killed_at_random(tmp_path, manifest_file):
    root = tmp_path / "home"
    root.mkdir()
    randomness = random.Random(0)
    before = 0
    for _ in range(3):
        command = [sys.executable, "-c", _LOOP, str(root), str(manifest_file)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout.readline() == "ready\n"
            time.sleep(randomness.uniform(0.05, 0.3))
            os.kill(process.pid, signal.SIGKILL)
        now = _is_whole(root)
        assert now >= before
        before = now
    assert before > 0
