"""A host answers any mix of prompts, tasks and rows as each of them is answered alone, and does shared work once."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from kind_samples import SAMPLES, task_of

from fakes import SMALL, backbone_of
from overture.core.errors import ArtifactError, DataError
from overture.data.encode import Encoder
from overture.data.task import Task
from overture.engine.backbone import Backbone
from overture.engine.lora import LoraOptions, with_lora
from overture.engine.operations import count_operations
from overture.engine.prompted import PromptedModel
from overture.evaluate import host as host_module
from overture.evaluate.facts import backbone_ref
from overture.evaluate.host import Ask, Handle, Host
from overture.evaluate.scoring import predict
from overture.evaluate.source import prompt_source
from overture.prompt.build import build_prompt
from overture.prompt.config import PromptConfig
from overture.prompt.pack import ADAPTER, prompt_tensors
from overture.store.artifact import load_artifact, read_manifest, save_artifact
from overture.store.manifest import Manifest

IN_DECODER = [
    ("prefix", "after"),
    ("vectors", "before"),
    ("late", "after"),
    ("prefix", "memory"),
    ("idpg", "after"),
    ("vectors", "after"),
]
IN_ENCODER = [("vectors", "before"), ("prefix", "memory"), ("late", "before"), ("idpg", "before")]


def stored(
    folder: Path,
    family: str,
    task: Task,
    method: str = "prefix",
    place: str = "after",
    seed: int = 0,
    length: int = 3,
    adapter: LoraOptions | None = None,
    backbone: Backbone | None = None,
) -> Path:
    """A prompt with random values, kept as a folder."""
    backbone = backbone or backbone_of(family)
    config = PromptConfig(method=method, place=place, length=length, options=SMALL.get(method, {}))
    prompt = build_prompt(config, prompt_source(backbone, Encoder(task, backbone.text.tokenizer)), seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in prompt.trainable().values():
            value.add_(0.3 * torch.randn(value.shape, generator=generator))
    tensors = prompt_tensors(prompt)
    if adapter:
        inner = with_lora(backbone, adapter).inner
        noise = {name: 0.1 * torch.randn(value.shape, generator=generator) for name, value in inner.items()}
        tensors |= {ADAPTER + name: value.detach() + noise[name] for name, value in inner.items()}
    options: dict[str, Any] = {"prompt": config.model_dump(mode="json")}
    manifest = Manifest(
        name=task.name,
        method=method,
        place=place,
        length=length,
        options=options | ({"adapter": adapter.model_dump()} if adapter else {}),
        backbone=backbone_ref(backbone),
        task=task.dump(),
        metrics={},
        trainable=1,
    )
    save_artifact(folder, manifest, tensors)
    return folder


def assert_as_alone(host: Host, requests: list[Ask]) -> None:
    """Replies equal those of each row by itself, through no host and with nothing kept."""
    for request, reply in zip(requests, host.answer(requests), strict=True):
        handle = request.handle
        encoded = Encoder(handle.task, handle.backbone.text.tokenizer, handle.manifest.length).encode_fields(
            [request.fields]
        )
        (alone,) = predict(PromptedModel(handle.adapted, handle.prompt), encoded, handle.task)
        prediction = reply.result()
        if handle.task.kind == "regression":
            assert prediction.said == pytest.approx(alone.said, abs=1e-5)
        else:
            assert (prediction.text, prediction.said) == (alone.text, alone.said), handle.task.kind
        assert prediction.score == pytest.approx(alone.score, abs=1e-4)
        if alone.probabilities is not None:
            assert prediction.probabilities == pytest.approx(alone.probabilities, abs=1e-5)


def asks_of_kinds(host: Host, folder: Path, family: str, methods: list[tuple[str, str]]) -> list[Ask]:
    """Every kind of task under two methods, all rows in turn."""
    turn = itertools.cycle(methods)
    requests: list[list[Ask]] = []
    for name, sample in SAMPLES.items():
        changes = sample.encoder if family == "bert" else {}
        if family == "bert" and not changes:
            continue
        task = task_of(sample, **changes)
        for number, (method, place) in zip(range(2), turn, strict=False):
            handle = host.open(stored(folder / f"{name}-{number}", family, task, method, place, seed=number))
            requests.append([Ask(handle, row) for row in sample.rows])
    return [request for together in itertools.zip_longest(*requests) for request in together if request]


@pytest.mark.parametrize(("family", "methods"), [("llama", IN_DECODER), ("bert", IN_ENCODER)])
def test_mixed_tasks_and_methods_equal_one_by_one(tmp_path, family, methods):
    host = Host(backbone_of(family))
    requests = asks_of_kinds(host, tmp_path, family, methods)
    if family == "llama":
        task = task_of(SAMPLES["classification"])
        adapter = host.open(stored(tmp_path / "adapter", family, task, adapter=LoraOptions(rank=2)))
        assert adapter.has_adapter
        requests += [Ask(adapter, row) for row in SAMPLES["classification"].rows]
        requests += [Ask(requests[0].handle.calibrated(), row) for row in SAMPLES["classification"].rows]
    assert len({request.handle.task.kind for request in requests}) == (9 if family == "llama" else 5)
    assert_as_alone(host, requests)


def make_task(**changes: Any) -> Task:
    return task_of(SAMPLES["classification"], labels={"good": "g", "bad": "b"}, **changes)


def test_rows_are_encoded_once_and_texts_run_once(tmp_path, monkeypatch):
    host = Host(backbone_of("llama"))
    handles = [host.open(stored(tmp_path / str(n), "llama", make_task(), seed=n, length=1 + n % 2)) for n in range(8)]
    # Of one length, and no two neighbours begin alike.
    rows = [f"{f'{number:04}'[::-1]} row" for number in range(1000)]
    num_encoded = []
    encode = Encoder.encode

    def counting(encoder, rows, *args, **options):
        num_encoded.append(len(rows))
        return encode(encoder, rows, *args, **options)

    monkeypatch.setattr(Encoder, "encode", counting)
    with count_operations(host.backbone) as operations:
        replies = host.answer([Ask(handle, row) for row in rows for handle in handles])
    assert len({reply.result().shares for reply in replies}) > 1000
    assert sum(num_encoded) == 1000
    (encoded,) = handles[0].encoder.encode_fields([{"text": rows[0]}])
    # So nothing is padded, and nothing is shared: each text once, and each prompt's anchor behind it.
    assert operations.positions == 1000 * len(encoded.input_ids) + 8 * 1000 * len(encoded.anchor_ids)


def test_rows_that_are_shortened_are_encoded_for_each_length(tmp_path):
    task = make_task(too_long="trim", max_length=20)
    host = Host(backbone_of("llama"))
    handles = [host.open(stored(tmp_path / str(n), "llama", task, length=n)) for n in (2, 5)]
    requests = [Ask(handle, {"text": "long text " * count}) for count in (1, 3) for handle in handles]
    lengths = [len(ask.parts[0].input_ids) for ask in host.encoded(requests)]
    assert lengths[2] == lengths[3] + 3
    assert_as_alone(host, requests)


def test_a_row_with_a_problem_does_not_stop_the_others(tmp_path):
    host = Host(backbone_of("llama"))
    one, other = (host.open(stored(tmp_path / str(n), "llama", make_task(max_length=40), seed=n)) for n in range(2))
    two_fields = host.open(stored(tmp_path / "two", "llama", make_task(template="{text} {more}\nMood:")))
    rows = ["fine", {"txt": "no such field"}, "x" * 100, {"text": "well"}, "x" * 100]
    replies = host.answer([Ask(handle, row, n) for n, row in enumerate(rows, 1) for handle in (one, other)])
    assert [reply.problem is None for reply in replies[::2]] == [True, False, False, True, False]
    assert [reply.problem.problems[0].where for reply in replies if reply.problem] == [
        *("input:2", "input:2", "input:3", "input:3", "input:5", "input:5")
    ]
    assert replies[6].result().probabilities == pytest.approx(one.predict(["well"])[0].probabilities, abs=1e-6)
    (reply,) = host.answer([Ask(two_fields, "one text")])
    assert isinstance(reply.problem, DataError)
    with pytest.raises(DataError) as caught:
        one.predict(rows)
    assert [problem.where for problem in caught.value.problems] == ["input:2", "input:3", "input:5"]


def test_opening_is_idempotent_and_closing_forgets(tmp_path):
    host = Host(backbone_of("llama"))
    first, second = (stored(tmp_path / str(n), "llama", make_task(), seed=n) for n in range(2))
    handle = host.open(first)
    assert host.open(first) is handle
    assert host.open(second).encoder is handle.encoder
    before = handle.predict(["fine"])
    host.close(handle)
    again = host.open(first)
    assert again is not handle
    assert handle.predict(["fine"]) == before == again.predict(["fine"])


@pytest.mark.parametrize("dtype", ["float64", None, "fastest", "no precision"])
def test_a_model_is_loaded_in_the_precision_of_its_first_prompt(dtype, tmp_path, monkeypatch):
    """A prompt that was tuned in bfloat16 is used in bfloat16; what is no precision of a prompt is not asked for."""
    folder, asked = stored(tmp_path / "prompt", "llama", make_task()), []

    def load(name, **options):
        asked.append(options["dtype"])
        return backbone_of("llama")

    monkeypatch.setattr(host_module, "load_backbone", load)
    manifest = read_manifest(folder)
    older = manifest.model_copy(update={"backbone": manifest.backbone.model_copy(update={"dtype": dtype})})
    save_artifact(tmp_path / "older", older, load_artifact(folder)[1])
    Host().open(tmp_path / "older")
    assert asked == [dtype if dtype == "float64" else "auto"]


def test_prompts_of_another_host_are_refused(tmp_path):
    folder = stored(tmp_path / "prompt", "llama", make_task())
    handles: list[Handle] = [Host(backbone_of("llama")).open(folder) for _ in range(2)]
    with pytest.raises(ArtifactError):
        handles[0].host.answer([Ask(handles[1], "fine")])


def test_kept_texts_stay_within_their_bytes(tmp_path):
    host, plain = Host(backbone_of("llama"), cache_bytes=20_000, max_tokens=64), Host(backbone_of("llama"))
    folders = [stored(tmp_path / str(n), "llama", make_task(), "vectors", "after", seed=n) for n in range(2)]
    rows = [f"row {number}" for number in range(40)]
    for folder in folders:
        predictions = host.open(folder).predict(rows)
        assert 0 < host._cache.used_bytes <= 20_000
        for prediction, expected in zip(predictions, plain.open(folder).predict(rows), strict=True):
            assert prediction.probabilities == pytest.approx(expected.probabilities, abs=1e-6)
    assert plain._cache.used_bytes > 20_000
