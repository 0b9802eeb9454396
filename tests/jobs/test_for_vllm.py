"""`overture tune --for vllm`: a place and a length with which a vLLM server can answer under the prompt."""

import pytest

from fakes import CASES, backbone_of, make_prompt
from overture.core.contracts import RowMethod
from overture.core.errors import ConfigError
from overture.engine.compiled import compiled_prompt
from overture.jobs.run.vllm import fitted_to_vllm
from overture.prompt.methods import METHODS


def fitted(**values):
    notes = []
    fitted_to_vllm(values, notes.append)
    return values["prompt"], notes


@pytest.mark.parametrize(
    ("values", "place", "length", "is_noted"),
    [
        ({}, "memory", 32, False),
        ({"prompt": {"method": "vectors"}}, "before", 32, False),
        ({"prompt": {"method": "vectors", "place": "before", "length": 64}}, "before", 64, False),
        ({"prompt": {"length": 33}}, "memory", 64, True),
        ({"prompt": {"length": 10}, "device": "cuda:1"}, "memory", 16, True),
        ({"prompt": {"length": 16}, "device": "cuda"}, "memory", 16, False),
    ],
)
def test_place_and_length_are_completed(values, place, length, is_noted):
    prompt, notes = fitted(**values)
    assert (prompt["place"], prompt["length"], bool(notes)) == (place, length, is_noted)


@pytest.mark.parametrize(
    "values",
    [
        {"prompt": {"method": "late"}},
        {"prompt": {"method": "gated"}},
        {"prompt": {"method": "split"}},
        {"prompt": {"method": "prefix", "place": "after"}},
        {"prompt": {"method": "vectors", "place": "slots"}},
        {"prompt": {"labels": "vectors"}},
        {"adapter": {"kind": "lora"}},
    ],
)
def test_what_vllm_cannot_serve_is_refused(values):
    with pytest.raises(ConfigError):
        fitted(**values)


def test_mistakes_of_other_kinds_are_left_to_be_reported_together():
    assert fitted(prompt={"method": "nonsense", "length": "long"})[0]["length"] == "long"
    assert fitted(prompt={"length": -3})[0]["length"] == -3


@pytest.mark.parametrize("case", [case for case in CASES if case.place in ("before", "memory")], ids=str)
def test_the_catalogue_says_of_each_method_whether_it_ends_as_keys_and_values(case):
    backbone = backbone_of("llama")
    prompt = make_prompt(case, backbone)
    if isinstance(prompt, RowMethod):
        is_cache = False
    else:
        is_cache = set(compiled_prompt(backbone, prompt.injection()).tensors()) == {"keys", "values"}
    assert METHODS[case.method].is_cache == is_cache
