"""A long memory that all rows share is read where it is: the same answers as if it were copied in front of each row."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from fakes import Case, backbone_of, make_prompt, make_rows
from overture.core.contracts import LabelScores
from overture.core.injection import Injection, Memory
from overture.engine import attention
from overture.engine.cache import InputCache
from overture.engine.prompted import PromptedModel
from overture.engine.step import Columns, Step
from vision_fakes import LABELS, image_rows, vision_backbone_of

READ_APART = {"llama": "one token", "gpt2": "several tokens", "qwen2": "one token", "bert": "mask"}
LENGTHS = (7, 3, 12, 1)


def both(monkeypatch: pytest.MonkeyPatch, model: PromptedModel, rows: Sequence[Any]) -> tuple[Any, Any, int]:
    """The scores without copies and with them, and how often something was read apart."""
    apart, calls = attention._attention_apart, []
    copied = list(model.ask(rows, LabelScores()))
    monkeypatch.setattr(attention, "SHARED_COLUMNS", 1)
    monkeypatch.setattr(attention, "_attention_apart", lambda *args: calls.append(1) or apart(*args))
    return list(model.ask(rows, LabelScores())), copied, len(calls)


def prefixed(family: str) -> PromptedModel:
    backbone = backbone_of(family, torch.float64)
    return PromptedModel(backbone, make_prompt(Case("prefix", "memory"), backbone), InputCache(1 << 26))


@pytest.mark.parametrize(("family", "kind"), READ_APART.items())
def test_answers_are_those_of_copied_columns(family: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found, copied, num_calls = both(monkeypatch, prefixed(family), make_rows(kind, LENGTHS))
    torch.testing.assert_close(found, copied, rtol=1e-9, atol=1e-9)
    assert num_calls


@pytest.mark.parametrize("family", ["vit", "dinov2", "siglip_vision_model"])
def test_images_too(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = vision_backbone_of(family)
    width, generator = backbone.info.hidden_size, torch.Generator().manual_seed(0)
    values = torch.randn(backbone.info.num_layers, 5, width, dtype=torch.float64, generator=generator)
    labels = torch.randn(len(LABELS.labels), width, dtype=torch.float64, generator=generator)
    with torch.no_grad():
        injection = Injection(memory=Memory(backbone.memory_of_layers(values), "memory"), labels=labels)
    model = PromptedModel(backbone, injection, InputCache(1 << 26))
    found, copied, num_calls = both(monkeypatch, model, image_rows(backbone))
    torch.testing.assert_close(found, copied, rtol=1e-9, atol=1e-9)
    assert num_calls


@pytest.mark.parametrize("family", ["gemma2", "t5", "mistral"])
def test_caps_biases_and_windows_are_heeded(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found, copied, _ = both(monkeypatch, prefixed(family), make_rows("several tokens", LENGTHS))
    torch.testing.assert_close(found, copied, rtol=1e-9, atol=1e-9)


def test_nothing_is_read_apart_where_keys_or_values_are_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel gives no gradient through its sums: a trained key alone must be enough to leave it."""
    monkeypatch.setattr(attention, "SHARED_COLUMNS", 1)
    step = Step(torch.zeros(2, 3, dtype=torch.long), torch.ones(2, 3, dtype=torch.bool))
    columns = {0: torch.randn(1, 2, 4, 8)}
    step.memory = [Columns(columns, columns, torch.zeros(1, 4, dtype=torch.long), torch.ones(1, 4, dtype=torch.bool))]
    query, key, value = torch.randn(3, 2, 2, 3, 8)
    assert attention._is_read_apart(step, 0, query, key, value, None)
    for trained in (query, key, value, columns[0]):
        trained.requires_grad_(True)
        assert not attention._is_read_apart(step, 0, query, key, value, None)
        trained.requires_grad_(False)
