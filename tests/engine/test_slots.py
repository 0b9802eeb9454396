"""An answer that is begun while others are being written equals the same answer alone; slots that get free are used."""

from concurrent.futures import ThreadPoolExecutor
from random import Random

import pytest
import torch

from fakes import ENTRIES, backbone_of, injection_of, make_prompt, make_rows
from overture.core.contracts import Answers
from overture.core.decoding import Decoding
from overture.engine import slots as slots_module
from overture.engine.answerer import LocalAnswerer
from overture.engine.cache import InputCache
from overture.engine.lines import Line, chance_of
from overture.engine.slots import Slots

FAMILIES = ("llama", "gemma3_text", "gpt2", "gemma2", "phi3")


def never(ids) -> bool:
    return False


def cases_of(backbone):
    """Rows of many lengths under every way into the layers and none, each with its decoding and length."""
    rows = make_rows("free text", (5, 19, 0, 2, 11, 40))
    injections = [
        None,
        *(injection_of(make_prompt(case, backbone, seed=n), backbone) for n, case in enumerate(ENTRIES)),
    ]
    decodings = [Decoding(), Decoding(temperature=1.3, top_p=0.9, seed=4)]
    return [
        (row, injection, decodings[number % 2], 1 + (5 * number + index) % 13)
        for number, injection in enumerate(injections)
        for index, row in enumerate(rows[number % 3 :: 3])
    ]


@pytest.mark.parametrize("is_carried", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_joined_mid_flight_equals_alone(family, is_carried, monkeypatch):
    # Classes so short that rows of one pass lie in several.
    monkeypatch.setattr(slots_module, "_SHORTEST", 8)
    monkeypatch.setattr(slots_module, "_GROWTH", 2)
    backbone = backbone_of(family, torch.float64)
    cases = cases_of(backbone)
    inputs, slots, random = LocalAnswerer(backbone, InputCache(1 << 20)).inputs, Slots(backbone), Random(0)
    lines = [
        Line(row, backbone.info.eos_id, most, never, chance_of(row, decoding), num_top=3)
        for row, _, decoding, most in cases
    ]
    waiting = list(range(len(cases)))
    random.shuffle(waiting)
    dropped = waiting.pop()
    others = num_carried = 0
    while waiting or len(slots):
        layer = {index: injection.layer if injection else 0 for index, (_, injection, _, _) in enumerate(cases)}
        batch = [index for index in waiting[: random.randint(0, 3)] if layer[index] == layer[waiting[0]]]
        if dropped is not None and len(slots) > 2:
            slots.begin(inputs, [cases[dropped][0]], [cases[dropped][1]], [lines[dropped]])
            slots.step()
            slots.drop(lines[dropped])
            dropped = None
        waiting = [index for index in waiting if index not in batch]
        if batch:
            rider = slots.rider if is_carried else None
            with backbone.stack.carrying(rider):
                slots.begin(
                    inputs, [cases[i][0] for i in batch], [cases[i][1] for i in batch], [lines[i] for i in batch]
                )
            num_carried += rider is not None and rider.grown is not None
        others = max(others, len(slots))
        slots.step()
    assert others > 4
    assert (num_carried > 2) == is_carried
    assert slots.num_bytes == 0
    for (row, injection, decoding, most), line in zip(cases, lines, strict=True):
        if not line.is_done:
            continue
        (alone,) = LocalAnswerer(backbone).ask([(row, injection)], Answers(most, decoding=decoding))
        assert (tuple(line.ids), line.log_likelihood) == (alone.ids, pytest.approx(alone.log_likelihood, abs=1e-8))
        assert line.is_cut == (len(line.ids) == most)
        if decoding.temperature is None:
            assert [top[0][0] for top in line.tops][: len(line.ids)] == line.ids
            assert [top[0][1] for top in line.tops][: len(line.ids)] == line.shares


@torch.no_grad()
def test_a_failure_of_what_is_carried_is_not_the_carriers():
    def fails(logits):
        raise ValueError("no token")

    backbone, (row, other) = backbone_of("llama"), make_rows("free text", (5, 19))
    inputs, slots = LocalAnswerer(backbone).inputs, Slots(backbone)
    bad, good = [Line(row, None, 5, never) for row in (row, other)]
    slots.begin(inputs, [row], [None], [bad])
    bad.chance = fails
    with backbone.stack.carrying(slots.rider):
        slots.begin(inputs, [other], [None], [good])
    assert len(good.ids) == 1
    with pytest.raises(ValueError, match="no token"):
        slots.step()
    for line in (bad, good):
        slots.drop(line)
    assert (slots.step(), len(slots)) == ([], 0)


@torch.no_grad()
def test_a_pass_of_another_thread_carries_nothing():
    # vLLM's stand-in ran the worker's model in a thread of its own, and answers went wrong now and then.
    backbone, (row, other) = backbone_of("llama"), make_rows("free text", (5, 19))
    inputs, slots = LocalAnswerer(backbone).inputs, Slots(backbone)
    line = Line(row, None, 5, never)
    slots.begin(inputs, [row], [None], [line])
    rider = slots.rider
    with backbone.stack.carrying(rider), ThreadPoolExecutor(1) as threads:
        threads.submit(LocalAnswerer(backbone).ask, [(other, None)], Answers(1)).result()
        assert rider.grown is None
        LocalAnswerer(backbone).ask([(other, None)], Answers(1))
        assert rider.grown == [line]


@torch.no_grad()
def test_a_step_of_nothing():
    slots = Slots(backbone_of("llama"))
    assert (slots.step(), len(slots), slots.num_bytes) == ([], 0, 0)
