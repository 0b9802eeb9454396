"""The laws for models that read images and texts together, against transformers' own forward pass."""

from dataclasses import replace
from itertools import chain
from typing import Any

import pytest
import torch
from company import check_company_changes_nothing
from torch import Tensor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil, smart_resize

from fakes import ONE_TOKEN, Case, make_inner_tokenizer, make_prompt
from overture.core.contracts import Answers, LabelScores, Losses
from overture.core.errors import BackboneError
from overture.core.injection import Injection, Vectors
from overture.core.rows import Answer, Encoded, OneOf, Signal
from overture.engine.backbone import Backbone
from overture.engine.cache import InputCache
from overture.engine.compiled import compiled_prompt
from overture.engine.frontends.connected import connected_backbone
from overture.engine.frontends.pixels import ImageProcessor
from overture.engine.inputs import Inputs
from overture.engine.layout import Start, answer_layout
from overture.engine.load import load_backbone
from overture.engine.prompted import PromptedModel
from overture.engine.tokenizer import Tokenizer
from tiny_configs import BOS, CONTEXT
from vision_fakes import PATCH, SIZE
from vlm_fakes import (
    IMAGE,
    NUM_POSITIONS,
    VLMS,
    make_vlm,
    make_vlm_processor,
    make_vlm_tokenizer,
    save_vlm,
    vlm_backbone_of,
    vlm_reference_of,
    vlm_rows,
)

CLOSE = {"rtol": 1e-5, "atol": 1e-5}
CASES = [
    Case("vectors", "before"),
    Case("vectors", "slots"),
    Case("vectors", "after"),
    Case("prefix", "memory"),
    Case("prefix", "after"),
    Case("late", "before", {"layer": 1}),
]
PUBLISHED = {"min_pixels": 3136, "max_pixels": 12_845_056, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
"""What files of Qwen 2.5-VL say, which is not how they resize."""
KINDS = ("one token", "several tokens", "free text")


def ids_of(row: Encoded) -> list[int]:
    """A row's tokens, with the library's placeholder at each position of an image."""
    placeholder = make_vlm_tokenizer().convert_tokens_to_ids(IMAGE)
    return [e if isinstance(e, int) else placeholder for e in (*row.input_elements, *row.anchor_elements)]


def theirs(model: Any, row: Encoded, ids: list[int]) -> dict[str, Tensor]:
    """A row as transformers' model takes it."""
    (signal,) = [segment for segment in row.input if isinstance(segment, Signal)]
    pixels = signal.load()[None].to(model.dtype)
    kind, values = model.config.model_type, {"input_ids": torch.tensor([ids])}
    is_image = torch.tensor([[token == make_vlm_tokenizer().convert_tokens_to_ids(IMAGE) for token in ids]]).long()
    if kind == "gemma3":
        return values | {"pixel_values": pixels, "token_type_ids": is_image}
    if kind == "qwen2_5_vl":
        processor = Qwen2VLImageProcessorPil(patch_size=PATCH)
        patches, height, width = processor.patchify(pixels[0].numpy(), PATCH, 2, 2)
        grid = torch.tensor([[1, height, width]])
        patches = torch.from_numpy(patches.copy()).to(model.dtype)
        return values | {"pixel_values": patches, "image_grid_thw": grid, "mm_token_type_ids": is_image}
    return values | {"pixel_values": pixels if kind == "llava" else pixels[None]}


def likelihoods(model: Any, row: Encoded, words: list[tuple[int, ...]]) -> Tensor:
    """Log-likelihood of each word behind a row, by transformers' own forward pass."""
    ids, values = ids_of(row), []
    for word in words:
        logits = model(**theirs(model, row, [*ids, *word])).logits[0].log_softmax(-1)
        values.append(sum(logits[len(ids) - 1 + n, token] for n, token in enumerate(word)))
    return torch.stack(values)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("family", VLMS)
def test_answers_and_labels_are_the_library_s(family, dtype):
    backbone, reference = vlm_backbone_of(family, dtype), vlm_reference_of(family, dtype)
    lengths = {len(s) for row in vlm_rows(backbone) for s in row.input if isinstance(s, Signal)}
    assert lengths <= NUM_POSITIONS[family]
    assert len(lengths) == 1 or family == "qwen2_5_vl"
    for cache in (None, InputCache(1 << 24)):
        model = PromptedModel(backbone, None, cache)
        rows = vlm_rows(backbone, "free text")
        expected = torch.stack([-likelihoods(reference, row, [row.answer_ids or ()])[0] for row in rows])
        torch.testing.assert_close(torch.stack(model.ask(rows, Losses())), expected, rtol=1e-4, atol=1e-4)
        assert len({round(float(loss), 4) for loss in expected}) == len(rows)
        for row in vlm_rows(backbone, "several tokens"):
            assert isinstance(row.target, OneOf)
            scores = likelihoods(reference, row, list(row.target.candidates.words))
            labels = [scores[torch.tensor(row.target.candidates.label_of) == n].logsumexp(0) for n in range(3)]
            (ours,) = model.ask([row], LabelScores())
            torch.testing.assert_close(ours, torch.stack(labels).log_softmax(0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", VLMS)
def test_what_is_written_is_the_library_s(family):
    backbone, reference = vlm_backbone_of(family), vlm_reference_of(family)
    rows = vlm_rows(backbone, "free text")
    ours = PromptedModel(backbone, None, InputCache(1 << 24)).ask(rows, Answers(4, ()))
    for row, answer in zip(rows, ours, strict=True):
        named = theirs(reference, row, ids_of(row))
        whole = reference.generate(**named, max_new_tokens=4, do_sample=False)[0, len(ids_of(row)) :].tolist()
        end = reference.config.text_config.eos_token_id
        assert list(answer.ids) == (whole[: whole.index(end)] if end in whole else whole)


ALONE = ("llava", "gemma3", "qwen2_5_vl")
"""Families whose images stand in the language model each in a way of their own."""
FAMILY_CASES = [(family, case) for family in VLMS for case in (CASES if family in ALONE else CASES[1:5:2])]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("family", "case"), FAMILY_CASES, ids=str)
def test_batches_caches_and_company_change_nothing(family, case, kind):
    backbone = vlm_backbone_of(family)
    check_company_changes_nothing(backbone, vlm_rows(backbone, kind), make_prompt(case, backbone), CLOSE)


@pytest.mark.parametrize("place", ["before", "slots", "after"])
@pytest.mark.parametrize("family", VLMS)
def test_vectors_stand_where_the_row_has_them(family, place):
    backbone, reference = vlm_backbone_of(family), vlm_reference_of(family)
    vectors_PD = torch.randn(2, 32, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    rows = vlm_rows(backbone)
    ours = PromptedModel(backbone, Injection(Vectors(vectors_PD, place))).ask(rows, LabelScores())
    for row, scores in zip(rows, ours, strict=True):
        index = {"before": 0, "slots": row.slots[0][0], "after": row.num_input}[place]
        embedded = _embedded(reference, row)
        embedded = torch.cat([embedded[:, :index], vectors_PD[None], embedded[:, index:]], dim=1)
        ids = ids_of(row)
        named = theirs(reference, row, [*ids[:index], *[0] * len(vectors_PD), *ids[index:]])
        logits = reference(inputs_embeds=embedded, **_without_image(reference, named)).logits[0, -1]
        assert isinstance(row.target, OneOf)
        words = row.target.candidates
        expected = torch.stack(
            [
                logits[[w[0] for w, n in zip(words.words, words.label_of, strict=True) if n == c]].logsumexp(0)
                for c in range(3)
            ]
        )
        torch.testing.assert_close(scores, expected.log_softmax(0), **CLOSE)


def _embedded(model: Any, row: Encoded) -> Tensor:
    """What enters the language model, [1, L, D], by the library's own merging of images into texts."""
    caught: list[Tensor] = []
    texts = getattr(model.model, "text_model", None) or model.model.language_model

    def catch(module: Any, args: Any, named: Any) -> None:
        caught.append(named["inputs_embeds"])

    hook = texts.register_forward_pre_hook(catch, with_kwargs=True)
    model(**theirs(model, row, ids_of(row)))
    hook.remove()
    return caught[0]


def _without_image(model: Any, named: dict[str, Tensor]) -> dict[str, Tensor]:
    """What the library must be told of an image that is among the vectors already."""
    if model.config.model_type == "gemma3":
        return {"token_type_ids": named["token_type_ids"]}
    if model.config.model_type == "qwen2_5_vl":
        facts = {name: named[name] for name in ("input_ids", "mm_token_type_ids", "image_grid_thw")}
        return {"position_ids": model.model.get_rope_index(**facts)[0]}
    return {}


@pytest.mark.parametrize("family", ALONE)
@pytest.mark.parametrize("case", [CASES[0], CASES[3]], ids=str)
def test_a_compiled_prompt_answers_as_a_live_one(case, family):
    backbone = vlm_backbone_of(family)
    rows, prompt = vlm_rows(backbone), make_prompt(case, backbone)
    live = PromptedModel(backbone, prompt).ask(rows, LabelScores())
    compiled = compiled_prompt(backbone, prompt.injection())
    torch.testing.assert_close(PromptedModel(backbone, compiled).ask(rows, LabelScores()), live, **CLOSE)


@pytest.mark.parametrize("family", ALONE)
def test_an_image_runs_once_for_all_prompts_behind_it(monkeypatch, family):
    backbone = vlm_backbone_of(family)
    rows, cache = vlm_rows(backbone), InputCache(1 << 24)
    prompts = [make_prompt(case, backbone, seed=seed) for seed in range(2) for case in (CASES[2], CASES[4])]
    PromptedModel(backbone, prompts[0], cache).warm(rows)
    entered: list[int] = []
    run = Backbone.run

    def counting(self: Backbone, live: Tensor, *args: Any, **named: Any) -> Tensor:
        entered.append(live.shape[1])
        return run(self, live, *args, **named)

    monkeypatch.setattr(Backbone, "run", counting)
    frontend: Any = backbone.frontend_of("image")
    monkeypatch.setattr(frontend, "enter", None)
    for prompt in prompts:
        PromptedModel(backbone, prompt, cache).ask(rows, LabelScores())
    # The vectors and the anchor alone: no position of an image, and no token of a text beside it.
    assert max(entered) <= 3 + 2


@pytest.mark.parametrize("family", VLMS)
def test_a_folder_is_the_model_that_was_saved(family, tmp_path):
    save_vlm(tmp_path, family)
    backbone = load_backbone(str(tmp_path), device="cpu", notify=lambda text: None)
    assert backbone.modalities == {"text", "image"}
    rows = vlm_rows(backbone, "free text", 2)
    ours = torch.stack(PromptedModel(backbone).ask(rows, Losses()))
    reference = vlm_reference_of(family, torch.float32)
    expected = torch.stack([-likelihoods(reference, row, [row.answer_ids or ()])[0] for row in rows])
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


def test_equal_images_are_one_key_and_a_row_without_one_is_a_text():
    backbone = vlm_backbone_of("llava")
    first, second = vlm_rows(backbone)[0], vlm_rows(backbone)[0]
    assert first.input_elements == second.input_elements
    assert hash(first.input_elements) == hash(second.input_elements)
    plain = replace(first, input=tuple(segment for segment in first.input if not isinstance(segment, Signal)), slots=())
    (alone,) = PromptedModel(backbone).ask([plain], LabelScores())
    (with_image,) = PromptedModel(backbone).ask([first], LabelScores())
    assert not torch.allclose(alone, with_image)
    assert list(chain(plain.input_ids, plain.anchor_ids))


def test_an_image_sees_itself_as_a_whole_and_no_text_sees_what_follows():
    """Gemma 3: a change of the last patch reaches the first one, and no token in front of the image."""
    backbone = vlm_backbone_of("gemma3")
    row = vlm_rows(backbone, num=1)[0]
    layout = answer_layout([replace(row, target=Answer())], [Start(0, (), True)], backbone.device)
    entered, step = Inputs(backbone, None, 2048).entered(layout), layout.step()
    places = [index for _, index, _ in layout.patches]
    changed = entered.clone()
    changed[0, places[-1]] += 1.0
    plain, moved = [backbone.run(live, layout.step()) for live in (entered, changed)]
    differs = (plain - moved).abs().amax(-1)[0] > 1e-6
    assert differs[places[0] :].all()
    assert not differs[: places[0]].any()
    assert step.images is not None
    causal = backbone.run(entered, replace(step, images=None))
    assert float((causal - plain)[0, places[0] :].abs().max()) > 1e-3


def test_an_image_takes_as_many_positions_as_its_longer_side():
    """Qwen 2.5-VL: the text behind an image of 1 by 3 patches goes on three positions further."""
    backbone = vlm_backbone_of("qwen2_5_vl")
    row = vlm_rows(backbone, num=3)[2]
    (signal,) = [segment for segment in row.input if isinstance(segment, Signal)]
    assert signal.grid is not None
    assert signal.grid[0] != signal.grid[1]
    layout = answer_layout([replace(row, target=Answer())], [Start(0, (), True)], backbone.device)
    first, last = layout.patches[0][1], layout.patches[-1][1]
    assert layout.positions[0, last + 1] == layout.positions[0, first] + max(signal.grid)
    reference = vlm_reference_of("qwen2_5_vl")
    named = theirs(reference, row, ids_of(row))
    facts = {name: named[name] for name in ("input_ids", "mm_token_type_ids", "image_grid_thw")}
    expected = reference.model.get_rope_index(**facts)[0]
    assert layout.images is not None
    assert layout.images.shifts is not None
    rows, columns = layout.images.shifts.unbind(-1)
    ours = torch.stack([layout.positions, layout.positions + rows, layout.positions + columns])
    assert torch.equal(ours, expected)


@pytest.mark.parametrize("size", [(20, 24), (500, 700), (9, 400), (30, 31), (1000, 8)], ids=str)
def test_sizes_of_images_are_the_library_s(size):
    processor = ImageProcessor(pixels=(3136, 200_704), resample=3)
    assert processor.size_of(*size, 28) == smart_resize(*size, 28, 3136, 200_704)
    kept = ImageProcessor.from_values({"image_processor_type": "Qwen2VLImageProcessor", **PUBLISHED}, "file")
    assert (kept.pixels, kept.resample, kept.shape) == ((3136, 12_845_056), 3, None)
    assert kept.at(448).shape == (448, 448)


@pytest.mark.parametrize(
    ("family", "sizes"),
    [
        ("gemma3", {"height": 2 * SIZE, "width": 2 * SIZE}),
        ("gemma3", {"shortest": SIZE}),
        ("llava", {"shortest": SIZE}),
        ("llava", {"height": SIZE, "width": SIZE + 1}),
        ("qwen2_5_vl", {"height": SIZE, "width": SIZE + PATCH}),
    ],
    ids=str,
)
def test_images_of_sizes_that_the_tower_does_not_take_are_refused(family, sizes):
    tokenizer = Tokenizer(make_vlm_tokenizer(), CONTEXT)
    processor = make_vlm_processor(family).model_copy(update={"height": None, "width": None, "pixels": None, **sizes})
    with pytest.raises(BackboneError) as error:
        connected_backbone(make_vlm(family), processor, tokenizer, id="tiny")
    assert "tiny" in error.value.where
    assert error.value.wanted
    assert error.value.fix


def test_windows_beside_rows_and_columns_are_refused():
    model = make_vlm("qwen2_5_vl")
    model.config.text_config.layer_types = ["full_attention", "sliding_attention", "full_attention"]
    with pytest.raises(BackboneError, match="windows") as error:
        connected_backbone(model, make_vlm_processor("qwen2_5_vl"), Tokenizer(make_vlm_tokenizer(), CONTEXT), id="tiny")
    assert error.value.fix


def test_a_tokenizer_without_the_marks_around_an_image_is_refused():
    with pytest.raises(BackboneError, match="token") as error:
        connected_backbone(
            make_vlm("gemma3"), make_vlm_processor(), Tokenizer(make_inner_tokenizer(), CONTEXT), id="tiny"
        )
    assert "<start_of_image>" in (error.value.got or "")


def test_without_a_preparation_of_images_gemma_is_a_model_of_texts(tmp_path):
    save_vlm(tmp_path, "gemma3")
    (tmp_path / "preprocessor_config.json").unlink()
    backbone = load_backbone(str(tmp_path), device="cpu", notify=lambda text: None)
    assert backbone.modalities == {"text"}
    row = Encoded.of_ids(0, (BOS, 50, 51), (90, 91), OneOf(ONE_TOKEN, 1))
    with_images = PromptedModel(vlm_backbone_of("gemma3", torch.float32)).ask([row], LabelScores())
    torch.testing.assert_close(PromptedModel(backbone).ask([row], LabelScores()), with_images, rtol=1e-4, atol=1e-4)
