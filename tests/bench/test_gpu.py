"""The GPU bench runs on the CPU with a tiny shape, and the page can be written from what it leaves."""

import json
from pathlib import Path

import pytest
import transformers

BENCH = Path(__file__).parents[2] / "bench"
pytest.importorskip("peft")


@pytest.fixture(autouse=True)
def bench_path(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCH))
    for folder in ("speed", "pages"):
        monkeypatch.syspath_prepend(str(BENCH / folder))


def test_shapes_are_those_of_the_models() -> None:
    import gpu

    counts = {}
    for name in ("1b", "8b"):
        import torch

        with torch.device("meta"):
            config = transformers.LlamaConfig(**gpu.SHAPES[name])
            counts[name] = sum(p.numel() for p in transformers.AutoModelForCausalLM.from_config(config).parameters())
    # As the models' cards have them.
    assert counts == {"1b": 1_235_814_400, "8b": 8_030_261_248}


def test_a_tiny_run_and_its_page(tmp_path: Path) -> None:
    import gpu
    import report

    words = "--shape tiny --device cpu --dtype bfloat16 --rows 8 --tokens 12 --batch 4 --length 3 --repeats 1"
    gpu.main([*words.split(), "--cohorts", "1", "3", "--out", str(tmp_path)])
    found = json.loads((tmp_path / "tiny.json").read_text())
    assert [*found["ways"]] == ["vectors/before", "vectors/after", "prefix/after", "peft prompt tuning"]
    for way in found["ways"].values():
        assert way["seconds"]["median"] > 0
        assert way["utilisation"] > 0
    before, rival = found["ways"]["vectors/before"], found["ways"]["peft prompt tuning"]
    assert before["num_live_tokens"] == rival["num_live_tokens"] > found["ways"]["vectors/after"]["num_live_tokens"]
    assert before["num_trainable_values"] == rival["num_trainable_values"] == 3 * 32
    assert [(each["way"], each["members"]) for each in found["cohorts"]] == [
        (way, number) for way in gpu.COHORT_WAYS for number in (1, 3)
    ]
    text = report.gpu_text([found])
    assert "vectors/before x 3" in text
    assert found["command"] in text
    assert "does not fit" in report.gpu_text([found | {"cohorts": [{"way": "w", "members": 64, "error": "full"}]}])


def test_compiled_layers_are_an_axis(monkeypatch: pytest.MonkeyPatch) -> None:
    import gpu

    config = gpu.Config("tiny", "cpu", "float32", 8, 12, 4, 3, 1, (1,), True)
    assert config.name == "tiny-compiled"
    assert gpu.parse_arguments(config.command.split()[2:]).compile_layers
    asked: list[gpu.Backbone] = []
    monkeypatch.setattr(gpu.Backbone, "with_compiled_layers", lambda self: asked.append(self) or self)
    assert gpu.backbone_of(config) is asked[0]


def test_without_results_the_page_says_so() -> None:
    import report

    assert "Not measured yet" in report.gpu_text([])


def test_large_shapes_are_refused_without_a_gpu() -> None:
    import gpu

    with pytest.raises(SystemExit, match="--shape tiny"):
        gpu.main(["--shape", "8b", "--device", "cpu"])
