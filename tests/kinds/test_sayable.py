"""Right answers that can be given and are read back as themselves; those that cannot are told."""

import random

import pytest
import torch
from kind_samples import SAMPLES, rows_of, task_of
from test_kinds import prompted

from data_fixtures import FakeTokenizer
from fakes import Case, backbone_of
from overture.core.errors import DataError
from overture.core.rows import Written
from overture.data.encode import Encoder
from overture.data.kinds.answering import KIND as QA
from overture.data.kinds.answering import _copied
from overture.data.kinds.choice import KIND as CHOICE
from overture.data.kinds.tagging import _written_spans
from overture.data.rows import gold_of
from overture.evaluate.scoring import grouped, score

TEXT = "Barack Obama visited Berlin today 0"
RAW = {
    "template": "{text}\nNames:",
    "labels": {"per": " person", "loc": " place"},
    "options": {"text_field": "text"},
    "max_new_tokens": 60,
}
FAMILIES = ("llama", "bert")


def encoder_of(name, family, **changes):
    plain = SAMPLES[name].encoder if family == "bert" else {}
    task = task_of(SAMPLES[name], **{**plain, **changes})
    return Encoder(task, backbone_of(family).text.tokenizer)


def raw(family, **changes):
    return encoder_of("tagging", family, **{**RAW, **({"template": "{text}"} if family == "bert" else {}), **changes})


def is_allowed(item):
    """Whether each token of an answer may follow those before it."""
    return all(token in item.target.allowed(item.answer_ids[:at]) for at, token in enumerate(item.answer_ids))


def told(encoder):
    return [notice for notice in encoder.notices if "cannot be given" in notice]


# -- spans


@pytest.mark.parametrize("family", FAMILIES)
def test_white_space_around_a_span_is_no_part_of_it(family):
    encoder = raw(family)
    rows = rows_of([{"text": TEXT, "spans": [[0, 13, "per"], [20, 27, "loc"]]}])
    (item,) = encoder.encode(rows)
    assert gold_of(encoder.task, rows) == ((("per", 0, 12), ("loc", 21, 27)),)
    assert not told(encoder)
    if family == "llama":
        assert is_allowed(item)
        assert _written_spans(item.source, item.answer_ids[:-1]) == [("per", 0, 12), ("loc", 21, 27)]
    with pytest.raises(DataError, match="nothing but white space"):
        encoder.encode(rows_of([{"text": TEXT, "spans": [[12, 13, "per"]]}]))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("spans", [[[0, 10, "per"]], [[2, 12, "per"]], [[0, 12, "per"], [7, 12, "loc"]]])
def test_spans_that_cannot_be_given_are_told(family, spans):
    encoder = raw(family)
    encoder.encode(rows_of([{"text": TEXT, "spans": []}, {"text": TEXT, "spans": spans}]))
    (notice,) = told(encoder)
    assert "of 1 rows" in notice
    assert "rows.jsonl:2" in notice
    assert "rows.jsonl:2" in notice


def test_a_shortened_text_teaches_only_what_is_shown():
    encoder = raw("llama", too_long="trim", max_length=120)
    text = "Ada Lovelace wrote. " + "x " * 80 + "and Rome 2"
    spans = [[0, 12, "per"], [text.index("Rome"), text.index("Rome") + 4, "loc"]]
    (item,) = encoder.encode(rows_of([{"text": text, "spans": spans}]))
    tokenizer = encoder.tokenizer
    assert "Rome" not in tokenizer.decode(item.input_ids)
    assert tokenizer.decode(item.answer_ids[:-1]) == " person: Ada Lovelace"
    assert is_allowed(item)
    assert len(item.source.text) < len(text)
    assert "1 row was shortened" in encoder.notices[0]


def test_types_that_are_written_alike_are_refused():
    alike = {"per": " name", "org": " name"}
    with pytest.raises(DataError, match="written alike"):
        raw("llama", labels=alike)
    raw("bert", labels=alike)


# -- answers


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("context", "answer", "is_told"), [("In 1990s it was.", "1990", True), ("In 1990 .", "1990", False)]
)
def test_an_answer_within_a_word_is_told(family, context, answer, is_told):
    encoder = encoder_of("qa", family)
    encoder.encode(rows_of([{"context": context, "question": "When?", "answers": [answer]}]))
    assert bool(told(encoder)) == is_told


@pytest.mark.parametrize("answer", ["北京", "首都"])
def test_in_scripts_without_spaces_every_letter_is_a_word(answer):
    encoder = encoder_of("qa", "llama")
    rows = rows_of([{"context": "北京是中国的首都。", "question": "哪里", "answers": [answer]}])
    (item,) = encoder.encode(rows)
    assert is_allowed(item)
    assert _copied(item.source, item.answer_ids[:-1], 0.0).text == answer
    assert not told(encoder)


def test_what_is_written_for_no_answer_is_read_as_that_though_the_text_holds_it():
    options = {"no_answer": "unknown", "max_answer_tokens": 20}
    encoder = encoder_of("qa", "llama", options=options)
    rows = [{"context": "Its age is unknown .", "question": "When?", "answers": answers} for answers in ([], ["age"])]
    nothing, something = encoder.encode(rows_of(rows))
    assert [_copied(item.source, item.answer_ids[:-1], 0.0).text for item in (nothing, something)] == ["", "age"]


@pytest.mark.parametrize("word", ["北京是中华人民共和国的首都", "a1b2c3d4e5f6" * 6, "extraordinary "])
@pytest.mark.parametrize("with_answer", [True, False])
def test_windows_fit_whatever_their_words_are(word, with_answer):
    encoder = encoder_of("qa", "llama")
    context = f"Ada {word * (900 // len(word.encode()))} Rome"
    rows = rows_of([{"context": context, "question": "Who?", "answers": ["Rome"]}])
    encoded = encoder.encode(rows, with_answer=with_answer)
    assert len(encoded) > 3
    assert any(item.target.is_known for item in encoded) == with_answer
    # Every token of the context is in a window.
    assert sum(len(item.source.text) for item in encoded) >= len(context)


def test_windows_leave_room_for_a_long_answer():
    encoder = encoder_of("qa", "llama")
    answer = " ".join(["word"] * 12)
    context = f"{'many more ' * 40}{answer} {'and others ' * 40}"
    encoded = encoder.encode(rows_of([{"context": context, "question": "What?", "answers": [answer]}]))
    assert any(item.target.is_known for item in encoded)


@pytest.mark.parametrize("stride", [16, 64, 10_000])
def test_windows_share_half_of_themselves_at_most(stride):
    encoder = encoder_of("qa", "llama", options={"stride": stride, "max_answer_tokens": 20})
    context = "some words " * 200
    (parts,) = grouped(encoder.encode(rows_of([{"context": context, "question": "What?", "answers": ["some"]}])))
    size = max(len(item.source.text) for item in parts)
    assert len(parts) <= 2 * len(context) / size + 2


# -- choices


@pytest.mark.parametrize(("label", "right"), [(2, "24"), ("2", "2"), (120, "120"), ("C", "24"), (0, "8")])
def test_a_number_is_a_choices_number_before_it_is_its_text(label, right):
    task = task_of(SAMPLES["choice"])
    (row,) = rows_of([{"text": "?", "choices": ["8", "2", "24", "120"], "label": label}])
    assert CHOICE.gold(task, row) == right


def test_labels_beside_choices_may_be_missing():
    task = task_of(SAMPLES["choice"])
    (row,) = rows_of([{"text": "?", "choices": {"text": ["a", "b"], "label": None}, "label": 1}])
    assert CHOICE.gold(task, row) == "b"


def test_more_choices_than_letters_are_not_shown():
    encoder = encoder_of("choice", "llama", template="{text}\n{choices}\nAnswer:")
    many = {"text": "?", "choices": [f"c{number}" for number in range(27)], "label": 3}
    with pytest.raises(DataError, match="27 choices"):
        encoder.encode(rows_of([many]))
    assert encoder_of("choice", "llama").encode(rows_of([many]))


# -- stops


def test_a_chat_ends_at_no_text_and_a_piece_of_a_text_neither():
    assert task_of(SAMPLES["chat"]).stop == []
    assert task_of(SAMPLES["generation"]).stop == ["\n"]
    (row,) = rows_of([{"context": "Paris\nLyon", "question": "?", "answers": ["Paris\nLyon"]}])
    free = {"mode": "generative"}
    assert QA.stopped(task_of(SAMPLES["qa"]), row) is None
    assert QA.stopped(task_of(SAMPLES["qa"], options=free), row).strip() == "Paris\nLyon"


def test_code_of_several_lines_is_learnt_to_the_letter_where_nothing_stops_it():
    code = {"template": "# {text}\n", "metric": "exact_text", "max_new_tokens": 20}
    rows = rows_of([{"text": "one", "short": "if:\n  a"}])
    encoder = Encoder(task_of(SAMPLES["generation"], **code, stop=[]), backbone_of("llama").text.tokenizer)
    model = prompted(backbone_of("llama"), encoder, Case("prefix", "memory"))
    encoded, gold = encoder.encode(rows), gold_of(encoder.task, rows)
    optimiser = torch.optim.Adam(model.trainable().values(), lr=0.05)
    for _ in range(150):
        optimiser.zero_grad()
        (model.loss(encoded) / model.weight(encoded)).backward()
        optimiser.step()
    assert score(model, encoded, encoder.task, gold).predicted == gold
    by_line = task_of(SAMPLES["generation"], **code)
    assert score(model, encoded, by_line, gold).predicted == ("if:",)


# -- spans whose text stands in several places


@pytest.mark.parametrize(
    ("tokens", "tags"),
    [
        ("An Apple a day , says Apple", "O O O O O O B-per"),
        ("Will you call Will ?", "O O O B-per O"),
        ("a b a b a b", "O O B-per I-per O O"),
        ("a b a b a b", "B-per I-per O O B-loc I-loc"),
        ("a a a a", "O B-per B-per B-loc"),
        ("pie apple pie apple pie", "O O O B-per I-per"),
    ],
)
def test_a_repeated_text_is_read_back_at_its_own_place(tokens, tags):
    encoder = encoder_of("tagging", "llama")
    rows = rows_of([{"tokens": tokens.split(), "tags": tags.split()}])
    (item,) = encoder.encode(rows)
    assert is_allowed(item)
    read = encoder.task.spec.read(encoder.task, item, Written("", item.answer_ids[:-1], 0.0), ())
    assert read.answer == gold_of(encoder.task, rows)[0]
    assert not told(encoder)


def test_random_spans_are_read_back_or_told():
    chance = random.Random(0)
    for _ in range(150):
        encoder = encoder_of("tagging", "llama")
        words = chance.choices(["An", "Apple", "a", "day", ",", "(2)", "pple"], k=chance.randint(1, 9))
        tags, before = [], "O"
        for _ in words:
            before = chance.choice(["O", "O", "B-per", "B-loc", *([f"I-{before[2:]}"] if before != "O" else [])])
            tags.append(before)
        rows = rows_of([{"tokens": words, "tags": tags}])
        (item,) = encoder.encode(rows)
        read = encoder.task.spec.read(encoder.task, item, Written("", item.answer_ids[:-1], 0.0), ())
        assert told(encoder) or read.answer == gold_of(encoder.task, rows)[0], (words, tags)


# -- pieces within words


@pytest.mark.parametrize("family", FAMILIES)
def test_names_with_particles_can_be_given(family):
    encoder = raw(family)
    rows = rows_of([{"text": "김민수는 어제 서울에서 탔다.", "spans": [[0, 3, "per"], [8, 10, "loc"]]}])
    (item,) = encoder.encode(rows)
    assert not told(encoder)
    if family == "llama":
        assert is_allowed(item)
        assert _written_spans(item.source, item.answer_ids[:-1]) == [("per", 0, 3), ("loc", 8, 10)]


@pytest.mark.parametrize("family", FAMILIES)
def test_within_words_makes_letters_the_units(family):
    spans = [[0, 8, "loc"], [12, 15, "per"]]
    rows = rows_of([{"text": "Budapesten Adanak Ada", "spans": spans}])
    plain, within = raw(family), raw(family, options={"text_field": "text", "within_words": True})
    plain.encode(rows)
    assert told(plain)
    rows = rows_of([{"text": "Budapesten Adanak Ada", "spans": [[0, 8, "loc"], [11, 14, "per"]]}])
    (item,) = within.encode(rows)
    assert not told(within)
    if family == "llama":
        assert is_allowed(item)
        assert _written_spans(item.source, item.answer_ids[:-1]) == [("loc", 0, 8), ("per", 11, 14)]


def test_an_answer_within_a_token_is_copied_in_parts():
    """The fake tokenizer has a token for "hi"."""
    encoder = Encoder(task_of(SAMPLES["qa"], options={"within_words": True, "max_answer_tokens": 6}), FakeTokenizer())
    for answer in ("h", "i", "ihi", "hih", "hihi hi"):
        (item,) = encoder.encode(rows_of([{"context": "hihi hi", "question": "?", "answers": [answer]}]))
        assert is_allowed(item)
        assert _copied(item.source, item.answer_ids[:-1], 0.0).text == answer
    assert not told(encoder)


def test_an_answer_longer_than_may_be_written_is_told():
    options = {"no_answer": "there is no answer at all here", "max_answer_tokens": 8}
    encoder = encoder_of("qa", "llama", options=options)
    encoder.encode(rows_of([{"context": "One two three four.", "question": "?", "answers": ["two thre"]}]))
    assert told(encoder)
    encoder = encoder_of("qa", "llama", options=options)
    encoder.encode(rows_of([{"context": "One two three four.", "question": "?", "answers": ["two"]}]))
    encoder.encode(rows_of([{"context": "One two three four.", "question": "?", "answers": []}]))
    assert not encoder.notices


# -- tags and places of other makers


@pytest.mark.parametrize(
    "tags", ["B-per E-per O S-loc", "B-per L-per O U-loc", "B-per I-per O B-loc", "B-per E-per O B-loc"]
)
def test_schemes_of_tags(tags):
    encoder = encoder_of("tagging", "llama")
    rows = rows_of([{"tokens": ["Ada", "Lovelace", "saw", "Rome"], "tags": tags.split()}])
    encoder.encode(rows)
    assert gold_of(encoder.task, rows) == ((("per", 0, 2), ("loc", 3, 4)),)


@pytest.mark.parametrize(
    "tags", ["O E-per O O", "S-per I-per O O", "B-per E-per I-per O", "B-per L-loc O O", "X-per O O O"]
)
def test_tags_that_spell_no_spans(tags):
    with pytest.raises(DataError):
        encoder_of("tagging", "llama").encode(rows_of([{"tokens": ["a", "b", "c", "d"], "tags": tags.split()}]))


def test_numbers_of_tags_have_names():
    options = {"tags_field": "ner_tags", "tag_names": ["O", "B-per", "I-per", "B-loc"]}
    encoder = encoder_of("tagging", "llama", options=options)
    rows = rows_of([{"tokens": ["Ada", "L", "saw", "Rome"], "ner_tags": [1, 2, 0, 3]}])
    encoder.encode(rows)
    assert gold_of(encoder.task, rows) == ((("per", 0, 2), ("loc", 3, 4)),)
    for wrong, names in (([1, 2, 0, 4], options), ([1, 2, 0, 3], {"tags_field": "ner_tags"})):
        with pytest.raises(DataError) as caught:
            encoder_of("tagging", "llama", options=names).encode(
                rows_of([{"tokens": ["Ada", "L", "saw", "Rome"], "ner_tags": wrong}])
            )
        assert "tag_names" in caught.value.problems[0].fix


@pytest.mark.parametrize("unit", ["utf-32-le", "utf-16-le", "utf-8"])
def test_places_counted_otherwise_are_set_by_the_spans_own_texts(unit):
    text = "💩 Zoë Ada saw Rome é"

    def place(said):
        begin = text.index(said)
        width = {"utf-32-le": 4, "utf-16-le": 2, "utf-8": 1}[unit]
        first, last = (len(text[:at].encode(unit)) // width for at in (begin, begin + len(said)))
        return {"start": first, "end": last, "text": said}

    encoder = raw("llama")
    rows = rows_of([{"text": text, "spans": [{**place("Ada"), "label": "per"}, {**place("Rome"), "label": "loc"}]}])
    encoder.encode(rows)
    begin, place_of_rome = text.index("Ada"), text.index("Rome")
    assert gold_of(encoder.task, rows) == ((("per", begin, begin + 3), ("loc", place_of_rome, place_of_rome + 4)),)
    assert bool(encoder.task.spec.corrections(encoder.task, rows[0])) == (unit != "utf-32-le")


def test_a_span_whose_text_stands_elsewhere_is_refused_with_both_texts():
    spans = [{"start": 0, "end": 3, "label": "per", "text": "Bob"}]
    with pytest.raises(DataError) as caught:
        raw("llama").encode(rows_of([{"text": "Ada saw Rome", "spans": spans}]))
    (problem,) = caught.value.problems
    assert "'Ada'" in problem.what
    assert "'Bob'" in problem.what
