"""Greedy answers against a plain loop that recomputes everything with the untouched model."""

from dataclasses import replace

import oracles
import pytest
import torch

from fakes import (
    CASES,
    ENTRIES,
    FAMILIES,
    FAMILY_CASES,
    compiled_of,
    make_backbone,
    make_prompt,
    make_rows,
    reference_of,
)
from overture.core.rows import Encoded
from overture.engine import generate
from overture.engine.cache import InputCache
from overture.engine.prompted import PromptedModel
from tiny_configs import EOS

LENGTHS = (5, 19, 0, 2)
BARE = [(family, None) for family in FAMILIES]


def spelt(ids) -> str:
    """One letter for each token, so that an answer's text is its tokens."""
    return "".join(chr(0x4E00 + token) for token in ids)


@pytest.fixture(params=FAMILIES)
def backbone(request, monkeypatch):
    made = make_backbone(request.param, torch.float64)
    monkeypatch.setattr(made.text.tokenizer, "decode", spelt)
    return made


def reference(backbone):
    return reference_of(backbone.info.model_type, torch.float64)


def expected(backbone, injection, row: Encoded, num_tokens: int) -> str:
    return spelt(oracles.greedy(reference(backbone), injection, row, num_tokens, EOS))


@pytest.mark.parametrize(("backbone", "case"), [*BARE, *FAMILY_CASES], ids=str, indirect=["backbone"])
def test_answers_are_those_of_a_plain_loop(backbone, case):
    prompt = make_prompt(case, backbone) if case else None
    model, cached = PromptedModel(backbone, prompt), PromptedModel(backbone, prompt, InputCache(1 << 20))
    rows = make_rows("free text", LENGTHS)
    with torch.no_grad():
        wanted = [expected(backbone, model.injections([row])[0], row, 8) for row in rows]
    assert model.generate(rows, 8, []) == wanted
    assert cached.generate(rows, 8, []) == wanted
    assert [model.generate([row], 8, [])[0] for row in rows] == wanted


@pytest.mark.parametrize("backbone", ["llama", "gemma3_text", "gpt2"], indirect=True)
@torch.no_grad()
def test_long_answers_outgrow_the_room_that_is_kept_for_them(backbone, monkeypatch):
    monkeypatch.setattr(generate, "_ROOM", 2)
    rows, rooms = make_rows("free text", (5, 0)), set()
    filled = generate._columns_in

    def watched(room, *rest):
        rooms.add(next(iter(room.values()))[0].shape[2])
        return filled(room, *rest)

    monkeypatch.setattr(generate, "_columns_in", watched)
    for case in ENTRIES:
        model = PromptedModel(backbone, make_prompt(case, backbone), InputCache(1 << 20))
        wanted = [expected(backbone, model.injections([row])[0], row, 24) for row in rows]
        rooms.clear()
        assert model.generate(rows, 24, []) == wanted
        assert len(rooms) > 2


@torch.no_grad()
def test_compiled_prompts_generate_the_same(backbone):
    rows = make_rows("free text", LENGTHS)
    # Each case in two families.
    for case in CASES[FAMILIES.index(backbone.info.model_type) % 5 :: 5]:
        prompt = make_prompt(case, backbone)
        compiled = PromptedModel(backbone, compiled_of(backbone, prompt))
        assert compiled.generate(rows, 6, []) == PromptedModel(backbone, prompt).generate(rows, 6, [])


def test_exactly_so_many_new_tokens(backbone, monkeypatch):
    monkeypatch.setattr(backbone, "info", replace(backbone.info, eos_id=None))
    rows = make_rows("free text", LENGTHS)
    model = PromptedModel(backbone)
    longest = model.generate(rows, 12, [])
    assert [len(answer) for answer in longest] == [12] * len(rows)
    for number in (1, 2, 7):
        assert model.generate(rows, number, []) == [answer[:number] for answer in longest]


def test_an_answer_ends_before_a_stop_text(backbone, monkeypatch):
    monkeypatch.setattr(backbone, "info", replace(backbone.info, eos_id=None))
    rows = make_rows("free text", LENGTHS)
    model = PromptedModel(backbone)
    full = model.generate(rows, 12, [])
    # Stops drawn from one row's own answer: a single token and a pair; the other rows go on.
    for stop in (full[0][4], full[1][5:7], full[2][0]):
        wanted = [answer.split(stop)[0] for answer in full]
        assert model.generate(rows, 12, [stop]) == wanted
    # White space at the end of a stop text is part of it.
    assert generate._cut_at_stop(" Paris\nQ: ", ["Q: "]) == "Paris"
    several = [full[0][6], full[1][3]]
    assert model.generate(rows, 12, several) == [a.split(several[0])[0].split(several[1])[0] for a in full]


def test_an_answer_ends_at_the_end_token(backbone, monkeypatch):
    monkeypatch.setattr(backbone, "info", replace(backbone.info, eos_id=None))
    rows = make_rows("free text", LENGTHS)
    model = PromptedModel(backbone)
    full = model.generate(rows, 12, [])
    for letter in (full[0][3], full[1][0]):
        monkeypatch.setattr(backbone, "info", replace(backbone.info, eos_id=ord(letter) - 0x4E00))
        assert model.generate(rows, 12, []) == [answer.split(letter)[0] for answer in full]


def test_known_answers_are_not_looked_at(backbone):
    rows = make_rows("free text", LENGTHS)
    bare = [Encoded.of_ids(row.row, row.input_ids, row.anchor_ids) for row in rows]
    model = PromptedModel(backbone)
    assert model.generate(rows, 6, []) == model.generate(bare, 6, [])
