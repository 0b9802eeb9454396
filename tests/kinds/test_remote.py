"""Law 12: what the worker answers with a vLLM server is what the library answers; here a stand-in for the server."""

import json
import select
import time
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
import torch
from kind_samples import SAMPLES, task_of
from test_host import stored
from test_worker import assert_alike, finished

from fakes import backbone_of, make_backbone, make_inner_tokenizer, make_model
from overture.core.contracts import TokenShares
from overture.core.errors import BackboneError
from overture.core.injection import Injection, LayerMemory, Memory
from overture.core.records.prompt import MadeWith, TextPrompt
from overture.core.records.serving import Command, Request, VllmOptions, WorkerOptions
from overture.core.rows import Encoded
from overture.engine.answerer import LocalAnswerer
from overture.engine.load import load_backbone
from overture.engine.unread import is_unread
from overture.evaluate.host import Ask, Host
from overture.exchange.vllm_files import ModelFacts, PromptFolder
from overture.jobs.transfer.vllm import written_for_vllm
from overture.server import remote
from overture.server.remote import Remote
from overture.server.worker import Worker
from overture.store.artifact import load_artifact
from overture.store.store import Store
from tiny_configs import CONTEXT, VOCABULARY

DIGEST = "f" * 64


class FakeVllm:
    """Answers as a vLLM server with the connector does, on a model of its own.

    Args:
        folder: of its prompts.
        max_length: its context.
    """

    def __init__(self, folder: Path, max_length: int = CONTEXT) -> None:
        self.backbone, self.max_length = make_backbone("llama"), max_length
        info = self.backbone.info
        facts = ModelFacts(info.num_layers, info.num_kv_heads, info.head_dim, DIGEST)
        self.prompts = PromptFolder(folder, facts, 1 << 30)
        self.bodies: list[dict[str, Any]] = []
        self.status, self.most = 200, 1 << 30

    @property
    def transport(self) -> httpx.MockTransport:
        return httpx.MockTransport(self.reply)

    def reply(self, http: httpx.Request) -> httpx.Response:
        if http.url.path == "/v1/models":
            adapter = {"id": "adapter", "parent": "tiny", "max_model_len": 1}
            return httpx.Response(200, json={"data": [adapter, {"id": "tiny", "max_model_len": self.max_length}]})
        body = json.loads(http.content)
        self.bodies.append(body)
        if self.status != 200:
            return httpx.Response(self.status, json={"error": {"message": "no", "code": self.status}})
        ids, injection = body["prompt"], None
        if named := body.get("kv_transfer_params"):
            prompt = self.prompts.get(named["overture"], named["sha256"])
            length = prompt.facts.length
            assert ids[:length] == [0] * length
            memory = LayerMemory(prompt.keys.transpose(1, 2), prompt.values.transpose(1, 2))
            ids, injection = ids[length:], Injection(memory=Memory(memory, "memory"))
        assert len(body["prompt"]) + body["max_tokens"] <= self.max_length
        if wanted := body.get("logprob_token_ids"):
            assert len(wanted) <= 20
            shares = self.shares(ids, injection)
            top = {f"token_id:{token}": shares[token] for token in wanted}
            return httpx.Response(200, json={"choices": [{"logprobs": {"top_logprobs": [top]}}]})
        lines = []
        for _ in range(min(body["max_tokens"], self.most)):
            shares = self.shares(ids, injection)
            token = max(shares, key=lambda other: shares[other])
            ids = [*ids, token]
            likeliest = sorted(shares, key=lambda other: -shares[other])[: body.get("logprobs", 0) + 1]
            logprobs = {
                "token_logprobs": [shares[token]],
                "top_logprobs": [{f"token_id:{other}": shares[other] for other in likeliest}],
            }
            chunk = {"choices": [{"token_ids": [token], "logprobs": logprobs, "text": "?"}]}
            lines.append(f"data: {json.dumps(chunk)}\n\n")
            if token in body.get("stop_token_ids", ()):
                break
        return httpx.Response(200, text="".join([*lines, "data: [DONE]\n\n"]))

    def shares(self, ids: list[int], injection: Injection | None) -> dict[int, float]:
        row = Encoded.of_ids(0, ids[:-1], ids[-1:])
        with torch.no_grad():
            (scored,) = LocalAnswerer(self.backbone).ask([(row, injection)], TokenShares(VOCABULARY))
        return dict(scored[-1].top)


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A host with a store, a stand-in for vLLM, and a maker of a worker on both."""
    monkeypatch.setattr(remote, "model_files", lambda name, revision: (tmp_path, DIGEST))
    host = Host(backbone_of("llama"), Store(tmp_path / "store"))
    (tmp_path / "prompts").mkdir()
    vllm, remotes = FakeVllm(tmp_path / "prompts"), []

    def worker(**options) -> Worker:
        reached = VllmOptions(url="http://vllm", prompts=str(tmp_path / "prompts"))
        remotes.append(Remote(reached, host, vllm.transport))
        settings = WorkerOptions(store="store", vllm=reached, **options)
        return Worker(host, settings, tokens_per_s=400.0, remote=remotes[-1])

    yield host, vllm, worker
    for made in remotes:
        made.close()


def kept(host: Host, folder: Path, task, method="prefix", place="memory", **changes) -> str:
    """A prompt of the host's store."""
    manifest, tensors = load_artifact(stored(folder, "llama", task, method, place, **changes))
    added = host.store.add(manifest, tensors)
    return f"{task.name}@{added.name.removeprefix('v')}"


def answered(worker: Worker, requests: list[Request]) -> dict[str, list]:
    """The events of requests that come together."""
    events: dict[str, list] = {request.id: [] for request in requests}
    for request in requests:
        worker.do(Command(do="ask", id=request.id, request=request))
    ends = time.monotonic() + 300
    while time.monotonic() < ends:
        select.select([worker.remote], [], [], 0.5 if worker.is_idle else 0)
        worker.hear()
        worker.step()
        for event in worker.report().events:
            events[event.id].append(event)
        if all(told and told[-1].kind in ("done", "error") for told in events.values()):
            return events
    raise AssertionError({number: told for number, told in events.items() if not told or told[-1].kind == "token"})


def writing(name: str = "p", **changes: Any):
    """A task whose answers are free texts."""
    return task_of(SAMPLES["generation"], name=name, **changes)


PLACES = [("prefix", "memory"), ("vectors", "before"), ("vectors", "after"), ("prefix", "after"), ("late", "before")]


def test_every_kind_under_every_sort_of_prompt_equals_the_library(served, tmp_path):
    host, vllm, made = served
    requests, wanted = [], []
    for name, sample in SAMPLES.items():
        for number, (method, place) in enumerate(PLACES):
            task = task_of(sample).model_copy(update={"name": f"{name}-{number}"})
            ref = kept(host, tmp_path / f"{name}-{number}", task, method, place, seed=number)
            asks = [Ask(host.open(ref), row) for row in sample.rows[:2]]
            wanted += list(zip(asks, host.answer(asks), strict=True))
            for ask in asks:
                row = {"text": ask.fields} if isinstance(ask.fields, str) else ask.fields
                requests.append(Request(id=str(len(requests)), prompts=(ref,), row=row, tenant=f"t{number % 2}"))
    events = answered(made(), requests)
    for request, (ask, reply) in zip(requests, wanted, strict=True):
        answer, done = events[request.id]
        assert done.kind == "done", done
        task = ask.handle.task
        assert_alike(answer.answers[request.prompts[0]], task.spec.shown(task, reply.result()), request.prompts[0])
    named = {body["kv_transfer_params"]["overture"] for body in vllm.bodies if "kv_transfer_params" in body}
    assert {ref.partition("@")[0].rpartition("-")[2] for ref in named} == {"0", "1"}
    assert {ref.partition("-")[0] for ref in named} >= {"classification", "generation", "regression", "choice", "chat"}
    # Each prompt is written once, and only those that vLLM can have.
    assert {path.name for path in (tmp_path / "prompts").iterdir()} == {
        request.prompts[0] for request in requests if request.prompts[0].partition("@")[0].endswith(("-0", "-1"))
    }
    assert vllm.prompts.num_reads == len(named)


def test_answers_are_streamed_with_what_the_local_engine_tells(served, tmp_path):
    host, vllm, made = served
    ref = kept(host, tmp_path / "p", writing(max_new_tokens=9))
    asked = {"want": "write", "prompts": (ref,), "row": {"text": "sun"}, "top_logprobs": 2}
    (mine,) = finished(Worker(host, WorkerOptions(store="store"), 400.0), [Request(id="a", **asked)]).values()
    (theirs,) = answered(made(), [Request(id="a", **asked)]).values()
    assert len(vllm.bodies) == 1
    assert [event.kind for event in theirs] == [event.kind for event in mine]
    for event, other in zip(theirs, mine, strict=True):
        if event.kind == "token":
            assert event.text == other.text
            assert [token.id for token in event.tokens] == [token.id for token in other.tokens]
            for token, same in zip(event.tokens, other.tokens, strict=True):
                assert token.logprob == pytest.approx(same.logprob, abs=1e-4)
                assert [share.id for share in token.top] == [share.id for share in same.top]
    # The prompt's columns are no tokens of the client.
    assert theirs[-1].usage == mine[-1].usage


def test_a_stop_text_ends_an_answer_and_vllm_is_told(served, tmp_path):
    host, _, made = served
    ref = kept(host, tmp_path / "p", writing(max_new_tokens=9))
    asked = {"want": "write", "prompts": (ref,), "row": {"text": "sun"}}
    (whole,) = answered(made(), [Request(id="a", **asked)]).values()
    text = "".join(event.text for event in whole if event.kind == "token")
    stop = text.strip()[3:5]
    (mine,) = finished(Worker(host, WorkerOptions(store="s"), 400.0), [Request(id="a", stop=(stop,), **asked)]).values()
    worker = made()
    (theirs,) = answered(worker, [Request(id="a", stop=(stop,), **asked)]).values()
    assert [event for event in theirs if event.kind == "done"] == [event for event in mine if event.kind == "done"]
    assert "".join(e.text for e in theirs if e.kind == "token") == "".join(e.text for e in mine if e.kind == "token")
    assert worker._remote_lines == {}


def test_a_salt_is_of_the_tenant_and_the_prompt_and_never_of_the_client(served, tmp_path):
    host, vllm, made = served
    refs = [kept(host, tmp_path / f"p{n}", writing(name=f"p{n}"), seed=n) for n in range(2)]
    worker, requests = made(), []
    for number in range(8):
        tenant, ref = f"t{number % 2}", refs[number // 2 % 2]
        row = {"text": "sun", "cache_salt": "mine"}
        requests.append(Request(id=str(number), tenant=tenant, prompts=(ref,), row=row, want="write", max_new_tokens=1))
    answered(worker, requests)
    salts = {(body["kv_transfer_params"]["overture"], body["cache_salt"]) for body in vllm.bodies}
    assert len(salts) == 4
    assert len({salt for _, salt in salts}) == 4
    vllm.bodies.clear()
    answered(made(), requests[:1])
    assert vllm.bodies[0]["cache_salt"] not in {salt for _, salt in salts}


@pytest.mark.parametrize(("status", "told"), [(500, 503), (503, 503), (400, 400)])
def test_a_refusal_of_vllm_is_the_error_of_one_request(served, tmp_path, status, told):
    host, vllm, made = served
    ref = kept(host, tmp_path / "p", writing(name="p"))
    after = kept(host, tmp_path / "q", writing(name="q"), place="after")
    vllm.status = status
    asked = {"row": {"text": "sun"}, "want": "write", "max_new_tokens": 2}
    events = answered(made(), [Request(id="a", prompts=(ref,), **asked), Request(id="b", prompts=(after,), **asked)])
    assert events["a"][-1].kind == "error"
    assert events["a"][-1].status == told
    assert events["b"][-1].kind == "done"


def test_an_answer_that_breaks_off_is_no_answer(served, tmp_path):
    host, vllm, made = served
    ref = kept(host, tmp_path / "p", writing(name="p", max_new_tokens=9))
    vllm.most = 2
    (events,) = answered(made(), [Request(id="a", prompts=(ref,), row={"text": "sun"}, want="write")]).values()
    assert events[-1].kind == "error"
    assert events[-1].status == 503


def test_what_does_not_fit_the_servers_context_is_answered_here(served, tmp_path):
    host, vllm, made = served
    ref = kept(host, tmp_path / "p", writing(name="p", max_new_tokens=4))
    vllm.max_length = 12
    (events,) = answered(
        made(), [Request(id="a", prompts=(ref,), row={"text": "a long text " * 4}, want="write")]
    ).values()
    assert events[-1].kind == "done"
    assert vllm.bodies == []


def test_a_cancelled_request_is_forgotten(served, tmp_path):
    host, _, made = served
    ref = kept(host, tmp_path / "p", writing(name="p"))
    worker = made()
    request = Request(id="a", prompts=(ref,), row={"text": "sun"}, want="write")
    worker.do(Command(do="ask", id="a", request=request))
    worker.do(Command(do="cancel", id="a"))
    for _ in range(100):
        worker.hear()
    assert worker.is_idle
    assert worker._remote_lines == {}
    assert not [event for event in worker.report().events if event.kind == "done"]


def test_a_server_that_is_not_there_is_told_at_the_start(tmp_path):
    def refused(http):
        raise httpx.ConnectError("refused")

    host = Host(backbone_of("llama"))
    with pytest.raises(BackboneError, match="no vLLM server"):
        Remote(VllmOptions(url="http://vllm", prompts=str(tmp_path)), host, httpx.MockTransport(refused))
    odd = httpx.MockTransport(lambda http: httpx.Response(200, json={"data": []}))
    with pytest.raises(BackboneError, match="no vLLM server"):
        Remote(VllmOptions(url="http://vllm", prompts=str(tmp_path)), host, odd)


def test_the_weights_are_not_read_for_what_vllm_answers(tmp_path, monkeypatch):
    folder = tmp_path / "model"
    make_model("llama", "sdpa").save_pretrained(folder)
    make_inner_tokenizer("llama").save_pretrained(folder)
    monkeypatch.setenv("OVERTURE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "model_files", lambda name, revision: (folder, DIGEST))
    whole, told = load_backbone(str(folder), notify=lambda text: None), list[str]()
    host = Host(load_backbone(str(folder), is_read_late=True, notify=told.append), Store(tmp_path / "store"))
    assert host.backbone.info == whole.info

    def added(name: str, method: str, place: str) -> str:
        manifest, tensors = load_artifact(
            stored(tmp_path / name, "llama", writing(name=name, max_new_tokens=3), method, place, backbone=whole)
        )
        return f"{name}@{host.store.add(manifest, tensors).name.removeprefix('v')}"

    refs = [added("memory", "prefix", "memory"), added("vectors", "vectors", "before")]
    ids = whole.text.tokenizer.encode_plain("Be brief. ")
    text = TextPrompt(before="Be brief. ", before_ids=ids, begins=False)
    manifest = load_artifact(host.store.get(refs[0]))[0]
    changes = {
        "name": "words",
        "method": "text",
        "place": "before",
        "length": len(ids),
        "text": text,
        "options": MadeWith(),
    }
    host.store.add(manifest.model_copy(update=changes), {})
    refs.append("words@1")
    after = added("behind", "vectors", "after")
    # Written by an earlier server: making keys and values of vectors takes the model.
    (tmp_path / "prompts").mkdir()
    reached = VllmOptions(url="http://vllm", prompts=str(tmp_path / "prompts"))
    known = Host(whole, host.store)
    written_for_vllm(known.open(host.store.get(refs[1])), tmp_path / "prompts", DIGEST)

    vllm = FakeVllm(tmp_path / "prompts")
    there = Remote(reached, host, vllm.transport)
    try:
        worker = Worker(host, WorkerOptions(store="store", vllm=reached), there.tokens_per_second(), remote=there)
        requests = [Request(id=ref, prompts=(ref,), row={"text": "sun"}) for ref in refs]
        events = answered(worker, requests)
        assert is_unread(host.backbone.model)
        assert not [text for text in told if "weights" in text]
        events |= answered(worker, [Request(id=after, prompts=(after,), row={"text": "sun"})])
        assert len([text for text in told if "reading the weights" in text]) == 1
        assert not is_unread(host.backbone.model)
        for ref in (*refs, after):
            ask = Ask(known.open(host.store.get(ref)), "sun")
            (reply,) = known.answer([ask])
            assert_alike(events[ref][0].answers[ref], ask.handle.task.spec.shown(ask.handle.task, reply.result()), ref)
    finally:
        there.close()
