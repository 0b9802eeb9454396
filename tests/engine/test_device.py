"""What would go wrong on a GPU, tried without one.

The device `meta` computes shapes alone. It refuses to mix with the CPU and to tell the host what a tensor holds, so a
step on it that ends mixed no devices and waited for nothing. Here it counts as a device that tensors are sent to.
"""

import pytest
import torch
from torch.overrides import TorchFunctionMode

from fakes import CASES, KINDS, Case, backbone_of, is_fit, make_model, make_prompt, make_rows
from overture.core.injection import Injection, LayerMemory, Memory, Vectors
from overture.engine import cache, step, transfer
from overture.engine.backbone import Backbone
from overture.engine.cache import InputCache
from overture.engine.frontends.text import text_backbone
from overture.engine.prompted import PromptedModel
from overture.engine.step import Step

HALF, FAR = torch.bfloat16, torch.device("meta")
# What it draws is looked at on the host: that is how it works.
QUIET = [case for case in CASES if case.method != "split"]
FEW = [Case("vectors", "before"), Case("prefix", "after"), Case("late", "before", {"layer": 1})]


class _Sends(TorchFunctionMode):
    """Refuses the ways to make, move and index tensors that wait for the device."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs, name = kwargs or {}, getattr(function, "__name__", "")
        if name in ("tensor", "as_tensor") and torch.device(kwargs.get("device") or "cpu") == FAR:
            raise AssertionError(f"{name} on a device waits for it")
        if name == "new_tensor" and args[0].device == FAR:
            raise AssertionError("new_tensor on a device waits for it")
        if name == "to" and args[0].device.type == "cpu" and FAR in args[1:] and not kwargs.get("non_blocking"):
            raise AssertionError("a copy that waits for the device")
        if name == "__getitem__" and args[0].device == FAR:
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            assert not any(map(_is_of_the_host, index)), "an index of the host waits for the device"
        return function(*args, **kwargs)


def _is_of_the_host(index) -> bool:
    return isinstance(index, list) or (isinstance(index, torch.Tensor) and index.dim() > 0 and index.device != FAR)


@pytest.fixture(autouse=True)
def meta_is_far(monkeypatch):
    for module in (transfer, cache):
        monkeypatch.setattr(module, "is_far", lambda device: device.type == "meta")
    monkeypatch.setattr(transfer, "locked", lambda value: value)


@pytest.fixture(scope="module")
def far() -> Backbone:
    """A tiny model in half precision on that device."""
    model = make_model("llama", dtype=HALF).to(FAR)
    return text_backbone(model, backbone_of("llama").text.tokenizer, id="far", weights_sha256="0")


def test_such_a_device_would_notice(far) -> None:
    value = torch.ones(2, device=FAR)
    for wrong in (
        lambda: value + torch.ones(2),
        lambda: value[value > 0],
        value.tolist,
        lambda: float(value[0]),
    ):
        with pytest.raises((RuntimeError, NotImplementedError)):
            wrong()
    for wrong in (lambda: torch.tensor([1], device=FAR), lambda: value[[0, 1]], lambda: torch.ones(2).to(FAR)):
        with _Sends(), pytest.raises(AssertionError):
            wrong()


@pytest.mark.parametrize("case", QUIET, ids=str)
def test_a_step_mixes_no_devices_and_waits_for_nothing(far, case: Case) -> None:
    prompt = make_prompt(case, backbone_of("llama"))
    if case.method == "deep":
        # It asks the model that it was made for.
        prompt.memory_of_layers = far.memory_of_layers
    for kind in KINDS if case in FEW else KINDS[:1]:
        if is_fit(case, kind):
            _step(far, prompt, kind, None)
            _step(far, prompt, kind, InputCache(1 << 24, device_bytes=1 << 24))


def _step(far: Backbone, prompt, kind: str, kept: InputCache | None) -> None:
    model = PromptedModel(far, prompt, kept)
    rows = make_rows(kind)
    with _Sends():
        model.warm(rows)
        loss = model.loss(rows)
        assert (loss.device, loss.dtype) == (FAR, torch.float32)
        loss.backward()
    for value in model.trainable().values():
        assert (value.device, value.dtype) == (FAR, torch.float32)
        assert value.grad is not None
        assert (value.grad.device, value.grad.dtype) == (FAR, torch.float32)


def test_finished_prompts_of_the_host_meet_the_model_where_it_is(far) -> None:
    memory = LayerMemory(*torch.zeros(2, 3, 2, 3, 8), torch.ones(3, 3))
    parts = [
        Injection(Vectors(torch.zeros(3, 32), "before"), labels=torch.zeros(3, 32), offset=torch.zeros(4, 32)),
        Injection(memory=Memory(memory, "after"), labels=torch.zeros(3, 32)),
        Injection(Vectors(torch.zeros(3, 32), "after")),
    ]
    for part in parts:
        with torch.no_grad(), _Sends():
            assert PromptedModel(far, part).loss(make_rows("one token")).device == FAR


def test_what_lies_there_already_stays_the_same() -> None:
    part = Injection(Vectors(torch.zeros(3, 32), "after"))
    assert PromptedModel(backbone_of("llama"), part).prompt is part


class TestCausalKernel:
    """Where nothing but the order of tokens decides who sees whom, a kernel without any mask runs."""

    @pytest.fixture
    def used(self, monkeypatch) -> list[bool]:
        """What each layer was told; of short inputs too."""
        found: list[bool] = []
        is_plain = Step.is_plain

        def told(step, *args):
            found.append(is_plain(step, *args))
            return found[-1]

        monkeypatch.setattr(step, "FUSED", {"cpu": 0})
        monkeypatch.setattr(Step, "is_plain", told)
        return found

    @pytest.mark.parametrize("family", ["llama", "gpt2", "mistral", "bert", "gemma2"])
    def test_same_loss_and_gradients(self, family: str, monkeypatch, used) -> None:
        backbone = backbone_of(family, torch.float64)
        kind = "mask" if family == "bert" else "one token"
        prompt, rows = make_prompt(Case("vectors", "before"), backbone), make_rows(kind)
        model = PromptedModel(backbone, prompt)
        loss = model.loss(rows)
        found = torch.autograd.grad(loss, list(model.trainable().values()))
        assert any(used) == (family in ("llama", "gpt2")), "windows, caps and both directions need masks"
        monkeypatch.setattr(step, "FUSED", {})
        wanted = model.loss(rows)
        torch.testing.assert_close(loss, wanted)
        torch.testing.assert_close(found, torch.autograd.grad(wanted, list(model.trainable().values())))

    @pytest.mark.parametrize("case", [Case("prefix", "memory"), Case("vectors", "after")], ids=str)
    def test_memory_needs_a_mask(self, case: Case, used) -> None:
        backbone = backbone_of("llama", torch.float64)
        kept = InputCache(1 << 20)
        model = PromptedModel(backbone, make_prompt(case, backbone), kept)
        model.warm(make_rows("one token"))
        used.clear()
        model.loss(make_rows("one token"))
        assert used
        assert not any(used)

    def test_branches_need_a_mask(self, used) -> None:
        backbone = backbone_of("llama", torch.float64)
        PromptedModel(backbone).loss(make_rows("several tokens"))
        assert used
        assert not any(used)


class TestKeptInputs:
    def test_on_the_device_while_the_budget_lasts_then_on_the_host(self, monkeypatch) -> None:
        monkeypatch.setattr(torch.Tensor, "cpu", lambda value: torch.zeros(value.shape))
        kept, entry = InputCache(2000, device_bytes=1000), torch.zeros(1, 2, 1, 3, 20, device=FAR)
        for number in range(4):
            kept.put((number,), entry)
        assert [kept.get((number,)).device.type for number in range(4)] == ["meta", "meta", "cpu", "cpu"]
        assert (kept.device_used_bytes, kept.used_bytes) == (960, 960)

    def test_a_users_budget_holds_for_the_device_too(self, monkeypatch) -> None:
        monkeypatch.setattr(cache, "device_budget_bytes", lambda device: 10_000)
        kept = InputCache(1000)
        monkeypatch.setattr(torch.Tensor, "cpu", lambda value: torch.zeros(value.shape))
        for number in range(3):
            kept.put((number,), torch.zeros(1, 2, 1, 3, 20, device=FAR))
        assert (kept.device_used_bytes, kept.used_bytes) == (960, 480)
