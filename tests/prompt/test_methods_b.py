"""Methods that go beyond vectors of one prompt: label vectors, examples, offsets, late layers, prompts of each row."""

import math
from dataclasses import replace

import pytest
import torch

from fakes import (
    ONE_TOKEN,
    SEVERAL_TOKENS,
    Case,
    backbone_of,
    injection_of,
    make_backbone,
    make_prompt,
    make_rows,
    source_of,
)
from overture.core.errors import ArtifactError, ConfigError
from overture.core.injection import Injection, Memory
from overture.core.rows import Tokens
from overture.engine.cache import InputCache
from overture.engine.compiled import compiled_prompt
from overture.engine.prompted import PromptedModel
from overture.prompt.build import build_prompt
from overture.prompt.config import PromptConfig
from overture.prompt.cpt import SEPARATOR
from overture.prompt.pack import prompt_from, prompt_tensors
from tiny_configs import BOS

DOUBLE = torch.float64
CLOSE = {"rtol": 1e-8, "atol": 1e-8}
ROW_CASES = [Case("idpg", "before", {"width": 4}), Case("lopa", "after", {"rank": 2, "width": 4})]
ROW_CASES.append(Case("attempt", "slots", {"sources": ["first", "second"], "width": 4}))


@pytest.fixture(params=["llama", "gemma3_text", "gpt2"])
def backbone(request):
    return backbone_of(request.param)


def built(backbone, method: str, place: str = "before", length: int = 4, seed: int = 0, **options):
    """A prompt at its start, from three examples of each label and their separators."""
    config = PromptConfig(method=method, place=place, length=length, options=options)
    examples = make_rows("several tokens", (2, 3, 2, 4, 2, 3, 5, 2, 2))
    return build_prompt(config, source_of(backbone, SEVERAL_TOKENS, examples), seed)


def vocabulary_start(backbone, length: int = 4) -> torch.Tensor:
    return built(backbone, "vectors", length=length).injection().vectors.values.detach()


def features_of(backbone, num_rows: int) -> torch.Tensor:
    return torch.randn(num_rows, backbone.info.hidden_size, generator=torch.Generator().manual_seed(0))


class TestWarp:
    def test_labels_start_as_the_heads_rows_of_their_first_tokens(self, backbone):
        head = backbone.model.get_output_embeddings().weight
        labels = built(backbone, "warp").injection().labels
        # The words are (50, 51, 52), (61), (50, 90) and (83, 84); the last two are of one label.
        wanted = torch.stack([head[50], head[61], (head[50] + head[83]) / 2])
        torch.testing.assert_close(labels.detach(), wanted)

    def test_the_start_scores_labels_as_their_words_do(self):
        # One word of one token each, and neither a bias nor a cap on this family's head.
        backbone = backbone_of("llama", DOUBLE)
        words = replace(ONE_TOKEN, words=ONE_TOKEN.words[:3], label_of=(0, 1, 2))
        rows = [replace(row, target=replace(row.target, candidates=words)) for row in make_rows("one token")]
        config = PromptConfig(method="warp", place="after", length=2)
        prompt = build_prompt(config, source_of(backbone, words), 0).to(DOUBLE)
        hard = PromptedModel(backbone, Injection(prompt.injection().vectors)).label_scores(rows)
        torch.testing.assert_close(PromptedModel(backbone, prompt).label_scores(rows), hard, **CLOSE)

    def test_label_words_do_not_run(self, monkeypatch):
        backbone, rows = backbone_of("llama"), make_rows("several tokens")
        widths = []
        run = type(backbone).run

        def watched(self, live, *arguments):
            widths.append(live.shape[1])
            return run(self, live, *arguments)

        monkeypatch.setattr(type(backbone), "run", watched)
        PromptedModel(backbone, make_prompt(Case("warp", "before"), backbone)).label_scores(rows)
        # The prompt runs once for all rows, then the rows' own tokens: no label word is among them.
        assert widths == [3, max(row.num_tokens for row in rows)]

    def test_labels_have_a_rate_of_their_own(self, backbone):
        assert built(backbone, "warp", label_rate=0.5).rates() == {"labels": 0.5}

    def test_free_text_is_refused(self, backbone):
        with pytest.raises(ConfigError, match="needs label words"):
            build_prompt(PromptConfig(method="warp", place="before"), source_of(backbone), 0)


class TestContext:
    def test_it_starts_as_the_text_of_labelled_examples(self, backbone):
        prompt = built(backbone, "cpt", length=60, num_examples=3)
        values = prompt.injection().vectors.values.detach()
        separator = backbone.text.tokenizer.encode_plain(SEPARATOR)
        texts = {}
        for row in make_rows("several tokens", (2, 3, 2, 4, 2, 3, 5, 2, 2)):
            # A label's first word.
            word = SEVERAL_TOKENS.words[row.label]
            texts[row.row] = [*row.input_ids, *row.anchor_ids, *word, *separator]
        found = []
        while len(values):
            starts = [n for n, ids in texts.items() if torch.equal(values[: len(ids)], backbone.embed(ids))]
            assert len(starts) == 1
            found.append(starts[0])
            values = values[len(texts[starts[0]]) :]
        assert len(set(found)) == 3
        labels = [make_rows("several tokens", (2, 3, 2, 4, 2, 3, 5, 2, 2))[number].label for number in found]
        assert len(set(labels)) == 3

    def test_what_starts_a_sequence_stands_once_in_front(self, backbone):
        rows = make_rows("several tokens", (2, 3, 2, 4, 2, 3, 5, 2, 2))
        with_bos = [replace(row, input=(Tokens((BOS,)), *row.input)) for row in rows]
        config = PromptConfig(method="cpt", place="before", length=60)
        source = replace(source_of(backbone, SEVERAL_TOKENS, with_bos), bos_ids=(BOS,))
        found = build_prompt(config, source, 0).injection().vectors
        config = config.model_copy(update={"length": 59})
        plain = build_prompt(config, source_of(backbone, SEVERAL_TOKENS, rows), 0).injection().vectors
        assert torch.equal(found.values[:1], backbone.embed([BOS]))
        assert torch.equal(found.values[1:], plain.values)
        assert found.targets == tuple(replace(target, index=target.index + 1) for target in plain.targets)

    def test_each_label_token_is_predicted_and_later_ones_weigh_more(self, backbone):
        prompt = built(backbone, "cpt", length=60, num_examples=3, context_loss=0.5, decay=0.8)
        vectors = prompt.injection().vectors
        table = backbone.embed(range(300))
        for target in vectors.targets:
            assert torch.equal(vectors.values[target.index + 1], table[target.token])
        weights = [target.weight for target in vectors.targets]
        assert weights == sorted(weights)
        assert {round(weight, 9) for weight in weights} == {0.4, 0.32, 0.256}
        gold = {token for word in SEVERAL_TOKENS.words for token in word}
        assert {target.token for target in vectors.targets} <= gold

    def test_free_text_examples_end_with_their_answers(self, backbone):
        config = PromptConfig(method="cpt", place="before", length=40)
        rows = make_rows("free text")
        prompt = build_prompt(config, source_of(backbone, None, rows), 0)
        tokens = [target.token for target in prompt.injection().vectors.targets]
        answers = [row.answer_ids for row in rows]
        while tokens:
            answer = next(answer for answer in answers if tuple(tokens[: len(answer)]) == answer)
            tokens = tokens[len(answer) :]

    def test_as_many_as_fit(self, backbone):
        lengths = [built(backbone, "cpt", length=length).injection().length for length in (8, 14, 30, 2000)]
        assert all(own <= room for own, room in zip(lengths, (8, 14, 30, 2000), strict=True))
        assert lengths == sorted(set(lengths))
        # Eight examples at most, whatever the room.
        weights = {target.weight for target in built(backbone, "cpt", length=2000).injection().vectors.targets}
        assert len(weights) == 8

    def test_no_room_is_an_error(self, backbone):
        with pytest.raises(ConfigError, match="no training row fits") as caught:
            built(backbone, "cpt", length=3)
        assert caught.value.wanted == "at least 7"
        with pytest.raises(ConfigError, match="no labelled training rows"):
            build_prompt(PromptConfig(method="cpt", place="before"), source_of(backbone), 0)

    def test_no_vector_leaves_its_ball(self, backbone):
        options = {"num_examples": 1, "epsilon": 0.3, "format_epsilon": 0.05}
        prompt = built(backbone, "cpt", length=40, **options)
        start = prompt.injection().vectors.values.detach()
        with torch.no_grad():
            prompt.change.copy_(100 * torch.randn_like(prompt.change))
        moved = (prompt.injection().vectors.values - start).norm(dim=1) / backbone.embedding_norm
        num_format = 2 + sum(1 for _ in prompt.targets) + len(backbone.text.tokenizer.encode_plain(SEPARATOR))
        wanted = [0.3] * (len(start) - num_format) + [0.05] * num_format
        torch.testing.assert_close(moved.detach(), torch.tensor(wanted), rtol=1e-3, atol=1e-4)
        with torch.no_grad():
            prompt.change.copy_(1e-4 * torch.randn_like(prompt.change))
        inside = prompt.injection().vectors.values - start
        torch.testing.assert_close(inside, prompt.change, rtol=0, atol=1e-5)

    def test_the_template_around_the_text_moves_as_little_as_the_label(self, backbone):
        rows = [
            replace(row, input=(Tokens((BOS, 40, 41)), *row.input), texts=((3, 3 + len(row.input_ids)),))
            for row in make_rows("several tokens", (4, 4, 4))
        ]
        options = {"num_examples": 2, "epsilon": 0.3, "format_epsilon": 0.05}
        config = PromptConfig(method="cpt", place="before", length=60, options=options)
        source = replace(source_of(backbone, SEVERAL_TOKENS, rows), bos_ids=(BOS,))
        prompt = build_prompt(config, source, 0)
        radius = (prompt.radius[:, 0] / backbone.embedding_norm).tolist()
        # The start token and two tokens of the template; four of text; the anchor, the label and the empty line.
        wanted = [0.05] * 3 + [0.3] * 4
        assert radius[:7] == pytest.approx(wanted)
        assert sum(share == pytest.approx(0.3) for share in radius) == 8
        second = radius.index(pytest.approx(0.3), 7)
        assert radius[7:second] == pytest.approx([0.05] * (second - 7))
        table = backbone.embed([40, 41])
        assert torch.equal(prompt.start[second - 2 : second], table)

    def test_a_text_that_ends_the_row_may_move_far_to_its_last_token(self, backbone):
        rows = [
            replace(row, texts=((0, len(row.input_ids) + 1),))
            for row in make_rows("several tokens", (4, 4, 4), num_anchor=1)
        ]
        config = PromptConfig(method="cpt", place="before", length=60, options={"num_examples": 1})
        prompt = build_prompt(config, source_of(backbone, SEVERAL_TOKENS, rows), 0)
        radius = (prompt.radius[:, 0] / backbone.embedding_norm).tolist()
        assert radius == pytest.approx([0.2] * 5 + [0.1] * (len(radius) - 5))

    def test_the_start_has_a_gradient(self, backbone):
        prompt = built(backbone, "cpt", length=40)
        PromptedModel(backbone, prompt).loss(make_rows("several tokens")).backward()
        assert prompt.change.grad.isfinite().all()
        assert (prompt.change.grad.norm(dim=1) > 0).all()

    def test_the_examples_loss_is_in_the_loss_alone(self):
        backbone, rows = backbone_of("llama", DOUBLE), make_rows("several tokens")
        case = Case("cpt", "before")
        with_it, without = (
            PromptedModel(backbone, make_prompt(replace(case, options={"context_loss": weight}), backbone))
            for weight in (1.0, 0.0)
        )
        assert float(with_it.loss(rows).detach()) > float(without.loss(rows).detach()) + 0.1
        torch.testing.assert_close(with_it.label_scores(rows), without.label_scores(rows), rtol=0, atol=1e-10)


class TestDecomposed:
    def test_it_starts_without_an_offset(self, backbone):
        injection = built(backbone, "dept", max_tokens=5, rank=2).injection()
        assert injection.offset.shape == (5, backbone.info.hidden_size)
        assert not injection.offset.any()
        assert torch.equal(injection.vectors.values, vocabulary_start(backbone))

    def test_the_offset_has_a_rate_of_its_own(self, backbone):
        assert built(backbone, "dept", offset_rate=0.2).rates() == {"left": 0.2, "right": 0.2}

    def test_after_keeps_no_inputs(self, backbone):
        assert not built(backbone, "dept", "after").injection().leaves_input


class TestLate:
    @pytest.mark.parametrize("layer", [0, -1, 3, 99])
    def test_a_layer_that_is_not_there(self, layer):
        with pytest.raises(ConfigError) as caught:
            built(backbone_of("llama"), "late", layer=layer)
        assert "layer" in str(caught.value)

    def test_the_layer_must_be_said(self, backbone):
        with pytest.raises(ConfigError, match="layer"):
            built(backbone, "late")

    @pytest.mark.parametrize("place", ["before", "after", "slots"])
    def test_lower_layers_run_once(self, place):
        backbone = make_backbone("llama")
        prompt = make_prompt(Case("late", place, {"layer": 2}), backbone)
        model, rows = PromptedModel(backbone, prompt, InputCache(1 << 24)), make_rows("several tokens")
        calls = [0] * backbone.info.num_layers

        def count(number):
            def hook(*arguments):
                calls[number] += 1

            return hook

        for number, layer in enumerate(backbone.layers):
            layer.register_forward_hook(count(number))
        model.warm(rows)
        assert calls[:2] != [0, 0]
        assert calls[2] == 0
        calls[:] = [0, 0, 0]
        for part in (rows, rows[:2], rows[::-1]):
            model.loss(part).backward()
            model.label_scores(part)
        assert calls == [0, 0, 6]

    def test_compiled_it_is_memory_from_its_layer_on(self):
        for family in ("llama", "gemma3_text"):
            backbone = backbone_of(family, DOUBLE)
            prompt = make_prompt(Case("late", "before", {"layer": 2}), backbone)
            compiled = compiled_prompt(backbone, prompt.injection())
            assert compiled.vectors is None
            weights = compiled.memory.memory.weights
            assert torch.equal(weights, torch.ones_like(weights) * (torch.arange(len(weights)) >= 2)[:, None])
            rows = make_rows("several tokens")
            live, constant = PromptedModel(backbone, prompt), PromptedModel(backbone, compiled)
            torch.testing.assert_close(constant.label_scores(rows), live.label_scores(rows), **CLOSE)

    def test_learned_positions_keep_it_live(self):
        backbone = backbone_of("gpt2")
        injection = make_prompt(Case("late", "before", {"layer": 1}), backbone).injection()
        assert compiled_prompt(backbone, injection) is injection

    def test_the_layer_comes_back_from_an_artifact(self, backbone):
        prompt = built(backbone, "late", layer=2)
        config = PromptConfig(method="late", place="before", options={"layer": 2})
        assert prompt_from(prompt_tensors(prompt), config).layer == 2


class TestRowPrompts:
    @pytest.mark.parametrize(("method", "options"), [("idpg", {}), ("lopa", {})])
    def test_every_row_starts_with_the_start(self, backbone, method, options):
        prompt = built(backbone, method, **options)
        features = features_of(backbone, 3)
        for injection in prompt.injections(features):
            torch.testing.assert_close(injection.vectors.values.detach(), vocabulary_start(backbone))

    @pytest.mark.parametrize("case", ROW_CASES, ids=str)
    def test_rows_have_prompts_of_their_own(self, backbone, case):
        prompt = make_prompt(case, backbone)
        features = features_of(backbone, 3)
        one, two, three = [found.vectors.values for found in prompt.injections(features)]
        assert not torch.allclose(one, two)
        assert not torch.allclose(two, three)

    @pytest.mark.parametrize("case", ROW_CASES, ids=str)
    def test_only_the_features_direction_counts(self, backbone, case):
        prompt, features = make_prompt(case, backbone), features_of(backbone, 1)
        small, large = [prompt.injections(scale * features)[0].vectors.values for scale in (0.02, 50)]
        torch.testing.assert_close(small, large, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("case", ROW_CASES, ids=str)
    def test_saved_and_loaded_it_is_bit_equal(self, backbone, case):
        prompt, rows = make_prompt(case, backbone), make_rows("several tokens")
        length = injection_of(prompt, backbone).length
        config = PromptConfig(method=case.method, place=case.place, length=length, options=case.options)

        def gone(ref):
            raise AssertionError("the prompt holds all it needs")

        again = prompt_from(prompt_tensors(prompt), config, replace(source_of(backbone), prompt=gone))
        ours, theirs = PromptedModel(backbone, prompt), PromptedModel(backbone, again)
        assert torch.equal(ours.label_scores(rows), theirs.label_scores(rows))

    def test_tensors_of_another_width_are_refused(self, backbone):
        tensors = prompt_tensors(make_prompt(ROW_CASES[0], backbone))
        with pytest.raises(ArtifactError, match="not the tensors"):
            prompt_from(tensors, PromptConfig(method="idpg", place="before", length=3), source_of(backbone))

    def test_a_prompt_trains_in_another_precision_than_the_model(self):
        backbone = backbone_of("llama", torch.bfloat16)
        for case in ROW_CASES:
            prompt = make_prompt(case, backbone).float()
            PromptedModel(backbone, prompt).loss(make_rows("one token")).backward()
            assert all(value.grad.isfinite().all() for value in prompt.trainable().values())


class TestMixture:
    def test_shares_add_up_and_follow_the_temperature(self, backbone):
        features = features_of(backbone, 4)
        spread = []
        for temperature in (1e-2, 1.0, 1e4):
            prompt = built(backbone, "attempt", sources=["a", "bb", "ccc"], temperature=temperature)
            mixed = torch.cat([prompt.sources, prompt.target[None]])
            shares = prompt.shares(features, mixed)
            assert shares.shape == (4, 4)
            torch.testing.assert_close(shares.sum(1), torch.ones(4))
            spread.append(float(shares.detach().max(1).values.mean()))
        assert spread[0] > spread[1] > spread[2]
        assert spread[2] == pytest.approx(0.25, abs=1e-3)

    def test_the_prompt_is_the_tasks_plus_the_mixture(self, backbone):
        prompt = built(backbone, "attempt", sources=["a", "bb"], temperature=1e9)
        found = prompt.injections(features_of(backbone, 1))[0].vectors.values
        stored = [source_of(backbone).prompt(ref).vectors.values[[0, 1, 0, 1]] for ref in ("a", "bb")]
        own = vocabulary_start(backbone)
        torch.testing.assert_close(found.detach(), own + (stored[0] + stored[1] + own) / 3)

    def test_stored_prompts_are_kept_but_not_trained(self, backbone):
        prompt = built(backbone, "attempt", sources=["a", "bb"])
        assert "sources" not in prompt.trainable()
        assert prompt_tensors(prompt)["state.sources"].shape == (2, 4, backbone.info.hidden_size)

    @pytest.mark.parametrize("method", [("attempt", {"sources": ["memory"]}), ("mpt", {"source": "memory"})])
    def test_memory_is_nothing_to_mix(self, backbone, method):
        name, options = method
        injection = Injection(memory=Memory(backbone.memory_of_tokens([40, 41]), "memory"))
        source = replace(source_of(backbone), prompt=lambda ref: injection)
        config = PromptConfig(method=name, place="before", options=options)
        with pytest.raises(ConfigError, match="no vectors to build on"):
            build_prompt(config, source, 0)

    def test_some_prompt_is_needed(self, backbone):
        with pytest.raises(ConfigError, match="sources"):
            built(backbone, "attempt", sources=[])


class TestMultiTask:
    @pytest.mark.parametrize("rank", [1, 3])
    def test_it_starts_as_the_start_or_as_the_stored_prompt(self, backbone, rank):
        plain = built(backbone, "mpt", rank=rank).injection().vectors.values
        torch.testing.assert_close(plain.detach(), vocabulary_start(backbone))
        stored = built(backbone, "mpt", rank=rank, source="a").injection().vectors.values
        wanted = source_of(backbone).prompt("a").vectors.values[[0, 1, 0, 1]]
        torch.testing.assert_close(stored.detach(), wanted)

    def test_one_factor_scales_positions_the_other_dimensions(self, backbone):
        prompt = built(backbone, "mpt")
        start = prompt.injection().vectors.values.detach()
        with torch.no_grad():
            prompt.left[1] = 3
            prompt.right[0, 2] = -math.pi
        wanted = start.clone()
        wanted[1] *= 3
        wanted[:, 2] *= -math.pi
        torch.testing.assert_close(prompt.injection().vectors.values.detach(), wanted)


@pytest.mark.parametrize("case", ROW_CASES, ids=str)
def test_reading_inputs_once_makes_few_prompts(case, monkeypatch):
    backbone = backbone_of("llama")
    prompt, asked = make_prompt(case, backbone), []
    made = type(prompt).injections

    def counting(own, features):
        asked.append(len(features))
        return made(own, features)

    monkeypatch.setattr(type(prompt), "injections", counting)
    rows = make_rows("one token", (3,) * 40)
    PromptedModel(backbone, prompt, InputCache(1 << 20)).warm(rows)
    assert sum(asked) < len(rows)
