"""Every baseline on tiny models: the model stays as it is, values are those of an oracle, the loop trains them."""

import random
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from fakes import (
    ENCODERS,
    FAMILIES,
    SEQ2SEQ,
    Case,
    log_loss,
    make_backbone,
    make_prompt,
    make_rows,
    reference_of,
)
from overture.baseline.base import Request
from overture.baseline.features import features_of
from overture.baseline.full import trained_names
from overture.baseline.in_context import chosen_shots
from overture.baseline.registry import BASELINES, build_baseline
from overture.core.contracts import Answers, Features, LabelScores
from overture.core.errors import BackboneError, ConfigError, DataError
from overture.data.encode import Encoder
from overture.data.row import Row
from overture.data.shots import shot_ids
from overture.data.task import Task
from overture.engine.cache import InputCache
from overture.engine.heads import can_have_head
from overture.engine.info import weights_digest
from overture.engine.inputs import Inputs
from overture.engine.lora import with_lora
from overture.engine.operations import counted
from overture.engine.options import LoraOptions
from overture.engine.prompted import PromptedModel
from overture.evaluate.probe import pooled_features
from overture.evaluate.scoring import predict, score
from overture.train.fit import Fit, Validation
from overture.train.options import TrainConfig

WORDS = {"good": ("fine", "great", "glad"), "bad": ("poor", "dull", "grim")}


def make_request(
    family: str, template: str = "{text}\nMood:", dtype: torch.dtype = torch.float32, **changes
) -> Request:
    backbone = make_backbone(family, dtype)
    values = {"name": "mood", "data": {"path": "rows.jsonl"}, "template": template}
    if family in ENCODERS:
        values |= {"template": "{text}", "read": "mean"}
    task = Task.model_validate(values | {"labels": {"good": " g", "bad": " b"}} | changes)
    encoder = Encoder(task, backbone.text.tokenizer)
    splits = {name: rows_of(count, seed) for seed, (name, count) in enumerate({"train": 12, "validation": 8}.items())}
    rows = {name: encoder.encode(split) for name, split in splits.items()}
    return Request(None, backbone, encoder, splits, rows, 0)


def rows_of(count: int, seed: int) -> list[Row]:
    chance = random.Random(seed)
    found = []
    for number in range(count):
        label = ("good", "bad")[number % 2]
        text = f"{chance.choice(WORDS[label])} {chance.randrange(99)}"
        found.append(Row({"text": text, "label": label}, number + 1, "rows"))
    return found


def built(name: str, request: Request, **options):
    return build_baseline(name, options, request)


def fitted(found, request: Request, lr: float, epochs: int = 2):
    def validate() -> Validation:
        scored = score(found.model, found.rows["validation"], request.task)
        return Validation(scored.value(request.task), scored.loss)

    train = TrainConfig(epochs=epochs, batch_size=4, lr=lr, warmup_steps=1)
    return Fit(found.trainee, request.rows["train"], validate, train, 0).run()


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


# -- an adapter behind the input leaves the input to the frozen model


def shaken(backbone):
    with torch.no_grad():
        for value in backbone.inner.values():
            value.add_(0.1 * torch.randn_like(value))
    return backbone


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("kind", ["one token", "several tokens", "free text"])
def test_an_adapter_behind_the_input_is_the_same_with_and_without_kept_texts(family, kind):
    backbone, rows = make_backbone(family, dtype=torch.float64), make_rows(kind)
    adapted = shaken(with_lora(backbone, LoraOptions(rank=2, place="after")))
    outcomes = []
    for cache in (InputCache(1 << 20), None):
        model = PromptedModel(adapted, None, cache)
        model.warm(rows)
        loss = model.loss(rows)
        outcomes.append((loss, torch.autograd.grad(loss, list(adapted.inner.values()))))
        assert cache is None or len(cache) > 0
    torch.testing.assert_close(*outcomes)
    everywhere = shaken(with_lora(backbone, LoraOptions(rank=2)))
    for value, other in zip(everywhere.inner.values(), adapted.inner.values(), strict=True):
        value.data.copy_(other)
    assert not torch.allclose(outcomes[0][0], PromptedModel(everywhere).loss(rows))


def test_an_adapter_behind_the_input_reads_the_frozen_models_keys_and_values():
    backbone, rows = make_backbone("llama"), sorted(make_rows("free text"), key=lambda row: row.num_input)[-1:]
    adapted = shaken(with_lora(backbone, LoraOptions(rank=2, place="after")))
    row = rows[0]
    # The models' own code, with the library's cache between the two.
    past = backbone.model(torch.tensor([row.input_ids]), use_cache=True).past_key_values
    ids = [*row.anchor_ids, *row.target.ids]
    logits = adapted.model(torch.tensor([ids]), past_key_values=past).logits[0]
    start = len(row.anchor_ids) - 1
    expected = torch.nn.functional.cross_entropy(
        logits[start : start + len(row.target.ids)], torch.tensor(row.target.ids), reduction="sum"
    )
    torch.testing.assert_close(PromptedModel(adapted).loss(rows), expected)


@pytest.mark.parametrize(("method", "place"), [("prefix", "memory"), ("vectors", "before"), ("idpg", "before")])
def test_an_adapter_behind_the_input_refuses_prompts_that_change_the_input(method, place):
    backbone, rows = make_backbone("llama"), make_rows("one token")
    adapted = with_lora(backbone, LoraOptions(rank=2, place="after"))
    model = PromptedModel(adapted, make_prompt(Case(method, place), backbone))
    with pytest.raises(BackboneError, match="would change the input"):
        model.loss(rows)


def test_states_of_a_text_are_not_those_of_an_adapter_behind_it():
    backbone, rows = make_backbone("llama"), make_rows("one token")
    model = PromptedModel(with_lora(backbone, LoraOptions(rank=2, place="after")))
    with pytest.raises(BackboneError, match="states of a text"):
        model.ask(rows, Features(is_mean=True))
    row = replace(rows[0], slots=())
    assert not can_have_head(None, model.backbone, row)
    assert can_have_head(None, backbone, row)


@pytest.mark.parametrize("family", ["bert", "bart"])
def test_an_adapter_behind_the_input_needs_a_decoder(family):
    with pytest.raises(BackboneError, match="needs a decoder"):
        with_lora(make_backbone(family), LoraOptions(place="after"))


def test_one_cache_serves_the_model_and_an_adapter_behind_the_input():
    request = make_request("llama")
    cache, rows = InputCache(1 << 20), request.rows["train"]
    PromptedModel(request.backbone, None, cache).warm(rows)
    num_kept = len(cache)
    adapted = with_lora(request.backbone, LoraOptions(rank=2, place="after"))
    for _ in range(2):
        PromptedModel(adapted, None, cache).loss(rows)
        shaken(adapted)
    assert len(cache) == num_kept


# -- nothing is kept of inputs while the model changes


@pytest.mark.parametrize("checkpointing", [False, True])
def test_prompt_behind_the_input_gives_the_adapter_its_whole_gradient(checkpointing):
    backbone = make_backbone("llama")
    adapted = with_lora(backbone, LoraOptions(rank=2))
    prompt, rows = make_prompt(Case("prefix", "after"), backbone), make_rows("several tokens")
    with torch.no_grad():
        for value in adapted.inner.values():
            value.add_(0.1 * torch.randn_like(value))
    model = PromptedModel(adapted, prompt, InputCache(1 << 20))
    model.warm(rows)
    with adapted.checkpointing(checkpointing):
        model.loss(rows).backward()
    assert len(model.cache) == 0
    name, value = next(iter(adapted.inner.items()))
    for step in (1e-3,):
        with torch.no_grad():
            direction = value.grad / value.grad.norm()
            value.add_(step * direction)
            up = float(model.loss(rows))
            value.sub_(2 * step * direction)
            down = float(model.loss(rows))
        assert (up - down) / (2 * step) == pytest.approx(float(value.grad.norm()), rel=2e-2), name


def test_a_cache_is_of_one_model_in_one_state():
    request = make_request("llama")
    cache, adapted = InputCache(1 << 20), with_lora(request.backbone, LoraOptions(rank=2))
    adapted.freeze()
    rows = request.rows["train"]
    PromptedModel(adapted, None, cache).warm(rows)
    assert len(cache) > 0
    with pytest.raises(AssertionError, match="another"):
        PromptedModel(request.backbone, None, cache).warm(rows)
    with torch.no_grad():
        next(iter(adapted.inner.values())).add_(1.0)
    with pytest.raises(AssertionError, match="changed"):
        PromptedModel(adapted, None, cache).label_scores(rows)


# -- linear head


@pytest.mark.parametrize("family", ["llama", "bert"])
@pytest.mark.parametrize("features", ["read", "mean"])
def test_linear_head_is_scikit_learns(family, features):
    request = make_request(family)
    found = built("linear", request, features=features, penalties=[0.5])
    x = {name: features_of(request.backbone, request.rows[name], features == "mean").numpy() for name in request.rows}
    gold = [row.label for row in request.rows["train"]]
    mean, deviation = x["train"].mean(0), x["train"].std(0)
    oracle = LogisticRegression(C=0.5, max_iter=10_000).fit((x["train"] - mean) / deviation, gold)
    theirs = oracle.predict_log_proba((x["validation"] - mean) / deviation)
    ours = torch.stack(found.model.ask(request.rows["validation"], LabelScores())).numpy()
    with pytest.raises(DataError):
        found.model.ask(request.rows["validation"], Answers(3))
    np.testing.assert_allclose(ours, theirs, atol=5e-3)
    assert found.num_trainable == 2 * (request.backbone.info.hidden_size + 1)
    assert found.trainee is None


def test_features_are_the_librarys_hidden_states():
    request = make_request("llama")
    row = request.rows["train"][3]
    ids = torch.tensor([[*row.input_ids, *row.anchor_ids]])
    hidden = reference_of("llama").model(ids).last_hidden_state[0]
    rows = request.rows["train"]
    torch.testing.assert_close(features_of(request.backbone, rows)[3], hidden[-1], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(features_of(request.backbone, rows, True)[3], hidden.mean(0), rtol=1e-4, atol=1e-4)


def layer_states(family: str, request: Request, row) -> torch.Tensor:
    """States of one row's tokens, [N + 1, L, D], as transformers gives them."""
    model = reference_of(family)
    ids = torch.tensor([[*row.input_ids, *row.anchor_ids]])
    with torch.no_grad():
        return torch.cat(model(input_ids=ids, output_hidden_states=True, use_cache=False).hidden_states)


@pytest.mark.parametrize("family", ["llama", "bert"])
def test_features_of_a_layer_are_the_librarys(family):
    request = make_request(family)
    rows = request.rows["train"]
    pooled = pooled_features(Inputs(request.backbone, InputCache(1 << 24), 64), rows, (1, 2))
    for row, of_layers in zip(rows, pooled, strict=True):
        states = layer_states(family, request, row)[1:3]
        torch.testing.assert_close(of_layers[:, 0], states[:, -1], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(of_layers[:, 1], states.mean(1), rtol=1e-4, atol=1e-5)


def test_layer_and_pooling_are_chosen_on_validation_rows():
    request = make_request("bert")
    searched = built("linear", request, layer="search", features="search", penalties=[0.1, 1.0])
    quality = {}
    for layer in range(request.backbone.info.num_layers + 1):
        for features in ("read", "mean", "read+mean"):
            head = built("linear", request, layer=layer, features=features, penalties=[0.1, 1.0]).model
            scores = torch.stack(head.ask(request.rows["validation"], LabelScores()))
            gold = torch.tensor([row.label for row in request.rows["validation"]])
            quality[layer, features] = float((scores.argmax(1) == gold).float().mean())
    chosen = searched.facts["layer"], searched.facts["features"]
    assert quality[chosen] == max(quality.values())
    # The features of the choice are those that it was fitted on.
    alone = built("linear", request, layer=chosen[0], features=chosen[1], penalties=[searched.facts["penalty"]])
    ours, theirs = [torch.stack(b.model.ask(request.rows["train"], LabelScores())) for b in (searched, alone)]
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_what_a_linear_head_read_is_kept_for_the_next():
    request = replace(make_request("bert"), cache=InputCache(1 << 24))
    built("linear", request, layer="search", penalties=[0.1])
    with counted(request.backbone) as work:
        built("linear", request, layer="search", penalties=[0.1])
    assert work.flops == 0


def test_a_linear_head_refuses_a_layer_that_is_not_there():
    with pytest.raises(ConfigError, match="no such layer"):
        built("linear", make_request("bert"), layer=9)


# -- trained head


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_head_reaches_the_solved_one(family):
    """The loss is convex, so many steps find what scikit-learn solves on the same states, without an intercept."""
    request = make_request(family)
    found = built("head", request)
    assert found.num_trainable == 2 * request.backbone.info.hidden_size
    before = weights_digest(request.backbone.model)
    rows, (labels,) = request.rows["train"], found.model.trainable().values()
    penalty, tight = 1.0, {"tolerance_grad": 1e-9, "tolerance_change": 1e-12}
    optimiser = torch.optim.LBFGS([labels], max_iter=1000, line_search_fn="strong_wolfe", **tight)

    def closure():
        optimiser.zero_grad()
        loss = found.model.loss(rows) + penalty / 2 * labels.square().sum()
        loss.backward()
        return loss

    optimiser.step(closure)
    x = features_of(request.backbone, rows).numpy()
    # Two softmax rows of opposite sign share the penalty that scikit-learn's one row has.
    oracle = LogisticRegression(C=2 / penalty, fit_intercept=False, max_iter=10_000, tol=1e-8)
    oracle.fit(x, [row.label for row in rows])
    theirs = oracle.predict_log_proba(features_of(request.backbone, request.rows["validation"]).numpy())
    with torch.no_grad():
        ours = found.model.label_scores(request.rows["validation"]).log_softmax(1).numpy()
    np.testing.assert_allclose(ours, theirs, atol=2e-3)
    assert weights_digest(request.backbone.model) == before


# -- in-context examples, text, calibration


def test_random_and_balanced_examples():
    request = make_request("llama")
    rows = request.splits["train"][:9]
    balanced = chosen_shots(request.task, rows, 4, 1)
    assert sorted(row.fields["label"] for row in balanced) == ["bad", "bad", "good", "good"]
    drawn = chosen_shots(request.task, rows, 4, 1, "random")
    assert len({row.line for row in drawn}) == 4
    assert drawn == chosen_shots(request.task, rows, 4, 1, "random") != balanced


def test_nearest_examples_stand_in_front_of_their_row_as_text():
    request = make_request("llama")
    request = Request(
        None,
        request.backbone,
        request.encoder,
        {**request.splits, "validation": request.splits["train"][:4]},
        {**request.rows, "validation": request.rows["train"][:4]},
        0,
    )
    found = built("in_context", request, choice="nearest", shots=2)
    for row, encoded in zip(request.splits["validation"], found.rows["validation"], strict=True):
        # A row that is among the examples is nearest to itself, and the nearest stands last.
        tail = shot_ids(request.encoder, [row])[len(request.backbone.text.tokenizer.bos_ids) :]
        text = request.backbone.text.tokenizer.decode(list(encoded.input_ids))
        assert request.backbone.text.tokenizer.decode(tail) in text
        assert text.count("Mood:") == 2
        assert encoded.anchor_ids == request.rows["train"][0].anchor_ids
    assert found.model.label_scores(found.rows["validation"]).shape == (4, 2)


def test_order_of_examples_is_the_best_on_validation():
    request = make_request("llama")
    one = built("in_context", request, shots=3)
    several = built("in_context", request, shots=3, orders=6)
    assert several.facts["orders"] == 6

    def quality(found):
        scored = score(found.model, found.rows["validation"], request.task)
        return scored.value(request.task), -scored.loss

    assert quality(several) >= quality(one)
    assert torch.equal(
        several.model.label_scores(several.rows["validation"]),
        built("in_context", request, shots=3, orders=6).model.label_scores(several.rows["validation"]),
    )


def test_text_stands_in_front_of_the_template():
    request = make_request("llama")
    found = built("text", request, text="Tell the mood.\n")
    encoded = found.rows["validation"][0]
    text = request.backbone.text.tokenizer.decode(list(encoded.input_ids))
    assert text.startswith("Tell the mood.\n" + request.splits["validation"][0].fields["text"])
    with pytest.raises(ConfigError, match="text"):
        built("text", request)


def probabilities(found, request: Request) -> torch.Tensor:
    said = predict(found.model, found.rows["validation"], request.task)
    return torch.tensor([one.shares for one in said])


@pytest.mark.parametrize(
    ("name", "options"), [("none", {}), ("text", {"text": "Well. "}), ("in_context", {"shots": 2})]
)
def test_calibration_divides_by_texts_without_content(name, options):
    request = make_request("llama")
    plain, found = built(name, request, **options), built(name, request, calibrated=True, **options)
    (blanks,) = {row.blanks for row in found.rows["validation"]}
    shown = [request.backbone.text.tokenizer.decode(list(row.input_ids)) for row in blanks]
    assert all(content in text for content, text in zip(("N/A", "[MASK]"), shown, strict=True))
    expected = probabilities(plain, request) / plain.model.label_scores(blanks).exp().mean(0)
    torch.testing.assert_close(probabilities(found, request), expected / expected.sum(1, keepdim=True))
    scored = score(found.model, found.rows["validation"], request.task)
    gold = torch.tensor([row.label for row in found.rows["validation"]])
    loss = torch.nn.functional.nll_loss(probabilities(found, request).log(), gold)
    assert scored.loss == pytest.approx(float(loss), abs=1e-5)


def test_a_text_without_content_becomes_even():
    request = make_request("llama", options={"content_free": ["N/A"]})
    row = Row({"text": "N/A", "label": "good"}, 1, "rows")
    request = replace(request, splits={**request.splits, "validation": [row]})
    torch.testing.assert_close(probabilities(built("none", request, calibrated=True), request), torch.full((1, 2), 0.5))


def test_only_labels_are_calibrated():
    request = make_request("llama", labels=None, answer_field="label")
    with pytest.raises(ConfigError, match="calibration needs labels"):
        built("none", request, calibrated=True)


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
