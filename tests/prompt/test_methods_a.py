"""What is particular to the methods that make vectors or memory from other values; the contract suite has the rest."""

from dataclasses import replace

import pytest
import torch

from fakes import KINDS, Case, backbone_of, make_prompt, make_rows, source_of
from overture.core.errors import ConfigError
from overture.core.injection import Injection, LayerMemory, Memory
from overture.engine.prompted import PromptedModel
from overture.prompt.build import build_prompt
from overture.prompt.config import PromptConfig
from overture.prompt.pack import prompt_from, prompt_tensors
from overture.prompt.registry import open_gates

FAMILIES = ["llama", "gemma3_text", "gpt2"]
CLOSE = {"rtol": 1e-8, "atol": 1e-8}


@pytest.fixture(params=FAMILIES)
def backbone(request):
    return backbone_of(request.param)


def built(backbone, method: str, place: str, length: int = 3, seed: int = 0, init: str = "vocabulary", **options):
    """A prompt at its start."""
    config = PromptConfig(method=method, place=place, length=length, init=init, init_text="xyz", options=options)
    return build_prompt(config, source_of(backbone), seed)


def start(backbone, place: str = "before", length: int = 3) -> torch.Tensor:
    return built(backbone, "vectors", place, length).values.detach()


MAKERS = [
    Case("p_tuning", "before", {"encoder": "mlp", "width": 8}),
    Case("p_tuning", "after", {"encoder": "lstm", "width": 8}),
    Case("residual", "before", {"bottleneck": 5}),
    Case("low_rank", "after", {"rank": 2}),
    Case("ulpt", "before", {"rank": 3}),
]


@pytest.mark.parametrize("case", MAKERS, ids=str)
class TestFolding:
    def test_an_artifact_gives_the_vectors_and_nothing_else(self, backbone, case):
        prompt = make_prompt(case, backbone)
        tensors = prompt_tensors(prompt)
        assert set(tensors) == {"vectors"}
        again = prompt_from(tensors, PromptConfig(method=case.method, place=case.place, options=case.options))
        assert torch.equal(again.vectors.values, prompt.injection().vectors.values)

    def test_with_and_without_gradients_the_same_bits(self, backbone, case):
        prompt = make_prompt(case, backbone, length=7)
        with torch.no_grad():
            bare = prompt.injection().vectors.values
        assert torch.equal(prompt.injection().vectors.values.detach(), bare)

    def test_the_seed_alone_decides(self, backbone, case):
        torch.manual_seed(1)
        one = make_prompt(case, backbone, seed=5).injection().vectors.values
        state = torch.get_rng_state()
        torch.manual_seed(2)
        assert torch.equal(make_prompt(case, backbone, seed=5).injection().vectors.values, one)
        assert not torch.equal(make_prompt(case, backbone, seed=6).injection().vectors.values, one)
        torch.manual_seed(1)
        assert torch.equal(torch.get_rng_state(), state)


class TestPTuning:
    @pytest.mark.parametrize("encoder", ["mlp", "lstm"])
    def test_starts_as_the_start(self, backbone, encoder):
        prompt = built(backbone, "p_tuning", "before", encoder=encoder, width=8)
        assert torch.equal(prompt.injection().vectors.values, start(backbone))

    def test_with_an_lstm_vectors_depend_on_each_others_codes(self, backbone):
        for encoder, is_shared in (("mlp", False), ("lstm", True)):
            prompt = make_prompt(Case("p_tuning", "before", {"encoder": encoder, "width": 8}), backbone)
            (gradient,) = torch.autograd.grad(prompt.injection().vectors.values[1].sum(), prompt.code)
            assert (gradient[1] != 0).all()
            assert bool((gradient[[0, 2]] != 0).all()) == is_shared
            assert is_shared or (gradient[[0, 2]] == 0).all()

    def test_an_odd_width_is_an_error(self):
        with pytest.raises(ConfigError) as caught:
            built(backbone_of("llama"), "p_tuning", "before", width=7)
        assert [problem.where for problem in caught.value.problems] == ["width"]


class TestResidual:
    def test_starts_as_the_start(self, backbone):
        assert torch.equal(built(backbone, "residual", "before").injection().vectors.values, start(backbone))

    def test_formula(self, backbone):
        prompt = make_prompt(Case("residual", "before", {"bottleneck": 5}), backbone)
        width = backbone.info.hidden_size
        down, up, norm = torch.nn.Linear(width, 5), torch.nn.Linear(5, width), torch.nn.LayerNorm(width)
        down.load_state_dict({"weight": prompt.down_weight, "bias": prompt.down_bias})
        up.load_state_dict({"weight": prompt.up_weight, "bias": prompt.up_bias})
        norm.load_state_dict({"weight": prompt.norm_gain, "bias": prompt.norm_shift})
        wanted = prompt.values + norm(up(torch.nn.GELU()(down(prompt.values))))
        torch.testing.assert_close(prompt.injection().vectors.values, wanted)


class TestLowRank:
    @pytest.mark.parametrize("rank", [1, 2, 4, 6])
    def test_starts_at_the_best_approximation_of_its_rank(self, backbone, rank):
        wanted = start(backbone, length=6).double()
        found = built(backbone, "low_rank", "before", 6, rank=rank).injection().vectors.values.detach().double()
        sizes = torch.linalg.svdvals(wanted)
        assert int(torch.linalg.matrix_rank(found, rtol=1e-5)) == rank
        # Eckart and Young: no matrix of this rank comes closer.
        assert float((found - wanted).norm()) == pytest.approx(float(sizes[rank:].norm()), rel=1e-5, abs=1e-5)

    @pytest.mark.parametrize("init", ["zero", "text"])
    def test_a_start_of_lower_rank_can_still_move_everywhere(self, backbone, init):
        # Nothing at all, and three tokens repeated.
        prompt = built(backbone, "low_rank", "before", 6, init=init, rank=5)
        gradient = torch.randn(6, backbone.info.hidden_size, generator=torch.Generator().manual_seed(0))
        prompt.injection().vectors.values.backward(gradient)
        assert (prompt.right.norm(dim=1) > 0.1).all()
        assert (prompt.left.grad.norm(dim=0) > 0.1).all()

    def test_a_rank_above_the_prompts_own_is_an_error(self, backbone):
        with pytest.raises(ConfigError, match="the rank exceeds") as caught:
            built(backbone, "low_rank", "before", 3, rank=4)
        assert caught.value.wanted == "at most 3"


class TestUlpt:
    def test_the_projection_depends_on_the_seed_alone(self, backbone):
        one = built(backbone, "ulpt", "before", 3, seed=1, rank=4).projection
        same = built(backbone, "ulpt", "after", 7, seed=1, init="random", rank=4).projection
        assert torch.equal(one, same)
        assert not torch.equal(one, built(backbone, "ulpt", "before", 3, seed=2, rank=4).projection)
        assert not one.requires_grad

    def test_the_projections_variance(self, backbone):
        found = built(backbone, "ulpt", "before", rank=400).projection
        assert float(found.var()) == pytest.approx(1 / 400, rel=0.05)

    def test_formula(self, backbone):
        prompt = make_prompt(Case("ulpt", "before", {"rank": 3}), backbone)
        found = prompt.injection().vectors.values
        for p, d in [(0, 0), (2, 5), (1, 31)]:
            along = sum(prompt.codes[p, k] * prompt.projection[k, d] for k in range(3))
            torch.testing.assert_close(found[p, d], along * prompt.scale[d] + prompt.shift[d])

    def test_starts_as_close_as_it_can(self, backbone):
        wanted = start(backbone, length=6)
        prompt = built(backbone, "ulpt", "before", 6, rank=4)
        assert (prompt.scale == 1).all()
        rest = (wanted - prompt.injection().vectors.values).detach()
        # What is left lies across all that the numbers and the shift could add.
        torch.testing.assert_close(rest @ prompt.projection.T, torch.zeros(6, 4), rtol=0, atol=1e-4)
        torch.testing.assert_close(rest.sum(0), torch.zeros_like(rest[0]), rtol=0, atol=1e-4)
        whole = built(backbone, "ulpt", "before", 6, rank=backbone.info.hidden_size).injection().vectors.values
        torch.testing.assert_close(whole.detach(), wanted, rtol=1e-3, atol=1e-3)


class TestDeep:
    def test_starts_at_the_same_vectors_in_every_layer(self, backbone):
        prompt = built(backbone, "deep", "after")
        assert prompt.values.shape == (backbone.info.num_layers, 3, backbone.info.hidden_size)
        assert all(torch.equal(own, start(backbone)) for own in prompt.values)
        found, plain = prompt.injection().memory.memory, backbone.memory_of(start(backbone))
        torch.testing.assert_close(found.keys[0], plain.keys[0])
        torch.testing.assert_close(found.values[0], plain.values[0])

    def test_an_artifact_has_keys_and_values(self, backbone):
        assert set(prompt_tensors(make_prompt(Case("deep", "memory"), backbone))) == {"keys", "values"}


GATES = [{}, {"layers": False}, {"columns": False}]


class TestGated:
    @pytest.mark.parametrize("options", GATES, ids=str)
    def test_starts_as_the_tokens_own_memory_with_open_gates(self, backbone, options):
        found = built(backbone, "gated", "after", **options).injection().memory.memory
        own = backbone.memory_of(start(backbone))
        assert torch.equal(found.keys, own.keys)
        assert torch.equal(found.values, own.values)
        gate = torch.tensor(3.0).sigmoid()
        wanted = (gate * gate if not options else gate).expand(backbone.info.num_layers, 3)
        torch.testing.assert_close(found.weights, wanted)

    def test_a_weight_is_the_product_of_its_gates(self, backbone):
        prompt = make_prompt(Case("gated", "memory"), backbone)
        wanted = torch.outer(prompt.layer_gates.sigmoid(), prompt.column_gates.sigmoid())
        torch.testing.assert_close(prompt.injection().memory.memory.weights, wanted)

    @pytest.mark.parametrize(
        ("options", "shut_layers", "shut_columns"),
        [({}, 1, 1), ({"layers": False}, 0, 1), ({"columns": False}, 1, 0)],
        ids=str,
    )
    def test_what_is_kept_says_what_is_open(self, backbone, options, shut_layers, shut_columns):
        prompt = built(backbone, "gated", "memory", length=4, **options)
        with torch.no_grad():
            for gates in (prompt.layer_gates, prompt.column_gates):
                if gates is not None:
                    gates[1] = -2.0
        gates = open_gates("gated", prompt_tensors(prompt)).dump()
        num_layers = backbone.info.num_layers
        assert gates["layers"] == {"open": num_layers - shut_layers, "of": num_layers}
        assert gates["columns"] == {"open": 4 - shut_columns, "of": 4}
        assert open_gates("prefix", prompt_tensors(built(backbone, "prefix", "memory"))) is None

    @pytest.mark.parametrize("place", ["memory", "after"])
    def test_a_closed_column_counts_in_positions_so_it_is_not_cut(self, place):
        backbone, rows = backbone_of("llama"), make_rows("one token")
        memory = built(backbone, "gated", place, length=4).injection().memory.memory
        weights = memory.weights.clone()
        weights[:, 1] = 0
        stays, shut = torch.tensor([0, 2, 3]), LayerMemory(memory.keys, memory.values, weights)
        cut = LayerMemory(memory.keys[:, :, stays], memory.values[:, :, stays], weights[:, stays])
        ways = [PromptedModel(backbone, Injection(memory=Memory(each, place))) for each in (shut, cut)]
        closed, without = [model.label_scores(rows) for model in ways]
        assert float((closed - without).abs().max()) > 1e-4

    def test_without_any_gate_is_an_error(self):
        with pytest.raises(ConfigError) as caught:
            built(backbone_of("llama"), "gated", "memory", layers=False, columns=False)
        assert "the method prefix" in str(caught.value)

    @pytest.mark.parametrize("place", ["memory", "after"])
    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("family", FAMILIES)
    def test_gates_wide_open_are_plain_memory(self, family, place, kind):
        backbone, rows = backbone_of(family, torch.float64), make_rows(kind)
        prompt = opened(make_prompt(Case("gated", place), backbone), float("inf"))
        memory = prompt.injection().memory.memory
        plain = Injection(memory=Memory(LayerMemory(memory.keys, memory.values), place))
        torch.testing.assert_close(loss(backbone, prompt, rows), loss(backbone, plain, rows), **CLOSE)

    @pytest.mark.parametrize("gates", ["layer_gates", "column_gates"])
    @pytest.mark.parametrize("family", ["llama", "gemma3_text"])
    def test_closed_gates_are_no_prompt(self, family, gates):
        # Where positions are relative; elsewhere the text still begins behind the columns.
        backbone, rows = backbone_of(family, torch.float64), make_rows("several tokens")
        prompt = opened(make_prompt(Case("gated", "memory"), backbone), -float("inf"), gates)
        torch.testing.assert_close(loss(backbone, prompt, rows), loss(backbone, None, rows), **CLOSE)

    @pytest.mark.parametrize("place", ["memory", "after"])
    @pytest.mark.parametrize("family", FAMILIES)
    def test_what_a_closed_gate_holds_back_is_of_no_matter(self, family, place):
        backbone, rows = backbone_of(family, torch.float64), make_rows("free text")
        prompt = make_prompt(Case("gated", place), backbone)
        with torch.no_grad():
            prompt.layer_gates[1] = prompt.column_gates[2] = -float("inf")
        before = loss(backbone, prompt, rows)
        with torch.no_grad():
            prompt.values[:, 1] += 7
            prompt.values[:, :, :, 2] -= 5
        torch.testing.assert_close(loss(backbone, prompt, rows), before, **CLOSE)
        with torch.no_grad():
            prompt.values[:, 0, :, 0] += 7
        assert abs(float(loss(backbone, prompt, rows) - before)) > 1e-4


def opened(prompt, logit: float, only: str = ""):
    with torch.no_grad():
        for name in [only] if only else ["layer_gates", "column_gates"]:
            getattr(prompt, name).fill_(logit)
    return prompt


@torch.no_grad()
def loss(backbone, prompt, rows) -> torch.Tensor:
    return PromptedModel(backbone, prompt).loss(rows)


def test_memory_methods_start_from_a_stored_memory():
    backbone = backbone_of("llama")
    stored = make_prompt(Case("prefix", "memory"), backbone).injection()
    source = replace(source_of(backbone), prompt=lambda ref: stored)
    config = PromptConfig(method="gated", place="memory", length=3, init="prompt", init_prompt="x")
    found = build_prompt(config, source, 0).injection().memory.memory
    assert torch.equal(found.keys, stored.memory.memory.keys)


@pytest.mark.parametrize("options", [{}, {"layers": False}, {"columns": False}], ids=str)
def test_gates_start_as_they_were_stored(options):
    backbone = backbone_of("llama")
    prompt = make_prompt(Case("gated", "memory", options), backbone, length=4)
    with torch.no_grad():
        for gates, values in ((prompt.layer_gates, (2.0, -1.0, 0.5)), (prompt.column_gates, (-20.0, -1.0, 3.0, 0.0))):
            if gates is not None:
                gates.copy_(torch.tensor(values))
    source = replace(source_of(backbone), prompt=lambda ref: prompt.injection())
    config = PromptConfig(method="gated", place="memory", length=4, init="prompt", init_prompt="x", options=options)
    for asked in (options, {}):
        found = build_prompt(config.model_copy(update={"options": asked}), source, 0).injection().memory.memory
        torch.testing.assert_close(found.weights, prompt.injection().memory.memory.weights, rtol=1e-4, atol=1e-5)


def test_gates_that_cannot_be_started_from_are_refused():
    backbone = backbone_of("llama")
    stored = make_prompt(Case("gated", "memory"), backbone, noise=1.0).injection()
    source = replace(source_of(backbone), prompt=lambda ref: stored)
    config = PromptConfig(method="gated", place="memory", length=3, init="prompt", init_prompt="x")
    with pytest.raises(ConfigError) as caught:
        build_prompt(config.model_copy(update={"options": {"layers": False}}), source, 0)
    assert (caught.value.where, caught.value.got) == ("prompt.options", "columns")
    for method in ("prefix", "cartridge"):
        with pytest.raises(ConfigError, match="--method gated"):
            build_prompt(config.model_copy(update={"method": method}), source, 0)
