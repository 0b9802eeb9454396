"""Law 7: a cohort trained together equals its members trained alone, to float tolerance."""

from itertools import product

import pytest
import torch

from fakes import (
    CASES,
    ENCODER_CASES,
    ENTRIES,
    FAMILY_CASES,
    WHOLE,
    backbone_of,
    is_fit,
    log_loss,
    make_prompt,
    make_rows,
)
from overture.core.contracts import Answers, LabelScores, Losses
from overture.core.rows import Encoded
from overture.engine.cache import InputCache
from overture.engine.cohort import Cohort
from overture.engine.prompted import PromptedModel

DOUBLE = torch.float64
CLOSE = {"rtol": 1e-9, "atol": 1e-9}
LENGTHS = (5, 19, 0, 2, 11, 7)


def assert_as_alone(models: list[PromptedModel], batches: dict[int, list[Encoded]]) -> None:
    """Losses and gradients of members in shared passes are those of each alone."""
    cohort = Cohort(models)
    groups = cohort.groups(batches)
    assert sorted(member for group in groups for member in group) == list(batches)
    for group in groups:
        losses = cohort.losses({member: batches[member] for member in group})
        # Other factors for each, as members with batches of other sizes have.
        sum((member + 1) * loss for member, loss in losses.items()).backward()
        for member, loss in losses.items():
            alone = models[member].loss(batches[member])
            torch.testing.assert_close(loss, alone, **CLOSE)
            values = models[member].trainable()
            wanted = torch.autograd.grad((member + 1) * alone, list(values.values()))
            for (name, value), gradient in zip(values.items(), wanted, strict=True):
                torch.testing.assert_close(value.grad, gradient, **CLOSE, msg=lambda text, name=name: f"{name}: {text}")
                value.grad = None


def members_of(cases, family, cache=None, lengths=(3, 2, 3)) -> list[PromptedModel]:
    backbone = backbone_of(family, DOUBLE)
    prompts = [make_prompt(case, backbone, length=lengths[n % len(lengths)], seed=n) for n, case in enumerate(cases)]
    return [PromptedModel(backbone, prompt, cache) for prompt in prompts]


# What is kept is no matter of the family beyond where it lies: without a cache in one of each kind of positions.
CACHED = [(family, case, True) for family, case in FAMILY_CASES]
UNCACHED = [(family, case, False) for family in ("llama", "gpt2") for case in ENTRIES]
KINDS = ("one token", "several tokens", "free text")


@pytest.mark.parametrize(("family", "case", "is_cached"), [*CACHED, *UNCACHED], ids=str)
def test_members_on_the_same_rows(family, case, is_cached):
    rows = make_rows("several tokens", LENGTHS)
    models = members_of([case] * 3, family, InputCache(1 << 24) if is_cached else None)
    assert_as_alone(models, dict.fromkeys(range(3), rows))
    assert len(Cohort(models).groups(dict.fromkeys(range(3), rows))) == 1


@pytest.mark.parametrize(("family", "case"), FAMILY_CASES, ids=str)
def test_members_on_rows_of_their_own(family, case):
    kind = "free text" if is_fit(case, "free text") else "one token"
    rows = make_rows(kind, LENGTHS)
    models = members_of([case] * 3, family, InputCache(1 << 24), lengths=(3,))
    assert_as_alone(models, {0: rows[:4], 1: rows[2:], 2: rows[:1]})


@pytest.mark.parametrize(("family", "kind"), [*product(["llama"], KINDS), *zip(WHOLE[1:], KINDS, strict=True)])
def test_members_of_every_method_and_place(family, kind):
    cases = [case for case in CASES if is_fit(case, kind)]
    models = members_of(cases, family, InputCache(1 << 24))
    assert_as_alone(models, dict.fromkeys(range(len(cases)), make_rows(kind, (5, 0, 9))))


@pytest.mark.parametrize(("family", "case"), ENCODER_CASES, ids=str)
def test_members_in_an_encoder(family, case):
    rows = make_rows("mask", (5, 3, 11))
    assert_as_alone(members_of([case] * 2, family, InputCache(1 << 24)), {0: rows, 1: rows})


@pytest.mark.parametrize("family", WHOLE)
def test_scores_and_answers_of_every_member(family):
    models = members_of([*ENTRIES, ENTRIES[0]], family, InputCache(1 << 24))
    cohort, rows, free = Cohort(models), make_rows("several tokens", (5, 19, 0)), make_rows("free text", (5, 19, 0))
    scores = torch.stack([model.label_scores(rows) for model in models])
    losses = torch.stack([log_loss(model, rows) for model in models])
    answers = [model.generate(free, 4, []) for model in models]
    for max_tokens in (1, 150, 10_000):
        found = [torch.stack(own) for own in cohort.ask(rows, LabelScores(), max_tokens)]
        torch.testing.assert_close(torch.stack(found), scores, **CLOSE)
        sums = [torch.stack(own).sum() for own in cohort.ask(rows, Losses(with_vector_targets=False), max_tokens)]
        torch.testing.assert_close(torch.stack(sums), losses, **CLOSE)
        assert [[answer.text for answer in own] for own in cohort.ask(free, Answers(4), max_tokens)] == answers
        for scorer, own in zip(cohort.scorers(max_tokens), found, strict=True):
            assert torch.equal(torch.stack(scorer.ask(rows, LabelScores())), own)


def num_tokens_run(backbone, monkeypatch, work) -> int:
    """Live tokens that went through the first layer, padding not counted."""
    counted = []
    run = backbone.run

    def counting(live, step, *layers):
        counted.append(int(step.valid.sum()))
        return run(live, step, *layers)

    with monkeypatch.context() as patch:
        patch.setattr(backbone, "run", counting)
        work()
    return sum(counted)


def test_texts_run_once_for_prompts_after_them(monkeypatch):
    rows = make_rows("one token", LENGTHS)
    models = members_of([case for case in ENTRIES if case.place == "after"] * 2, "llama", InputCache(1 << 24))
    num = num_tokens_run(models[0].backbone, monkeypatch, lambda: Cohort(models).ask(rows, LabelScores()))
    own = [sum(len(row.anchor_ids) for row in rows) * len(models)]
    own += [found.vectors.length * len(rows) for model in models if (found := model.prompt.injection()).vectors]
    assert num == sum(LENGTHS) + sum(own)


def test_memory_of_a_text_is_there_once():
    rows = make_rows("one token", LENGTHS)
    model = members_of([ENTRIES[0]], "llama", InputCache(1 << 24))[0]
    texts = [row.input_ids for row in rows]
    assert len(model.answerer.inputs.columns(texts * 4).keys[0]) == len(rows)
    assert model.answerer.inputs.columns(texts * 4).valid.shape[0] == 4 * len(rows)
    assert len(model.answerer.inputs.columns([*texts, texts[1], texts[0]]).keys[0]) == len(rows) + 2


def test_the_grouping_is_told():
    late = next(case for case in ENTRIES if case.method == "late")
    plain = [case for case in ENTRIES if case.place == "after"]
    labels = next(case for case in CASES if case.method == "warp")
    rows = dict.fromkeys(range(3), make_rows("one token", (3,)))
    assert Cohort(members_of([plain[0]] * 3, "llama")).grouping(rows) == "3 members in 1 pass"
    assert Cohort(members_of([plain[0], late, plain[1]], "llama")).grouping(rows) == (
        "3 members in 2 passes (2 + 1), because they enter at different layers"
    )
    assert "read labels from vectors or words" in Cohort(members_of([plain[0], plain[1], labels], "llama")).grouping(
        rows
    )
