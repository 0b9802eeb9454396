"""The gateway over a worker with a tiny model: clients of other projects, echo, JSON, embeddings, the model alone."""

import base64
import json
import struct
import threading
from contextlib import contextmanager

import openai
import pytest
import torch
from kind_samples import SAMPLES, task_of
from lm_eval.api.instance import Instance
from lm_eval.models.openai_completions import LocalCompletionsAPI
from test_host import make_task, stored

from fakes import backbone_of, make_inner_tokenizer
from gateway import Gateway, WorkerHere
from overture.core.injection import Injection
from overture.core.records.serving import WorkerOptions
from overture.core.rows import Encoded
from overture.engine.answerer import LocalAnswerer
from overture.engine.layout import answer_layout
from overture.engine.passes import prepared
from overture.evaluate.host import Host
from overture.server.listen import bound_socket, uvicorn_server
from overture.server.worker import Worker
from overture.store.artifact import load_artifact
from overture.store.store import Store


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    backbone, store = backbone_of("llama"), Store(folder / "store")
    task = task_of(SAMPLES["generation"], name="writer", template="{text}", max_new_tokens=12)
    for name, place in (("writer", "memory"), ("behind", "after")):
        prompt = stored(folder / name, "llama", task, "prefix", place, backbone=backbone)
        manifest, tensors = load_artifact(prompt)
        store.add(manifest.model_copy(update={"name": name}), tensors)
    manifest, tensors = load_artifact(stored(folder / "labels", "llama", make_task(), backbone=backbone))
    store.add(manifest.model_copy(update={"name": "labels"}), tensors)
    worker = Worker(Host(backbone, store), WorkerOptions(store=str(store.root)), tokens_per_s=400.0)
    return Gateway(store.root, WorkerHere(worker), serves_base=True)


@pytest.fixture(scope="module")
def client(gateway):
    with gateway.client() as client:
        yield client


@contextmanager
def listening(gateway):
    """The gateway's address on a port of its own."""
    bound = bound_socket("127.0.0.1", 0)
    server = uvicorn_server(gateway.app)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


def shares_of(gateway, ids, name=""):
    """Log-probabilities of all tokens behind each of a text's, by one pass written by hand, [L, V]."""
    worker = gateway.engine.worker
    handle = worker.host.open(f"{name}@1") if name else None
    prompt = handle.prompt if handle else None
    assert prompt is None or isinstance(prompt, Injection)
    backbone = worker.host.backbone
    with torch.no_grad():
        if prompt is None:
            logits = backbone.model(torch.tensor([ids])).logits[0]
        else:
            row = Encoded.of_ids(0, (), ids)
            whole = prepared(LocalAnswerer(backbone).inputs, [row], [prompt], answer_layout)
            logits = backbone.head(backbone.run(whole.live, whole.step)[0])
    return logits.log_softmax(-1)


def test_the_harness_scores_continuations_through_the_gateway(gateway, tmp_path):
    make_inner_tokenizer("llama").save_pretrained(tmp_path)
    encode = gateway.engine.worker.host.backbone.text.tokenizer.encode_plain
    pairs = [("a text", " that goes on"), ("some words", " or others")]
    requests = [Instance("loglikelihood", {}, pair, number) for number, pair in enumerate(pairs)]
    for model, prompt in (("tiny", ""), ("writer", "writer")):
        with listening(gateway) as url:
            address = f"{url}/v1/completions"
            lm = LocalCompletionsAPI(base_url=address, model=model, tokenizer=str(tmp_path), batch_size=2)
            replies = lm.loglikelihood(requests, disable_tqdm=True)
        for pair, (value, is_greedy) in zip(pairs, replies, strict=True):
            context, following = map(encode, pair)
            shares = shares_of(gateway, [*context, *following], prompt)[len(context) - 1 : -1]
            wanted = shares.gather(1, torch.tensor(following)[:, None]).sum()
            assert value == pytest.approx(float(wanted), abs=1e-4)
            assert is_greedy == (shares.argmax(-1).tolist() == following)


def test_an_echo_has_a_place_for_every_token_and_goes_on(client, gateway):
    tokenizer = gateway.engine.worker.host.backbone.text.tokenizer
    body = {"model": "tiny", "prompt": "a text", "echo": True, "logprobs": 2}
    num = len(tokenizer.encode_plain("a text"))
    for most in (0, 1, 3):
        choice = client.post("/v1/completions", json={**body, "max_tokens": most}).json()["choices"][0]
        facts = choice["logprobs"]
        assert len(facts["tokens"]) == len(facts["token_logprobs"]) == len(facts["top_logprobs"]) <= num + most
        assert choice["text"].startswith("a text")
        assert len(facts["tokens"]) >= num + min(most, 1)
    plain = client.post("/v1/completions", json={"model": "tiny", "prompt": "a text", "max_tokens": 3}).json()
    assert choice["text"] == "a text" + plain["choices"][0]["text"] or choice["text"].split() != ["a", "text"]
    ids = {"model": "tiny", "prompt": tokenizer.encode_plain("a text"), "max_tokens": 3}
    assert client.post("/v1/completions", json=ids).json()["choices"] == plain["choices"]
    refused = client.post("/v1/completions", json={**body, "model": "behind"}).json()["error"]
    assert refused["code"] == "invalid_request"
    unknown = client.post("/v1/completions", json={"model": "tiny", "prompt": [10**6]}).json()["error"]
    assert "token" in unknown["message"]


def test_answers_are_json_of_a_schema(client):
    shape = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": {**shape, "additionalProperties": False}}}
    pytest.importorskip("llguidance")
    body = {"model": "writer", "messages": [{"role": "user", "content": "x"}], "response_format": wanted}
    for temperature in (0, 1.5):
        reply = client.post("/v1/chat/completions", json={**body, "temperature": temperature, "max_tokens": 40}).json()
        assert isinstance(json.loads(reply["choices"][0]["message"]["content"])["ok"], bool)
        assert reply["choices"][0]["finish_reason"] == "stop"
    wrong = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nothing"}}}
    refused = client.post("/v1/chat/completions", json={**body, "response_format": wrong})
    assert refused.status_code == 400


def test_json_without_its_package_is_refused(client, monkeypatch):
    monkeypatch.setattr("overture.engine.schema.find_spec", lambda name: None)
    body = {"model": "writer", "prompt": "x", "response_format": {"type": "json_object"}}
    refused = client.post("/v1/completions", json=body)
    assert (refused.status_code, "llguidance" in refused.json()["error"]["message"]) == (400, True)


def test_embeddings_are_the_models_states(client, gateway):
    backbone = gateway.engine.worker.host.backbone
    ids = backbone.text.tokenizer.encode_plain("a text")
    with torch.no_grad():
        states = backbone.model(torch.tensor([ids]), output_hidden_states=True).hidden_states[-1][0]
    for pooling, wanted in (("mean", states.mean(0)), ("last", states[-1])):
        for text in ("a text", ids):
            body = {"model": "tiny", "input": text, "pooling": pooling, "encoding_format": "base64"}
            (row,) = client.post("/v1/embeddings", json=body).json()["data"]
            values = struct.unpack(f"<{len(wanted)}f", base64.b64decode(row["embedding"]))
            torch.testing.assert_close(torch.tensor(values), wanted, atol=1e-5, rtol=1e-4)
    rows = [
        client.post("/v1/embeddings", json={"model": name, "input": "a text"}).json() for name in ("writer", "tiny")
    ]
    assert rows[0]["data"][0]["embedding"] != rows[1]["data"][0]["embedding"]
    mean = client.post("/v1/embeddings", json={"model": "behind", "input": "a text", "pooling": "mean"})
    assert mean.status_code == 400
    assert len(client.post("/v1/embeddings", json={"model": "labels", "input": ["a", "b"]}).json()["data"]) == 2


@pytest.mark.parametrize("family", ["bert", "t5"])
def test_embeddings_of_models_that_write_nothing_or_read_apart(tmp_path, family):
    worker = Worker(Host(backbone_of(family)), WorkerOptions(store="store"), tokens_per_s=400.0)
    with Gateway(tmp_path, WorkerHere(worker), serves_base=True).client() as client:
        for pooling in ("mean", "last"):
            body = {"model": "tiny", "input": ["a text", "another one"], "pooling": pooling}
            rows = client.post("/v1/embeddings", json=body).json()["data"]
            alone = client.post("/v1/embeddings", json={**body, "input": "a text"}).json()["data"]
            assert rows[0]["embedding"] == pytest.approx(alone[0]["embedding"], abs=1e-5)
        assert client.post("/v1/completions", json={"model": "tiny", "prompt": "x", "echo": True}).status_code == 400


def test_the_model_alone_answers_typed_questions(client):
    questions = {"mood": {"type": "choice", "instructions": "Which mood?", "criteria": ["glad", "sad", "so so"]}}
    reply = client.post("/v1/systemone", json={"state": "a fine day", "questions": questions}).json()
    assert sum(reply["answers"]["mood"]["probabilities"].values()) == pytest.approx(1.0, abs=1e-3)
    assert reply["usage"]["input_tokens"] > 10


def test_the_openai_client_reads_embeddings_and_json(gateway):
    pytest.importorskip("llguidance")
    with listening(gateway) as url, openai.OpenAI(base_url=f"{url}/v1", api_key="none") as client:
        (row,) = client.embeddings.create(model="tiny", input="a text").data
        assert len(row.embedding) == gateway.engine.worker.host.backbone.info.hidden_size
        body = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 60}
        reply = client.chat.completions.create(model="writer", response_format={"type": "json_object"}, **body)
        assert reply.choices[0].message.content.startswith("{")
