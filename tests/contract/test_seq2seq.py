"""The laws for encoder-decoders, and what the untouched model says; prompts stand on either side."""

import pytest
import seq2seq_oracles as oracles
import test_laws as laws
import torch

from fakes import (
    CASES,
    KINDS,
    SEQ2SEQ,
    SEQ2SEQ_CASES,
    Case,
    backbone_of,
    injection_of,
    is_fit,
    make_backbone,
    make_prompt,
    make_rows,
    reference_of,
    with_kinds,
)
from overture.core.contracts import Continuations, Likelihoods
from overture.core.errors import BackboneError
from overture.core.injection import Injection
from overture.engine.backbone import Backbone
from overture.engine.cache import InputCache
from overture.engine.compiled import compiled_prompt
from overture.engine.prompted import PromptedModel, RowPrompts
from overture.prompt.methods import METHODS
from tiny_configs import EOS

EXACT = {"rtol": 1e-8, "atol": 1e-8}
DOUBLE = torch.float64
LENGTHS = (1, 2, 0, 5, 19, 11)
EACH = pytest.mark.parametrize(("family", "case"), SEQ2SEQ_CASES, ids=str)
# The oracle has all of them; what is left of the laws does not ask whether the head is tied.
LAWFUL = pytest.mark.parametrize(("family", "case"), [each for each in SEQ2SEQ_CASES if each[0] != "t5"], ids=str)
IN_SEQ2SEQ = [case for case in CASES if case.method != "cpt"]


# -- against the untouched model


@pytest.mark.parametrize(("family", "case", "kind"), with_kinds(SEQ2SEQ_CASES), ids=str)
def test_loss_gradients_and_scores_are_the_untouched_models(family, case, kind):
    backbone, reference = backbone_of(family, DOUBLE), reference_of(family, DOUBLE)
    prompt, rows, start = (
        make_prompt(case, backbone, length=2),
        make_rows(kind, LENGTHS),
        backbone.info.start_ids,
    )
    model = PromptedModel(backbone, prompt)
    if is_fit(case, kind):
        ours = model.loss(rows)
        theirs = oracles.loss(reference, [model.injections([row])[0] for row in rows], rows, start)
        torch.testing.assert_close(ours, theirs, **EXACT)
        values = list(prompt.trainable().values())
        torch.testing.assert_close(torch.autograd.grad(ours, values), torch.autograd.grad(theirs, values), **EXACT)
    if kind == "free text":
        return
    with torch.no_grad():
        each = [oracles.label_scores(reference, model.injections([row])[0], row, start) for row in rows]
    cached = PromptedModel(backbone, prompt, InputCache(budget_bytes=1 << 20))
    torch.testing.assert_close(cached.label_scores(rows), torch.stack(each), **EXACT)


@pytest.mark.parametrize("is_cached", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", SEQ2SEQ)
def test_no_prompt_is_the_untouched_model(family, kind, is_cached):
    backbone, reference = backbone_of(family, DOUBLE), reference_of(family, DOUBLE)
    rows = make_rows(kind, LENGTHS, seed=2)
    model = PromptedModel(backbone, None, InputCache(budget_bytes=1 << 20) if is_cached else None)
    theirs = oracles.loss(reference, [None] * len(rows), rows, backbone.info.start_ids)
    torch.testing.assert_close(model.loss(rows), theirs, **EXACT)


@pytest.mark.parametrize("layer", [1, 2])
@pytest.mark.parametrize("place", METHODS["late"].places)
def test_higher_layers_are_the_untouched_models(place, layer):
    backbone, reference = backbone_of("t5", DOUBLE), reference_of("t5", DOUBLE)
    prompt = make_prompt(Case("late", place, {"layer": layer}), backbone)
    rows = make_rows("several tokens", LENGTHS)
    theirs = oracles.loss(reference, [prompt.injection()] * len(rows), rows, backbone.info.start_ids)
    for cache in (None, InputCache(budget_bytes=1 << 20)):
        torch.testing.assert_close(PromptedModel(backbone, prompt, cache).loss(rows), theirs, **EXACT)


def spelt(ids) -> str:
    """One letter for each token, so that an answer's text is its tokens."""
    return "".join(chr(0x4E00 + token) for token in ids)


@pytest.mark.parametrize(("family", "case"), [*((family, None) for family in SEQ2SEQ), *SEQ2SEQ_CASES], ids=str)
def test_answers_are_those_of_a_plain_loop(family, case, monkeypatch):
    backbone = make_backbone(family, DOUBLE)
    monkeypatch.setattr(backbone.text.tokenizer, "decode", spelt)
    prompt, start = make_prompt(case, backbone) if case else None, backbone.info.start_ids
    model, cached = PromptedModel(backbone, prompt), PromptedModel(backbone, prompt, InputCache(1 << 20))
    rows, reference = make_rows("free text", (5, 19, 0, 2)), reference_of(family, DOUBLE)
    with torch.no_grad():
        found = [model.injections([row])[0] for row in rows]
        each = zip(found, rows, strict=True)
        wanted = [spelt(oracles.greedy(reference, own, row, 8, start, EOS)) for own, row in each]
    assert model.generate(rows, 8, []) == wanted
    assert cached.generate(rows, 8, []) == wanted
    assert [model.generate([row], 8, [])[0] for row in rows] == wanted


@pytest.mark.parametrize("family", SEQ2SEQ)
def test_answers_are_those_of_the_librarys_generate(family, monkeypatch):
    backbone, reference = make_backbone(family, DOUBLE), reference_of(family, DOUBLE)
    monkeypatch.setattr(backbone.text.tokenizer, "decode", spelt)
    rows, start = make_rows("free text", (5, 19, 1, 2)), backbone.info.start_ids
    texts = [(*row.input_ids, *row.anchor_ids) for row in rows]
    longest, pad = max(map(len, texts)), reference.config.pad_token_id
    ids = torch.tensor([[*text, *[pad] * (longest - len(text))] for text in texts])
    mask = torch.tensor([[1] * len(text) + [0] * (longest - len(text)) for text in texts])
    begun = torch.tensor([start] * len(rows))
    out = reference.generate(
        ids, attention_mask=mask, decoder_input_ids=begun, max_new_tokens=9, do_sample=False, num_beams=1
    )
    answers = [spelt(line).split(spelt([EOS]))[0] for line in out[:, len(start) :].tolist()]
    assert PromptedModel(backbone).generate(rows, 9, []) == answers


@pytest.mark.parametrize("family", SEQ2SEQ)
def test_the_model_stays_usable_by_itself(family):
    backbone, ids = make_backbone(family), torch.randint(32, 240, (2, 25))
    mask = (torch.arange(25)[None] < torch.tensor([[25], [6]])).long()
    PromptedModel(backbone, make_prompt(CASES[0], backbone)).loss(make_rows("one token"))
    given = {"attention_mask": mask, "decoder_input_ids": ids[:, :7]}
    ours, theirs = backbone.model(ids, **given).logits, reference_of(family)(ids, **given).logits
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-5)


@pytest.mark.parametrize("family", SEQ2SEQ)
def test_both_stacks_are_described(family):
    backbone, reference = backbone_of(family), reference_of(family)
    for stack, model in ((backbone.encoder, reference.get_encoder()), (backbone, reference.get_decoder())):
        info, memory = stack.info, stack.memory_of_tokens([5, 6, 7])
        assert memory.keys.shape == (info.num_layers, info.num_kv_heads, 3, info.head_dim)
        assert info.num_layers == len(oracles._layers(model))
    assert backbone.info.num_parameters == sum(value.numel() for value in reference.parameters())
    assert backbone.info.weights_sha256 == backbone.encoder.info.weights_sha256
    assert backbone.encoder.encoder is None


# -- the laws

LAWS = {
    "weights": laws.test_weights_are_bit_identical_after_everything,
    "sum of gradients": laws.test_gradient_is_the_sum_of_the_rows,
    "order": laws.test_order_of_rows_is_the_order_of_scores,
    "disk": laws.test_cache_on_disk,
    "full disk": laws.test_cache_on_a_full_disk,
    "reach": laws.test_gradient_reaches_every_value_and_nothing_else,
}
LAWS_OF_KINDS = {
    "sum of losses": laws.test_loss_is_the_sum_of_the_rows_whatever_their_company,
    "cache": laws.test_cache_in_memory,
    "compiled": laws.test_compiled_equals_live,
    "differences": laws.test_gradient_equals_finite_differences,
    "checkpointing": laws.test_gradient_checkpointing_changes_nothing,
    "batch size": laws.test_score_does_not_depend_on_the_batch_size,
}


@pytest.mark.parametrize("law", LAWS)
@LAWFUL
def test_laws(family, case, law, tmp_path, monkeypatch):
    more = {"disk": (tmp_path,), "full disk": (tmp_path, monkeypatch)}.get(law, ())
    LAWS[law](family, case, *more)


@pytest.mark.parametrize("law", LAWS_OF_KINDS)
@LAWFUL
def test_laws_of_kinds(family, case, law):
    # The oracle has every kind; here rows of free text where a prompt can be trained on them, in turn with labels.
    is_free = is_fit(case, "free text") and (law == "cache" or case.place == "after")
    LAWS_OF_KINDS[law](family, case, "free text" if is_free else "several tokens")


@pytest.mark.parametrize("dtype", [torch.float32, DOUBLE], ids=str)
@LAWFUL
def test_scores_alone_equal_scores_beside_longer_rows(family, case, dtype):
    laws.test_scores_alone_equal_scores_beside_longer_rows(family, case, "several tokens", dtype)


@pytest.mark.parametrize(("family", "is_cached"), [("t5", False), ("t5 gated", True), ("bart", True)])
def test_a_mixed_batch_equals_one_by_one(family, is_cached):
    backbone, cases = backbone_of(family, DOUBLE), IN_SEQ2SEQ
    prompts = [*(make_prompt(case, backbone, length=2 + number) for number, case in enumerate(cases)), None]
    lengths = tuple((5, 19, 0, 2, 11, 3, 30, 7)[number % 8] for number in range(len(prompts)))
    cache = InputCache(1 << 24) if is_cached else None
    rows = make_rows("several tokens", lengths)
    together = PromptedModel(backbone, RowPrompts(prompts), cache).label_scores(rows)
    alone = [PromptedModel(backbone, found).label_scores([row]) for row, found in zip(rows, prompts, strict=True)]
    torch.testing.assert_close(together, torch.cat(alone), **EXACT)
    asked = make_rows("free text", lengths)
    answers = PromptedModel(backbone, RowPrompts(prompts), cache).generate(asked, 5, [])
    assert answers == [
        PromptedModel(backbone, found).generate([row], 5, [])[0] for row, found in zip(asked, prompts, strict=True)
    ]


# -- what is kept


@pytest.mark.parametrize("family", SEQ2SEQ)
@pytest.mark.parametrize(("method", "place"), [("vectors", "after"), ("prefix", "after"), ("late", "after")])
def test_under_a_prompt_in_the_decoder_the_encoder_runs_once(family, method, place, monkeypatch):
    backbone = make_backbone(family)
    options = {"layer": 1} if method == "late" else {}
    model = PromptedModel(backbone, make_prompt(Case(method, place, options), backbone), InputCache(1 << 20))
    rows = make_rows("several tokens", LENGTHS)
    model.warm(rows)
    assert len(model.cache) == len(rows)

    def never(*args, **options):
        raise AssertionError("the encoder ran again")

    monkeypatch.setattr(backbone.encoder, "run", never)
    model.loss(rows).backward()
    model.label_scores(rows)
    model.generate(rows, 3, [])
    model.ask(rows, Continuations(3, lambda answer: False))


@EACH
def test_a_prompt_is_its_own_constant(family, case):
    backbone: Backbone = backbone_of(family)
    found: Injection = injection_of(make_prompt(case, backbone), backbone)
    assert compiled_prompt(backbone, found) is found


@pytest.mark.parametrize("family", SEQ2SEQ)
def test_what_encoder_decoders_cannot_do(family):
    backbone, rows = backbone_of(family), make_rows("one token", (3, 1))
    model = PromptedModel(backbone, make_prompt(Case("cpt", "before"), backbone))
    for ask in (model.check, model.label_scores, model.loss):
        with pytest.raises(BackboneError, match="next tokens") as caught:
            ask(rows)
        assert "decoder as --backbone" in caught.value.fix


@pytest.mark.parametrize("family", SEQ2SEQ)
def test_words_and_tokens_without_a_task_are_the_untouched_models(family):
    backbone, reference = backbone_of(family, DOUBLE), reference_of(family, DOUBLE)
    prompt, start = make_prompt(Case("vectors", "after"), backbone), backbone.info.start_ids
    model, rows = PromptedModel(backbone, prompt), make_rows("several tokens", (5, 19, 0))
    with torch.no_grad():
        for row, own in zip(rows, model.ask(rows, Likelihoods()), strict=True):
            for word, found in zip(row.target.candidates.words, own, strict=True):
                wanted = oracles.likelihood(reference, prompt.injection(), row, word, start)
                assert found.value == pytest.approx(wanted.item(), abs=1e-8)
        written = model.ask(rows, Continuations(6, lambda answer: len(answer) == 4))
        wanted = [oracles.greedy(reference, prompt.injection(), row, 4, start, EOS) for row in rows]
    assert written == wanted
