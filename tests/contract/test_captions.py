"""The laws for prompts among labels' words, against published code: every caption padded to the model's context."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from company import check_company_changes_nothing, check_gradients
from torch import Tensor

from caption_fakes import (
    CONTEXT,
    NAMES,
    caption_backbone_of,
    caption_rows,
    caption_source,
    clip_reference_of,
    images_of,
    labels_of,
    padded_logits,
    save_clip,
    texts_of,
)
from fakes import backbone_of, moved, source_of
from overture.core.contracts import LabelScores, Losses
from overture.core.errors import BackboneError, ConfigError
from overture.core.injection import Injection
from overture.core.rows import OneOf
from overture.engine import load
from overture.engine.backbone import Backbone
from overture.engine.cache import InputCache
from overture.engine.load import load_backbone
from overture.engine.operations import count_operations
from overture.engine.prompted import PromptedModel, RowPrompts
from overture.prompt.build import build_prompt
from overture.prompt.captions import zero_shot
from overture.prompt.config import PromptConfig
from overture.prompt.pack import prompt_from, prompt_tensors
from vision_fakes import SIZE, make_processor, vision_backbone_of

CLOSE = {"rtol": 1e-7, "atol": 1e-7}
CASES = [
    ("coop", "before", {}),
    ("coop", "around", {}),
    ("coop", "after", {"suffix": ""}),
    ("coop", "before", {"per_label": True}),
    ("kgcoop", "before", {}),
    ("maple", "memory", {"depth": 2}),
    ("promptsrc", "memory", {"depth": 2, "text_weight": 2.0}),
]
KINDS = ("clip", "siglip", "siglip2")
PLACES = {"maple": "memory", "promptsrc": "memory"}
PATTERNS = {"before": "x x x {}", "around": "x x {} x", "after": "{} x x x"}


def prompt_of(
    method: str, place: str, options: dict[str, Any], backbone: Backbone, names: list[str] = NAMES[:5], seed: int = 0
) -> Any:
    values = {"method": method, "place": place, "length": 3, "options": options}
    config = PromptConfig(**values, init="text", init_text="a photo of a")
    prompt = build_prompt(config, caption_source(backbone, names), seed).to(torch.float64)
    generator = torch.Generator().manual_seed(seed)
    return moved(prompt, generator)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("method", "place", "options"), CASES[:5], ids=str)
def test_scores_are_those_of_padded_captions(method, place, options, kind):
    backbone, names = caption_backbone_of(kind=kind), NAMES[:5]
    rows, prompt = caption_rows(backbone, names), prompt_of(method, place, options, backbone)
    (values,) = prompt.trainable().values()
    ours = torch.stack(PromptedModel(backbone, prompt).ask(rows, LabelScores()))
    suffix = options.get("suffix", ".")
    reference = clip_reference_of(kind=kind)
    theirs = padded_logits(reference, rows, names, values, PATTERNS[place], suffix).log_softmax(1)
    torch.testing.assert_close(ours, theirs.detach(), **CLOSE)
    assert len({round(float(score), 6) for score in ours.flatten()}) == ours.numel()


def test_a_step_on_a_hundred_labels_runs_a_tenth_of_the_padded_tokens():
    backbone = caption_backbone_of(torch.float32)
    rows = caption_rows(backbone, NAMES, 4)
    config = PromptConfig(method="coop", place="before", length=16, init="random")
    prompt = build_prompt(config, caption_source(backbone, NAMES), 0)
    model, (values,) = PromptedModel(backbone, prompt, InputCache(1 << 24)), prompt.trainable().values()
    model.warm(rows)
    tower = backbone.captions
    assert tower is not None
    with count_operations(tower.backbone) as counts, count_operations(backbone) as of_both:
        losses = torch.stack(model.ask(rows, Losses()))
    (gradient,) = torch.autograd.grad(losses.sum(), [values])
    theirs_BC = padded_logits(clip_reference_of(torch.float32), rows, NAMES, values, "x " * 16 + "{}")
    gold = torch.tensor([row.label for row in rows])
    expected = torch.nn.functional.cross_entropy(theirs_BC, gold, reduction="none")
    torch.testing.assert_close(losses, expected, rtol=1e-5, atol=1e-5)
    (expected_gradient,) = torch.autograd.grad(expected.sum(), [values])
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-4, atol=1e-5)
    assert 0 < counts.positions <= CONTEXT * len(NAMES) / 10
    # The images were kept.
    assert of_both.layer_positions == counts.layer_positions


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("method", "place", "options"), CASES, ids=str)
def test_batches_caches_and_company_change_nothing(method, place, options, kind):
    backbone = caption_backbone_of(kind=kind)
    prompt = prompt_of(method, place, options, backbone)
    check_company_changes_nothing(backbone, caption_rows(backbone, NAMES[:5]), prompt, CLOSE)


def test_prompts_of_several_tasks_share_an_image():
    backbone = caption_backbone_of()
    row = caption_rows(backbone, NAMES[:5], 1)[0]
    rows = [row.__class__(**{**_fields(row), "row": number}) for number in range(len(CASES))]
    prompts = [prompt_of(*case, backbone, seed=number) for number, case in enumerate(CASES)]
    together = PromptedModel(backbone, RowPrompts(prompts), InputCache(1 << 24)).ask(rows, LabelScores())
    alone = [PromptedModel(backbone, prompt).ask([row], LabelScores())[0] for prompt in prompts]
    torch.testing.assert_close(together, alone, **CLOSE)


def _fields(row: Any) -> dict[str, Any]:
    return {name: getattr(row, name) for name in row.__slots__}


@pytest.mark.parametrize(("method", "place", "options"), CASES, ids=str)
def test_gradients_match_finite_differences(method, place, options):
    backbone = caption_backbone_of()
    rows, prompt = caption_rows(backbone, NAMES[:5], 2), prompt_of(method, place, options, backbone)
    check_gradients(PromptedModel(backbone, prompt), rows)


@pytest.mark.parametrize("kind", KINDS[:2])
@pytest.mark.parametrize(("method", "place", "options"), CASES, ids=str)
def test_what_is_stored_needs_no_tower_of_texts_to_run(method, place, options, kind):
    backbone = caption_backbone_of(kind=kind)
    rows, prompt = caption_rows(backbone, NAMES[:5]), prompt_of(method, place, options, backbone)
    config = PromptConfig(method=method, place=place, length=3, options=options)
    stored = prompt_from(prompt_tensors(prompt), config, caption_source(backbone, NAMES[:5]))
    expected = PromptedModel(backbone, prompt).ask(rows, LabelScores())
    tower = backbone.captions
    assert tower is not None
    with count_operations(tower.backbone) as counts:
        assert torch.equal(torch.stack(PromptedModel(backbone, stored).ask(rows, LabelScores())), torch.stack(expected))
    assert counts.positions == 0


@pytest.mark.parametrize("kind", KINDS[:2])
def test_deep_prompts_of_both_towers_are_published_ones(kind):
    """MaPLe's own code: vectors put into every layer of either tower and cut off again."""
    backbone, reference, names = caption_backbone_of(kind=kind), clip_reference_of(kind=kind), NAMES[:5]
    rows, prompt = caption_rows(backbone, names, 3), prompt_of("maple", "memory", {"depth": 2}, backbone)
    ours = torch.stack(PromptedModel(backbone, prompt).ask(rows, LabelScores()))
    layers = torch.cat([prompt.values[None], prompt.deep])
    images_NPD = torch.stack(
        [
            layers[min(number, 1)] @ weight.T + shift
            for number, (weight, shift) in enumerate(zip(prompt.maps, prompt.shifts, strict=True))
        ]
    )
    with torch.no_grad(), _both_towers(reference, prompt.deep[0], images_NPD):
        theirs = padded_logits(reference, rows, names, prompt.values, "x x x {}").log_softmax(1)
    torch.testing.assert_close(ours, theirs, **CLOSE)


@pytest.mark.parametrize("kind", KINDS[:2])
def test_what_holds_prompts_near_the_frozen_model_is_published(kind):
    """PromptSRC's own code: its four terms, each a mean over the batch, which are our rows' mean."""
    backbone, reference, names = caption_backbone_of(kind=kind), clip_reference_of(kind=kind), NAMES[:5]
    captions, weights = ("a {}.", "no {}", "{} of a, b"), {"text_weight": 3.0, "image_weight": 2.0}
    options = {"depth": 2, "captions": captions, **weights}
    rows, prompt = caption_rows(backbone, names, 4), prompt_of("promptsrc", "memory", options, backbone)
    none = torch.zeros(0, 16, dtype=torch.float64)
    with torch.no_grad():
        frozen_CE = torch.stack([texts_of(reference, names, none, caption, "") for caption in captions]).mean(0)
        frozen_BE, scale = images_of(reference, rows), reference.logit_scale.exp()
        with _both_towers(reference, prompt.deep[0], prompt.images):
            texts_CE, images_BE = texts_of(reference, names, prompt.values, "x x x {}"), images_of(reference, rows)
        frozen_CE, frozen_BE, texts_CE, images_BE = [
            torch.nn.functional.normalize(side, dim=-1) for side in (frozen_CE, frozen_BE, texts_CE, images_BE)
        ]
        logits, frozen_logits = [scale * a @ b.T for a, b in ((images_BE, texts_CE), (frozen_BE, frozen_CE))]
        gold = torch.tensor([row.label for row in rows])
        plain = torch.nn.functional.cross_entropy(logits, gold)
        divergence = torch.nn.functional.kl_div(
            logits.log_softmax(1), frozen_logits.log_softmax(1), reduction="sum", log_target=True
        )
        terms = [
            weights["text_weight"] * torch.nn.functional.l1_loss(texts_CE, frozen_CE),
            weights["image_weight"] * torch.nn.functional.l1_loss(images_BE, frozen_BE),
            divergence / logits.numel(),
        ]
    assert all(term > 1e-5 for term in terms)
    model = PromptedModel(backbone, prompt)
    torch.testing.assert_close(torch.stack(model.ask(rows, Losses())).mean(), plain + sum(terms), **CLOSE)
    unheld = torch.stack(model.ask(rows, Losses(with_vector_targets=False))).mean()
    torch.testing.assert_close(unheld, plain, **CLOSE)


def test_the_mean_over_epochs_is_the_published_one():
    """PromptSRC's own code: a normal density at each epoch's number, divided by the sum."""
    num_epochs, mean, std = 20, 15, 1
    averaging = prompt_of("promptsrc", "memory", {"depth": 2}, caption_backbone_of()).averaging()
    densities = torch.tensor([math.exp(-0.5 * ((n - mean) / std) ** 2) for n in range(1, num_epochs + 1)])
    values, kept = torch.randn(num_epochs, 3), torch.zeros(3)
    for epoch, value in enumerate(values, 1):
        kept = kept.lerp(value, averaging.share(epoch, num_epochs))
    torch.testing.assert_close(kept, (densities[:, None] / densities.sum() * values).sum(0))
    assert prompt_of("maple", "memory", {"depth": 2}, caption_backbone_of()).averaging() is None


@contextmanager
def _both_towers(reference: Any, text_PD: Tensor, images_NPD: Tensor) -> Iterator[None]:
    """Vectors put into the texts' second layer, and into each layer of the images and cut off again."""
    hooks = [_replaced(reference.text_model.encoder.layers[1], text_PD)]
    for layer, vectors_PD in zip(reference.vision_model.encoder.layers, images_NPD, strict=True):
        hooks += _inserted(layer, vectors_PD)
    yield
    for hook in hooks:
        hook.remove()


def _replaced(layer: Any, vectors_PD: Tensor) -> Any:
    """The context's states in the texts, replaced where they enter a layer."""

    def before(module: Any, args: Any, named: Any) -> Any:
        hidden = args[0] if args else named["hidden_states"]
        end = 1 + len(vectors_PD)
        middle = vectors_PD[None].expand(len(hidden), -1, -1)
        hidden = torch.cat([hidden[:, :1], middle, hidden[:, end:]], dim=1)
        return (hidden, *args[1:]), {name: value for name, value in named.items() if name != "hidden_states"}

    return layer.register_forward_pre_hook(before, with_kwargs=True)


def _inserted(layer: Any, vectors_PD: Tensor) -> list[Any]:
    """Vectors behind the patches of one layer alone."""

    def before(module: Any, args: Any, named: Any) -> Any:
        hidden = args[0] if args else named["hidden_states"]
        hidden = torch.cat([hidden, vectors_PD[None].expand(len(hidden), -1, -1)], dim=1)
        return (hidden, *args[1:]), {name: value for name, value in named.items() if name != "hidden_states"}

    def after(module: Any, args: Any, named: Any, states: Any) -> Any:
        return states[:, : -len(vectors_PD)]

    pre = layer.register_forward_pre_hook(before, with_kwargs=True)
    return [pre, layer.register_forward_hook(after, with_kwargs=True)]


@pytest.mark.parametrize("kind", KINDS)
def test_captions_written_by_hand_are_those_of_the_library(kind):
    backbone, names = caption_backbone_of(kind=kind), NAMES[:5]
    rows = caption_rows(backbone, names)
    ours = PromptedModel(backbone, zero_shot(caption_source(backbone, names))).ask(rows, LabelScores())
    none = torch.zeros(0, 16, dtype=torch.float64)
    theirs = padded_logits(clip_reference_of(kind=kind), rows, names, none, "a photo of a {}").log_softmax(1)
    torch.testing.assert_close(torch.stack(ours), theirs, **CLOSE)


def test_the_distance_from_written_captions_is_a_term_of_the_loss_and_of_no_score():
    backbone = caption_backbone_of()
    rows, plain = caption_rows(backbone, NAMES[:5]), prompt_of("coop", "before", {}, backbone)
    guided = prompt_of("kgcoop", "before", {"weight": 2.0}, backbone)
    a, b = [torch.stack(PromptedModel(backbone, p).ask(rows, LabelScores())) for p in (plain, guided)]
    torch.testing.assert_close(a, b)
    texts, written = [
        torch.nn.functional.normalize(injection.labels, dim=-1)
        for injection in (plain.injection(), zero_shot(caption_source(backbone, NAMES[:5])))
    ]
    distance = 2.0 * (texts - written).square().sum(-1).mean()
    losses = [torch.stack(PromptedModel(backbone, p).ask(rows, Losses())) for p in (plain, guided)]
    torch.testing.assert_close(losses[1] - losses[0], distance.expand(len(rows)), rtol=1e-5, atol=1e-6)
    unguided = torch.stack(PromptedModel(backbone, guided).ask(rows, Losses(with_vector_targets=False)))
    torch.testing.assert_close(unguided, losses[0])


@pytest.mark.parametrize(
    ("method", "options", "number"),
    [
        ("coop", {}, 3 * 16),
        ("coop", {"per_label": True}, 5 * 3 * 16),
        ("kgcoop", {}, 3 * 16),
        ("kgcoop", {"per_label": True}, 5 * 3 * 16),
        ("maple", {"depth": 2}, 2 * 3 * 16 + 3 * (16 + 1) * 32),
        ("promptsrc", {"depth": 2}, 2 * 3 * 16 + 3 * 3 * 32),
    ],
    ids=str,
)
def test_the_formulas_count_the_trained_values(method, options, number):
    prompt = prompt_of(method, PLACES.get(method, "before"), options, caption_backbone_of())
    assert sum(value.numel() for value in prompt.trainable().values()) == number


@pytest.mark.parametrize("method", ["coop", "kgcoop", "maple", "promptsrc"])
def test_models_that_compare_nothing_refuse_them(method):
    config = PromptConfig(method=method, place=PLACES.get(method, "before"), length=3)
    for backbone in (backbone_of("llama"), vision_backbone_of("vit")):
        with pytest.raises(ConfigError) as error:
            build_prompt(config, source_of(backbone, labels_of(NAMES[:5])), 0)
        assert error.value.fix
    compared = prompt_of("coop", "before", {}, caption_backbone_of()).injection()
    row = caption_rows(caption_backbone_of(), NAMES[:5], 1)[0]
    with pytest.raises(BackboneError):
        PromptedModel(vision_backbone_of("vit"), compared).ask([row], LabelScores())
    assert isinstance(row.target, OneOf)
    assert isinstance(compared, Injection)


@pytest.mark.parametrize(
    "options",
    [{"init": "labels"}, {"length": 80}, {"method": "maple", "place": "memory", "options": {"depth": 3}}],
    ids=["labels", "too long", "too deep"],
)
def test_what_does_not_fit_is_refused(options):
    backbone = caption_backbone_of()
    config = PromptConfig(**{"method": "coop", "place": "before", "init": "random", **options})
    with pytest.raises(ConfigError) as error:
        build_prompt(config, caption_source(backbone, NAMES[:5]), 0).injection()
    assert error.value.fix


@pytest.mark.parametrize("kind", KINDS[:2])
def test_a_folder_is_both_towers_that_were_saved(kind, tmp_path):
    values = make_processor(f"{kind}_vision_model")
    processor = {"size": {"height": SIZE, "width": SIZE}, "resample": 2}
    save_clip(tmp_path, processor | {"image_mean": values.mean, "image_std": values.std}, kind)
    backbone, names = load_backbone(str(tmp_path), device="cpu", notify=lambda text: None), NAMES[:5]
    rows = caption_rows(backbone, names, 2)
    ours = PromptedModel(backbone, zero_shot(caption_source(backbone, names))).ask(rows, LabelScores())
    reference = clip_reference_of(torch.float32, kind)
    theirs = padded_logits(reference, rows, names, torch.zeros(0, 16), "a photo of a {}").log_softmax(1)
    torch.testing.assert_close(torch.stack(ours), theirs, rtol=1e-4, atol=1e-4)


def test_a_tokenizer_that_cannot_be_loaded_leaves_the_images(tmp_path, monkeypatch):
    values, notices = make_processor("siglip_vision_model"), []
    processor = {"size": {"height": SIZE, "width": SIZE}, "resample": 2}
    save_clip(tmp_path, processor | {"image_mean": values.mean, "image_std": values.std}, "siglip")

    def refused(*args: Any, **named: Any) -> None:
        raise ImportError("a package is missing")

    monkeypatch.setattr(load.AutoTokenizer, "from_pretrained", refused)
    backbone = load_backbone(str(tmp_path), device="cpu", notify=notices.append)
    assert backbone.captions is None
    assert backbone.modalities == {"image"}
    assert any("a package is missing" in notice for notice in notices)
