"""What rows of a pass begin with alike runs once a pass: the same numbers, fewer positions."""

from dataclasses import replace

import pytest
import torch

from fakes import backbone_of, make_rows
from overture.core.contracts import Answers, Features
from overture.core.injection import Injection, LayerMemory, Memory, Vectors, VectorTarget
from overture.core.rows import Encoded, Tokens
from overture.engine import beginnings
from overture.engine.answerer import LocalAnswerer
from overture.engine.beginnings import runs_once, with_shared_beginnings
from overture.engine.inputs import Inputs
from overture.engine.operations import count_operations
from overture.engine.prompted import PromptedModel

NUM_INPUTS = (5, 9, 0, 2, 7, 4, 6, 3)
ROWS = make_rows("several tokens", NUM_INPUTS)
LENGTHS = (3, 3, 4)
HEAD = (40, 41, 42, 43, 44, 45, 46, 47, 48, 49, 50, 51)


def headed(rows: list[Encoded], head: tuple[int, ...] = HEAD) -> list[Encoded]:
    return [replace(row, input=(Tokens((*head, *row.input_elements)),)) for row in rows]


@pytest.fixture(params=["llama", "gpt2", "gemma2"])
def backbone(request: pytest.FixtureRequest):
    return backbone_of(request.param, torch.float64)


def trained(backbone, *sizes: tuple[int, ...]) -> list[torch.Tensor]:
    chance = torch.Generator().manual_seed(0)
    return [torch.randn(size, generator=chance, dtype=torch.float64).requires_grad_() for size in sizes]


def of_vectors(backbone) -> list[Injection | None]:
    width = backbone.info.hidden_size
    *values, offset = trained(backbone, *[(length, width) for length in LENGTHS], (4, width))
    return [Injection(Vectors(vectors, "before"), offset=offset if n else None) for n, vectors in enumerate(values)]


def of_memories(backbone) -> list[Injection | None]:
    info = backbone.info
    shape = (info.num_layers, info.num_kv_heads, 3, info.head_dim)
    first, second, third, fourth = trained(backbone, *[shape] * 4)
    weights = torch.rand(info.num_layers, 3, dtype=torch.float64)
    memories = [LayerMemory(first, second), LayerMemory(third, fourth, weights)]
    return [*[Injection(memory=Memory(memory, "memory")) for memory in memories], None]


def measured(backbone, monkeypatch, rows, injections) -> list[tuple[list[torch.Tensor], float]]:
    """Losses and gradients with beginnings shared and without, each with the positions that ran."""
    values = [tensor for injection in {id(i): i for i in injections if i}.values() for tensor in tensors_of(injection)]
    results = []
    for worth in (1, 10**9):
        monkeypatch.setattr(beginnings, "_WORTH_TOKENS", worth)
        monkeypatch.setattr(beginnings, "_WORTH_HEAD", worth)
        with count_operations(backbone) as operations:
            losses = LocalAnswerer(backbone).losses(rows, injections)
        gradients = torch.autograd.grad(losses.square().sum(), values)
        results.append(([losses, *gradients], operations.positions))
    return results


def tensors_of(injection: Injection) -> list[torch.Tensor]:
    return [tensor for tensor in injection.tensors().values() if tensor.requires_grad]


@pytest.mark.parametrize("prompts", [of_vectors, of_memories])
@pytest.mark.parametrize("head", [(), HEAD])
def test_losses_and_gradients_are_those_of_live_tokens(backbone, prompts, head, monkeypatch) -> None:
    members = prompts(backbone)
    # Eight rows of each member, and a row of another text without a prompt.
    rows = [*headed(ROWS, head) * len(members), ROWS[0]]
    injections = [*[member for member in members for _ in ROWS], None]
    (shared, _), (live, _) = measured(backbone, monkeypatch, rows, injections)
    for value, expected in zip(shared, live, strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("prompts", "num_shared"), [(of_vectors, LENGTHS[0] + len(HEAD)), (of_memories, len(HEAD))])
def test_a_beginning_runs_once_for_the_rows_of_a_prompt(prompts, num_shared, monkeypatch) -> None:
    backbone = backbone_of("llama", torch.float64)
    (_, few), (_, many) = measured(backbone, monkeypatch, headed(ROWS), prompts(backbone)[:1] * len(ROWS))
    assert many - few == (len(ROWS) - 1) * num_shared


def test_answers_go_on_behind_a_shared_beginning(backbone, monkeypatch) -> None:
    rows = headed(make_rows("free text", NUM_INPUTS))
    for prompt in (None, of_memories(backbone)[1]):
        written = []
        for worth in (1, 10**9):
            monkeypatch.setattr(beginnings, "_WORTH_HEAD", worth)
            written.append(PromptedModel(backbone, prompt).ask(rows, Answers(5)))
        assert [answer.ids for answer in written[0]] == [answer.ids for answer in written[1]]


def test_a_mean_over_a_text_holds_its_beginning_too(monkeypatch) -> None:
    backbone, rows = backbone_of("llama", torch.float64), headed(ROWS)
    means = []
    for worth in (1, 10**9):
        monkeypatch.setattr(beginnings, "_WORTH_HEAD", worth)
        means.append(torch.stack(PromptedModel(backbone).ask(rows, Features(is_mean=True))))
    assert torch.equal(*means)


def test_few_rows_and_vectors_that_are_read_stay_live() -> None:
    backbone = backbone_of("llama")
    values = torch.randn(4, backbone.info.hidden_size)
    alone, read = (
        Injection(Vectors(values, "before")),
        Injection(Vectors(values, "before", targets=(VectorTarget(0, 50, 1.0),))),
    )
    for injections in ([alone, None], [read] * 8):
        rows = ROWS[: len(injections)]
        assert with_shared_beginnings(backbone, rows, injections, [True] * len(rows)) == (rows, injections)
    _, injections = with_shared_beginnings(backbone, ROWS, [alone] * 8, [True] * 8)
    assert all(shared and shared.vectors is None for shared in injections)


def test_a_plan_is_told_which_vectors_run_once_a_pass() -> None:
    backbone = backbone_of("llama")
    values = torch.randn(4, backbone.info.hidden_size)
    prompts = [Injection(Vectors(values, "before")), Injection(Vectors(values, "after")), None]
    assert [runs_once(backbone, prompt) for prompt in prompts] == [True, False, False]
    assert not runs_once(backbone_of("bert"), prompts[0])


KEPT = [tuple(row.input_elements) for row in headed(make_rows("several tokens", (5, 9, 5, 2, 9, 5, 2, 2), seed=1))]


def columns_of(backbone, texts, monkeypatch) -> list[tuple[list[torch.Tensor], float]]:
    """Keys and values of texts, with first tokens shared and without, each with the positions that ran."""
    results = []
    for worth in (1, 10**9):
        monkeypatch.setattr(beginnings, "_WORTH_HEAD", worth)
        with count_operations(backbone) as operations, torch.no_grad():
            columns = Inputs(backbone, None, max_tokens=10**6).columns(texts)
        sides = [torch.stack([side[layer] for layer in sorted(side)]) for side in (columns.keys, columns.values)]
        results.append((sides, operations.positions))
    return results


def test_kept_texts_that_begin_alike_have_the_keys_of_whole_ones(backbone, monkeypatch) -> None:
    (shared, few), (whole, many) = columns_of(backbone, KEPT, monkeypatch)
    for side, expected in zip(shared, whole, strict=True):
        torch.testing.assert_close(side, expected, rtol=1e-9, atol=1e-9)
    # Texts of one length share a run of their first tokens; where positions are absolute, all do.
    num_runs = len(set(map(len, KEPT))) if backbone.family.is_rotary else 1
    assert many - few == (len(KEPT) - num_runs) * len(HEAD)


def test_texts_that_are_their_beginning_keep_a_token_of_their_own(backbone, monkeypatch) -> None:
    (shared, few), (whole, many) = columns_of(backbone, [HEAD, (*HEAD, 5), (*HEAD, 6), HEAD], monkeypatch)
    for side, expected in zip(shared, whole, strict=True):
        torch.testing.assert_close(side, expected, rtol=1e-9, atol=1e-9)
    assert few < many


def test_texts_of_unlike_beginnings_run_whole(monkeypatch) -> None:
    backbone = backbone_of("llama", torch.float64)
    (shared, few), (whole, many) = columns_of(backbone, [*KEPT, (1, 2, 3)], monkeypatch)
    assert few == many
    assert all(map(torch.equal, shared, whole))
