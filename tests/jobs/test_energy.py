"""Energy: a machine whose meters can be read, one whose cannot, and all that codecarbon may do on the way.

The meters are faked where codecarbon meets the machine: the kernel's counter files, and NVIDIA's library.
"""

import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from overture.jobs.compare import energy
from overture.jobs.compare.energy import EnergyMeter, energy_meter
from overture.jobs.compare.ledger import CostMeter

cpu = pytest.importorskip("codecarbon.core.cpu")
gpu = pytest.importorskip("codecarbon.core.gpu")


class Counter:
    """One processor's energy counter, as the kernel shows it in files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "intel-rapl" / "subsystem"
        self.zone = self.folder / "intel-rapl:0"
        self.zone.mkdir(parents=True)
        self.file = self.zone / "energy_uj"
        for name, text in {"name": "package-0", "max_energy_range_uj": "262143328850", "energy_uj": "0"}.items():
            (self.zone / name).write_text(text)
        self.microjoules = 5_000_000_000
        self.spend(0.0)

    def spend(self, joules: float) -> None:
        self.microjoules += round(joules * 1e6)
        self.file.write_text(f"{self.microjoules}\n")


@pytest.fixture
def counter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Counter:
    """A machine with a counter that can be read."""
    found = Counter(tmp_path)
    available, rapl = cpu.is_rapl_available, cpu.IntelRAPL
    monkeypatch.setattr(cpu, "is_rapl_available", lambda: available(str(found.folder)))
    monkeypatch.setattr(cpu, "IntelRAPL", lambda: rapl(str(found.folder)))
    return found


def test_joules_are_the_counters(counter: Counter) -> None:
    meter = energy_meter("cpu")
    assert meter is not None
    counter.spend(12.5)
    assert meter.joules() == pytest.approx(12.5, rel=1e-6)
    counter.spend(30.0)
    assert meter.joules() == pytest.approx(42.5, rel=1e-6)
    assert meter.what == "processor"


def test_work_is_booked_where_it_was_done(counter: Counter, monkeypatch: pytest.MonkeyPatch) -> None:
    # This counter stands still between our calls.
    monkeypatch.setattr(energy, "_MIN_SECONDS", 60.0)
    book = CostMeter("cpu")
    counter.spend(1000.0)
    with book.on("training"):
        counter.spend(7.0)
        with book.on("validation"):
            counter.spend(3.0)
        counter.spend(2.0)
    counter.spend(1000.0)
    found = book.ledger()
    assert found.energy_meter == "processor"
    assert found.training.joules == pytest.approx(9.0, rel=1e-5)
    assert found.validation.joules == pytest.approx(3.0, rel=1e-5)


def test_a_counter_that_starts_again_at_zero_is_no_loss(counter: Counter) -> None:
    counter.microjoules = 262_143_328_850 - 4_000_000
    counter.spend(0.0)
    meter = energy_meter("cpu")
    assert meter is not None
    counter.microjoules = 1_000_000
    counter.spend(0.0)
    assert meter.joules() == pytest.approx(5.0, rel=1e-3)


def test_a_counter_that_cannot_be_read_any_more_is_no_meter(counter: Counter) -> None:
    """codecarbon gives 0 kWh then, without a word."""
    book = CostMeter("cpu")
    with book.on("training"):
        counter.spend(5.0)
    counter.file.unlink()
    with book.on("serving"):
        time.sleep(0.15)
    assert book.ledger().energy_meter == ""


def test_a_machine_without_counters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    available = cpu.is_rapl_available
    monkeypatch.setattr(cpu, "is_rapl_available", lambda: available(str(tmp_path / "nothing")))
    assert energy_meter("cpu") is None
    assert CostMeter("cpu").ledger().energy_meter == ""


def test_without_codecarbon(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "codecarbon"]:
        monkeypatch.setitem(sys.modules, name, None)
    assert energy_meter("cpu") is None
    assert energy_meter("cuda") is None


@pytest.mark.parametrize("error", [PermissionError("root alone"), ValueError("odd file"), SystemExit(3)])
def test_whatever_codecarbon_raises_is_no_meter(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def raising() -> bool:
        raise error

    monkeypatch.setattr(cpu, "is_rapl_available", raising)
    assert energy_meter("cpu") is None


def test_readings_that_fail_or_make_no_sense() -> None:
    def raising(seconds: float) -> float:
        raise OSError("gone")

    for read in (raising, lambda seconds: float("nan"), lambda seconds: -1.0, lambda seconds: float("inf")):
        answers = iter([lambda seconds: 1e-6, read])
        meter = EnergyMeter("processor", lambda seconds, answers=answers: next(answers)(seconds))
        assert meter.joules() == pytest.approx(3.6)
        assert meter.what == "processor"
        assert meter.joules() == pytest.approx(3.6)
        assert meter.what == ""
        # It is not asked any more.
        assert meter.joules() == pytest.approx(3.6)


# -- GPUs


class Nvml:
    """NVIDIA's library with one GPU; whatever else is asked gives 0."""

    NVMLError = NVMLError_NotSupported = RuntimeError

    def __init__(self) -> None:
        self.millijoules = 9_000_000

    def nvmlInit(self) -> None:
        """As the library's."""

    def nvmlDeviceGetCount(self) -> int:
        return 1

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: Any) -> int:
        return self.millijoules

    def nvmlDeviceGetName(self, handle: Any) -> str:
        return "a GPU"

    def nvmlDeviceGetUUID(self, handle: Any) -> str:
        return "GPU-0"

    def nvmlDeviceGetMemoryInfo(self, handle: Any) -> SimpleNamespace:
        return SimpleNamespace(total=1, free=1, used=0)

    def __getattr__(self, name: str) -> Any:
        return lambda *given: 0


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Nvml:
    found = Nvml()
    monkeypatch.setattr(gpu.gpu_nvidia, "pynvml", found)
    monkeypatch.setattr(gpu, "PYNVML_AVAILABLE", True)
    monkeypatch.setattr(gpu, "AMDSMI_AVAILABLE", False)
    return found


def test_a_gpus_joules_are_added_to_the_processors(counter: Counter, nvml: Nvml) -> None:
    meter = energy_meter("cuda")
    assert meter is not None
    counter.spend(2.0)
    nvml.millijoules += 40_000
    assert meter.joules() == pytest.approx(42.0, rel=1e-5)
    assert meter.what == "processor and GPUs"
    # On the CPU a GPU beside it has no part.
    assert energy_meter("cpu").what == "processor"  # type: ignore[union-attr]


def test_a_gpu_alone_counts_and_a_processor_alone_does_not(
    nvml: Nvml, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def raising() -> bool:
        raise PermissionError("root alone")

    monkeypatch.setattr(cpu, "is_rapl_available", raising)
    meter = energy_meter("cuda:0")
    assert meter is not None
    assert meter.what == "GPUs"


def test_a_processors_meter_says_nothing_of_a_gpu(counter: Counter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "PYNVML_AVAILABLE", False)
    monkeypatch.setattr(gpu, "AMDSMI_AVAILABLE", False)
    assert energy_meter("cuda") is None


# -- what codecarbon does beside

_WATCHED = """
import os, sys
seen = []
def watch(event, given):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname"):
        seen.append((event, str(given)))
    is_writing = event == "open" and (set(given[1] or "") & set("wax+") or given[2] & (os.O_WRONLY | os.O_RDWR))
    # Python's tempfile tries whether its folder can be written to.
    if is_writing and str(given[0]) != os.devnull and not str(given[0]).startswith(os.environ["TMPDIR"]):
        seen.append((event, str(given[0])))
    if event in ("os.mkdir", "os.rename"):
        seen.append((event, str(given[0])))
sys.addaudithook(watch)
from overture.jobs.compare.energy import energy_meter
for device in ("cpu", "cuda"):
    meter = energy_meter(device)
    if meter:
        meter.joules()
print(seen)
"""


def test_nothing_is_written_and_nobody_called(tmp_path: Path) -> None:
    home, other = tmp_path / "home", tmp_path / "tmp"
    home.mkdir()
    other.mkdir()
    env = {"PATH": "/usr/bin:/bin", "PYTHONPATH": ":".join(sys.path), "HOME": str(home), "TMPDIR": str(other)}
    done = subprocess.run(
        [sys.executable, "-B", "-c", _WATCHED],
        check=False,
        cwd=home,
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "[]", "")
    assert [*home.iterdir(), *other.iterdir()] == []
