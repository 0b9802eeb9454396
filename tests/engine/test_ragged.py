"""Rows of unlike length are run in groups; nothing but the time changes."""

import pytest
import torch

from fakes import backbone_of
from overture.engine import ragged
from overture.engine.step import Columns, Step


def test_rows_of_like_length_stay_together():
    assert ragged.like_lengths([50] * 20) == [[*range(20)]]


def test_few_tokens_stay_together():
    assert ragged.like_lengths([1, 60, 2, 40]) == [[0, 2, 3, 1]]


def test_unlike_lengths_part_and_little_is_padded():
    lengths = [6 + 3 * (row % 17) for row in range(64)]
    found = ragged.like_lengths(lengths)
    assert sorted(row for rows in found for row in rows) == [*range(64)]
    padded = sum(len(rows) * max(lengths[row] for row in rows) for rows in found)
    assert len(found) > 1
    assert padded < 1.2 * sum(lengths)
    assert all(sum(lengths[row] for row in rows) >= ragged.ENOUGH for rows in found[:-1])


@pytest.fixture
def eager(monkeypatch):
    """Groups at once."""
    monkeypatch.setattr(ragged, "ENOUGH", 1)


def step_of(lengths, size, memory=(), with_branch=False):
    valid = torch.arange(size)[None] < torch.tensor(lengths)[:, None]
    positions = torch.arange(size)[None].expand_as(valid)
    branch = (torch.arange(size)[None] % 3).expand_as(valid).contiguous() if with_branch else None
    return Step(positions, valid, branch, memory, {}, is_packed=True)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
@pytest.mark.parametrize("num_memories", [0, 1, 4])
def test_groups_give_what_the_whole_gives(family, num_memories, eager):
    backbone = backbone_of(family)
    lengths, generator = [3, 9, 4, 7], torch.Generator().manual_seed(0)
    live = torch.randn(4, 9, backbone.info.hidden_size, generator=generator)

    def memory():
        if not num_memories:
            return []
        shape = (num_memories, backbone.info.num_kv_heads, 2, backbone.info.head_dim)
        draw = torch.Generator().manual_seed(1)
        keys = {layer: torch.randn(shape, generator=draw) for layer in range(backbone.info.num_layers)}
        valid = torch.ones(num_memories, 2, dtype=torch.bool)
        valid[-1, 0] = num_memories == 1
        return [Columns(keys, keys, torch.zeros(num_memories, 2, dtype=torch.long), valid)]

    one, two = (step_of(lengths, 9, memory(), with_branch=True) for _ in range(2))
    with torch.no_grad():
        assert ragged.groups_of(live, one) == [[0, 2], [3, 1]]
        found = backbone.run(live, one)
        whole = backbone.stack.run_together(live, two)
    for row, length in enumerate(lengths):
        torch.testing.assert_close(found[row, :length], whole[row, :length], rtol=1e-4, atol=1e-5)
    assert one.key_values.keys() == two.key_values.keys()
    for layer, pair in one.key_values.items():
        for own, other in zip(pair, two.key_values[layer], strict=True):
            for row, length in enumerate(lengths):
                torch.testing.assert_close(own[row, :, :length], other[row, :, :length], rtol=1e-4, atol=1e-5)


def test_where_gradients_are_recorded_rows_stay_together(eager):
    backbone = backbone_of("llama")
    live = torch.randn(3, 9, backbone.info.hidden_size)
    step = step_of([2, 9, 5], 9)
    assert ragged.groups_of(live, step) == [[0, 1, 2]]


def test_a_memory_that_rows_share_keeps_them_together(eager):
    keys = {0: torch.zeros(2, 1, 1, 4)}
    step = step_of([2, 9, 5, 4], 9, [Columns(keys, keys, torch.zeros(1, 1), torch.ones(1, 1, dtype=torch.bool))])
    with torch.no_grad():
        assert len(ragged.groups_of(torch.zeros(4, 9, 8), step)) == 1
