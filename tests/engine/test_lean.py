"""transformers imported without what no command runs: the same model, and torch's compiler as it is."""

import json
import os
import subprocess
import sys

import torch

from fakes import make_model
from overture.engine import lean

_LEAN = """
import json, sys
from overture.engine import lean
lean.import_transformers()
import torch
left = [name for name in ("torch._dynamo", "torch.distributed.tensor", "sympy", "scipy") if name in sys.modules]
stand_ins = [
    f"{name}.{key}"
    for name, module in list(sys.modules.items())
    if name.startswith("torch") and name in sys.modules
    for key, value in list(vars(module).items())
    if value is lean._undecorated or isinstance(value, lean._StandIn)
]
from fakes import make_model
logits = make_model("llama", "sdpa")(torch.arange(9)[None]).logits
from overture.train.optim import OPTIMISERS
for build in OPTIMISERS.values():
    value = torch.ones(3, requires_grad=True)
    optimiser = build([{"params": [value]}], 0.1, 0.0)
    value.sum().backward()
    optimiser.step()
    optimiser.load_state_dict(optimiser.state_dict())
    optimiser.zero_grad()
left += ["torch._dynamo of an optimiser"] * ("torch._dynamo" in sys.modules)
import torch._dynamo
print(json.dumps([left, stand_ins, float(logits.double().sum()), torch.compiler.disable.__module__]))
"""


def test_a_lean_import_gives_the_same_model_and_leaves_torch_alone(tmp_path) -> None:
    paths = os.pathsep.join(path for path in sys.path if path)
    environment = os.environ | {"PYTHONPATH": paths, "OVERTURE_CACHE": str(tmp_path), "OMP_NUM_THREADS": "1"}
    for _ in range(2):
        # The second process reads the names of transformers' modules that the first wrote.
        done = subprocess.run(
            [sys.executable, "-c", _LEAN], env=environment, capture_output=True, text=True, check=True
        )
    left, stand_ins, total, disable = json.loads(done.stdout.splitlines()[-1])
    assert (left, stand_ins, disable) == ([], [], "torch.compiler")
    assert total == float(make_model("llama", "sdpa")(torch.arange(9)[None]).logits.detach().double().sum())
    assert (tmp_path / "transformers.json").is_file()


def test_without_a_cache_the_names_are_looked_for_each_time(tmp_path, monkeypatch) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("OVERTURE_CACHE", str(tmp_path / "file"))
    assert lean._cached_scan(lambda place: {"a": {"b"}})(tmp_path / "models") == {"a": {"b"}}
