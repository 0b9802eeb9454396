"""The laws for models that read images and texts together, against transformers' own forward pass."""

from dataclasses import replace
from itertools import chain
from typing import Any

import pytest
import torch
from company import check_company_changes_nothing
from torch import Tensor

from fakes import Case, make_prompt
from overture.core.contracts import Answers, LabelScores, Losses
from overture.core.injection import Injection, Vectors
from overture.core.rows import Encoded, OneOf, Signal
from overture.engine.backbone import Backbone
from overture.engine.cache import InputCache
from overture.engine.compiled import compiled_prompt
from overture.engine.load import load_backbone
from overture.engine.prompted import PromptedModel
from vlm_fakes import (
    IMAGE,
    NUM_POSITIONS,
    VLMS,
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
KINDS = ("one token", "several tokens", "free text")


def ids_of(row: Encoded) -> list[int]:
    """A row's tokens, with the library's placeholder at each position of an image."""
    placeholder = make_vlm_tokenizer().convert_tokens_to_ids(IMAGE)
    return [e if isinstance(e, int) else placeholder for e in (*row.input_elements, *row.anchor_elements)]


def theirs(model: Any, row: Encoded, ids: list[int]) -> dict[str, Tensor]:
    """A row as transformers' model takes it."""
    (signal,) = [segment for segment in row.input if isinstance(segment, Signal)]
    pixels = signal.load()[None].to(model.dtype)
    is_nested = model.config.model_type != "llava"
    return {"input_ids": torch.tensor([ids]), "pixel_values": pixels[None] if is_nested else pixels}


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
    (length,) = {len(s) for row in vlm_rows(backbone) for s in row.input if isinstance(s, Signal)}
    assert length == NUM_POSITIONS[family]
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


FAMILY_CASES = [(family, case) for family in VLMS for case in (CASES if family == "llava" else CASES[1:5:2])]


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
        logits = reference(inputs_embeds=embedded).logits[0, -1]
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
    texts = model.model.language_model if model.config.model_type == "llava" else model.model.text_model

    def catch(module: Any, args: Any, named: Any) -> None:
        caught.append(named["inputs_embeds"])

    hook = texts.register_forward_pre_hook(catch, with_kwargs=True)
    model(**theirs(model, row, ids_of(row)))
    hook.remove()
    return caught[0]


@pytest.mark.parametrize("case", [CASES[0], CASES[3]], ids=str)
def test_a_compiled_prompt_answers_as_a_live_one(case):
    backbone = vlm_backbone_of("llava")
    rows, prompt = vlm_rows(backbone), make_prompt(case, backbone)
    live = PromptedModel(backbone, prompt).ask(rows, LabelScores())
    compiled = compiled_prompt(backbone, prompt.injection())
    torch.testing.assert_close(PromptedModel(backbone, compiled).ask(rows, LabelScores()), live, **CLOSE)


def test_an_image_runs_once_for_all_prompts_behind_it(monkeypatch):
    backbone = vlm_backbone_of("llava")
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
