"""Rows for encoders: what stands around a text, the mask, and where the label is read."""

import pytest

from overture.core.config import validated
from overture.core.errors import ConfigError, DataError
from overture.data.encode import Encoder
from overture.data.row import Row
from overture.data.task import Task

BEGIN, END, MASK = 256, 257, 260


@pytest.fixture
def both_ways(tokenizer):
    """As the decoders' tokenizer, of an encoder."""
    tokenizer.bos_ids, tokenizer.end_ids, tokenizer.mask_ids, tokenizer.is_encoder = (BEGIN,), (END,), (MASK,), True
    return tokenizer


@pytest.fixture
def encode(make_task, both_ways):
    def one(text="ab", **changes):
        encoder = Encoder(make_task(**changes), both_ways)
        return encoder.encode([Row({"text": text, "label": "pos"}, 1, "f.jsonl")])[0]

    return one


def test_a_text_has_a_beginning_and_an_end(encode):
    item = encode(template="{text}")
    assert (item.input_ids, item.anchor_ids) == ((BEGIN, *b"ab"), (END,))
    assert (item.target.read, item.target.is_mask) == (0, False)
    item = encode(template="{text}.", read="mean")
    assert (item.input_ids, item.anchor_ids) == ((BEGIN, *b"ab"), (*b".", END))
    assert (item.target.read, item.target.is_mask) == ("mean", False)


def test_the_mask_behind_a_field_takes_the_space_before_it(encode):
    item = encode(template="{text} is {mask}.")
    assert item.anchor_ids == (*b" is", MASK, *b".", END)
    assert (item.target.read, item.target.is_mask) == (len(item.input_ids) + 3, True)
    assert encode("<|bot|>", template="{text} {mask}").anchor_ids == (MASK, END)
    assert MASK not in encode("<|bot|>", template="{text}").input_ids


def test_the_mask_before_a_field_and_slots_around_it(encode):
    item = encode(template="{prompt:2}x {mask}{prompt:1}: {text}")
    assert item.input_ids == (BEGIN, *b"x", MASK, *b": ab")
    assert (item.target.read, item.slots) == (2, ((1, 2), (3, 1)))
    ids = (*item.input_ids, *item.anchor_ids)
    assert ids[item.target.read] == MASK


def test_another_place_may_be_read_though_there_is_a_mask(encode):
    item = encode(template="{text} {mask}", read="first")
    assert (item.target.read, item.target.is_mask) == (0, False)


def test_the_end_counts_and_words_take_no_room(encode):
    template = "{text}{mask}"
    assert len(encode("a" * 7, template=template, max_length=10, labels={"pos": "p" * 9, "neg": "n"}).input_ids) == 8
    with pytest.raises(DataError, match="cannot be encoded"):
        encode("a" * 8, template=template, max_length=10)
    item = encode("a" * 50, template=template, max_length=10, too_long="trim")
    assert (item.num_tokens, item.anchor_ids, item.target.read) == (10, (MASK, END), 8)


def test_decoders_have_no_mask(make_task, tokenizer):
    for changes, where in (({"template": "{text} {mask}"}, "template"), ({"read": "mean"}, "read")):
        with pytest.raises(DataError) as caught:
            Encoder(make_task(**changes), tokenizer)
        assert caught.value.where == where
        assert "--backbone" in caught.value.fix


def test_an_encoder_may_lack_a_mask(make_task, both_ways):
    both_ways.mask_ids = ()
    with pytest.raises(DataError, match="no mask"):
        Encoder(make_task(template="{text}{mask}"), both_ways)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"template": "{mask}{text}{mask}"}, "several masks"),
        ({"read": "mask"}, "needs {mask}"),
        ({"template": "{mask}"}, "no field"),
        ({"template": "{text}{mask}", "labels": None, "answer_field": "answer"}, "for tasks with labels"),
    ],
)
def test_what_a_task_file_says_of_masks_fits_together(make_task, changes, what):
    values = {"name": "t", "data": {"path": "r.jsonl"}, "template": "{text}", "labels": {"a": "x", "b": "y"}} | changes
    with pytest.raises(ConfigError, match=what):
        validated(Task, {key: value for key, value in values.items() if value is not None}, "task.yaml")


def test_an_encoder_decoders_text_has_an_end_and_its_words_need_no_space(make_task, tokenizer):
    tokenizer.bos_ids, tokenizer.end_ids, tokenizer.start_ids = (), (END,), (0,)
    encoder = Encoder(make_task(template="{text}: ", labels={"pos": "good", "neg": " bad"}), tokenizer)
    item = encoder.encode([Row({"text": "ab", "label": "pos"}, 1, "f.jsonl")])[0]
    assert (item.input_ids, item.anchor_ids, item.target.read) == (tuple(b"ab"), (*b": ", END), None)
    assert encoder.notices == []
    with pytest.raises(DataError, match="behind its start"):
        Encoder(make_task(template="{text}{mask}"), tokenizer)


def test_what_is_written_and_what_is_read_do_not_share_an_encoder_decoders_context(make_task, tokenizer):
    tokenizer.bos_ids, tokenizer.end_ids, tokenizer.start_ids = (), (END,), (0,)
    rows = [Row({"text": "abcdef", "label": "pos"}, 1, "f.jsonl")]
    words = {"labels": {"pos": "abcdef", "neg": "x"}}
    # Seven tokens of text, or the start and a word of six, beside a prompt of two.
    Encoder(make_task(template="{text}", max_length=9, **words), tokenizer, reserve=2).encode(rows)
    with pytest.raises(DataError, match=r"7 tokens \+ 2 reserved > 8"):
        Encoder(make_task(template="{text}", max_length=8, **words), tokenizer, reserve=2).encode(rows)
