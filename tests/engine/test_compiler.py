"""Compiled layers: the numbers, the model and its hooks are those of layers that run as they are."""

import shutil

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from fakes import Case, backbone_of, make_backbone, make_prompt, make_rows
from overture.core.errors import BackboneError
from overture.engine import compiler
from overture.engine.backbone import Backbone
from overture.engine.cache import InputCache
from overture.engine.cohort import Cohort
from overture.engine.info import weights_digest
from overture.engine.operations import count_operations
from overture.engine.prompted import PromptedModel
from overture.engine.step import Step

# torch asks intermediate tensors for a gradient while it traces, and hides its own warning from the screen alone.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
DOUBLE = torch.float64
CLOSE = {"rtol": 1e-10, "atol": 1e-10}
LENGTHS = (5, 19, 0, 2, 11, 3, 30)
BATCHES = ((5, 19, 3), (4, 9), (7, 8, 30, 2), (12, 40, 20, 21, 22), (6, 6), (33, 1, 17))
BEFORE, AFTER, MEMORY = Case("vectors", "before"), Case("prefix", "after"), Case("prefix", "memory")
# A graph takes ten seconds to make, so few pairs of family and prompt stand here. What torch does with a graph is its
# own matter: most tests run it as it was traced.
FAMILY_CASES = [("gpt2", MEMORY), ("llama", Case("gated", "memory"))]


@pytest.fixture(autouse=True)
def _no_graphs_of_other_tests():
    torch.compiler.reset()


def compiled(backbone: Backbone, backend: str = "eager") -> tuple[Backbone, CompileCounterWithBackend]:
    """The backbone with compiled layers, and how many graphs were made."""
    counter = CompileCounterWithBackend(backend)
    found = backbone.with_compiled_layers(counter)
    counter.clear()
    return found, counter


def gradients(model: PromptedModel, rows) -> list[torch.Tensor]:
    return list(torch.autograd.grad(model.loss(rows), list(model.trainable().values())))


def assert_same(one: PromptedModel, other: PromptedModel, rows, close=CLOSE) -> None:
    torch.testing.assert_close(one.loss(rows), other.loss(rows), **close)
    torch.testing.assert_close(gradients(one, rows), gradients(other, rows), **close)


@pytest.mark.slow
@pytest.mark.parametrize(("family", "case"), FAMILY_CASES, ids=str)
def test_losses_and_gradients_are_those_of_plain_layers(family, case):
    backbone = backbone_of(family, DOUBLE)
    own, counter = compiled(backbone)
    prompt, rows = make_prompt(case, backbone), make_rows("several tokens", LENGTHS)
    assert_same(PromptedModel(own, prompt, InputCache(1 << 20)), PromptedModel(backbone, prompt), rows)
    assert counter.frame_count


def test_scores_answers_and_counts_are_those_of_plain_layers():
    backbone = backbone_of("llama", DOUBLE)
    own, counter = compiled(backbone)
    prompt, rows = make_prompt(AFTER, backbone), make_rows("several tokens", LENGTHS)
    compiled_model, plain = PromptedModel(own, prompt), PromptedModel(backbone, prompt)
    torch.testing.assert_close(compiled_model.label_scores(rows), plain.label_scores(rows), **CLOSE)
    asked = make_rows("free text", (4, 9, 2))
    assert compiled_model.generate(asked, 5, []) == plain.generate(asked, 5, [])
    assert counter.frame_count
    work = []
    for model in (compiled_model, plain):
        with count_operations(model.backbone) as operations:
            model.label_scores(rows)
        work.append((operations.flops, operations.positions))
    assert work[0] == work[1]
    assert work[0][0] > 0


def test_encoders_too():
    backbone = backbone_of("modernbert", DOUBLE)
    own, counter = compiled(backbone)
    positions = torch.arange(12).expand(2, -1)
    found = []
    for one in (own, backbone):
        live = backbone.embed(positions + 40).requires_grad_()
        hidden = one.run(live, Step(positions, positions < torch.tensor([[12], [7]])))
        found.append((hidden, *torch.autograd.grad(hidden[:, 0].square().sum(), live)))
    torch.testing.assert_close(found[0], found[1], **CLOSE)
    assert counter.frame_count


@pytest.mark.slow
@pytest.mark.parametrize(("family", "case"), [("llama", BEFORE), ("gemma3_text", AFTER)], ids=str)
def test_graphs_do_not_grow_with_lengths_nor_layers(family, case):
    backbone = backbone_of(family, DOUBLE)
    own, counter = compiled(backbone)
    prompt = make_prompt(case, backbone)
    model = PromptedModel(own, prompt)
    made = []
    for lengths in BATCHES:
        model.loss(make_rows("several tokens", lengths)).backward()
        made.append(counter.frame_count)
    assert set(made) == {made[0]}
    num_kinds = len(set(getattr(own.model.config, "layer_types", None) or [""]))
    # A kind of layer without gradients below it, with them, and where texts run alone.
    assert 0 < made[0] <= 3 * num_kinds
    assert_same(model, PromptedModel(backbone, prompt), make_rows("several tokens", BATCHES[2]))
    if num_kinds == 1:
        model.loss(make_rows("several tokens", (9,)))
        # A single row is no batch: sizes of 1 are never symbols.
        assert counter.frame_count <= 2 * made[0]


@pytest.mark.slow
def test_inductor_gives_the_same():
    if not (shutil.which("g++") or shutil.which("clang++")):
        pytest.skip("inductor needs a C++ compiler on a CPU, and there is none")
    backbone = backbone_of("llama")
    own = backbone.with_compiled_layers()
    # Among the live tokens the prompt gives every layer a gradient: one graph, whose kernels take a minute to build.
    prompt = make_prompt(BEFORE, backbone)
    for lengths in BATCHES[:2]:
        rows = make_rows("several tokens", lengths)
        assert_same(PromptedModel(own, prompt), PromptedModel(backbone, prompt), rows, {"rtol": 1e-4, "atol": 1e-5})


def test_a_compiled_backbone_leaves_the_model_as_it_was():
    backbone = make_backbone("llama")
    before, names = weights_digest(backbone.model), [dict(vars(layer)) for layer in backbone.layers]
    own, _ = compiled(backbone)
    prompt, rows = make_prompt(BEFORE, backbone), make_rows("several tokens", (4, 9))
    plain = PromptedModel(backbone, prompt).loss(rows)
    optimiser = torch.optim.AdamW(prompt.trainable().values(), lr=0.1)
    PromptedModel(own, prompt).loss(rows).backward()
    assert torch.equal(PromptedModel(backbone, prompt).loss(rows), plain)
    optimiser.step()
    assert weights_digest(backbone.model) == before == own.info.weights_sha256
    assert [dict(vars(layer)) for layer in backbone.layers] == names
    assert not any(value.requires_grad for value in backbone.model.parameters())


def test_activations_may_be_recomputed():
    backbone = backbone_of("llama", DOUBLE)
    own, counter = compiled(backbone, "aot_eager")
    prompt, rows = make_prompt(BEFORE, backbone), make_rows("free text", (4, 9, 2))
    expected = gradients(PromptedModel(backbone, prompt), rows)
    calls = []
    hook = backbone.layers[0].register_forward_hook(lambda *_: calls.append(1))
    with own.checkpointing(True):
        torch.testing.assert_close(gradients(PromptedModel(own, prompt), rows), expected, **CLOSE)
    hook.remove()
    assert counter.frame_count
    assert len(calls) == 1
    assert all("forward" in vars(layer) for layer in own.stack.modules)
    torch.testing.assert_close(gradients(PromptedModel(own, prompt), rows), expected, **CLOSE)
    assert not any("forward" in vars(layer) for layer in backbone.layers)


def test_cohorts_that_share_memories_run_as_they_are():
    backbone = backbone_of("llama", DOUBLE)
    own, counter = compiled(backbone)
    prompts, rows = [make_prompt(AFTER, backbone, seed=seed) for seed in range(2)], make_rows("one token", (4, 9))
    batches = dict.fromkeys(range(2), rows)
    found = [Cohort([PromptedModel(one, prompt) for prompt in prompts]).losses(batches) for one in (own, backbone)]
    torch.testing.assert_close(found[0], found[1], **CLOSE)
    # The texts' own run has a graph.
    assert counter.frame_count == 1


def test_a_copy_with_values_of_its_own_runs_as_it_is():
    own, counter = compiled(backbone_of("llama", DOUBLE))
    copied = own.copied(lambda name: name.endswith("q_proj.weight"))
    PromptedModel(copied).loss(make_rows("several tokens", (4, 9))).backward()
    assert counter.frame_count == 0
    assert all(value.grad is not None for value in copied.inner.values())
    with pytest.raises(BackboneError, match="not compiled"):
        copied.with_compiled_layers("eager")


def test_passes_beyond_the_last_graph_run_as_they_are(monkeypatch):
    backbone = backbone_of("gemma3_text", DOUBLE)
    monkeypatch.setattr(compiler, "MOST", 1)
    own, counter = compiled(backbone)
    prompt, rows = make_prompt(AFTER, backbone), make_rows("several tokens", LENGTHS)
    assert_same(PromptedModel(own, prompt), PromptedModel(backbone, prompt), rows)
    assert counter.frame_count == 1


def test_encoder_decoders_are_refused():
    with pytest.raises(BackboneError, match="not compiled") as caught:
        backbone_of("t5").with_compiled_layers("eager")
    assert "encoder-decoder" in caught.value.got


def test_no_compiler_is_told_before_anything_runs(monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_FORCE_DISABLE_CACHES", "1")
    monkeypatch.setattr(torch._inductor.config.cpp, "cxx", ("no-such-compiler",))
    with pytest.raises(BackboneError, match="cannot be compiled here") as caught:
        backbone_of("llama").with_compiled_layers()
    assert "C++ compiler" in caught.value.wanted
    assert "compile_layers" in caught.value.fix
