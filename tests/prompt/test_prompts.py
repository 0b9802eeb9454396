import re
from dataclasses import dataclass, replace

import pytest
import torch

from fakes import CASES, ONE_TOKEN, SEVERAL_TOKENS, TEXT_IDS, Case, backbone_of, injection_of, make_prompt, source_of
from overture.core.errors import ArtifactError, ConfigError
from overture.core.injection import Injection
from overture.prompt.build import build_prompt
from overture.prompt.config import PromptConfig
from overture.prompt.inits import start_of
from overture.prompt.methods import METHODS
from overture.prompt.pack import prompt_from, prompt_tensors
from overture.prompt.registry import method_of, own_rate, plainest_at, pruned_method
from tiny_configs import BOS


@pytest.fixture(params=["llama", "gemma3_text", "gpt2"])
def backbone(request):
    return backbone_of(request.param)


@dataclass
class Constant:
    """A finished prompt where a method is asked for."""

    kept: Injection

    def injection(self) -> Injection:
        return self.kept


def value_of(formula: str, numbers: dict[str, int]) -> float:
    """What a formula says: letters, numbers, sums, quotients, brackets, and products without a sign."""
    parts = re.findall(r"\d+|[A-Za-z]+|[-+/()]", formula)
    assert "".join(parts) == formula.replace(" ", "")
    written = ""
    for before, part in zip(["(", *parts], parts, strict=False):
        is_product = (before == ")" or before.isalnum()) and (part == "(" or part.isalnum())
        written += f"{'*' * is_product}{numbers[part] if part.isalpha() else part}"
    return eval(written, {"__builtins__": {}})  # noqa: S307 the formulas are ours


def numbers_of(backbone, length: int) -> dict[str, int]:
    info = backbone.info
    found = {"P": length, "D": info.hidden_size, "N": info.num_layers, "H": info.num_kv_heads, "K": info.head_dim}
    return {**found, "C": len(ONE_TOKEN.labels)}


def variant_of(case: Case) -> str:
    """The variant of the formula that a case's options ask for; empty for the plain one."""
    asked = {f"{name}={value}".lower() for name, value in case.options.items()}
    return next(iter(asked & set(METHODS[case.method].variants)), "")


def start(backbone, init: str, length: int = 6, text: str = "", candidates=None, seed: int = 0) -> torch.Tensor:
    config = PromptConfig(length=length, init=init, init_text=text)
    return start_of(config, source_of(backbone, candidates), seed)[0]


def rows_of(backbone, found: torch.Tensor) -> list[int]:
    """The tokens whose vectors these are, exactly."""
    table = backbone.embed(range(300))
    matches = (found[:, None] == table[None]).all(-1)
    assert matches.any(1).all()
    return matches.int().argmax(1).tolist()


class TestStarts:
    def test_random_has_the_vocabularys_length(self, backbone):
        found = start(backbone, "random", 400)
        table = backbone.embed(range(300)).norm(dim=1)
        assert float(found.norm(dim=1).mean()) == pytest.approx(float(table.mean()), rel=0.05)
        assert abs(float(found.mean())) < 0.02 * float(found.std())

    def test_vocabulary_is_rows_of_the_embedding(self, backbone):
        ids = rows_of(backbone, start(backbone, "vocabulary", 20))
        assert set(ids) <= set(TEXT_IDS)
        assert len(set(ids)) > 10

    def test_text_is_repeated_or_cut(self, backbone):
        ids = backbone.text.tokenizer.encode_plain("xyz")
        assert len(ids) == 3
        assert torch.equal(start(backbone, "text", 7, "xyz"), backbone.embed([*ids, *ids, ids[0]]))
        assert torch.equal(start(backbone, "text", 2, "xyz"), backbone.embed(ids[:2]))

    @pytest.mark.parametrize("method", ["cartridge", "prefix"])
    def test_a_text_at_memory_begins_with_the_models_start_token(self, backbone, method):
        source = replace(source_of(backbone), bos_ids=(BOS,))
        ids = backbone.text.tokenizer.encode_plain("xyz")

        def columns(place, length):
            chosen = method if place == "memory" else "prefix"
            config = PromptConfig(method=chosen, place=place, length=length, init="text", init_text="xyz")
            return build_prompt(config, source, 0).injection().memory.memory

        def are(found, ids):
            wanted = backbone.memory_of_tokens(ids)
            return torch.equal(found.keys, wanted.keys) and torch.equal(found.values, wanted.values)

        assert are(columns("memory", 4), [BOS, *ids])
        assert are(columns("memory", 6), [BOS, *ids, *ids[:2]])
        # The input in front has the start token already.
        assert are(columns("after", 4), [*ids, ids[0]])

    def test_a_single_column_of_text_is_the_texts(self, backbone):
        config = PromptConfig(method="prefix", place="memory", length=1, init="text", init_text="xyz")
        found = start_of(config, replace(source_of(backbone), bos_ids=(BOS,)), 0)[0]
        assert torch.equal(found, backbone.embed(backbone.text.tokenizer.encode_plain("x")))

    def test_vectors_of_a_text_have_no_start_token(self, backbone):
        config = PromptConfig(method="vectors", place="before", length=3, init="text", init_text="xyz")
        found = start_of(config, replace(source_of(backbone), bos_ids=(BOS,)), 0)[0]
        assert torch.equal(found, backbone.embed(backbone.text.tokenizer.encode_plain("xyz")))

    def test_the_frozen_column_is_the_start_token(self, backbone):
        config = PromptConfig(method="cartridge", place="memory", length=3, init="text", init_text="xyz")
        prompt = build_prompt(config, replace(source_of(backbone), bos_ids=(BOS,)), 0)
        own = backbone.memory_of_tokens([BOS])
        torch.testing.assert_close(prompt.sink, torch.stack([own.keys, own.values]))

    @pytest.mark.parametrize("candidates", [ONE_TOKEN, SEVERAL_TOKENS])
    def test_labels_are_means_of_their_words_then_vocabulary(self, backbone, candidates):
        found = start(backbone, "labels", 6, candidates=candidates)
        means = torch.stack([backbone.embed(word).mean(0) for word in candidates.words])
        assert torch.equal(found[:4], means)
        assert set(rows_of(backbone, found[4:])) <= set(TEXT_IDS)
        assert torch.equal(start(backbone, "labels", 3, candidates=candidates), means[:3])

    def test_null_is_the_end_of_text_with_a_little_noise(self, backbone):
        found, token = start(backbone, "null", 50), backbone.embed([backbone.text.tokenizer.eos_id])
        noise = (found - token).norm(dim=1) / backbone.embedding_norm
        assert float(noise.mean()) == pytest.approx(0.01, rel=0.05)
        assert len(found.unique(dim=0)) == 50

    @pytest.mark.parametrize("place", METHODS["prefix"].places)
    def test_zero_is_zero_keys_and_values(self, backbone, place):
        config = PromptConfig(method="prefix", place=place, length=3, init="zero")
        memory = build_prompt(config, source_of(backbone), 0).injection().memory.memory
        assert not memory.keys.any()
        assert not memory.values.any()

    @pytest.mark.parametrize("init", ["random", "vocabulary", "null"])
    def test_the_seed_decides(self, backbone, init):
        assert torch.equal(start(backbone, init, seed=4), start(backbone, init, seed=4))
        assert not torch.equal(start(backbone, init, seed=4), start(backbone, init, seed=5))

    def test_what_is_missing_is_an_error(self, backbone):
        with pytest.raises(ConfigError) as no_text:
            start(backbone, "text")
        assert no_text.value.where == "prompt.init_text"
        with pytest.raises(ConfigError) as no_labels:
            start(backbone, "labels")
        assert no_labels.value.where == "prompt.init"
        config = PromptConfig(init="null")
        with pytest.raises(ConfigError) as no_token:
            start_of(config, replace(source_of(backbone), null_id=None), 0)
        assert (no_token.value.where, no_token.value.fix) == ("prompt.init", "--set prompt.init=text")


class TestMethods:
    @pytest.mark.parametrize("case", CASES, ids=str)
    def test_the_formula_that_is_shown_counts_the_tensors(self, backbone, case):
        prompt, method = make_prompt(case, backbone, length=5), METHODS[case.method]
        options = method.options(**case.options)
        numbers = numbers_of(backbone, injection_of(prompt, backbone).length)
        own = {letter: getattr(options, name) for letter, name in method.letters.items()}
        assert not set(own) & set(numbers)
        formula = method.variants.get(variant_of(case), method.formula)
        values = prompt.trainable().values()
        assert sum(value.numel() for value in values) == value_of(formula, {**numbers, **own})
        assert all(value.requires_grad and value.is_leaf for value in values)

    def test_every_variant_of_a_formula_is_counted(self):
        counted = {(case.method, variant_of(case)) for case in CASES}
        # Those among the labels' words are counted in tests/contract/test_captions.py.
        of_texts = {name: method for name, method in METHODS.items() if not method.in_captions}
        assert counted >= {(name, variant) for name, method in of_texts.items() for variant in ("", *method.variants)}

    def test_formulas_with_label_vectors_beside_the_prompt(self, backbone):
        config = PromptConfig(method="vectors", place="after", length=5, labels="vectors")
        prompt = build_prompt(config, source_of(backbone, ONE_TOKEN), 0)
        wanted = value_of(f"{METHODS['vectors'].formula} + C D", numbers_of(backbone, 5))
        assert sum(value.numel() for value in prompt.trainable().values()) == wanted

    @pytest.mark.parametrize(("formula", "value"), [("2 N (P - f) H", 24), ("n D / k", 5), ("r (P + D) (m + 1)", 84)])
    def test_formulas_are_read_as_written(self, formula, value):
        numbers = {"N": 2, "P": 4, "f": 1, "H": 2, "n": 3, "D": 10, "k": 6, "r": 2, "m": 2}
        assert value_of(formula, numbers) == value

    def test_vectors_start_as_the_start(self, backbone):
        prompt = make_prompt(Case("vectors", "after"), backbone, noise=0)
        assert torch.equal(prompt.injection().vectors.values, start(backbone, "vocabulary", 3))

    @pytest.mark.parametrize("place", METHODS["prefix"].places)
    @pytest.mark.parametrize("options", [{}, {"reparameterise": "mlp", "mlp_width": 6}], ids=["plain", "mlp"])
    def test_prefix_starts_as_the_tokens_own_memory(self, backbone, place, options):
        config = PromptConfig(method="prefix", place=place, length=3, init="text", init_text="xyz", options=options)
        injection = build_prompt(config, source_of(backbone), 0).injection()
        own = backbone.memory_of_tokens(backbone.text.tokenizer.encode_plain("xyz"))
        assert injection.memory.place == place
        assert torch.equal(injection.memory.memory.keys, own.keys)
        assert torch.equal(injection.memory.memory.values, own.values)

    def test_the_perceptrons_seed_decides(self, backbone):
        case = Case("prefix", "after", {"reparameterise": "mlp", "mlp_width": 6})
        one, same, other = [make_prompt(case, backbone, noise=0, seed=seed) for seed in (1, 1, 2)]
        assert torch.equal(one.inner_weight, same.inner_weight)
        assert not torch.equal(one.inner_weight, other.inner_weight)

    @pytest.mark.parametrize("case", CASES, ids=str)
    def test_tensors_and_back(self, backbone, case):
        prompt = make_prompt(case, backbone)
        tensors = prompt_tensors(prompt)
        length = injection_of(prompt, backbone).length
        config = PromptConfig(method=case.method, place=case.place, length=length, options=case.options)
        again = prompt_from(tensors, config, source_of(backbone))
        assert not any(value.requires_grad for value in tensors.values())
        back = prompt_tensors(Constant(again) if isinstance(again, Injection) else again)
        assert set(back) == set(tensors)
        assert all(torch.equal(back[name], tensors[name]) for name in tensors)

    def test_other_tensors_are_no_prompt(self):
        with pytest.raises(ArtifactError, match="not the tensors of a prompt"):
            prompt_from({"vectors": torch.ones(1), "keys": torch.ones(1)}, PromptConfig())


class TestRegistry:
    def test_every_place_has_a_learning_rate(self):
        for method in METHODS.values():
            assert set(method.learning_rate) == set(method.places)

    @pytest.mark.parametrize(("length", "rate"), [(1, 0.1), (30, 0.1), (60, 0.05), (100, 0.03)])
    def test_a_long_prefix_takes_a_smaller_rate(self, length, rate):
        assert own_rate(PromptConfig(method="prefix", place="after", length=length)) == pytest.approx(rate)

    @pytest.mark.parametrize(("place", "wanted"), [("before", "pruned"), ("after", "pruned"), ("slots", None)])
    def test_what_is_left_of_vectors_has_a_method_where_it_can_stand(self, place, wanted):
        assert pruned_method("vectors", place) == wanted
        assert pruned_method("residual", place) is None
        assert pruned_method("of another version", place) is None

    def test_what_prunes_is_registered_and_stands_nowhere_else(self):
        for method in METHODS.values():
            assert method.pruned is None or set(METHODS[method.pruned].places) & set(method.places)

    @pytest.mark.parametrize(
        ("asked", "wanted"),
        [
            (("before", False), "vectors"),
            (("slots", False), "vectors"),
            (("around", False), "split"),
            (("memory", True), "prefix"),
            (("before", False, True), "late"),
        ],
    )
    def test_the_plainest_method_at_a_place(self, asked, wanted):
        assert plainest_at(*asked) == wanted

    def test_a_method_without_a_rated_length_takes_one_rate(self):
        rates = {own_rate(PromptConfig(method="vectors", place="after", length=length)) for length in (1, 30, 100)}
        assert len(rates) == 1

    def test_unknown_method_names_the_known(self):
        with pytest.raises(ConfigError, match="no such method") as caught:
            method_of(PromptConfig(method="prefixes"))
        assert caught.value.wanted == ", ".join(METHODS)

    @pytest.mark.parametrize(("method", "place"), [("vectors", "memory"), ("prefix", "before")])
    def test_wrong_place_names_the_right_ones(self, method, place):
        with pytest.raises(ConfigError, match="cannot enter at") as caught:
            method_of(PromptConfig(method=method, place=place))
        assert caught.value.wanted == " or ".join(METHODS[method].places)
        assert "--method" in caught.value.fix

    def test_unknown_option_names_the_nearest(self):
        config = PromptConfig(method="prefix", options={"reparametrise": "mlp"})
        with pytest.raises(ConfigError, match="did you mean 'reparameterise'"):
            build_prompt(config, source_of(backbone_of("llama")), 0)

    def test_vectors_take_no_option(self):
        with pytest.raises(ConfigError, match="unknown key"):
            build_prompt(PromptConfig(method="vectors", options={"mlp_width": 3}), source_of(backbone_of("llama")), 0)

    def test_injections_say_their_length(self):
        backbone = backbone_of("llama")
        for case in CASES:
            # What begins as text takes as much of the length as its text needs; what is pruned has what is left.
            wanted = {"cpt": 10, "pruned": 2}.get(case.method, 2 if case.place == "slots" else 4)
            assert injection_of(make_prompt(case, backbone, length=4), backbone).length == wanted
