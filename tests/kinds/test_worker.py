"""Law 12: what the worker answers, alone or joined mid-flight, is what the library answers."""

import asyncio
from random import Random

import pytest
from kind_samples import SAMPLES, task_of
from test_host import IN_DECODER, IN_ENCODER, asks_of_kinds, make_task, stored

from fakes import backbone_of, make_inner_tokenizer, make_model
from overture.core.records.serving import Command, Request, WorkerOptions
from overture.core.records.shares import kept_shares
from overture.engine.load import load_backbone
from overture.engine.lora import LoraOptions
from overture.evaluate.host import Ask, Host
from overture.server.link import WorkerEngine
from overture.server.worker import Worker
from overture.store.artifact import load_artifact, save_artifact
from overture.store.store import Store


def worker_of(host: Host, **options) -> Worker:
    return Worker(host, WorkerOptions(store="store", **options), tokens_per_s=400.0)


def request_of(number: int, ask: Ask, **changes) -> Request:
    row = {"text": ask.fields} if isinstance(ask.fields, str) else ask.fields
    return Request(id=str(number), prompts=(str(ask.handle.folder),), row=row, **changes)


def finished(worker: Worker, requests: list[Request], random: Random | None = None) -> dict[str, list]:
    """The events of requests that come one after the other, or between steps that chance chooses."""
    events: dict[str, list] = {request.id: [] for request in requests}
    waiting = list(requests)
    while waiting or not worker.is_idle:
        for _ in range(random.randint(0, 4) if random else 1):
            if waiting and (random or worker.is_idle):
                request = waiting.pop(0)
                worker.do(Command(do="ask", id=request.id, request=request))
        worker.step()
        for event in worker.report().events:
            events[event.id].append(event)
    return events


def assert_alike(shown, wanted, where=""):
    """Equal but for rounding: numbers are shown with four digits."""
    if isinstance(wanted, dict):
        assert shown.keys() == wanted.keys(), where
        for key in wanted:
            assert_alike(shown[key], wanted[key], f"{where}.{key}")
    elif isinstance(wanted, list | tuple):
        assert len(shown) == len(wanted), where
        for pair in zip(shown, wanted, strict=True):
            assert_alike(*pair, where)
    elif isinstance(wanted, float):
        assert shown == pytest.approx(wanted, abs=2e-4), where
    else:
        assert shown == wanted, where


@pytest.mark.parametrize(("family", "methods"), [("llama", IN_DECODER), ("bert", IN_ENCODER)])
def test_every_kind_joined_mid_flight_equals_the_library(tmp_path, family, methods):
    host = Host(backbone_of(family))
    asks = asks_of_kinds(host, tmp_path, family, methods)
    if family == "llama":
        task = task_of(SAMPLES["generation"])
        for adapter_place in ("everywhere", "after"):
            options = LoraOptions(rank=2, place=adapter_place)
            adapter = host.open(stored(tmp_path / adapter_place, family, task, adapter=options))
            asks += [Ask(adapter, row) for row in SAMPLES["generation"].rows]
    wanted = host.answer(asks)
    requests = [request_of(number, ask, tenant=f"t{number % 2}") for number, ask in enumerate(asks)]
    worker = worker_of(Host(backbone_of(family)), slots=5)
    events = finished(worker, requests, Random(1))
    for request, ask, reply in zip(requests, asks, wanted, strict=True):
        answers, done = events[request.id]
        assert done.kind == "done", done
        assert done.usage.input_tokens > 0
        shown = ask.handle.task.spec.shown(ask.handle.task, reply.result())
        assert_alike(answers.answers[request.prompts[0]], Request(**request.dump() | {"row": shown}).row)
    assert worker.report().stats.slot_bytes == 0


def test_sets_and_withheld_answers_are_the_librarys(tmp_path):
    host = Host(backbone_of("llama"))
    sample = SAMPLES["classification"]
    bare = stored(tmp_path / "bare", "llama", task_of(sample))
    manifest, tensors = load_artifact(bare)
    words = len(task_of(sample).words)
    rows = [(number % words, [(2.0 if label == number % words else 1.0) / (words + 1) for label in range(words)])
            for number in range(100)]  # fmt: skip
    save_artifact(tmp_path / "kept", manifest.model_copy(update={"shares": kept_shares(rows, "file", False)}), tensors)
    ask = Ask(host.open(tmp_path / "kept"), sample.rows[0])
    worker = worker_of(host)
    (wanted,) = ask.handle.predict([ask.fields], coverage=0.9, abstain=0.8)
    answers, done = finished(worker, [request_of(1, ask, coverage=0.9, abstain=0.8)])["1"]
    shown = answers.answers[str(tmp_path / "kept")]
    assert (done.kind, shown["set"], shown["abstained"]) == ("done", list(wanted.label_set), wanted.is_withheld)
    (plain, _) = finished(worker, [request_of(2, ask)])["2"]
    assert "set" not in plain.answers[str(tmp_path / "kept")]
    refused = finished(worker, [request_of(3, Ask(host.open(bare), sample.rows[0]), coverage=0.9)])["3"]
    assert (refused[0].kind, refused[0].status) == ("error", 400)


def test_texts_are_streamed_as_the_library_writes_them(tmp_path):
    host = Host(backbone_of("llama"))
    task = task_of(SAMPLES["generation"], max_new_tokens=12)
    handles = [
        host.open(stored(tmp_path / str(n), "llama", task, *method, seed=n)) for n, method in enumerate(IN_DECODER)
    ]
    asks = [Ask(handle, row) for handle in handles for row in SAMPLES["generation"].rows]
    requests = [request_of(number, ask, want="write", top_logprobs=2) for number, ask in enumerate(asks)]
    events = finished(worker_of(host), requests, Random(2))
    for request, reply in zip(requests, host.answer(asks), strict=True):
        *tokens, done = events[request.id]
        assert "".join(event.text for event in tokens) == reply.result().text
        written = [token for event in tokens for token in event.tokens]
        assert done.usage.output_tokens == len(written)
        assert done.finish == ("length" if len(written) == 12 else "stop")
        assert all(len(token.top) == 2 and token.logprob <= token.top[0].logprob + 1e-6 for token in written)


def test_requests_change_how_an_answer_is_written(tmp_path):
    host = Host(backbone_of("llama"))
    task = task_of(SAMPLES["generation"], max_new_tokens=12)
    ask = Ask(host.open(stored(tmp_path / "p", "llama", task)), SAMPLES["generation"].rows[0])
    changes = [
        {"max_new_tokens": 3},
        {"temperature": 0.0},
        {"temperature": 2.0, "seed": 1},
        {"temperature": 2.0, "seed": 2},
    ]
    requests = [request_of(n, ask, want="write", **some) for n, some in enumerate(changes)]
    events = finished(worker_of(host), requests)
    ids = [[token.id for event in events[str(n)][:-1] for token in event.tokens] for n in range(len(changes))]
    assert ids[0] == ids[1][:3]
    assert ids[2] != ids[3]


def test_one_text_is_read_once_for_many_prompts_and_for_its_tenant_alone(tmp_path):
    host = Host(backbone_of("llama"))
    folders = [str(stored(tmp_path / str(n), "llama", make_task(), seed=n)) for n in range(4)]
    worker = worker_of(host)

    def usage(number: int, tenant: str):
        request = Request(id=str(number), tenant=tenant, prompts=tuple(folders), row={"text": "a text to read"})
        return finished(worker, [request])[str(number)][-1].usage

    first, again, foreign = usage(0, "a"), usage(1, "a"), usage(2, "b")
    assert first.shared_tokens == 3 * again.cached_tokens > 0 == first.cached_tokens
    assert (again.shared_tokens, foreign.cached_tokens) == (first.shared_tokens, 0)


def test_the_model_alone_goes_on_with_a_text_and_replies_to_messages():
    worker = worker_of(Host(backbone_of("llama")))
    messages = [{"role": "user", "content": "hello"}]
    rows = [{"text": "some text"}, {"messages": messages}]
    requests = [
        Request(id=str(n), prompts=("",), row=row, want="write", max_new_tokens=5) for n, row in enumerate(rows)
    ]
    for events in finished(worker, requests).values():
        assert events[-1].usage.output_tokens <= 5
        assert events[-1].kind == "done"


def test_mistakes_are_events_and_harm_no_other(tmp_path):
    host = Host(backbone_of("llama"))
    folder = str(stored(tmp_path / "p", "llama", make_task()))
    good = [Request(id=f"good {n}", prompts=(folder,), row={"text": "fine"}) for n in range(2)]
    bad = [
        Request(id="field", prompts=(folder,), row={"other": "fine"}),
        Request(id="long", prompts=(folder,), row={"text": "a " * 500}),
        Request(id="unknown", prompts=(str(tmp_path / "none"),), row={"text": "fine"}),
        Request(id="two", prompts=(folder, folder), row={"text": "fine"}, want="write"),
    ]
    events = finished(worker_of(host), [good[0], *bad, good[1]], Random(3))
    assert [events[request.id][-1].kind for request in good] == ["done", "done"]
    statuses = {request.id: events[request.id][-1].status for request in bad}
    assert {statuses["field"], statuses["long"], statuses["two"]} == {400}
    assert statuses["unknown"] in (404, 409)


def test_a_failing_request_harms_none_beside_it(tmp_path, monkeypatch):
    host = Host(backbone_of("llama"))
    answer_items = host.answer_items

    def answered(items):
        if any("bad" in item.handle.folder.name for item in items):
            raise RuntimeError("shapes do not fit")
        return answer_items(items)

    monkeypatch.setattr(host, "answer_items", answered)
    worker, names = worker_of(host), ("good", "bad", "other")
    for name in names:
        folder = str(stored(tmp_path / name, "llama", make_task()))
        worker.do(Command(do="ask", id=name, request=Request(id=name, prompts=(folder,), row={"text": "fine"})))
    worker.step()
    last = {event.id: event.kind for event in worker.report().events}
    assert last == {"good": "done", "bad": "error", "other": "done"}


def test_the_lowest_temperature_draws_the_likeliest_and_a_failing_text_harms_no_other(tmp_path, monkeypatch):
    host = Host(backbone_of("llama"))
    folder = str(stored(tmp_path / "p", "llama", task_of(SAMPLES["generation"])))
    row = SAMPLES["generation"].rows[0]
    plain, cold, other = (
        Request(id=name, prompts=(folder,), row=row, want="write", temperature=temperature)
        for name, temperature in (("plain", 0.0), ("cold", 5e-324), ("other", None))
    )
    events = finished(worker_of(host), [plain, cold], Random(1))
    texts = ["".join(event.text for event in events[name] if event.kind == "token") for name in events]
    assert texts[0] == texts[1]
    worker = worker_of(host)
    tell = worker._tell

    def told(job, line, text):
        if job.request.id == "cold":
            raise ValueError("not a number")
        tell(job, line, text)

    monkeypatch.setattr(worker, "_tell", told)
    events = finished(worker, [cold, other], Random(1))
    assert [events[name][-1].kind for name in ("cold", "other")] == ["error", "done"]


def test_cancelled_requests_leave_nothing_behind(tmp_path):
    host = Host(backbone_of("llama"))
    task = task_of(SAMPLES["generation"], max_new_tokens=50)
    folder = str(stored(tmp_path / "p", "llama", task))
    worker, random = worker_of(host, slots=4), Random(4)
    for number in range(40):
        request = Request(id=str(number), prompts=(folder,), row=SAMPLES["generation"].rows[0], want="write")
        worker.do(Command(do="ask", id=request.id, request=request))
        if random.random() < 0.7:
            worker.step()
        worker.do(Command(do="cancel", id=str(random.randint(0, number))))
    for number in range(40):
        worker.do(Command(do="cancel", id=str(number)))
    assert worker.is_idle
    stats = worker.report().stats
    assert (stats.slots, stats.running) == (0, 0)


def test_a_conversation_is_read_from_where_it_was_left(tmp_path):
    task = task_of(SAMPLES["chat"], max_new_tokens=5)
    ways = [("", ""), ("prefix", "memory"), ("vectors", "before")]
    folders = [str(stored(tmp_path / place, "llama", task, method, place)) if method else "" for method, place in ways]
    kept, fresh = (worker_of(Host(backbone_of("llama"), cache_bytes=size)) for size in (1 << 26, 0))

    def said(worker: Worker, prompt: str, messages: list, tenant: str, number: int):
        request = Request(
            id=f"{number}",
            tenant=tenant,
            prompts=(prompt,),
            row={"messages": messages},
            want="write",
            temperature=0.0,
            max_new_tokens=5,
        )
        *tokens, done = finished(worker, [request])[request.id]
        return "".join(event.text for event in tokens), [t.id for event in tokens for t in event.tokens], done.usage

    for number, folder in enumerate(folders):
        messages = [{"role": "user", "content": "tell me about words and texts, and of all that is in them"}]
        for turn in range(2):
            text, ids, usage = said(kept, folder, messages, "a", 10 * number + turn)
            wanted = said(fresh, folder, messages, "a", 10 * number + turn)
            assert (text, ids) == wanted[:2]
            assert (usage.cached_tokens > 0, wanted[2].cached_tokens) == (turn > 0, 0)
            assert usage.cached_tokens <= usage.input_tokens
            messages = [
                *messages,
                {"role": "assistant", "content": text},
                {"role": "user", "content": f"go on, part {turn}"},
            ]
        assert said(kept, folder, messages, "b", 10 * number + 8)[2].cached_tokens == 0


def test_a_bug_at_load_is_no_mistake_of_the_client(monkeypatch):
    host = Host(backbone_of("llama"))
    worker = worker_of(host)

    def broken(ref):
        raise TypeError("a secret")

    monkeypatch.setattr(host, "open", broken)
    worker.do(Command(do="load", id="request 7-1", text="movie@1"))
    (outcome,) = worker.report().outcomes
    assert outcome.error.status == 500
    assert "request 7-1" in outcome.error.message
    assert "secret" not in outcome.error.message


def test_a_process_of_its_own_answers_under_a_store(tmp_path):
    model = tmp_path / "model"
    make_model("llama", "sdpa").save_pretrained(model)
    make_inner_tokenizer("llama").save_pretrained(model)
    backbone = load_backbone(str(model))
    folder = stored(tmp_path / "p", "llama", make_task(), backbone=backbone)
    kept = Store(tmp_path / "store").add(*load_artifact(folder))
    (wanted,) = Host(backbone).open(kept).predict(["a fine day"])

    async def answered():
        engine = WorkerEngine(WorkerOptions(store=str(tmp_path / "store"), backbone=str(model), device="cpu"))
        await engine.start()
        try:
            rows = [("movie@1", "a fine day"), (str(kept), "a path"), ("movie@1", "another")]
            requests = [
                Request(id=str(number), prompts=(ref.replace("movie", kept.parent.name),), row={"text": text})
                for number, (ref, text) in enumerate(rows)
            ]
            async with asyncio.timeout(60):
                return [[event async for event in engine.submit(request)] for request in requests], engine.stats()
        finally:
            await engine.stop()

    (first, path, last), stats = asyncio.run(answered())
    (shown,) = first[0].answers.values()
    assert (shown["label"], first[1].kind, last[1].kind) == (wanted.label, "done", "done")
    assert path[0].status == 404
    assert stats.backbone["weights_sha256"] == backbone.info.weights_sha256
    assert (stats.is_ready, stats.prompts, stats.restarts) == (True, 1, 0)
    assert stats.tokens_per_s > 0


def test_answers_by_packed_matrices_equal_the_hosts(tmp_path):
    host = Host(backbone_of("llama"))
    ask = Ask(host.open(stored(tmp_path / "p", "llama", task_of(SAMPLES["generation"]))), SAMPLES["generation"].rows[0])
    (wanted,) = host.answer([ask])
    worker = Worker(Host(backbone_of("llama").with_packed_matrices()), WorkerOptions(store="store"), 400.0)
    for number in range(6):
        request = request_of(number, ask, want="write")
        worker.do(Command(do="ask", id=request.id, request=request))
    texts = {str(number): "" for number in range(6)}
    while not worker.is_idle:
        worker.step()
        for event in worker.report().events:
            texts[event.id] += event.text if event.kind == "token" else ""
    assert set(texts.values()) == {wanted.result().text}
