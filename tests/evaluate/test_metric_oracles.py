"""Metrics against the packages that define them."""

import random

import numpy as np
import pytest
import sacrebleu
from rouge_score.rouge_scorer import RougeScorer
from scipy.stats import pearsonr, spearmanr
from seqeval.metrics import f1_score as seqeval_f1
from seqeval.metrics import precision_score, recall_score
from seqeval.scheme import IOB2
from sklearn.metrics import f1_score, mean_squared_error, r2_score

from overture.data.kinds.tags import spans_of
from overture.evaluate.intervals import bootstrap, paired_test
from overture.evaluate.metrics import METRICS

WORDS = ["the", "a", "cat", "dog", "sat", "on", "mat", "in", "Paris,", "France.", "runs", "Running", "10", "ran"]


def texts(seed, count=12):
    chance = random.Random(seed)

    def text():
        return " ".join(chance.choices(WORDS, k=chance.randint(1, 14)))

    gold = [tuple(text() for _ in range(chance.randint(1, 3))) for _ in range(count)]
    said = [chance.choice([text(), chance.choice(right), right[0] + " " + text()]) for right in gold]
    return gold, said


def corpus(metric, gold, said):
    # sacrebleu takes a stream for each reference; a row without one more has None there.
    streams = [[right[i] if i < len(right) else None for right in gold] for i in range(3)]
    return metric.corpus_score(said, streams).score / 100


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(("name", "oracle"), [("bleu", sacrebleu.BLEU()), ("chrf", sacrebleu.CHRF())])
def test_corpus_metrics_are_sacrebleus(name, oracle, seed):
    gold, said = texts(seed, 3 if seed % 2 else 12)
    assert METRICS[name](gold, said) == pytest.approx(corpus(oracle, gold, said), abs=1e-12)


@pytest.mark.parametrize(
    ("gold", "said"),
    [
        ([("the cat sat on a mat today",)], ["dogs run"]),
        ([("the cat sat on a mat",)], ["the dog ran on a hill far away"]),
        ([("a b c d e",)], [""]),
        ([("a b c d e", "x")], ["x"]),
    ],
)
def test_corpus_metrics_without_matches(gold, said):
    assert METRICS["bleu"](gold, said) == pytest.approx(corpus(sacrebleu.BLEU(), gold, said), abs=1e-12)
    assert METRICS["chrf"](gold, said) == pytest.approx(corpus(sacrebleu.CHRF(), gold, said), abs=1e-12)


@pytest.mark.parametrize(("name", "own"), [("rouge1", "rouge_1"), ("rouge2", "rouge_2"), ("rougeL", "rouge_l")])
def test_rouge_is_the_best_of_the_references(name, own):
    gold, said = texts(3)
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    best = [max(scorer.score(text, s)[name].fmeasure for text in right) for right, s in zip(gold, said, strict=True)]
    assert METRICS[own](gold, said) == pytest.approx(np.mean(best))


def test_rouge_by_hand():
    # Said "the cat sat", right "the cat ran far": 2 of 3 and 2 of 4 words; 1 of 2 and 1 of 3 pairs.
    found = {name: METRICS[name](["the cat ran far"], ["the cat sat"]) for name in ("rouge_1", "rouge_2", "rouge_l")}
    assert found == {
        name: pytest.approx(value) for name, value in (("rouge_1", 4 / 7), ("rouge_2", 0.4), ("rouge_l", 4 / 7))
    }


def test_exact_text_forgives_the_white_space_around_it_alone():
    right = "def f(x):\n    return x"
    gold = [right] * 5 + [("a b", "A  b")]
    said = [f"\n{right}\n", right.replace("    ", "  "), right.upper(), right.replace("\n", "\n\n"), "", "A  b"]
    assert METRICS["exact_text"].rows(gold, said) == (True, False, False, False, False, True)
    # White space and case are nothing to exact_match.
    assert METRICS["exact_match"].rows(gold, said) == (True, True, True, True, False, True)


def test_squad_by_its_definition():
    gold = [("The Normans", "Normans"), ("in the 10th century",), (), (), ("1,066",)]
    said = ["normans!", "10th century", "", "France", "1066"]
    assert METRICS["squad_em"].rows(gold, said) == (True, False, True, False, True)
    # Second: "in 10th century" against "10th century": 2 of 3 and 2 of 2.
    assert METRICS["squad_f1"](gold, said) == pytest.approx((1 + 0.8 + 1 + 0 + 1) / 5)


def test_squad_with_and_without_answers_are_means_over_their_rows():
    gold, said = texts(7, 20)
    said += ["", "the", "mat", ""]
    answerable, all_gold = METRICS["squad_f1_answerable"], [*gold, (), (), (), ()]
    assert answerable(all_gold, said) == pytest.approx(METRICS["squad_f1"](gold, said[:20]))
    # SQuAD sees no article, so that "the" is silence.
    assert METRICS["no_answer_accuracy"](all_gold, said) == 0.75
    assert answerable.fits(all_gold)
    assert not answerable.fits(gold)
    assert not METRICS["no_answer_accuracy"].fits(gold)


def test_entities_are_seqevals():
    chance = random.Random(0)
    names = ["O", "B-x", "I-x", "B-y", "I-y"]
    gold = [chance.choices(names, k=9) for _ in range(30)]
    said = [[tag if chance.random() < 0.7 else chance.choice(names) for tag in row] for row in gold]
    found = [tuple(spans_of(row)) for row in gold], [tuple(spans_of(row)) for row in said]
    strict = {"mode": "strict", "scheme": IOB2}
    assert METRICS["entity_f1"](*found) == pytest.approx(seqeval_f1(gold, said, **strict))
    assert METRICS["entity_precision"](*found) == pytest.approx(precision_score(gold, said, **strict))
    assert METRICS["entity_recall"](*found) == pytest.approx(recall_score(gold, said, **strict))


def test_label_sets_are_scikit_learns():
    chance = random.Random(1)
    gold = [tuple(x for x in "abcd" if chance.random() < 0.4) for _ in range(40)]
    said = [tuple(x for x in "abcd" if chance.random() < 0.5) for _ in range(40)]

    def table(rows):
        return np.array([[x in row for x in "abcd"] for row in rows], dtype=int)

    for average in ("micro", "macro"):
        wanted = f1_score(table(gold), table(said), average=average, zero_division=0)
        assert METRICS[f"multilabel_{average}_f1"](gold, said) == pytest.approx(wanted)
    assert METRICS["subset_accuracy"](gold, said) == pytest.approx((table(gold) == table(said)).all(1).mean())


def test_numbers_are_scipys():
    random_numbers = np.random.default_rng(0)
    gold = random_numbers.normal(1e4, 3, 50).round(0).tolist()
    said = (np.array(gold) + random_numbers.normal(0, 2, 50)).round(0).tolist()
    assert METRICS["pearson"](gold, said) == pytest.approx(pearsonr(gold, said)[0])
    assert METRICS["spearman"](gold, said) == pytest.approx(spearmanr(gold, said)[0])
    assert METRICS["r2"](gold, said) == pytest.approx(r2_score(gold, said))
    assert METRICS["mse"](gold, said) == pytest.approx(mean_squared_error(gold, said))


def test_numbers_that_do_not_vary_correlate_with_nothing():
    for name in ("pearson", "spearman", "r2"):
        assert METRICS[name]([2.0, 2.0], [1.0, 3.0]) == 0


def test_calibration_by_hand():
    gold = ["a", "a", "b", "b"]
    said = [("a", 0.95), ("b", 0.95), ("b", 0.5), ("b", 0.5)]
    # Two of confidence 0.95, one right: 0.45; two of 0.5, both right: 0.5.
    assert METRICS["ece"](gold, said) == pytest.approx((2 * 0.45 + 2 * 0.5) / 4)


@pytest.mark.parametrize("name", ["bleu", "chrf", "rouge_1", "rouge_2", "rouge_l", "squad_f1"])
def test_corpus_metrics_have_intervals_and_paired_tests(name):
    gold, said = texts(5, 60)
    _, worse = texts(6, 60)
    found = bootstrap(name, gold, said, resamples=300)
    assert found.low < found.value < found.high
    paired = paired_test(gold, said, worse, name, resamples=300)
    assert paired.p_value < 0.05
    assert paired.difference.low > 0
