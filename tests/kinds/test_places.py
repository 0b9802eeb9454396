"""Where an answer stands in its text, and how sure the model is of each span."""

import math

import pytest
from kind_samples import SAMPLES, task_of
from test_host import stored

from fakes import backbone_of
from overture.core.rows import AtMarks
from overture.evaluate.host import Ask, Host
from overture.server.answers import typed_answer


@pytest.fixture(params=["llama", "bert"])
def host(request):
    return Host(backbone_of(request.param)), request.param


def task_for(name, family, **changes):
    return task_of(SAMPLES[name], **({**SAMPLES[name].encoder, **changes} if family == "bert" else changes))


def test_a_piece_of_the_context_says_where_it_stands(host, tmp_path):
    host, family = host
    task = task_for("qa", family)
    handle = host.open(stored(tmp_path / "p", family, task, "vectors", "before"))
    # Long enough for several windows.
    rows = [*SAMPLES["qa"].rows]
    rows += [{**row, "context": "Nobody came. " * (18 if family == "llama" else 60) + row["context"]} for row in rows]
    predictions = handle.predict(rows)
    assert any(len(asked.parts) > 1 for asked in host.encoded([Ask(handle, row) for row in rows]))
    for row, prediction in zip(rows, predictions, strict=True):
        assert (prediction.span is None) == (prediction.text == "")
        answer = typed_answer(task.spec.shown(task, prediction))
        if prediction.span:
            assert row["context"][answer.start : answer.end] == answer.text


def test_each_span_has_a_score(host, tmp_path):
    host, family = host
    task = task_for("tagging", family)
    num_spans = 0
    for seed in range(4):
        handle = host.open(stored(tmp_path / f"p{seed}", family, task, "vectors", "before", seed=seed, length=8))
        for row, prediction in zip(SAMPLES["tagging"].rows, handle.predict(SAMPLES["tagging"].rows), strict=True):
            tags = typed_answer(task.spec.shown(task, prediction))
            assert len(tags.spans) == len(prediction.span_scores) == len(prediction.said)
            assert all(0 <= span.score <= 1 for span in tags.spans)
            num_spans += len(tags.spans)
            (encoded,) = host.encoded([Ask(handle, row)])
            if not isinstance(encoded.parts[0].target, AtMarks) and len(tags.spans) == 1:
                # The mean over some tokens is not below the product over all of them.
                assert tags.spans[0].score >= math.exp(prediction.score) - 1e-4
    assert num_spans > 0
