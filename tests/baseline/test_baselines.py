"""Values trained inside tiny models: the model stays as it is, gradients are those of an oracle."""

import warnings

import pytest
import torch
from baseline_requests import built, fitted, make_request

from fakes import (
    ENCODERS,
    FAMILIES,
    SEQ2SEQ,
    log_loss,
    make_backbone,
    reference_of,
)
from overture.baseline.full import trained_names
from overture.baseline.registry import BASELINES
from overture.core.errors import ConfigError
from overture.engine.info import weights_digest
from overture.engine.lora import with_lora
from overture.engine.options import LoraOptions
from overture.engine.prompted import PromptedModel

# -- law 1: the model stays what it was


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt", "bert", "modernbert"])
@pytest.mark.parametrize("name", ["lora", "full", "bitfit"])
def test_training_inside_leaves_the_model_alone(family, name):
    request = make_request(family)
    backbone = request.backbone
    before, ids = weights_digest(backbone.model), torch.randint(32, 240, (2, 9))
    modules, logits = [id(m) for m in backbone.model.modules()], backbone.model(ids).logits
    options = {"values": "norms"} if name == "bitfit" and family == "llama" else {}
    found = built(name, request, **options)
    start = found.model.label_scores(request.rows["validation"])
    result = fitted(found, request, 1e-2)
    assert result.status in ("finished", "stopped early")
    assert not torch.allclose(found.model.label_scores(request.rows["validation"]), start)
    assert weights_digest(backbone.model) == before
    assert [id(m) for m in backbone.model.modules()] == modules
    assert torch.equal(backbone.model(ids).logits, logits)
    assert not any(value.requires_grad or value.grad is not None for value in backbone.model.parameters())
    assert not any(module.training for module in found.model.backbone.model.modules())


@pytest.mark.parametrize("name", ["lora", "full"])
def test_a_copy_begins_as_the_model(name):
    request = make_request("llama")
    found = built(name, request)
    plain = PromptedModel(request.backbone)
    rows = request.rows["validation"]
    assert torch.equal(found.model.label_scores(rows), plain.label_scores(rows))


# -- half precision: what is trained stays in full


@pytest.mark.parametrize("family", [*FAMILIES, *ENCODERS, *SEQ2SEQ])
def test_in_half_precision_no_small_step_is_lost(family):
    request = make_request(family, dtype=torch.bfloat16)
    backbone, rows = request.backbone, request.rows["train"][:4]
    before = weights_digest(backbone.model)
    found, plain = built("full", request), PromptedModel(backbone)
    if family not in ENCODERS:
        # A master in bfloat16's own numbers computes what the model does, bit for bit.
        assert torch.equal(found.model.label_scores(rows), plain.label_scores(rows))
    values = found.trainee.trainable()
    start = {name: value.detach().clone() for name, value in values.items()}
    optimiser = torch.optim.AdamW(values.values(), lr=1e-5, weight_decay=0.0)
    for _ in range(3):
        optimiser.zero_grad()
        found.model.loss(rows).backward()
        optimiser.step()
    num_kept = 0
    for name, value in values.items():
        state = optimiser.state[value]
        assert {value.dtype, value.grad.dtype, state["exp_avg"].dtype} == {torch.float32}
        is_far = (state["exp_avg_sq"] > 1e-12) & (start[name].abs() > 0.02)
        now, then = value.detach()[is_far], start[name][is_far]
        assert (now != then).float().mean() > 0.95 if len(now) else True, name
        # None of these steps would have been seen in bfloat16.
        assert torch.equal(now.bfloat16(), then.bfloat16())
        num_kept += int((now != then).sum())
    assert num_kept > 1000
    assert weights_digest(backbone.model) == before


@pytest.mark.parametrize(
    ("family", "name", "options"), [("gpt2", "full", {}), ("gpt2", "bitfit", {}), ("bart", "full", {"layers": 1})]
)
def test_training_in_half_precision_follows_full_precision(family, name, options):
    """Many steps, each below what bfloat16 can tell apart, come to what float32 makes of them."""
    losses = {}
    for dtype in (torch.float32, torch.bfloat16):
        request = make_request(family, dtype=dtype)
        found = built(name, request, **options)
        first = float(log_loss(found.model, request.rows["train"]))
        result = fitted(found, request, 3e-4, epochs=8)
        assert {value.dtype for value in result.best.values()} == {torch.float32}
        losses[dtype] = first - float(log_loss(found.model, request.rows["train"]))
        assert found.stored_bytes == 4 * found.num_trainable
    assert losses[torch.float32] > 0
    assert losses[torch.bfloat16] == pytest.approx(losses[torch.float32], rel=0.35)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("family", ["llama", *SEQ2SEQ])
def test_trained_weights_get_the_same_gradients_where_activations_are_made_again(family, dtype):
    request = make_request(family, dtype=dtype)
    found, rows = built("full", request), request.rows["train"][:3]
    grads = []
    for checkpointing in (False, True):
        with found.model.backbone.checkpointing(checkpointing):
            found.model.loss(rows).backward()
        grads.append({name: value.grad.clone() for name, value in found.trainee.trainable().items()})
        for value in found.trainee.trainable().values():
            value.grad = None
    assert all(torch.equal(grad, grads[1][name]) for name, grad in grads[0].items())
    tables = [grad for name, grad in grads[0].items() if "relative_attention_bias" in name]
    # T5's table of distances, in both stacks.
    assert len(tables) == 2 * family.startswith("t5")
    assert all((grad != 0).any() for grad in tables)


def test_half_precision_shares_what_it_does_not_train():
    request = make_request("llama", dtype=torch.bfloat16)
    found = built("full", request, layers=1)
    frozen = {value.data_ptr() for value in request.backbone.model.parameters()}
    own = {value.data_ptr() for value in found.trainee.trainable().values()}
    inside = list(found.model.backbone.model.parameters())
    assert not frozen & own
    assert {value.data_ptr() for value in inside} - own <= frozen
    assert {value.dtype for value in inside if value.data_ptr() in own} == {torch.float32}
    # Tied words have one master: their table and the head stay the same.
    tied = make_request("gpt2", dtype=torch.bfloat16)
    copy = built("full", tied).model.backbone.model
    assert copy.get_input_embeddings().parametrizations.weight.original is (
        copy.get_output_embeddings().parametrizations.weight.original
    )


# -- what is trained, and how its gradient compares with the untouched library's


@pytest.mark.parametrize("family", FAMILIES)
def test_full_gradients_are_the_librarys(family):
    request = make_request(family, labels={"good": "g", "bad": "b"})
    found, reference = built("full", request), reference_of(family)
    rows = request.rows["train"][:3]
    found.model.loss(rows).backward()
    mine = {n.removeprefix("model."): v.grad for n, v in found.model.trainable().items()}
    copy = make_backbone(family).model.requires_grad_(True)
    words = [word[0] for word in rows[0].target.candidates.words]
    losses = []
    for row in rows:
        ids = torch.tensor([[*row.input_ids, *row.anchor_ids]])
        losses.append(-copy(ids).logits[0, -1, words].float().log_softmax(0)[row.label])
    sum(losses).backward()
    theirs = {n: v.grad for n, v in copy.named_parameters()}
    for name, grad in mine.items():
        torch.testing.assert_close(grad, theirs[name], rtol=2e-3, atol=2e-4)
    assert set(mine) == set(theirs) == {n for n, _ in reference.named_parameters()}


def test_every_trained_value_gets_a_gradient():
    for family in ("llama", "bert", "roberta", "modernbert"):
        for name in ("lora", "full"):
            request = make_request(family)
            found = built(name, request)
            found.model.loss(request.rows["train"]).backward()
            lost = [n for n, v in found.trainee.trainable().items() if v.grad is None]
            # Token types are one for all; nothing else of an encoder is without a part.
            assert not lost, (family, name, lost)


def test_top_layers_alone():
    request = make_request("llama")
    names = trained_names(request.backbone, 1, with_words=True)
    assert all(name.startswith(("model.layers.2.", "model.norm", "lm_head")) for name in names)
    assert {"model.norm.weight", "lm_head.weight"} <= names
    found = built("full", request, layers=1)
    shared = {value.data_ptr() for value in request.backbone.model.parameters()}
    own = {value.data_ptr() for value in found.trainee.trainable().values()}
    assert not shared & own
    others = {value.data_ptr() for value in found.model.backbone.model.parameters()} - own
    assert others <= shared
    with pytest.raises(ConfigError, match="fewer layers"):
        built("full", request, layers=9)


def test_bitfit_trains_biases_and_refuses_models_without_any():
    found = built("bitfit", make_request("gpt2"))
    assert all(name.endswith(".bias") for name in found.trainee.trainable())
    with pytest.raises(ConfigError, match="no biases") as caught:
        built("bitfit", make_request("llama"))
    assert "norms" in caught.value.fix
    norms = built("bitfit", make_request("llama"), values="norms")
    assert norms.num_trainable == 7 * 32


def test_lora_is_what_peft_says():
    import peft

    request = make_request("llama")
    own = with_lora(request.backbone, LoraOptions(rank=2, alpha=6))
    with torch.no_grad():
        for value in own.inner.values():
            value.add_(0.1 * torch.randn_like(value))
    config = peft.LoraConfig(r=2, lora_alpha=6, target_modules="all-linear", task_type="CAUSAL_LM")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        theirs = peft.get_peft_model(make_backbone("llama").model, config)
    state = {f"base_model.model.{name}.default.weight": value.detach() for name, value in own.inner.items()}
    missing = theirs.load_state_dict(state, strict=False)
    assert not missing.unexpected_keys
    assert sum(v.numel() for v in theirs.parameters() if v.requires_grad) == sum(
        value.numel() for value in own.inner.values()
    )
    ids = torch.randint(32, 240, (1, 12))
    torch.testing.assert_close(own.model(ids).logits, theirs(ids).logits)


# -- what does not fit


@pytest.mark.parametrize(
    ("name", "options", "what"),
    [
        ("lorra", {}, "no such baseline"),
        ("lora", {"rank": 0}, "rank"),
        ("lora", {"targets": ["nothing"]}, "no linear map"),
        ("in_context", {"choice": "nearest", "orders": 2}, "orders must be 1"),
        ("in_context", {"choice": "nearest", "calibrated": True}, "calibrated must be false"),
    ],
)
def test_wrong_requests(name, options, what):
    with pytest.raises(ConfigError, match=what):
        built(name, make_request("llama"), **options)


def test_encoders_are_refused_where_they_do_not_fit():
    with pytest.raises(ConfigError, match="needs a decoder"):
        built("in_context", make_request("bert"))


def test_every_trained_baseline_names_its_rates():
    for name, baseline in BASELINES.items():
        assert (baseline.learning_rate is None) == (not baseline.rates), name
        assert baseline.learning_rate is None or baseline.learning_rate in baseline.rates
        assert baseline.title
        assert baseline.source
