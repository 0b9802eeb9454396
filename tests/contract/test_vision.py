"""The laws for encoders of images, against transformers' own models and against prompts put in by hand."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from company import check_company_changes_nothing, check_gradients
from torch import Tensor

from fakes import SMALL, Case, moved, source_of
from overture.core.contracts import Features, LabelScores
from overture.core.injection import Injection, LabelHead, Memory, ReadAt, Vectors
from overture.core.rows import Encoded
from overture.engine.backbone import Backbone
from overture.engine.inputs import Inputs
from overture.engine.prompted import PromptedModel, RowPrompts
from overture.engine.states import states_at
from overture.evaluate.probe import of_states, pooled_features
from overture.prompt.build import build_prompt
from overture.prompt.config import PromptConfig
from overture.prompt.pack import prompt_from, prompt_tensors
from overture.prompt.source import PromptSource
from vision_fakes import (
    LABELS,
    LAYERS,
    NUM_OWN,
    VISION,
    WIDTH,
    image_rows,
    library_inputs,
    make_vision_backbone,
    vision_backbone_of,
    vision_reference_of,
)

CLOSE = {"rtol": 1e-7, "atol": 1e-7}
CASES = [
    Case("deep", "memory"),
    Case("prefix", "memory"),
    Case("gated", "memory"),
    Case("vectors", "before"),
    Case("late", "before", {"layer": 2}),
    Case("pruned", "before", SMALL["pruned"]),
]


def config_of(case: Case, length: int = 3, **changes: Any) -> PromptConfig:
    known = {"method": case.method, "place": case.place, "length": length, "options": case.options}
    return PromptConfig(**known | {"labels": "vectors"} | changes)


def vision_source(backbone: Backbone, generator: torch.Generator) -> PromptSource:
    rows, inputs = image_rows(backbone, 2, seed=50), Inputs(backbone, None, 2048)
    return replace(
        source_of(backbone, LABELS),
        has_words=False,
        states=lambda num, random: states_at(
            inputs, [(row, random.randrange(9)) for row in random.choices(rows, k=num)]
        ),
        probe=lambda read_at: (torch.randn(3, WIDTH, generator=generator), torch.randn(3, generator=generator)),
    )


def prompt_of(case: Case, backbone: Backbone, length: int = 3, seed: int = 0, **changes: Any) -> Any:
    generator = torch.Generator().manual_seed(seed)
    source = vision_source(backbone, generator)
    prompt = build_prompt(config_of(case, length, **changes), source, seed).to(backbone.dtype)
    return moved(prompt, generator)


def last_states(model: Any, row: Encoded) -> Tensor:
    """Transformers' last hidden states; CLIP's with the norm that it puts behind its first token."""
    with torch.no_grad():
        states = model(**library_inputs(model, row)).last_hidden_state[0]
        return model.post_layernorm(states) if model.config.model_type == "clip_vision_model" else states


@pytest.mark.parametrize("family", VISION)
def test_features_are_those_of_the_untouched_model(family):
    backbone, reference = vision_backbone_of(family), vision_reference_of(family)
    rows = image_rows(backbone)
    states = [last_states(reference, row) for row in rows]
    assert [row.num_text for row in rows] == [len(row_states) for row_states in states]
    assert backbone.frontend_of("image").num_own == NUM_OWN.get(family, 1)
    first = [replace(row, target=replace(row.target, read=0)) for row in rows]
    torch.testing.assert_close(PromptedModel(backbone).ask(first, Features()), [s[0] for s in states], **CLOSE)
    means = PromptedModel(backbone).ask(rows, Features(is_mean=True))
    torch.testing.assert_close(means, [row_states.mean(0) for row_states in states], **CLOSE)


class _Inserted(torch.nn.Module):
    """A layer that reads prompt vectors of its own, as published code has it: put in and cut off again."""

    def __init__(self, layer: Any, vectors_PD: Tensor) -> None:
        super().__init__()
        self.layer, self.vectors_PD = layer, vectors_PD

    def forward(self, hidden: Tensor, *args: Any, **named: Any) -> Any:
        prompt = self.vectors_PD[None].expand(len(hidden), -1, -1)
        if "position_embeddings" not in named:
            return self.layer(torch.cat([hidden, prompt], dim=1), *args, **named)[:, : hidden.shape[1]]
        # DINOv3 turns the last tokens, so the prompt goes in front.
        return self.layer(torch.cat([prompt, hidden], dim=1), *args, **named)[:, prompt.shape[1] :]


@pytest.mark.parametrize("family", VISION)
def test_deep_prompts_are_published_deep_prompts(family):
    backbone, reference = make_vision_backbone(family), make_vision_backbone(family)
    rows, generator = image_rows(backbone), torch.Generator().manual_seed(1)
    values_NPD = torch.randn(LAYERS, 2, WIDTH, generator=generator, dtype=torch.float64)
    labels_CD = torch.randn(3, WIDTH, generator=generator, dtype=torch.float64)
    injection = Injection(memory=Memory(backbone.memory_of_layers(values_NPD), "memory"), labels=labels_CD)
    ours = PromptedModel(backbone, injection).ask(rows, LabelScores())
    layers = reference.layers
    for number in range(LAYERS):
        layers[number] = _Inserted(layers[number], values_NPD[number])
    with torch.no_grad():
        reference.model.set_attn_implementation("sdpa")
        states = [last_states(reference.model, row) for row in rows]
    ends = [s[0] if NUM_OWN.get(family, 1) else s.mean(0) for s in states]
    torch.testing.assert_close(ours, [(labels_CD @ end).log_softmax(0) for end in ends], **CLOSE)


@pytest.mark.parametrize("family", VISION)
def test_shallow_prompts_run_among_the_patches(family):
    backbone, reference = vision_backbone_of(family), vision_reference_of(family)
    rows, generator = image_rows(backbone, 3), torch.Generator().manual_seed(2)
    values_PD = torch.randn(2, WIDTH, generator=generator, dtype=torch.float64)
    for layer in (0, 1):
        model = PromptedModel(backbone, Injection(Vectors(values_PD, "before", layer)))
        ours = model.ask([replace(row, target=replace(row.target, read=0)) for row in rows], Features())
        for row, state in zip(rows, ours, strict=True):
            torch.testing.assert_close(state, _shallow(backbone, reference, row, values_PD, layer), **CLOSE)


@torch.no_grad()
def _shallow(backbone: Backbone, reference: Any, row: Encoded, values_PD: Tensor, layer: int) -> Tensor:
    family = backbone.family
    assert family.front is not None
    hidden = family.front(reference, row.input[0].load()[None].double())
    named: dict[str, Any] = {"attention_mask": None}
    if family.rotation:
        named["position_embeddings"] = getattr(reference, family.rotation)(row.input[0].load()[None].double())
    for number, module in enumerate(family.layers_of(reference)):
        hidden = torch.cat([values_PD[None], hidden], dim=1) if number == layer else hidden
        hidden = module(hidden, **named)
    return getattr(reference, family.norm)(hidden)[0, len(values_PD)]


# Between them: learned positions, places that turn, and attentions that drop the step.
WHOLE = ("vit", "dinov3_vit", "siglip2_vision_model")
FAMILY_CASES = [(family, case) for family in VISION for case in (CASES if family in WHOLE else CASES[:1] + CASES[3:5])]


@pytest.mark.parametrize(("family", "case"), FAMILY_CASES, ids=str)
def test_batches_caches_and_company_change_nothing(family, case):
    backbone = vision_backbone_of(family)
    check_company_changes_nothing(backbone, image_rows(backbone), prompt_of(case, backbone), CLOSE)


@pytest.mark.parametrize("family", WHOLE)
def test_prompts_of_several_tasks_share_an_image(family):
    backbone = vision_backbone_of(family)
    (row,) = image_rows(backbone, 1)
    rows = [replace(row, row=number) for number in range(len(CASES))]
    prompts = [prompt_of(case, backbone, length=3 + n % 2, seed=n) for n, case in enumerate(CASES)]
    together = PromptedModel(backbone, RowPrompts(prompts)).ask(rows, LabelScores())
    alone = [PromptedModel(backbone, prompt).ask([row], LabelScores())[0] for prompt in prompts]
    torch.testing.assert_close(together, alone, **CLOSE)


@pytest.mark.parametrize("family", ["dinov2", "siglip_vision_model"])
def test_gradients_match_finite_differences(family):
    backbone = vision_backbone_of(family)
    rows, prompt = image_rows(backbone, 2), prompt_of(CASES[0], backbone)
    check_gradients(PromptedModel(backbone, prompt), rows)


@pytest.mark.parametrize("features", ["read", "mean", "read+mean"])
@pytest.mark.parametrize("layer", [1, 2, None])
@pytest.mark.parametrize("family", ["vit", "siglip_vision_model", "dinov3_vit"])
def test_labels_are_read_in_any_layer(family, layer, features):
    backbone, generator = vision_backbone_of(family), torch.Generator().manual_seed(3)
    rows = [replace(row, target=replace(row.target, read=0)) for row in image_rows(backbone)]
    width = 2 if features == "read+mean" else 1
    labels = torch.randn(3, width * WIDTH, generator=generator, dtype=torch.float64)
    bias = torch.randn(3, generator=generator, dtype=torch.float64)
    injection = Injection(labels=labels, head=LabelHead(bias), read_at=ReadAt(layer, features))
    ours = PromptedModel(backbone, injection).ask(rows, LabelScores())
    states = pooled_features(Inputs(backbone, None, 4096), rows, (LAYERS if layer is None else layer,))[:, 0]
    wanted = (of_states(states, features).double() @ labels.T + bias).log_softmax(1)
    torch.testing.assert_close(ours, list(wanted), rtol=1e-5, atol=1e-5)
    # In company of a prompt that is read elsewhere nothing changes.
    last = Injection(labels=labels[:, :WIDTH])
    pairs = [(row, injection if row.row % 2 else last) for row in rows]
    together = PromptedModel(backbone).answerer.ask(pairs, LabelScores())
    alone = [PromptedModel(backbone, prompt).ask([row], LabelScores())[0] for row, prompt in pairs]
    torch.testing.assert_close(together, alone, **CLOSE)


@pytest.mark.parametrize("case", [*CASES[:3], Case("late", "before", {"layer": 1})], ids=str)
def test_values_are_those_of_the_layers_that_run(case):
    backbone, layer = vision_backbone_of("dinov2"), 2
    rows, read = image_rows(backbone, read=0), {"read_layer": layer, "read_features": "read"}
    prompt = prompt_of(case, backbone, **read)
    model = PromptedModel(backbone, prompt)
    values = model.trainable()
    gradients = torch.autograd.grad(model.loss(rows), list(values.values()))
    assert all((gradient != 0).any() for gradient in gradients)
    tensors = prompt_tensors(prompt)
    config, source = config_of(case, **read), vision_source(backbone, torch.Generator())
    scores = torch.stack(model.ask(rows, LabelScores()))
    if case.place == "memory":
        assert tensors["keys"].shape[0] == layer
        # As they were kept before: the values of the layers above are left out.
        tensors = {
            name: _with_a_layer(value) if name in ("keys", "values", "weights") else value
            for name, value in tensors.items()
        }
    again = prompt_from(tensors, config, source)
    assert torch.equal(torch.stack(PromptedModel(backbone, again).ask(rows, LabelScores())), scores)


def _with_a_layer(values: Tensor) -> Tensor:
    return torch.cat([values, torch.full_like(values[:1], 0.5)])
