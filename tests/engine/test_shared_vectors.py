"""Vectors that stand before the texts of several rows run once a pass: the same numbers, fewer positions."""

import pytest
import torch

from fakes import backbone_of, make_rows
from overture.core.injection import Injection, Vectors, VectorTarget
from overture.engine import compiled
from overture.engine.answerer import LocalAnswerer
from overture.engine.operations import counted

ROWS = make_rows("several tokens", (5, 9, 0, 2, 7, 4, 6, 3))
LENGTHS = (3, 3, 4)


def prompts(backbone) -> list[Injection]:
    chance = torch.Generator().manual_seed(0)
    sizes = [(length, backbone.info.hidden_size) for length in LENGTHS]
    values = [torch.randn(size, generator=chance, dtype=torch.float64).requires_grad_() for size in sizes]
    offset = torch.randn(4, backbone.info.hidden_size, generator=chance, dtype=torch.float64)
    return [Injection(Vectors(vectors, "before"), offset=offset if n else None) for n, vectors in enumerate(values)]


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_losses_and_gradients_are_those_of_live_vectors(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = backbone_of(family, torch.float64)
    members = prompts(backbone)
    # Eight rows of each member, and a row without a prompt.
    rows, injections = [*ROWS * len(members), ROWS[0]], [member for member in members for _ in ROWS]
    results, positions = [], []
    for worth in (1, 10**9):
        monkeypatch.setattr(compiled, "_WORTH_TOKENS", worth)
        with counted(backbone) as operations:
            losses = LocalAnswerer(backbone).losses(rows, [*injections, None])
        gradients = torch.autograd.grad(losses.square().sum(), [member.vectors.values for member in members])
        results.append([losses, *gradients])
        positions.append(operations.positions)
    for shared, live in zip(*results, strict=True):
        torch.testing.assert_close(shared, live, rtol=1e-9, atol=1e-9)
    # Padded to the longest row, whose vectors are among what is saved.
    assert positions[1] - positions[0] == max(LENGTHS) * len(rows) - sum(LENGTHS)


def test_few_rows_and_vectors_that_are_read_stay_live() -> None:
    backbone = backbone_of("llama")
    values = torch.randn(4, backbone.info.hidden_size)
    alone, read = (
        Injection(Vectors(values, "before")),
        Injection(Vectors(values, "before", targets=(VectorTarget(0, 50, 1.0),))),
    )
    for injections in ([alone, None], [read] * 8):
        assert compiled.with_shared_vectors(backbone, injections) == injections
    assert all(shared.vectors is None for shared in compiled.with_shared_vectors(backbone, [alone] * 8))
