"""What `overture methods` tells."""

import pytest

from overture.prompt.methods import METHODS


def test_all_methods_are_listed(overture):
    found = overture("methods", "--json").json["methods"]
    assert list(found) == list(METHODS)
    assert found["prefix"]["places"] == ["memory", "after"]
    assert found["prefix"]["options"]["mlp_width"]["default"] == 256


@pytest.mark.parametrize("name", METHODS)
def test_each_method_is_explained(overture, name):
    shown = overture("methods", name).out
    assert METHODS[name].source.split(" (")[0].split(";")[0] in " ".join(shown.split())
    assert "Undefined" not in shown
    told = " ".join(shown.replace("│", " ").split())
    assert all(formula in told for formula in (METHODS[name].formula, *METHODS[name].variants.values()))
    assert all(f"option {option}" in shown for option in METHODS[name].options.model_fields)


def test_an_option_without_default_is_said_to_be_needed(overture):
    assert "must be given" in overture("methods", "late").out
    assert overture("methods", "late", "--json").json["methods"]["late"]["options"]["layer"]["is_required"]


def test_an_unknown_method_is_refused_with_the_known(overture):
    failed = overture("methods", "prefixes", "--json")
    assert failed.code != 0
    assert "prefix" in str(failed.json)
