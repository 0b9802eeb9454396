"""Beam search and sampling against transformers' own on the untouched model, and what both owe to batches."""

import pytest
import torch
from transformers import GenerationConfig

from fakes import Case, backbone_of, log_loss, make_prompt, make_rows, reference_of
from overture.core.contracts import Answers
from overture.core.decoding import Decoding
from overture.core.rows import Answer, Encoded
from overture.engine import generate
from overture.engine.cache import InputCache
from overture.engine.lines import Chance
from overture.engine.prompted import PromptedModel
from tiny_configs import EOS

LENGTHS = (5, 19, 1, 2)
FAMILIES = ("llama", "gpt2", "gemma3_text", "opt", "t5", "bart")


def theirs(family, row: Encoded, num_tokens: int, **options) -> tuple[int, ...]:
    ids = torch.tensor([[*row.input_ids, *row.anchor_ids]])
    config = GenerationConfig(max_new_tokens=num_tokens, eos_token_id=EOS, pad_token_id=0, do_sample=False, **options)
    given = {"attention_mask": torch.ones_like(ids), "generation_config": config}
    start = list(backbone_of(family, torch.float64).info.start_ids)
    if start:
        # BART's own begins with the end token, which is none there.
        config.decoder_start_token_id, given["decoder_input_ids"] = start[0], torch.tensor([start])
    found = reference_of(family, torch.float64).generate(ids, **given)
    answer = found[0, len(start) or ids.shape[1] :].tolist()
    return tuple(answer[: answer.index(EOS)] if EOS in answer else answer)


@pytest.mark.parametrize("penalty", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("beams", [1, 2, 4])
@pytest.mark.parametrize("family", FAMILIES)
def test_beams_are_transformers_beams(family, beams, penalty):
    model = PromptedModel(backbone_of(family, torch.float64))
    rows = make_rows("free text", LENGTHS)
    decoding = Decoding(beams=beams, length_penalty=penalty)
    wanted = [theirs(family, row, 7, num_beams=beams, length_penalty=penalty) for row in rows]
    assert [answer.ids for answer in model.ask(rows, Answers(7, (), decoding))] == wanted
    assert [model.ask([row], Answers(7, (), decoding))[0].ids for row in rows] == wanted


@pytest.mark.parametrize("family", ["llama", "t5", "bart"])
@pytest.mark.parametrize(
    "case", [Case("prefix", "after"), Case("vectors", "before"), Case("late", "before", {"layer": 1})]
)
def test_beams_under_prompts_depend_on_no_batch_and_no_cache(case, family):
    backbone = backbone_of(family, torch.float64)
    prompt = make_prompt(case, backbone)
    rows = make_rows("free text", LENGTHS)
    decoding = Decoding(beams=3)
    model, cached = PromptedModel(backbone, prompt), PromptedModel(backbone, prompt, InputCache(1 << 20))
    together = model.ask(rows, Answers(6, (), decoding))
    assert [answer.ids for answer in cached.ask(rows, Answers(6, (), decoding))] == [answer.ids for answer in together]
    assert [model.ask([row], Answers(6, (), decoding))[0].ids for row in rows] == [answer.ids for answer in together]


def test_a_likelihood_is_that_of_the_tokens():
    backbone = backbone_of("llama", torch.float64)
    rows = make_rows("free text", LENGTHS)
    model = PromptedModel(backbone)
    for decoding in (Decoding(), Decoding(beams=3), Decoding(temperature=1.0)):
        for row, answer in zip(rows, model.ask(rows, Answers(5, (), decoding)), strict=True):
            given = Encoded.of_ids(0, row.input_ids, row.anchor_ids, Answer(answer.ids))
            if len(answer.ids) == 5:
                assert answer.log_likelihood == pytest.approx(-float(log_loss(model, [given])))


def test_beams_find_what_is_at_least_as_likely():
    model = PromptedModel(backbone_of("gpt2", torch.float64))
    rows = make_rows("free text", LENGTHS)
    greedy = model.ask(rows, Answers(6))
    searched = model.ask(rows, Answers(6, (), Decoding(beams=16, length_penalty=0.0)))
    assert all(b.log_likelihood >= g.log_likelihood - 1e-9 for b, g in zip(searched, greedy, strict=True))


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_chance_is_the_same_for_the_same_seed_in_any_batch(family):
    model = PromptedModel(backbone_of(family, torch.float64))
    rows = make_rows("free text", LENGTHS)
    drawn = Decoding(temperature=1.5, seed=3)
    once = [answer.ids for answer in model.ask(rows, Answers(6, (), drawn))]
    assert [model.ask([row], Answers(6, (), drawn))[0].ids for row in rows] == once
    assert [answer.ids for answer in model.ask(rows, Answers(6, (), Decoding(temperature=1.5, seed=4)))] != once
    greedy = [answer.ids for answer in model.ask(rows, Answers(6))]
    assert [answer.ids for answer in model.ask(rows, Answers(6, (), Decoding(temperature=1e-4)))] == greedy
    assert [answer.ids for answer in model.ask(rows, Answers(6, (), Decoding(temperature=5.0, top_p=1e-6)))] == greedy


def test_an_encoder_decoders_rows_draw_by_their_own_texts():
    """Their decoders' rows all begin alike, and yet chance must not be one for all."""
    seen = []

    def drawn(row, decoding):
        seen.append((*row.input_ids, *row.anchor_ids))
        return real(row, decoding)

    real = generate.chance_of
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generate, "chance_of", drawn)
        rows = make_rows("free text", LENGTHS)
        PromptedModel(backbone_of("t5", torch.float64)).ask(rows, Answers(2, (), Decoding(temperature=1.0)))
    assert sorted(seen) == sorted((*row.input_ids, *row.anchor_ids) for row in rows)
    assert len(set(seen)) == len(rows)


def test_drawn_tokens_have_the_models_probabilities_and_stay_in_the_nucleus():
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()

    def shares(top_p: float) -> list[float]:
        chances = [Chance(torch.Generator().manual_seed(seed), 1.0, top_p) for seed in range(4000)]
        return [value / 4000 for value in torch.tensor([draw(logits) for draw in chances]).bincount(minlength=4)]

    assert shares(1.0) == pytest.approx([0.5, 0.3, 0.15, 0.05], abs=0.03)
    # 0.5 alone is less than 0.7, with 0.3 it is enough.
    assert shares(0.7) == pytest.approx([0.625, 0.375, 0, 0], abs=0.03)


class Only:
    """Allows two answers: 40 41 and 40 42 43."""

    answers = ((40, 41, EOS), (40, 42, 43, EOS))

    def __call__(self, written):
        done = tuple(written)
        return sorted({ids[len(done)] for ids in self.answers if ids[: len(done)] == done and len(ids) > len(done)})


@pytest.mark.parametrize("decoding", [Decoding(), Decoding(beams=3), Decoding(temperature=2.0)])
def test_only_what_is_allowed_is_written(decoding):
    model = PromptedModel(backbone_of("llama", torch.float64))
    rows = [
        Encoded.of_ids(r.row, r.input_ids, r.anchor_ids, Answer(None, Only() if r.row % 2 else None))
        for r in make_rows("free text")
    ]
    found = model.ask(rows, Answers(8, (), decoding))
    free = model.ask([row for row in rows if row.target.allowed is None], Answers(8, (), decoding))
    assert all(found[row.row].ids in ((40, 41), (40, 42, 43)) for row in rows if row.target.allowed)
    assert [found[row.row].ids for row in rows if row.target.allowed is None] == [answer.ids for answer in free]
    if decoding.beams > 1:
        # Both answers are within the beams, so the likelier per token wins.
        for row in rows:
            if row.target.allowed:
                ends = [Encoded.of_ids(0, row.input_ids, row.anchor_ids, Answer(ids)) for ids in Only.answers]
                means = [-float(log_loss(model, [end])) / len(end.answer_ids) for end in ends]
                assert found[row.row].ids == Only.answers[means.index(max(means))][:-1]
