"""The judge: losses of many prompts at once equal those asked one by one; slopes equal finite differences."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import pytest
import torch

from fakes import Case, backbone_of, make_prompt, make_rows
from overture.core.contracts import Losses
from overture.core.errors import BackboneError
from overture.core.injection import Injection, Vectors
from overture.core.rows import Encoded
from overture.engine.answerer import LocalAnswerer
from overture.engine.cache import InputCache
from overture.engine.judge import LocalJudge
from sound_fakes import sound_backbone_of, sound_rows
from tiny_configs import CONTEXT

CASES = [Case("vectors", "before"), Case("vectors", "after"), Case("prefix", "memory"), Case("dept", "before")]
FAMILIES = {"llama": "several tokens", "bert": "mask", "t5": "free text"}
LENGTHS = (5, 19, 3, 11)
STEP = 1e-5


def injections_of(family: str) -> list[Injection | None]:
    backbone = backbone_of(family, torch.float64)
    made = [make_prompt(case, backbone, length=2 + n, seed=n).injection() for n, case in enumerate([*CASES, CASES[0]])]
    return [*(injection.map(torch.Tensor.detach) for injection in made), None]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("max_tokens", [1, 90, 10_000])
def test_losses_equal_one_by_one(family, max_tokens):
    answerer = LocalAnswerer(backbone_of(family, torch.float64), InputCache(1 << 24))
    prompts, rows = injections_of(family), make_rows(FAMILIES[family], LENGTHS)
    losses = LocalJudge(answerer, max_tokens).losses(prompts, rows)
    with torch.no_grad():
        question = Losses(with_vector_targets=False)
        alone = [[answerer.ask([(row, prompt)], question)[0] for row in rows] for prompt in prompts]
    torch.testing.assert_close(losses, torch.stack([torch.stack(own) for own in alone]), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("max_tokens", [1, 10_000])
def test_sounds_that_lie_wholly_in_an_encoder_need_no_live_token(max_tokens):
    backbone = sound_backbone_of("whisper")
    answerer = LocalAnswerer(backbone, InputCache(1 << 24))
    prompt = make_prompt(CASES[1], backbone, length=2).injection().map(torch.Tensor.detach)
    prompts, rows = [prompt, None], sound_rows(backbone)
    judge = LocalJudge(answerer, max_tokens)
    losses = judge.losses(prompts, rows)
    # Without the prompt beside it a row has no live token at all.
    torch.testing.assert_close(judge.losses([None], rows), losses[1:], rtol=1e-9, atol=1e-9)
    assert judge.scores([None], rows).shape[:2] == (1, len(rows))
    with torch.no_grad():
        question = Losses(with_vector_targets=False)
        alone = [[answerer.ask([(row, prompt)], question)[0] for row in rows] for prompt in prompts]
    torch.testing.assert_close(losses, torch.stack([torch.stack(own) for own in alone]), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("number", range(len(CASES)), ids=str)
def test_slopes_equal_finite_differences(family, number):
    backbone = backbone_of(family, torch.float64)
    judge = LocalJudge(LocalAnswerer(backbone, InputCache(1 << 24)), max_tokens=60)
    prompt, rows = injections_of(family)[number], make_rows(FAMILIES[family], LENGTHS)
    assert prompt is not None
    slopes = judge.slopes(prompt, rows)
    generator = torch.Generator().manual_seed(0)

    def slope_along(change: Callable[[float], Injection], some: Sequence[Encoded]) -> float:
        losses = [float(judge.losses([change(step)], some).sum()) for step in (STEP, -STEP)]
        return (losses[0] - losses[1]) / (2 * STEP)

    vectors = prompt.vectors
    if vectors is None:
        assert slopes.prompt.shape == (0, backbone.info.hidden_size)
    else:
        direction = unit(vectors.values.shape, generator)
        wanted = slope_along(
            lambda step: replace(prompt, vectors=replace(vectors, values=vectors.values + step * direction)), rows
        )
        assert float((slopes.prompt * direction).sum()) == pytest.approx(wanted, rel=1e-5, abs=1e-7)
    for index, row in enumerate(rows):
        num_tokens = len(row.input_ids) + len(row.anchor_ids)
        assert not slopes.text[index, num_tokens:].any()
        direction = unit((num_tokens, backbone.info.hidden_size), generator)
        given = direction.new_zeros(CONTEXT, backbone.info.hidden_size)
        if prompt.offset is not None:
            given[: len(prompt.offset)] = prompt.offset
        moved = torch.nn.functional.pad(direction, (0, 0, 0, CONTEXT - num_tokens))
        wanted = slope_along(partial(_with_offset, prompt, given, moved), [row])
        assert float((slopes.text[index, :num_tokens] * direction).sum()) == pytest.approx(wanted, rel=1e-5, abs=1e-7)


def _with_offset(prompt: Injection, given: torch.Tensor, moved: torch.Tensor, step: float) -> Injection:
    return replace(prompt, offset=given + step * moved)


def unit(shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    direction = torch.randn(shape, generator=generator, dtype=torch.float64)
    return direction / direction.norm()


def test_an_offset_is_what_another_embedding_of_a_token_gives():
    """So slopes by the text are those by the tokens' embeddings, at each place."""
    backbone = backbone_of("llama", torch.float64)
    judge = LocalJudge(LocalAnswerer(backbone))
    (row,) = make_rows("one token", (6,))
    prompt = Injection(Vectors(torch.randn(2, backbone.info.hidden_size, dtype=torch.float64), "before"))
    text = (*row.input_ids, *row.anchor_ids)
    slopes = judge.slopes(prompt, [row])
    for place in range(len(text)):
        moved = torch.zeros(len(text), backbone.info.hidden_size, dtype=torch.float64)
        moved[place] = backbone.embed((99,))[0] - backbone.embed((text[place],))[0]
        changed = (*text[:place], 99, *text[place + 1 :])
        other = Encoded.of_ids(0, changed[: row.num_input], changed[row.num_input :], row.target)
        wanted = judge.losses([prompt], [other])
        torch.testing.assert_close(judge.losses([replace(prompt, offset=moved)], [row]), wanted, rtol=1e-9, atol=1e-9)
        small = [float(judge.losses([replace(prompt, offset=s * moved)], [row])) for s in (STEP, -STEP)]
        linear = float((slopes.text[0, place] * moved[place]).sum())
        assert linear == pytest.approx((small[0] - small[1]) / (2 * STEP), rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("case", [Case("late", "before", {"layer": 1}), Case("prefix", "after")], ids=str)
def test_a_text_that_runs_before_its_prompt_has_no_slope(case):
    backbone = backbone_of("llama", torch.float64)
    prompt = make_prompt(case, backbone).injection()
    with pytest.raises(BackboneError) as error:
        LocalJudge(LocalAnswerer(backbone)).slopes(prompt, make_rows("one token", (5,)))
    assert error.value.where == backbone.info.id
