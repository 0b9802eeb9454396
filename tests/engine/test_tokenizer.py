"""The tokenizer as the rest of the code sees it."""

import numpy
import pytest
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Inner
from transformers import PreTrainedTokenizerFast

from fakes import make_inner_tokenizer
from overture.core.errors import BackboneError, DataError
from overture.core.media import Media
from overture.engine.frontends.wordless import NoWords
from overture.engine.tokenizer import Tokenizer
from tiny_configs import CONTEXT


@pytest.mark.parametrize("method", ["encode_plain", "encode_template", "offsets"])
def test_a_long_text_is_not_announced(method, caplog):
    """How long a row may be is checked later, once, for all rows; the library's own warning would come first."""
    inner = make_inner_tokenizer()
    inner.model_max_length = 4
    found = getattr(Tokenizer(inner, CONTEXT), method)("a text of more than four tokens")
    assert len(found) > inner.model_max_length
    assert not caplog.records


def with_added_tokens(family: str = "llama") -> PreTrainedTokenizerFast:
    """Control tokens that are not special, as reasoning models have them, and white space as code models have it."""
    inner = make_inner_tokenizer(family)
    controls = [AddedToken(text, special=False, normalized=False) for text in ("<think>", "<tool_call>")]
    inner.add_tokens([controls[0], "  ", controls[1], "    "])
    return inner


def unigram() -> PreTrainedTokenizerFast:
    """A vocabulary in which special tokens are words, as T5's is."""
    letters = [(letter, -4.0) for letter in "abcdextri_0<>"]
    inner = Inner(models.Unigram([("<unk>", 0.0), ("<extra_id_0>", 0.0), ("\u2581", -1.0), *letters], unk_id=0))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    extra = {"additional_special_tokens": ["<extra_id_0>"], "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=inner, **extra)


INNER = {"llama": with_added_tokens(), "bert": with_added_tokens("bert"), "t5": unigram()}


@pytest.mark.parametrize("inner", INNER.values(), ids=INNER)
@pytest.mark.parametrize("text", ["{}", "ab{}", "a {} b", "{}{}", " {}", "<{}>"])
def test_no_text_reaches_an_added_token(inner, text):
    tokenizer = Tokenizer(inner, CONTEXT)
    controls = {token: spelling for spelling, token in inner.added_tokens_encoder.items() if spelling.strip()}
    for token, spelling in controls.items():
        written = text.format(spelling, spelling)
        ids = tokenizer.encode_plain(written)
        assert not set(ids) & (set(controls) - {inner.unk_token_id})
        assert [token for token, _, _ in tokenizer.offsets(written)] == ids
        assert written.replace(" ", "") in inner.decode(ids).replace(" ", "") or inner.unk_token_id in ids
        # The author of a template can write them.
        assert token in tokenizer.encode_template(written)


def test_text_without_added_tokens_is_as_it_was():
    changed, plain = Tokenizer(with_added_tokens(), CONTEXT), Tokenizer(make_inner_tokenizer(), CONTEXT)
    text = "Is a < b and c > d? think> <think tool_call"
    assert changed.encode_plain(text) == plain.encode_plain(text)
    assert changed.offsets(text) == plain.offsets(text)


def test_added_white_space_stays_one_token():
    inner = with_added_tokens()
    tokenizer = Tokenizer(inner, CONTEXT)
    blanks = inner.added_tokens_encoder
    assert tokenizer.encode_plain("a  b<think>    c").count(blanks["  "]) == 1
    assert tokenizer.encode_plain("a  b<think>    c").count(blanks["    "]) == 1
    assert tokenizer.offsets("a  b")[1] == (blanks["  "], 1, 3)


def test_whisper_begins_in_the_language_and_for_the_task_that_are_asked_for():
    inner = make_inner_tokenizer()
    names = ["<|startoftranscript|>", "<|en|>", "<|de|>", "<|transcribe|>", "<|translate|>", "<|notimestamps|>"]
    inner.add_special_tokens({"additional_special_tokens": names})
    sot, en, de, transcribe, translate, end = inner.convert_tokens_to_ids(names)
    several = Tokenizer(inner, 64, starts=(sot, en, transcribe, end))
    assert several.speech_start("de", False) == (sot, de, transcribe, end)
    assert several.speech_start("en", True) == (sot, en, translate, end)
    english = Tokenizer(inner, 64, starts=(sot, end))
    assert english.speech_start("en", False) == (sot, end)
    for tokenizer, language, is_translated in ((several, "xx", False), (english, "de", False), (english, "en", True)):
        with pytest.raises(DataError) as error:
            tokenizer.speech_start(language, is_translated)
        assert error.value.where == ("translate" if is_translated else "language")


@pytest.mark.parametrize("make", [lambda: NoWords("some/vit", "images"), lambda: Tokenizer(make_inner_tokenizer(), 64)])
def test_a_model_of_the_other_input_is_named_in_the_fix(make):
    sound = Media.of_array(numpy.zeros(8, dtype=numpy.float32), "a.wav", 8000)
    with pytest.raises(BackboneError) as caught:
        make().segments(sound)
    assert "a model of sounds" in caught.value.fix
