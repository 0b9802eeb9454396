"""An input that is not text goes through every place, the cache and mixed batches as a text does."""

from collections.abc import Sequence
from random import Random

import pytest
import torch
from torch import Tensor

from fakes import ONE_TOKEN, Case, make_inner_tokenizer, make_model, make_prompt, reference_of
from overture.core.contracts import Features, LabelScores, Losses
from overture.core.errors import BackboneError
from overture.core.rows import Encoded, OneOf, Segment, Signal, Tokens
from overture.engine.backbone import Backbone
from overture.engine.cache import InputCache
from overture.engine.frontends.text import text_backbone
from overture.engine.prompted import PromptedModel, RowPrompts
from overture.engine.tokenizer import Tokenizer
from tiny_configs import CONTEXT

CLOSE = {"rtol": 1e-9, "atol": 1e-9}
CASES = [
    Case("vectors", "before"),
    Case("vectors", "after"),
    Case("prefix", "after"),
    Case("prefix", "memory"),
    Case("late", "before", {"layer": 1}),
    Case("dept", "before"),
    Case("idpg", "before"),
]


class Patches:
    """Reads images [1, 2, 2 n] as n patches through a random map."""

    modalities = frozenset({"image"})

    def __init__(self, backbone: Backbone) -> None:
        generator = torch.Generator().manual_seed(3)
        self.map = torch.randn(4, backbone.info.hidden_size, generator=generator, dtype=torch.float64)
        self.fingerprint = "patches"
        self.entered: list[str] = []

    def segments(self, value: object) -> Sequence[Segment]:
        assert isinstance(value, Signal)
        return [value]

    def enter(self, segments: Sequence[Segment]) -> Tensor:
        parts = []
        for segment in segments:
            assert isinstance(segment, Signal)
            self.entered.append(segment.key)
            pixels = segment.load()
            parts.append(pixels[0].unfold(1, 2, 2).permute(1, 0, 2).reshape(segment.length, 4) @ self.map)
        return torch.cat(parts)

    def sample(self, num: int, random: Random) -> Tensor:
        generator = torch.Generator().manual_seed(random.randrange(1 << 30))
        return torch.randn(num, len(self.map[0]), generator=generator, dtype=torch.float64)


def backbone_with_images() -> Backbone:
    model = make_model("llama", dtype=torch.float64)
    return text_backbone(model, Tokenizer(make_inner_tokenizer(), CONTEXT), Patches, id="images")


def image(number: int, length: int) -> Signal:
    """Loaded anew each time it is asked for."""

    def load() -> Tensor:
        return torch.randn(1, 2, 2 * length, generator=torch.Generator().manual_seed(number), dtype=torch.float64)

    return Signal("image", f"image-{number}", length, load)


def rows_with_images() -> list[Encoded]:
    target = OneOf(ONE_TOKEN, 1)
    inputs: list[tuple[Segment, ...]] = [
        (Tokens((40, 41, 42)), image(0, 5), Tokens((43,))),
        (image(1, 2),),
        (Tokens((50, 51, 52, 53, 54, 55)),),
        (image(0, 5), image(2, 3), Tokens((60, 61))),
        # The same image as in the first row, loaded elsewhere.
        (Tokens((40, 41, 42)), image(0, 5), Tokens((43,))),
    ]
    return [Encoded(n, segments, (Tokens((70, 71)),), target, ((1, 1), (2, 1))) for n, segments in enumerate(inputs)]


def test_scores_without_a_prompt_are_the_untouched_models():
    backbone, rows = backbone_with_images(), rows_with_images()
    scores = PromptedModel(backbone).ask(rows, LabelScores())
    words = torch.tensor([word[0] for word in ONE_TOKEN.words])
    for row, own in zip(rows, scores, strict=True):
        segments = [*row.input, *row.anchor]
        modalities = [segment.modality if isinstance(segment, Signal) else "text" for segment in segments]
        parts = [backbone.frontend_of(m).enter([segment]) for m, segment in zip(modalities, segments, strict=True)]
        vectors = torch.cat(parts)
        with torch.no_grad():
            logits = reference_of("llama", torch.float64)(inputs_embeds=vectors[None], use_cache=False).logits[0, -1]
        by_word = logits[words].log_softmax(0)
        wanted = [by_word[torch.tensor(ONE_TOKEN.label_of) == label].logsumexp(0) for label in range(3)]
        torch.testing.assert_close(own, torch.stack(wanted), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("is_cached", [False, True], ids=["uncached", "cached"])
def test_batches_and_caches_change_nothing(case, is_cached):
    backbone, rows = backbone_with_images(), rows_with_images()
    prompt = make_prompt(case, backbone)
    model = PromptedModel(backbone, prompt, InputCache(1 << 24) if is_cached else None)
    model.warm(rows)
    values = list(prompt.trainable().values())
    together = torch.stack(model.ask(rows, Losses()))
    alone = torch.stack([PromptedModel(backbone, prompt).ask([row], Losses())[0] for row in rows])
    torch.testing.assert_close(together, alone, **CLOSE)
    ours, theirs = [torch.autograd.grad(total.sum(), values, allow_unused=True) for total in (together, alone)]
    torch.testing.assert_close([g for g in ours if g is not None], [g for g in theirs if g is not None], **CLOSE)
    torch.testing.assert_close(together[0], together[4], **CLOSE)
    losses = together.detach()
    assert len({round(loss, 9) for loss in losses.tolist()}) == 4
    # Rows differ by the image alone.
    other = [Encoded(0, (Tokens((40, 41, 42)), image(9, 5), Tokens((43,))), rows[0].anchor, rows[0].target)]
    assert float((model.ask(other, Losses())[0].detach() - losses[0]).abs()) > 1e-6


@pytest.mark.parametrize("case", [Case("vectors", "before"), Case("prefix", "after")], ids=str)
def test_content_is_entered_once(case):
    backbone, rows = backbone_with_images(), rows_with_images()
    cache = InputCache(1 << 24)
    model = PromptedModel(backbone, make_prompt(case, backbone), cache)
    model.warm(rows)
    for _ in range(2):
        model.ask(rows, Losses())
    images = backbone.frontend_of("image")
    assert isinstance(images, Patches)
    assert sorted(images.entered) == ["image-0", "image-1", "image-2"]


def test_mixed_prompts_and_a_copy_read_images_too():
    backbone, rows = backbone_with_images(), rows_with_images()
    prompts = [make_prompt(case, backbone, seed=n) for n, case in enumerate(CASES[: len(rows)])]
    together = PromptedModel(backbone, RowPrompts(prompts)).ask(rows, LabelScores())
    alone = [PromptedModel(backbone, prompts[row.row]).ask([row], LabelScores())[0] for row in rows]
    torch.testing.assert_close(together, alone, **CLOSE)
    copied = PromptedModel(backbone.copied(), RowPrompts(prompts)).ask(rows, LabelScores())
    torch.testing.assert_close(copied, together, **CLOSE)
    features = PromptedModel(backbone).ask(rows, Features(is_mean=True))
    assert all(bool(state.isfinite().all()) for state in features)


def test_a_model_of_texts_refuses_an_image():
    model = make_model("llama", dtype=torch.float64)
    backbone = text_backbone(model, Tokenizer(make_inner_tokenizer(), CONTEXT), id="texts")
    with pytest.raises(BackboneError) as error:
        PromptedModel(backbone).ask(rows_with_images(), LabelScores())
    assert (error.value.got, error.value.wanted) == ("image", "text")
    with pytest.raises(TypeError):
        _ = rows_with_images()[0].input_ids
