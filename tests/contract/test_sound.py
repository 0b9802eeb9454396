"""The laws for models that read sounds, against transformers' own models."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from company import check_company_changes_nothing, check_gradients
from transformers import ASTFeatureExtractor, Wav2Vec2FeatureExtractor, WhisperFeatureExtractor

from fakes import ONE_TOKEN, SMALL, Case, moved, source_of
from overture.core.contracts import Answers, Features, LabelScores
from overture.core.decoding import Decoding
from overture.core.errors import BackboneError, DataError
from overture.core.injection import Injection, Vectors
from overture.core.rows import Answer, Encoded, Tokens
from overture.engine.backbone import Backbone
from overture.engine.prompted import PromptedModel, RowPrompts
from overture.prompt.build import build_prompt
from overture.prompt.config import PromptConfig
from sound_fakes import (
    LABELS,
    RATE,
    SOUND_ENCODERS,
    STARTS,
    make_processor,
    make_sound,
    make_sound_backbone,
    sound_backbone_of,
    sound_reference_of,
    sound_rows,
)

CLOSE = {"rtol": 1e-7, "atol": 1e-7}
WORDS = (40, 41, 42)
OF_ENCODERS = [
    Case("deep", "memory"),
    Case("prefix", "memory"),
    Case("vectors", "before"),
    Case("late", "before", {"layer": 2}),
]
OF_WHISPER = [
    Case("vectors", "after"),
    Case("vectors", "before"),
    Case("vectors", "slots"),
    Case("prefix", "after"),
    Case("prefix", "memory"),
    Case("late", "after", {"layer": 1}),
    Case("dept", "after", SMALL["dept"]),
]


def prompt_of(case: Case, backbone: Backbone, length: int = 3, seed: int = 0) -> Any:
    is_speech = backbone.encoder is not None
    labels = "words" if is_speech else "vectors"
    config = PromptConfig(
        method=case.method, place=case.place, length=length, options=case.options, labels=labels, init="random"
    )
    generator = torch.Generator().manual_seed(seed)
    source = source_of(backbone, ONE_TOKEN if is_speech else LABELS)
    if not is_speech:
        probe = (torch.randn(3, 32, generator=generator), torch.randn(3, generator=generator))
        source = replace(source, has_words=False, probe=lambda read_at: probe)
    prompt = build_prompt(config, source, seed).to(backbone.dtype)
    return moved(prompt, generator)


def rows_of(case: Case, backbone: Backbone, num: int = 4) -> list[Encoded]:
    """Rows for a case; at `slots` the prompt stands behind the first of a decoder's words."""
    rows = sound_rows(backbone, num, words=WORDS if backbone.encoder is not None else ())
    return [replace(row, slots=((row.num_input + 1, 3),)) for row in rows] if case.place == "slots" else rows


@pytest.mark.parametrize("family", SOUND_ENCODERS)
def test_features_are_those_of_the_untouched_model(family):
    backbone, reference = sound_backbone_of(family), sound_reference_of(family)
    rows = sound_rows(backbone)
    with torch.no_grad():
        states = [reference(row.input[0].load()[None].double()).last_hidden_state[0] for row in rows]
    assert [row.num_text for row in rows] == [len(row_states) for row_states in states]
    means = PromptedModel(backbone).ask(rows, Features(is_mean=True))
    torch.testing.assert_close(means, [row_states.mean(0) for row_states in states], **CLOSE)


@pytest.mark.parametrize("words", [(), WORDS], ids=["bare", "words"])
def test_whispers_scores_are_those_of_the_untouched_model(words):
    backbone, reference = sound_backbone_of("whisper"), sound_reference_of("whisper")
    rows = sound_rows(backbone, words=words)
    for row, ours in zip(rows, PromptedModel(backbone).ask(rows, LabelScores()), strict=True):
        features, ids = row.input[0].load()[None].double(), torch.tensor([[*words, *STARTS]])
        with torch.no_grad():
            logits = reference(input_features=features, decoder_input_ids=ids).logits[0, -1]
        by_word = logits[[word[0] for word in ONE_TOKEN.words]].log_softmax(0)
        labels = torch.tensor(ONE_TOKEN.label_of)
        wanted = torch.stack([by_word[labels == label].logsumexp(0) for label in range(3)])
        torch.testing.assert_close(ours, wanted, rtol=1e-6, atol=1e-6)


def test_whispers_prompt_vectors_stand_in_front_of_its_start():
    backbone, reference = sound_backbone_of("whisper"), sound_reference_of("whisper")
    rows, values = sound_rows(backbone, words=WORDS), torch.randn(2, 32, dtype=torch.float64)
    embed = reference.model.decoder.embed_tokens
    start, words = [embed(torch.tensor(ids)) for ids in (STARTS, WORDS)]
    places = {"after": [values, words, start], "slots": [words[:1], values, words[1:], start]}
    for place, parts in places.items():
        placed = [replace(row, slots=((row.num_input + 1, 2),)) if place == "slots" else row for row in rows]
        model = PromptedModel(backbone, Injection(Vectors(values, place)))
        ours = model.ask(placed, Features())
        for row, state in zip(rows, ours, strict=True):
            with torch.no_grad():
                encoded = reference.model.encoder(row.input[0].load()[None].double()).last_hidden_state
                hidden = reference.model.decoder(inputs_embeds=torch.cat(parts)[None], encoder_hidden_states=encoded)
            torch.testing.assert_close(state, hidden.last_hidden_state[0, -1], **CLOSE)


def test_whisper_writes_what_the_untouched_model_would():
    backbone, reference = sound_backbone_of("whisper"), sound_reference_of("whisper")
    rows = [replace(row, target=Answer()) for row in sound_rows(backbone)]
    ours = PromptedModel(backbone).ask(rows, Answers(5))
    for row, answer in zip(rows, ours, strict=True):
        ids, features = list(STARTS), row.input[0].load()[None].double()
        for token in answer.ids:
            with torch.no_grad():
                logits = reference(input_features=features, decoder_input_ids=torch.tensor([ids])).logits[0, -1]
            assert int(logits.argmax()) == token
            ids.append(token)


@pytest.mark.parametrize("beams", [1, 2])
def test_whisper_leaves_out_what_its_files_say_it_never_writes(beams):
    backbone = make_sound_backbone("whisper")
    rows = [replace(row, target=Answer()) for row in sound_rows(backbone)]
    question = Answers(5, decoding=Decoding(beams=beams))
    before = PromptedModel(backbone).ask(rows, question)
    always, first = before[0].ids[-1], before[1].ids[0]
    other = make_sound_backbone("whisper")
    other.model.generation_config.suppress_tokens = [always]
    other.model.generation_config.begin_suppress_tokens = [first, 10**6]
    after = PromptedModel(other).ask(rows, question)
    assert not any(always in answer.ids or first in answer.ids[:1] for answer in after)
    # A row with a rule of its own is written by it.
    ruled = [replace(row, target=Answer(allowed=lambda written: [always])) for row in rows]
    assert PromptedModel(other).ask(ruled, question)[0].ids == (always,) * 5


def test_a_row_may_begin_in_another_language():
    backbone, reference = sound_backbone_of("whisper"), sound_reference_of("whisper")
    start = (STARTS[0], 17, 23)
    rows = sound_rows(backbone)
    mixed = [replace(row, start=start if row.row % 2 else ()) for row in rows]
    ours = PromptedModel(backbone).ask(mixed, Features())
    for row, state in zip(mixed, ours, strict=True):
        ids = torch.tensor([list(row.start or STARTS)])
        with torch.no_grad():
            hidden = reference.model(input_features=row.input[0].load()[None].double(), decoder_input_ids=ids)
        torch.testing.assert_close(state, hidden.last_hidden_state[0, -1], **CLOSE)


_CASES = [(family, case) for family in SOUND_ENCODERS for case in OF_ENCODERS]
_CASES += [("whisper", case) for case in OF_WHISPER]


@pytest.mark.parametrize(("family", "case"), _CASES, ids=str)
def test_batches_caches_and_company_change_nothing(family, case):
    backbone = sound_backbone_of(family)
    check_company_changes_nothing(backbone, rows_of(case, backbone), prompt_of(case, backbone), CLOSE)


@pytest.mark.parametrize("family", ["whisper", "hubert"])
def test_prompts_of_several_tasks_share_a_sound(family):
    backbone = sound_backbone_of(family)
    cases = [case for case in (OF_WHISPER if family == "whisper" else OF_ENCODERS) if case.place != "slots"]
    (row,) = rows_of(cases[0], backbone, 1)
    rows = [replace(row, row=number) for number in range(len(cases))]
    prompts = [prompt_of(case, backbone, length=3 + n % 2, seed=n) for n, case in enumerate(cases)]
    together = PromptedModel(backbone, RowPrompts(prompts)).ask(rows, LabelScores())
    alone = [PromptedModel(backbone, prompt).ask([row], LabelScores())[0] for prompt in prompts]
    torch.testing.assert_close(together, alone, **CLOSE)


def test_gradients_match_finite_differences():
    backbone = sound_backbone_of("whisper")
    rows, prompt = sound_rows(backbone, 2), prompt_of(OF_WHISPER[0], backbone)
    check_gradients(PromptedModel(backbone, prompt), rows)


# -- what prepares sounds


def test_features_are_those_of_transformers():
    sound = make_sound(3, 0.4)
    options = {"sampling_rate": RATE, "return_tensors": "pt"}
    whisper = WhisperFeatureExtractor(feature_size=10, chunk_length=1)(sound.open(), **options).input_features[0]
    ast = ASTFeatureExtractor(num_mel_bins=16, max_length=50)(sound.open(), **options).input_values[0]
    waves = Wav2Vec2FeatureExtractor(do_normalize=True)(sound.open(), **options).input_values[0]
    for family, wanted in (("whisper", whisper), ("audio-spectrogram-transformer", ast), ("hubert", waves)):
        assert torch.equal(make_processor(family).prepared(sound.open(), RATE), wanted)


def test_a_short_window_reads_the_beginning_alone():
    whole, short = sound_backbone_of("whisper"), make_sound_backbone("whisper", window_s=0.5)
    assert [backbone.text.tokenizer.segments(make_sound(1))[0].length for backbone in (whole, short)] == [50, 25]
    assert whole.info.processor_sha256 != short.info.processor_sha256
    features = [backbone.text.tokenizer.segments(make_sound(1))[0].load() for backbone in (whole, short)]
    assert torch.equal(features[0][:, :30], features[1][:, :30])
    with pytest.raises(DataError) as error:
        short.text.tokenizer.segments(make_sound(1, 0.8))
    assert "0.8 seconds" in error.value.what
    for family, window in (("whisper", 2.0), ("hubert", 0.5)):
        with pytest.raises(BackboneError):
            make_processor(family, window)


def test_words_count_in_the_decoder_and_sounds_do_not():
    backbone = sound_backbone_of("whisper")
    (row,) = sound_rows(backbone, 1)
    room = backbone.info.max_length - len(STARTS)
    fits = replace(row, anchor=(Tokens((40,) * room),))
    PromptedModel(backbone).check([fits], LabelScores())
    with pytest.raises(BackboneError):
        PromptedModel(backbone).check([replace(row, anchor=(Tokens((40,) * (room + 1)),))], LabelScores())
