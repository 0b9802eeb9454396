"""The laws for encoders, and what the untouched encoder says; label words stand at a mask, label vectors anywhere."""

from dataclasses import replace

import encoder_oracles as oracles
import pytest
import test_laws as laws
import torch

from fakes import (
    CASES,
    ENCODER_CASES,
    ENCODER_KINDS,
    ENCODERS,
    Case,
    backbone_of,
    injection_of,
    is_for_encoders,
    make_backbone,
    make_prompt,
    make_rows,
    reference_of,
)
from overture.core.errors import BackboneError
from overture.engine.cache import InputCache
from overture.engine.compiled import compiled_prompt
from overture.engine.prompted import PromptedModel, RowPrompts
from overture.engine.step import Step
from overture.prompt.methods import METHODS

EXACT = {"rtol": 1e-8, "atol": 1e-8}
# Within ModernBERT's window of eight on each side and beyond it.
LENGTHS = (1, 2, 0, 5, 19, 11)
EACH = pytest.mark.parametrize(("family", "case"), ENCODER_CASES, ids=str)
# Label words stand at a mask, label vectors anywhere.
READ = pytest.mark.parametrize(
    ("family", "case", "kind"),
    [
        (family, case, kind)
        for family, case in ENCODER_CASES
        for kind in ENCODER_KINDS
        if kind == "mask" or METHODS[case.method].needs_labels
    ],
    ids=str,
)


# -- against the untouched model


@READ
def test_loss_gradients_and_scores_are_the_untouched_models(family, case, kind):
    backbone, reference = backbone_of(family, torch.float64), reference_of(family, torch.float64)
    prompt, rows = make_prompt(case, backbone, length=2), make_rows(kind, LENGTHS)
    model = PromptedModel(backbone, prompt)
    ours = model.loss(rows)
    theirs = oracles.loss(reference, [model.injections([row])[0] for row in rows], rows)
    torch.testing.assert_close(ours, theirs, **EXACT)
    values = list(prompt.trainable().values())
    torch.testing.assert_close(torch.autograd.grad(ours, values), torch.autograd.grad(theirs, values), **EXACT)
    with torch.no_grad():
        each = [oracles.label_scores(reference, model.injections([row])[0], row) for row in rows]
    cached = PromptedModel(backbone, prompt, InputCache(budget_bytes=1 << 20))
    torch.testing.assert_close(cached.label_scores(rows), torch.stack(each), **EXACT)


@pytest.mark.parametrize("layer", [2, 3])
@pytest.mark.parametrize("place", METHODS["late"].places)
def test_higher_layers_are_the_untouched_models(place, layer):
    backbone, reference = backbone_of("modernbert", torch.float64), reference_of("modernbert", torch.float64)
    prompt, rows = make_prompt(Case("late", place, {"layer": layer}), backbone), make_rows("mask", LENGTHS)
    for cache in (None, InputCache(budget_bytes=1 << 20)):
        ours = PromptedModel(backbone, prompt, cache).loss(rows)
        torch.testing.assert_close(ours, oracles.loss(reference, [prompt.injection()] * len(rows), rows), **EXACT)


@pytest.mark.parametrize("family", ENCODERS)
def test_no_prompt_is_the_untouched_model_in_a_padded_batch(family):
    backbone, reference = backbone_of(family, torch.float64), reference_of(family, torch.float64)
    rows = make_rows("mask", LENGTHS)
    texts = [(*row.input_ids, *row.anchor_ids) for row in rows]
    longest, pad = max(map(len, texts)), reference.config.pad_token_id
    ids = torch.tensor([[*text, *[pad] * (longest - len(text))] for text in texts])
    mask = torch.tensor([[1] * len(text) + [0] * (longest - len(text)) for text in texts])
    logits = reference(ids, attention_mask=mask).logits
    words = [word[0] for word in rows[0].target.candidates.words]
    each = torch.stack([logits[number, row.target.read, words] for number, row in enumerate(rows)]).log_softmax(1)
    theirs = torch.cat([each[:, :2], each[:, 2:].logsumexp(1, keepdim=True)], dim=1)
    torch.testing.assert_close(PromptedModel(backbone).label_scores(rows), theirs, **EXACT)


@pytest.mark.parametrize("family", ENCODERS)
def test_run_gives_the_models_hidden_states_and_head_its_logits(family):
    backbone, ids = backbone_of(family, torch.float64), torch.randint(32, 240, (2, 30))
    positions = torch.arange(30).expand(2, -1)
    step = Step(positions, torch.ones_like(positions, dtype=torch.bool))
    hidden = backbone.run(backbone.embed(ids), step)
    logits = reference_of(family, torch.float64)(ids).logits
    torch.testing.assert_close(backbone.head(hidden), logits, **EXACT)
    some = torch.tensor([7, 3, 250])
    torch.testing.assert_close(backbone.head(hidden, some), logits[..., some], **EXACT)


@pytest.mark.parametrize("family", ENCODERS)
def test_the_model_stays_usable_by_itself(family):
    backbone, ids = make_backbone(family), torch.randint(32, 240, (2, 25))
    mask = (torch.arange(25)[None] < torch.tensor([[25], [6]])).long()
    reference = reference_of(family)
    PromptedModel(backbone, make_prompt(CASES[0], backbone)).loss(make_rows("mask"))
    torch.testing.assert_close(backbone.model(ids).logits, reference(ids).logits, rtol=0, atol=2e-5)
    ours, theirs = [model(ids, attention_mask=mask).logits[mask.bool()] for model in (backbone.model, reference)]
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-5)


@pytest.mark.parametrize("family", ENCODERS)
def test_info_describes_the_model(family):
    backbone, reference = backbone_of(family), reference_of(family)
    info, memory = backbone.info, backbone.memory_of_tokens([5, 6, 7])
    assert memory.keys.shape == (info.num_layers, info.num_kv_heads, 3, info.head_dim)
    assert (info.hidden_size, info.num_layers) == (reference.config.hidden_size, reference.config.num_hidden_layers)
    assert info.num_parameters == sum(value.numel() for value in reference.parameters())
    assert (info.vocab_size, backbone.has_head) == (300, True)


# -- the laws


@pytest.fixture
def rows_at_masks(monkeypatch):
    """Whatever rows a law asks for, it gets such as encoders answer."""
    monkeypatch.setattr(laws, "make_rows", lambda kind, *args, **options: make_rows("mask", *args, **options))


LAWS = {
    "weights": laws.test_weights_are_bit_identical_after_everything,
    "sum of gradients": laws.test_gradient_is_the_sum_of_the_rows,
    "order": laws.test_order_of_rows_is_the_order_of_scores,
    "sum of losses": lambda *of: laws.test_loss_is_the_sum_of_the_rows_whatever_their_company(*of, "one token"),
    "compiled": lambda *of: laws.test_compiled_equals_live(*of, "one token"),
    "differences": lambda *of: laws.test_gradient_equals_finite_differences(*of, "one token"),
    "checkpointing": lambda *of: laws.test_gradient_checkpointing_changes_nothing(*of, "several tokens"),
    "batch size": lambda *of: laws.test_score_does_not_depend_on_the_batch_size(*of, "one token"),
    "cache": lambda *of: laws.test_cache_in_memory(*of, "one token"),
    "reach": laws.test_gradient_reaches_every_value_and_nothing_else,
}


@pytest.mark.parametrize("law", LAWS)
@EACH
def test_laws(rows_at_masks, family, case, law):
    LAWS[law](family, case)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@READ
def test_scores_alone_equal_scores_beside_longer_rows(family, case, kind, dtype):
    backbone = backbone_of(family, dtype)
    model, rows = PromptedModel(backbone, make_prompt(case, backbone)), make_rows(kind, (3, 60, 0, 41))
    alone = torch.cat([model.label_scores([row]) for row in rows])
    tolerance = laws.PROMISED if dtype == torch.float32 else EXACT
    torch.testing.assert_close(model.label_scores(rows), alone, **tolerance)


@pytest.mark.parametrize("is_cached", [False, True], ids=["uncached", "cached"])
@pytest.mark.parametrize("family", ENCODERS)
def test_scores_in_a_mixed_batch_equal_one_by_one(family, is_cached):
    backbone, cases = backbone_of(family, torch.float64), [case for case in CASES if is_for_encoders(case)]
    prompts = [*(make_prompt(case, backbone, length=2 + number) for number, case in enumerate(cases)), None]
    lengths = tuple((5, 19, 0, 2, 11, 3, 30, 7)[number % 8] for number in range(len(prompts)))
    rows, cache = make_rows("mask", lengths), InputCache(1 << 24) if is_cached else None
    together = PromptedModel(backbone, RowPrompts(prompts), cache).label_scores(rows)
    alone = [PromptedModel(backbone, found).label_scores([row]) for row, found in zip(rows, prompts, strict=True)]
    torch.testing.assert_close(together, torch.cat(alone), **EXACT)


@EACH
def test_a_prompt_is_its_own_constant(family, case):
    backbone = backbone_of(family)
    found = injection_of(make_prompt(case, backbone), backbone)
    assert compiled_prompt(backbone, found) is found


# -- what encoders cannot do


def refused(model: PromptedModel, rows, what: str) -> None:
    for ask in (model.check, model.label_scores, model.loss):
        with pytest.raises(BackboneError, match=what) as caught:
            ask(rows)
        assert caught.value.fix


@pytest.mark.parametrize("family", ENCODERS)
def test_what_encoders_cannot_do(family):
    backbone = backbone_of(family)
    plain, rows = PromptedModel(backbone), make_rows("mask", (3, 1))
    refused(plain, make_rows("free text", (3, 1)), "writes no answers")
    refused(plain, make_rows("first", (3, 1)), "at a mask")
    several = make_rows("several tokens", (3, 1))
    refused(plain, [replace(row, target=replace(row.target, read=0, is_mask=True)) for row in several], "one token")
    for asked in (rows, make_rows("free text", (3, 1))):
        with pytest.raises(BackboneError, match="writes no answers"):
            plain.generate(asked, 3, [])
    for case in CASES:
        if not is_for_encoders(case):
            refused(PromptedModel(backbone, make_prompt(case, backbone)), rows, "next tokens|no memory of its input")
