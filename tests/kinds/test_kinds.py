"""What every kind of task keeps: rows checked, learnt, answered and scored, whatever stands in them."""

import json

import pytest
import torch
from kind_samples import SAMPLES, Sample, rows_of, task_of
from pydantic import TypeAdapter

from fakes import Case, backbone_of, log_loss, make_backbone
from overture.core.contracts import Losses, Readouts
from overture.core.errors import BackboneError, DataError
from overture.core.records.base import Answers
from overture.data.encode import Encoder
from overture.data.kinds.registry import KINDS
from overture.data.rows import gold_of, row_problems, texts_of
from overture.data.shots import shot_ids
from overture.data.task import Task
from overture.engine.cache import InputCache
from overture.engine.distil import divergence, right
from overture.engine.lora import with_lora
from overture.engine.options import LoraOptions
from overture.engine.prompted import PromptedModel
from overture.evaluate.metrics import METRICS
from overture.evaluate.scoring import grouped, predict, score
from overture.prompt.build import build_prompt
from overture.prompt.config import PromptConfig


def prompted(backbone, encoder, case: Case, seed: int = 0, cache=None, labels="auto") -> PromptedModel:
    from overture.evaluate.source import prompt_source

    config = PromptConfig(method=case.method, place=case.place, length=3, options=case.options, labels=labels)
    return PromptedModel(backbone, build_prompt(config, prompt_source(backbone, encoder, [], None), seed), cache)


def bare(backbone, encoder) -> PromptedModel:
    """The model without a prompt; an encoder's labels that are no words need vectors, trained or not."""
    needs_vectors = backbone.text.tokenizer.is_encoder and not encoder.task.has_mask
    return prompted(backbone, encoder, Case("prefix", "memory")) if needs_vectors else PromptedModel(backbone)


def test_every_kind_is_tried_here_and_names_metrics_that_are():
    assert set(SAMPLES) == set(KINDS)
    described = Task.model_fields["kind"].description
    assert all(name in described for name in KINDS)
    for name, sample in SAMPLES.items():
        assert KINDS[name].for_encoders(task_of(sample)) == bool(sample.encoder), name
    for kind in KINDS.values():
        assert not [name for name in (*kind.metrics, *kind.reported) if name not in METRICS]
        assert not any(METRICS[name].is_error for name in kind.metrics)


def test_good_rows_have_no_problems(sample, encoder):
    rows = rows_of(sample.rows)
    assert [row_problems(encoder.task, row) for row in rows] == [[], [], []]
    groups = grouped(encoder.encode(rows))
    assert [group[0].row for group in groups] == [0, 1, 2]


def test_wrong_rows_are_told_with_their_line(sample, encoder):
    for change, message in sample.bad:
        rows = rows_of([sample.rows[1], {**sample.rows[0], **change}])
        with pytest.raises(DataError) as caught:
            encoder.encode(rows)
        assert "rows.jsonl:2" in str(caught.value)
        assert message in str(caught.value), str(caught.value)
        assert "rows.jsonl:1:" not in str(caught.value)


def test_a_missing_field_is_told(sample, encoder):
    for name in {name for row in sample.rows[:1] for name in row} - {"more"}:
        row = {key: value for key, value in sample.rows[0].items() if key != name}
        with pytest.raises(DataError, match=f"no field '{name}'"):
            encoder.encode(rows_of([row]))


def test_predictions_need_no_answers(sample, encoder, backbone):
    target = {"label", "tags", "answers", "short", "more"}
    unanswered = [{key: value for key, value in row.items() if key not in target} for row in sample.rows]
    model = bare(backbone, encoder)
    found = predict(model, encoder.encode_fields(unanswered), encoder.task)
    with_answers = predict(model, encoder.encode(rows_of(sample.rows)), encoder.task)
    assert [one.said for one in found] == [one.said for one in with_answers]
    for one in found:
        json.dumps(encoder.task.spec.shown(encoder.task, one))


def test_learning_lowers_the_loss_and_finds_the_answers(sample, encoder, backbone):
    """A prompt of three columns a layer learns rows by heart, so what is learnt is what is scored."""
    # Beside what a decoder reads of an encoder, three columns can write one answer only.
    is_hard = backbone.encoder is not None and encoder.task.spec.writes
    rows = rows_of(sample.rows[:1] if is_hard else sample.rows)
    encoded = encoder.encode(rows)
    model = prompted(backbone, encoder, Case("prefix", "after" if backbone.encoder else "memory"))
    before = score(model, encoded, encoder.task, gold_of(encoder.task, rows))
    optimiser = torch.optim.Adam(model.trainable().values(), lr=0.2 if is_hard else 0.05)
    # The rate falls to zero: at a constant one the last step may be a bad one, on one processor and not on another.
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 - step / 250)
    for _ in range(250):
        optimiser.zero_grad()
        (model.loss(encoded) / model.weight(encoded)).backward()
        optimiser.step()
        schedule.step()
    after = score(model, encoded, encoder.task, gold_of(encoder.task, rows))
    assert after.loss < before.loss
    assert after.value(encoder.task) >= max(0.85, before.value(encoder.task)), (after.gold, after.predicted)
    metrics = after.metrics(encoder.task)
    assert next(iter(metrics)) == encoder.task.metric
    stored = TypeAdapter(Answers).validate_json(json.dumps(after.predicted))
    assert stored == after.predicted


def test_scores_depend_on_no_batch_and_no_cache(sample, encoder, backbone):
    rows = rows_of(sample.rows * 2)
    encoded, gold = encoder.encode(rows), gold_of(encoder.task, rows)
    case = Case("prefix", "memory" if backbone.text.tokenizer.is_encoder else "after")
    model, cached = (prompted(backbone, encoder, case, cache=cache) for cache in (None, InputCache(1 << 20)))
    once = score(model, encoded, encoder.task, gold)
    for other in (score(model, encoded, encoder.task, gold, max_tokens=1), score(cached, encoded, encoder.task, gold)):
        assert other.loss == pytest.approx(once.loss, abs=1e-5)
        if encoder.task.kind == "regression":
            assert other.predicted == pytest.approx(once.predicted, abs=1e-5)
        else:
            assert other.predicted == once.predicted


def test_very_long_rows_are_refused_or_shortened(sample, backbone):
    long = {**sample.rows[0], sample.long: lengthened(sample)}
    if "tags" in long:
        long["tags"] = long["tags"] + ["O"] * (len(long["tokens"]) - len(long["tags"]))
    rows = rows_of([sample.rows[1], long])
    tokenizer = backbone.text.tokenizer
    if sample.task["kind"] == "qa":
        encoder = Encoder(task_of(sample), tokenizer, reserve=3)
        encoded = encoder.encode(rows)
        assert [row.target.is_known for row in encoded[:2]] == [True, True]
        assert len(encoded) > 2
        assert not any(row.target.is_known for row in encoded[2:])
        assert len(predict(bare(backbone, encoder), encoded, encoder.task)) == 2
        return
    with pytest.raises(DataError, match=r"rows.jsonl:2: too long"):
        Encoder(task_of(sample), tokenizer, reserve=3).encode(rows)
    trimmed = Encoder(task_of(sample, too_long="trim"), tokenizer, reserve=3)
    encoded = trimmed.encode(rows)
    assert "shortened" in " ".join(trimmed.notices)
    apart = 0 if tokenizer.start_ids else max(len(row.answer_ids or ()) for row in encoded)
    assert max(len(row.input_ids) + len(row.anchor_ids) for row in encoded) + apart <= tokenizer.max_length
    found = predict(bare(backbone, trimmed), encoded, trimmed.task)
    assert len(found) == 2


def lengthened(sample: Sample):
    value = sample.rows[0][sample.long]
    if sample.long == "tokens":
        return [*value, *["word"] * 200]
    if sample.long == "messages":
        return [{**turn, "content": turn["content"] * (60 if turn["role"] == "user" else 1)} for turn in value]
    return value + " and more of it" * 40


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_an_answer_longer_than_the_room_is_told(family):
    sample, backbone = SAMPLES["generation"], backbone_of(family)
    encoder = Encoder(task_of(sample, max_new_tokens=3), backbone.text.tokenizer)
    encoder.encode(rows_of([{**sample.rows[0], "short": " a very long answer"}, sample.rows[1]]))
    assert any("longer than the 3 tokens" in notice and "rows.jsonl:1" in notice for notice in encoder.notices)
    too_long = {**sample.rows[0], "short": " word" * 400}
    with pytest.raises(DataError, match=r"rows.jsonl:1: too long"):
        encoder.encode(rows_of([too_long]))


def test_examples_can_be_shown_or_are_refused(sample, encoder):
    if encoder.tokenizer.is_encoder:
        pytest.skip("encoders are shown no examples")
    rows = rows_of(sample.rows)
    if encoder.task.kind == "chat":
        with pytest.raises(DataError, match="cannot be shown as examples"):
            shot_ids(encoder, rows)
        return
    ids = shot_ids(encoder, rows)
    text = encoder.tokenizer.decode(ids)
    for row in rows:
        assert encoder.task.spec.shot(encoder.task, row) in text
        assert next(iter(texts_of(encoder.task, row).values())) in text


ENCODED = [name for name, sample in SAMPLES.items() if sample.encoder]


HEADED = [*((name, Case("prefix", "memory")) for name in ENCODED), *((n, Case("warp", "before")) for n in ENCODED)]


@pytest.mark.parametrize(("name", "case"), HEADED)
def test_encoders_learn_with_label_vectors_beside_any_method(name, case):
    sample = SAMPLES[name]
    backbone = backbone_of("bert")
    encoder = Encoder(task_of(sample, **sample.encoder), backbone.text.tokenizer)
    rows = rows_of(sample.rows)
    encoded = encoder.encode(rows)
    with_head = prompted(backbone, encoder, case)
    assert "labels" in with_head.trainable()
    with_head.check(encoded)
    optimiser = torch.optim.Adam(with_head.trainable().values(), lr=0.05)
    for _ in range(120):
        optimiser.zero_grad()
        (with_head.loss(encoded) / with_head.weight(encoded)).backward()
        optimiser.step()
    found = score(with_head, encoded, encoder.task, gold_of(encoder.task, rows))
    assert found.value(encoder.task) >= 0.85, (found.gold, found.predicted)
    alone = score(with_head, encoded, encoder.task, gold_of(encoder.task, rows), max_tokens=1)
    assert alone.loss == pytest.approx(found.loss, abs=1e-4)


@pytest.mark.parametrize("name", ["tagging", "qa", "multilabel"])
def test_marks_need_a_head(name):
    sample = SAMPLES[name]
    backbone = backbone_of("bert")
    encoder = Encoder(task_of(sample, **sample.encoder), backbone.text.tokenizer)
    encoded = encoder.encode(rows_of(sample.rows))
    with pytest.raises(BackboneError, match="vector for each label"):
        prompted(backbone, encoder, Case("prefix", "memory"), labels="words").check(encoded)


@pytest.mark.parametrize("name", ["choice", "generation", "chat"])
def test_encoders_refuse_what_they_cannot(name):
    sample = SAMPLES[name]
    backbone = make_backbone("bert")

    def check():
        encoder = Encoder(task_of(sample), backbone.text.tokenizer)
        PromptedModel(backbone).check(encoder.encode(rows_of(sample.rows)))

    with pytest.raises((DataError, BackboneError), match="encoder"):
        check()


TAUGHT = [*((name, family) for name in SAMPLES for family in ("llama", "bart")), *((name, "bert") for name in ENCODED)]


@pytest.mark.parametrize(("name", "family"), TAUGHT)
def test_what_is_said_gives_the_loss_and_can_be_taught(name, family):
    sample = SAMPLES[name]
    backbone = backbone_of(family)
    encoder = Encoder(task_of(sample, **(sample.encoder if family == "bert" else {})), backbone.text.tokenizer)
    rows = [row for row in encoder.encode(rows_of(sample.rows)) if row.target.is_known]
    teacher, student = (prompted(backbone, encoder, Case("prefix", "memory"), seed) for seed in (0, 1))
    said = student.ask(rows, Readouts())
    torch.testing.assert_close(right(backbone, said, rows), torch.stack(student.ask(rows, Losses())))
    other = [one.kept() for one in teacher.ask(rows, Readouts())]
    assert float(divergence(backbone, said, said).detach().sum()) == pytest.approx(0.0, abs=1e-5)
    loss = divergence(backbone, other, said).sum()
    loss.backward()
    assert float(loss.detach()) >= 0
    assert all(value.grad is None or value.grad.isfinite().all() for value in student.trainable().values())


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_lora_changes_both_stacks_of_an_encoder_decoder_and_its_copy_alone(family):
    backbone = backbone_of(family)
    encoder = Encoder(task_of(SAMPLES["qa"]), backbone.text.tokenizer)
    encoded = encoder.encode(rows_of(SAMPLES["qa"].rows))
    options = LoraOptions(rank=2)
    copied = with_lora(backbone, options)
    # r (in + out) for each linear map: every A is [r, in], every B [out, r].
    linear = [m for layer in backbone.all_layers for m in layer.modules() if isinstance(m, torch.nn.Linear)]
    assert sum(value.numel() for value in copied.inner.values()) == sum(2 * sum(m.weight.shape) for m in linear)
    assert any(".encoder" in f".{name}" for name in copied.inner)
    model, before = PromptedModel(copied, None, InputCache(1 << 20)), float(log_loss(PromptedModel(backbone), encoded))
    assert float(log_loss(model, encoded)) == pytest.approx(before, abs=1e-4)
    optimiser = torch.optim.Adam(model.trainable().values(), lr=0.02)
    for _ in range(20):
        optimiser.zero_grad()
        model.loss(encoded).backward()
        assert all(value.grad is not None for value in copied.inner.values())
        optimiser.step()
    copied.freeze()
    cached = PromptedModel(copied, None, InputCache(1 << 20))
    cached.warm(encoded)
    after = float(log_loss(PromptedModel(copied), encoded))
    assert float(log_loss(cached, encoded)) == pytest.approx(after, abs=1e-4)
    assert after < before
    assert float(log_loss(PromptedModel(backbone), encoded)) == pytest.approx(before, abs=1e-6)
