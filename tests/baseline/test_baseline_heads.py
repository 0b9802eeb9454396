"""Linear and trained heads, examples in context, texts and calibration, each beside an oracle."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from baseline_requests import built, make_request
from sklearn.linear_model import LogisticRegression

from fakes import (
    reference_of,
)
from overture.baseline.base import Request
from overture.baseline.features import features_of
from overture.baseline.in_context import chosen_shots
from overture.core.contracts import Answers, LabelScores
from overture.core.errors import ConfigError, DataError
from overture.data.row import Row
from overture.data.shots import shot_ids
from overture.engine.cache import InputCache
from overture.engine.info import weights_digest
from overture.engine.inputs import Inputs
from overture.engine.operations import count_operations
from overture.evaluate.probe import pooled_features
from overture.evaluate.scoring import predict, score

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
    with count_operations(request.backbone) as work:
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
