"""The explanation of soft prompts and of prompts of words on a tiny model; its page; planted words are found."""

import random
from dataclasses import replace

import pytest
import torch

from fakes import CASES, backbone_of, injection_of, make_prompt, make_rows
from overture.core.errors import ConfigError
from overture.core.injection import Injection, Memory, Vectors
from overture.core.records.hard import Candidate
from overture.data.task import Task
from overture.engine.answerer import LocalAnswerer
from overture.engine.cache import InputCache
from overture.engine.prompted import PromptedModel
from overture.evaluate.facts import backbone_ref
from overture.evaluate.host import Host
from overture.explain.checks import seed_stability
from overture.explain.flips import benjamini_hochberg, flip_counts, slices
from overture.explain.gradients import integrated
from overture.explain.parts import changes_of, drops_of, mean_of, scores_without, without_columns
from overture.explain.shift import shift_likeness, vocabulary_shift
from overture.explain.words import Occluded, pieces_of, without, words_check
from overture.jobs.wording.explain import explain
from overture.jobs.wording.options import ExplainConfig
from overture.prompt.pack import prompt_tensors
from overture.report.explain_page import write_page
from overture.store.artifact import save_artifact
from overture.store.manifest import Manifest
from text_prompts import scorer_of

SMALL = ExplainConfig(rows=5, texts=2, nodes=12)


def folder_of(tmp_path, method: str, place: str, text=None):
    scorer = scorer_of("llama")
    backbone = backbone_of("llama")
    case = next((case for case in CASES if (case.method, case.place) == (method, place)), None)
    manifest = Manifest(
        name="mood",
        method=method,
        place=text.place if text else place,
        length=len(text.ids) if text else 5,
        text=text,
        options={} if text else {"prompt": {"method": method, "place": place, "length": 5, "options": case.options}},
        backbone=backbone_ref(backbone),
        task=scorer.task.dump(),
        trainable=0,
    )
    tensors = {} if text else prompt_tensors(make_prompt(case, backbone, length=5))
    save_artifact(tmp_path / "mood", manifest, tensors)
    return tmp_path / "mood", scorer.splits["validation"]


@pytest.mark.parametrize(
    ("method", "place"), [("prefix", "after"), ("vectors", "before"), ("vectors", "after"), ("prefix", "memory"),
                          ("idpg", "before")]
)  # fmt: skip
def test_every_column_has_a_part_and_the_page_holds_them(tmp_path, method, place):
    folder, rows = folder_of(tmp_path, method, place)
    result = explain(Host(backbone_of("llama")).open(folder), rows, "test", SMALL)
    assert [part.name for part in result.parts] == [str(n) for n in range(1, 6)]
    assert all(part.drop.low <= part.drop.value <= part.drop.high for part in result.parts)
    assert all(part.change.value >= -1e-6 for part in result.parts)
    assert {check.name for check in result.checks} >= {"completeness", "deletion", "randomisation"}
    assert all(word.change >= 0 for word in result.raised)
    assert all(word.change <= 0 for word in result.lowered)
    total = result.flips[0]
    assert total.fixed + total.broken + total.both_right + total.both_wrong == result.rows == 5
    assert total.fixed - total.broken == round(result.compared.difference.value * 5)
    assert [len(text.words) for text in result.texts]
    write_page(result, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert len(page.encode()) < 1_000_000
    assert "<script" not in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert page.count("<svg") == (4 if method == "idpg" else 6)
    words = next(check for check in result.checks if check.name == "words")
    assert words.passed is not None
    if method == "vectors":
        assert len(result.lens) == 5 * len({reading.layer for reading in result.lens})
    if method != "idpg":
        assert sum(result.attention.columns) <= 1
        assert len(result.attention.heads) == backbone_of("llama").info.num_layers


def test_pieces_of_a_text_are_its_words_or_neighbours():
    assert pieces_of("one two  three", 3) == ["one ", "two  ", "three"]
    assert pieces_of("a b c d e", 2) == ["a b c ", "d e"]
    assert without(["a ", "b ", "c"], [1]) == "a c"
    assert without(["a"], [0]) == "."


def test_the_check_of_words_tells_right_importance_from_wrong():
    """A loss that grows by 1 with one word alone: importance that names it passes, importance that does not fails."""

    def losses_of(left_out):
        return torch.tensor([1.0 if 3 in numbers else 0.0 for numbers in left_out])

    for named, passes in ((3, True), (5, False)):
        rows = [Occluded(10, 0.0, [float(n == named) for n in range(10)], losses_of) for _ in range(6)]
        assert words_check(rows, seed=1).passed is passes
    assert words_check(rows[:1], seed=1).passed is None


def test_seeds_that_shift_alike_are_stable():
    shift = torch.linspace(-1, 1, 300)
    assert shift_likeness(shift, 2 * shift) == pytest.approx(1)
    assert seed_stability([0.9, 0.7]).passed
    assert seed_stability([0.2, -0.1]).passed is False


def test_a_prompt_of_words_is_explained_by_its_words_and_examples(tmp_path):
    text = scorer_of("llama").text_of(Candidate(text="\nWhich mood? Say <b>it</b>.", shots=[0, 3]))
    folder, rows = folder_of(tmp_path, "text", "after", text)
    result = explain(Host(backbone_of("llama")).open(folder), rows, "test", SMALL)
    kinds = [part.kind for part in result.parts]
    assert (kinds.count("example"), kinds.count("section"), kinds.count("word")) == (2, 2, 4)
    write_page(result, tmp_path / "page.html")
    assert "<b>it</b>" not in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_column_that_is_left_out_is_no_column(case):
    """Whatever stands in it changes nothing, for every method and place."""
    backbone, rows = backbone_of("llama", torch.float64), make_rows("one token", (5, 9, 3))
    answerer = LocalAnswerer(backbone, InputCache(1 << 20))
    length = 2 if case.place == "slots" else 4
    whole = injection_of(make_prompt(case, backbone, length=length), backbone).map(torch.Tensor.detach)
    split = whole.vectors.split if whole.vectors else None

    def changed(value: torch.Tensor) -> torch.Tensor:
        """The second column replaced, in vectors [P, D] and in keys and values [N, H, P, K]."""
        value = value.clone()
        if value.dim() == 4:
            value[:, :, 1] = 5.0
        else:
            value[1] = 5.0
        return value

    if whole.vectors:
        other = replace(whole, vectors=replace(whole.vectors, values=changed(whole.vectors.values)))
    else:
        memory = whole.memory.memory
        other_memory = replace(memory, keys=changed(memory.keys), values=changed(memory.values))
        other = replace(whole, memory=replace(whole.memory, memory=other_memory))
    losses = [
        answerer.losses(rows, [without_columns(prompt, [1])] * 3, with_vector_targets=False)
        for prompt in (whole, other)
    ]
    torch.testing.assert_close(*losses)
    assert split is None or without_columns(whole, [1]).vectors.split.sum() == 1


def test_vectors_are_taken_away_and_those_behind_move_up():
    values = torch.arange(12.0).view(4, 3)
    rest = without_columns(Injection(Vectors(values, "after")), [1, 2])
    assert rest.vectors.values.tolist() == values[[0, 3]].tolist()
    split = torch.tensor([0.0, 0, 1, 0, 0])
    rest = without_columns(Injection(Vectors(values, "around", split=split)), [0])
    assert rest.vectors.num_before == 1
    assert without_columns(Injection(Vectors(values[:1], "before")), [0]) is None


@pytest.mark.parametrize(("method", "place"), [("prefix", "after"), ("vectors", "after"), ("vectors", "before")])
def test_integrated_gradients_are_complete(method, place):
    backbone = backbone_of("llama", torch.float64)
    case = next(case for case in CASES if (case.method, case.place) == (method, place))
    prompt = injection_of(make_prompt(case, backbone, length=4), backbone).map(torch.Tensor.detach)
    gradients = integrated(LocalAnswerer(backbone, InputCache(1 << 20)), prompt, make_rows("one token", (5, 9, 3)), 48)
    assert len(gradients.columns) == 4
    assert gradients.residual < 0.01


@pytest.mark.parametrize(("method", "place"), [("prefix", "after"), ("vectors", "before")])
def test_integrated_gradients_equal_captums(method, place):
    """Over the keys, or the vectors, with everything else at its end; captum has the same nodes."""
    captum = pytest.importorskip("captum.attr")
    backbone, rows = backbone_of("llama", torch.float64), make_rows("one token", (5, 9, 3))
    answerer = LocalAnswerer(backbone, InputCache(1 << 20))
    case = next(case for case in CASES if (case.method, case.place) == (method, place))
    prompt = injection_of(make_prompt(case, backbone, length=4), backbone).map(torch.Tensor.detach)

    def likelihood(*values):
        if prompt.vectors:
            changed = Injection(Vectors(values[0][0], place))
        else:
            changed = Injection(memory=Memory(type(prompt.memory.memory)(values[0][0], values[1][0]), place))
        return -answerer.losses(rows, [changed] * len(rows)).mean()[None]

    if prompt.vectors:
        ends = (prompt.vectors.values,)
        baselines = tuple(backbone.embed(range(backbone.info.vocab_size)).mean(0).expand_as(end)[None] for end in ends)
    else:
        ends = (prompt.memory.memory.keys, prompt.memory.memory.values)
        baselines = tuple(torch.zeros_like(end)[None] for end in ends)
    found = captum.IntegratedGradients(likelihood).attribute(
        tuple(end[None] for end in ends), baselines, n_steps=16, method="gausslegendre", internal_batch_size=1
    )
    totals = [part[0].sum(-1) if prompt.vectors else part[0].sum((0, 1, 3)) for part in found]
    ours = integrated(answerer, prompt, rows, 16)
    assert ours.columns == pytest.approx(sum(totals).tolist(), abs=1e-6)


def test_leaving_out_nothing_changes_nothing():
    backbone = backbone_of("llama", torch.float64)
    case = next(case for case in CASES if (case.method, case.place) == ("prefix", "after"))
    prompt, rows = injection_of(make_prompt(case, backbone, length=4), backbone), make_rows("one token", (5, 9))
    answerer = LocalAnswerer(backbone, InputCache(1 << 20))
    scores = scores_without(answerer, [prompt], rows, [[], [], [1]])
    torch.testing.assert_close(
        -scores[0, [0, 1], [row.label for row in rows]], answerer.losses(rows, [prompt] * 2).detach()
    )
    torch.testing.assert_close(scores_without(answerer, [prompt] * 2, rows, [[], [], [1]]), scores)
    changes, drops = changes_of(scores), drops_of(scores, rows)
    assert changes[0].abs().max() < 1e-12
    assert drops[0].abs().max() < 1e-12
    assert (changes[1] > 0).all()


def test_the_vocabularys_shift_of_no_prompt_is_zero():
    backbone = backbone_of("llama")
    plain = PromptedModel(backbone)
    rows = scorer_of("llama").encoded(Candidate().wording, False).rows["validation"]
    assert not vocabulary_shift(plain, plain, rows, rows).any()


def test_a_planted_word_is_found_and_an_absent_one_is_not():
    """Rows with "zebra" are turned to one label; other words are drawn by chance."""
    found = absent = 0
    for seed in range(20):
        chance = random.Random(seed)
        filler = [f"word{n}" for n in range(40)]
        texts, without = [], []
        for number in range(200):
            words = chance.sample(filler, 8)
            if number % 10 == 0:
                words[3] = "zebra"
            texts.append(" ".join(words))
            without.append(chance.choice(["good", "bad"]))
        gold = list(without)
        planted = ["bad" if "zebra" in text else answer for text, answer in zip(texts, without, strict=True)]
        noisy = [chance.choice(["good", "bad"]) if chance.random() < 0.1 else answer for answer in without]
        best = slices(texts, gold, without, planted)[0]
        found += best.word == "zebra" and best.q_value < 0.05
        absent += any(item.q_value < 0.05 for item in slices(texts, gold, without, noisy))
    assert found >= 18
    assert absent <= 1


def test_a_word_whose_absence_decides_is_named_too():
    """The model says "good" of all rows; the prompt turns those without "zebra"."""
    texts = [f"{'zebra ' * (number % 2)}word{number % 7} word{number % 11}" for number in range(64)]
    gold = ["good" if "zebra" in text else "bad" for text in texts]
    best = slices(texts, gold, ["good"] * 64, gold)[0]
    assert (best.word, best.is_rare, best.hits, best.group) == ("zebra", True, 0, 32)
    assert best.q_value < 1e-6


def test_flips_add_up_by_label():
    gold, without, with_prompt = ["a", "a", "b", "b"], ["a", "b", "a", "b"], ["b", "a", "b", "b"]
    total, of_a, of_b = flip_counts(gold, without, with_prompt)
    assert (total.fixed, total.broken, total.both_right, total.both_wrong) == (2, 1, 1, 0)
    assert (of_a.fixed, of_a.broken, of_b.fixed, of_b.both_right) == (1, 1, 1, 1)


def test_q_values_and_means_against_known_ones():
    assert benjamini_hochberg([0.01, 0.04, 0.03, 0.5]) == pytest.approx([0.04, 0.16 / 3, 0.16 / 3, 0.5])
    mean = mean_of([1.0, 2.0, 3.0])
    assert (mean.value, mean.high - mean.value) == (2.0, pytest.approx(4.302653 / 3**0.5))


def test_a_task_without_labels_is_refused(tmp_path):
    folder, rows = folder_of(tmp_path, "prefix", "after")
    handle = Host(backbone_of("llama")).open(folder)
    values = {**handle.task.dump(), "labels": None, "answer_field": "label", "kind": "generation", "metric": "bleu"}
    object.__setattr__(handle, "task", Task(**values))
    with pytest.raises(ConfigError) as error:
        explain(handle, rows, "test", SMALL)
    assert error.value.where == "kind"
