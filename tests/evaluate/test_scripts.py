# ruff: noqa: RUF001 -- full-width letters are what is tested
"""Metrics of texts in every script, and intervals that hold their value."""

import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from scipy.stats import pearsonr
from sklearn.metrics import r2_score

from overture.evaluate.intervals import bootstrap, paired_test
from overture.evaluate.metrics import METRICS
from overture.evaluate.over_seeds import difference_over_seeds, interval_over_seeds, resampled

SENTENCES = {
    "English": "Heavy rain fell on the hills",
    "Russian": "Сильный дождь прошёл над холмами",
    "Greek": "Δυνατή βροχή έπεσε στους λόφους",
    "German": "Über Köln fiel kräftiger Regen",
    "Turkish": "Tepelere şiddetli yağmur İZMİR",
    "Arabic": "هطلت أمطار غزيرة على التلال",
    "Hebrew": "גשם כבד ירד על הגבעות",
    "Hindi": "पहाड़ियों पर तेज़ बारिश हुई",
    "Tamil": "மலைகளில் கனமழை பெய்தது இன்று",
    "Korean": "언덕 위로 세찬 비가 내렸다",
    "Chinese": "昨夜山上下了大雨。",
    "Japanese": "丘の上にコーヒー色の雨が降った",
    "Thai": "ฝนตกหนักบนเนินเขา",
    "Lao": "ຝົນຕົກໜັກຢູ່ເທິງເນີນພູ",
    "Khmer": "ភ្លៀងធ្លាក់ខ្លាំងលើភ្នំ",
    "Burmese": "တောင်ပေါ်မှာမိုးသည်းထန်စွာရွာခဲ့သည်",
    "emoji": "🌧 ⛰ 💧 😀 🙂",
    "full width": "ＡＢＣ　ＤＥＦ　１２３　ｘｙｚ",
}
WORDLESS = ("+= -> !! ... ?", "🌧🌧🌧🌧")
OF_TEXTS = [
    name
    for name, metric in METRICS.items()
    if metric.of == "texts" and name != "no_answer_accuracy" and not metric.is_error
]


@pytest.mark.parametrize("name", OF_TEXTS)
@pytest.mark.parametrize("script", SENTENCES)
def test_a_right_answer_scores_1(script, name):
    text = SENTENCES[script]
    assert METRICS[name]([text], [text]) == pytest.approx(1)
    assert METRICS[name]([("x", text)], [text]) == pytest.approx(1)


@pytest.mark.parametrize("name", ["rouge_1", "rouge_l", "chrf", "exact_match"])
@pytest.mark.parametrize("text", WORDLESS)
def test_an_answer_without_letters_can_be_right(text, name):
    assert METRICS[name]([text], [text]) == pytest.approx(1)
    assert METRICS[name]([text], ["rain"]) < 1


@pytest.mark.parametrize("name", ["bleu", "rouge_1", "rouge_l", "squad_f1", "chrf"])
@pytest.mark.parametrize("script", [name for name in SENTENCES if name != "emoji"])
def test_another_answer_scores_less_and_half_an_answer_between(script, name):
    half, other = SENTENCES[script], SENTENCES["Greek" if script != "Greek" else "Russian"]
    assert METRICS[name]([half], [other]) < 0.1
    assert 0 < METRICS[name]([f"{half} {half}"], [half]) < 1


@pytest.mark.parametrize("name", ["exact_match", "squad_em", "squad_f1", "bleu", "chrf", "rouge_l"])
def test_one_letter_written_in_two_ways_is_one_letter(name):
    gold = "Où est né l'été, Zoë"
    said = unicodedata.normalize("NFD", gold)
    assert said != gold
    assert METRICS[name]([gold], [said]) == pytest.approx(1)


def test_an_accent_is_part_of_its_letter():
    assert METRICS["rouge_1"](["Köln"], ["K ln"]) == 0
    assert METRICS["rouge_1"](["Fünf Männer"], ["Fnf Mnner"]) == 0


def test_squad_in_a_script_without_spaces_counts_characters_and_drops_punctuation():
    assert METRICS["squad_f1"](["北京大学"], ["北京"]) == pytest.approx(2 / 3)
    assert METRICS["squad_em"](["东京", "大阪", "3人", "Москва"], ["东京。", "“大阪”", "３人！", "«Москва»"]) == 1
    assert METRICS["squad_em"](["北京"], ["北京大学"]) == 0


def test_squad_keeps_what_its_script_keeps_of_latin_texts():
    # The script for version 2.0 knows ASCII punctuation alone.
    assert METRICS["squad_em"](["1979–1984"], ["1979-1984"]) == 0
    assert METRICS["squad_em"](["(the) U.S. $5"], ["us 5"]) == 1


def test_squad_drops_right_answers_of_articles_alone_beside_others():
    # The script for version 2.0 keeps an empty answer only where there is no other.
    assert METRICS["squad_f1"]([("an", "Cat")], [""]) == 0
    assert METRICS["squad_em"]([("...", "Cat")], ["the"]) == 0
    assert METRICS["squad_em"]([("an", "Cat")], ["cat"]) == 1
    assert METRICS["squad_em"]([("an", "...")], [""]) == 1


ASCII = st.text(st.characters(max_codepoint=126, min_codepoint=9), max_size=60)


@given(ASCII, ASCII)
@settings(deadline=None, max_examples=300)
@pytest.mark.parametrize(("name", "own"), [("rouge1", "rouge_1"), ("rouge2", "rouge_2"), ("rougeL", "rouge_l")])
def test_texts_in_ascii_have_rouge_scores_own_figures(name, own, gold, said):
    has_words = all(any(c.isalnum() for c in text) for text in (gold, said))
    if has_words:
        wanted = RougeScorer([name], use_stemmer=True).score(gold, said)[name].fmeasure
        assert METRICS[own]([gold], [said]) == wanted


@pytest.mark.parametrize("name", ["rouge_l", "bleu", "squad_f1", "chrf"])
def test_the_result_names_how_texts_were_cut(name):
    text = SENTENCES["English"]
    for interval in (
        bootstrap(name, [text] * 4, [text] * 4, resamples=100),
        interval_over_seeds(resampled(name, [text] * 4, [[text] * 4, [text, text, "rain", text]])),
        paired_test([text] * 4, [text] * 4, ["rain"] * 4, name, resamples=100).difference,
    ):
        assert interval.tokenizer
        assert interval.dump()["tokenizer"] == METRICS[name].tokenizer
    assert "tokenizer" not in bootstrap("accuracy", ["a"], ["a"], resamples=100).dump()


# -- numbers


@pytest.mark.parametrize("scale", [1e-7, 1e-3, 1.0, 1e6])
@pytest.mark.parametrize("centre", [0.0, 5.0, -3e4])
def test_correlations_of_any_scale_are_the_libraries(scale, centre):
    chance = np.random.default_rng(0)
    gold = centre * scale + scale * chance.normal(size=40)
    said = gold + scale * chance.normal(size=40) * 0.5
    assert METRICS["pearson"](gold.tolist(), said.tolist()) == pytest.approx(pearsonr(gold, said).statistic, abs=1e-6)
    assert METRICS["r2"](gold.tolist(), said.tolist()) == pytest.approx(r2_score(gold, said), abs=1e-6)
    far = said + 1e3 * scale
    assert METRICS["pearson"](gold.tolist(), far.tolist()) == pytest.approx(pearsonr(gold, far).statistic, abs=1e-6)


def test_tiny_numbers_vary_and_equal_ones_do_not():
    tiny = [1e-7, 2e-7, 3e-7]
    assert [METRICS[name](tiny, tiny) for name in ("pearson", "spearman", "r2")] == pytest.approx([1, 1, 1])
    for equal in ([0.1] * 7, [1e8 + 0.1] * 7, [0.0] * 7):
        assert METRICS["pearson"](equal, list(range(7))) == 0
        assert METRICS["pearson"](list(range(7)), equal) == 0
        assert METRICS["r2"](equal, list(range(7))) == 0


# -- every interval holds its value

ANSWERS = {
    "labels": st.sampled_from("abcd"),
    "texts": st.sampled_from(["London", "the old town", "дождь", "大雨", "", "a b c d e", "a b c d f"]),
    "sets": st.sampled_from([(), ("a",), ("a", "b"), ("c",)]),
    "spans": st.sampled_from([(), (("x", 0, 1),), (("x", 0, 1), ("y", 2, 3))]),
    "numbers": st.sampled_from([0.0, 1.0, 1.5, -2.0, 1e-7]),
}
METRIC_NAMES = [name for name, metric in METRICS.items() if metric.of in ANSWERS]


@st.composite
def three_lists(draw, of):
    n = draw(st.integers(1, 12))
    return [draw(st.lists(ANSWERS[of], min_size=n, max_size=n)) for _ in range(3)]


@pytest.mark.parametrize("name", METRIC_NAMES)
def test_every_interval_holds_its_value(name):
    @given(three_lists(METRICS[name].of))
    @settings(deadline=None, max_examples=40, database=None)
    def holds(lists):
        gold, a, b = lists
        pair = [resampled(name, gold, answers, resamples=100) for answers in ([a, b], [b, a])]
        for interval in (
            bootstrap(name, gold, a, resamples=100),
            paired_test(gold, a, b, name, resamples=100).difference,
            interval_over_seeds(pair[0]),
            difference_over_seeds(*pair).difference,
        ):
            assert interval.low <= interval.value <= interval.high, interval

    holds()


def test_rows_that_a_metric_cannot_tell_apart_leave_its_difference_at_0():
    gold = ("London", "Paris") * 4
    found = paired_test(gold, gold, ("Rome",) * 8, "rouge_2")
    assert found.difference.value == 0
    assert -found.difference.low == pytest.approx(found.difference.high)
