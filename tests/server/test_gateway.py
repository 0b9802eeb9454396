"""Routes on a fake engine: typed answers, OpenAI's shapes, registry, errors that name field, got and wanted."""

import base64
import json
import struct

import pytest

from gateway import Gateway, ReadyEngine, error_of, manifest_of, tensor_file, upload
from overture.core.errors import OvertureError
from overture.core.files import exclusive
from overture.core.records.serving import ErrorEvent


def test_many_prompts_answer_one_text_in_one_request(client, gateway):
    prompts = ["movie@1", "spam", "topics", "names", "stars", "summary"]
    reply = client.post("/v1/predict", json={"prompt": prompts, "inputs": ["Ada saw it", "dull"], "top": 1}).json()
    answers = reply["results"][0]["answers"]
    assert answers["movie@1"] == {
        "type": "choice",
        "choice": "positive",
        "confidence": 0.75,
        "probabilities": {"positive": 0.75},
    }
    assert answers["topics@1"]["labels"] == [{"label": "b", "probability": 0.8, "chosen": True}]
    assert answers["names@1"]["spans"] == [{"label": "PER", "start": 0, "end": 3, "score": None, "text": "Ada"}]
    assert answers["stars@1"]["score"] == 4.2
    assert answers["summary@1"] == {"type": "text", "text": "short", "start": None, "end": None}
    assert len(reply["results"]) == 2
    assert reply["usage"]["input_tokens"] == 2
    assert [request.prompts for request in gateway.engine.requests] == [
        ("movie@1", "spam@1", "topics@1", "names@1", "stars@1", "summary@1")
    ] * 2
    assert {request.tenant for request in gateway.engine.requests} == {"local"}


def test_doubt_goes_to_the_worker_and_comes_back_typed(tmp_path):
    unsure = {"label": None, "confidence": 0.4, "set": ["positive", "negative"], "abstained": True}
    gateway = Gateway(tmp_path / "store", engine=ReadyEngine(lambda prompt, request: unsure))
    gateway.add("movie")
    with gateway.client() as client:
        body = {"prompt": "movie", "inputs": ["dull"], "coverage": 0.9, "abstain": 0.8}
        (answer,) = client.post("/v1/predict", json=body).json()["results"][0]["answers"].values()
        assert error_of(client.post("/v1/predict", json=body | {"coverage": 1.0}), 400)["param"] == "coverage"
    assert (answer["choice"], answer["set"], answer["abstained"]) == (None, ["positive", "negative"], True)
    (request,) = gateway.engine.requests
    assert (request.coverage, request.abstain) == (0.9, 0.8)


def test_fields_are_checked_before_the_model_is_asked(client, gateway):
    wrong = error_of(client.post("/v1/predict", json={"prompt": "pair", "inputs": ["a text"]}), 400)
    assert (wrong["param"], wrong["wanted"]) == ("inputs.0", "a, b")
    wrong = error_of(client.post("/v1/predict", json={"prompt": "pair", "inputs": [{"a": "x"}]}), 400)
    assert (wrong["param"], wrong["got"], wrong["wanted"]) == ("inputs.0", "fields a", "fields a, b")
    for body, param in [
        ({"prompt": "pair", "inputs": []}, "inputs"),
        ({"prompt": "pair"}, "inputs"),
        ({"prompt": "pair", "inputs": ["x"], "tops": 3}, "tops"),
        ({"prompt": [], "inputs": ["x"]}, "prompt"),
    ]:
        assert error_of(client.post("/v1/predict", json=body), 400)["param"].startswith(param)
    assert error_of(client.post("/v1/predict", content="{", headers={"content-type": "application/json"}), 400)[
        "wanted"
    ]
    assert not gateway.engine.requests


@pytest.mark.parametrize(
    "text", ['"\\ud800"', '{"text": 1e999}', '{"text": "\\udfff"}', '{"\\ud800": "x"}', "[" * 200 + "]" * 200, "NaN"]
)
def test_what_cannot_travel_as_json_is_refused(client, text):
    content = f'{{"prompt": "movie", "inputs": [{text}]}}'
    reply = client.post("/v1/predict", content=content, headers={"content-type": "application/json"})
    assert error_of(reply, 400)["message"]


def test_names_are_pinned_and_unknown_ones_have_near_names(client, gateway):
    gateway.add("movie")
    gateway.store.move_alias("movie@1", "prod")

    def model_of(name):
        return client.post("/v1/completions", json={"model": name, "prompt": "x"}).json()["model"]

    assert [model_of(name) for name in ("movie", "movie@prod", "movie@1", "tiny:movie@2", "tiny")] == [
        "movie@2",
        "movie@1",
        "movie@1",
        "movie@2",
        "tiny",
    ]
    moved = client.post("/v1/prompts/movie/alias", json={"alias": "prod", "version": 2})
    assert moved.json() == {"alias": "movie@prod", "prompt": "movie@2"}
    assert model_of("movie@prod") == "movie@2"
    for name, near in (("movi", "movie"), ("movie@7", "movie@prod")):
        refused = error_of(client.post("/v1/completions", json={"model": name, "prompt": "x"}), 404)
        assert refused["code"] == "model_not_found"
        assert near in refused["message"]
    for path in ("../movie", "/etc/passwd", "movie/v1", "movie\\v1", "other:movie", "movie@../1"):
        assert error_of(client.post("/v1/predict", json={"prompt": path, "inputs": ["x"]}), 404)


def test_a_writing_prompt_is_a_chat_and_a_completion(client, gateway):
    messages = [{"role": "user", "content": "a b c d"}]
    chat = client.post(
        "/v1/chat/completions",
        json={
            "model": "summary",
            "messages": messages,
            "max_tokens": 2,
            "logprobs": True,
            "temperature": 0,
            "stop": "!",
        },
    ).json()
    assert chat["choices"][0]["message"] == {"role": "assistant", "content": "a b"}
    assert chat["choices"][0]["finish_reason"] == "length"
    assert [token["token"] for token in chat["choices"][0]["logprobs"]["content"]] == ["a", " b"]
    assert chat["usage"] == {
        "prompt_tokens": 4,
        "completion_tokens": 2,
        "total_tokens": 6,
        "prompt_tokens_details": {"cached_tokens": 0},
    }
    request = gateway.engine.requests[-1]
    assert (request.want, request.row, request.max_new_tokens, request.temperature, request.stop) == (
        "write",
        {"text": "a b c d"},
        2,
        0,
        ("!",),
    )
    both = client.post("/v1/completions", json={"model": "summary", "prompt": ["x y", "z"], "logprobs": 1}).json()
    assert [choice["text"] for choice in both["choices"]] == ["x y", "z"]
    assert both["choices"][0]["logprobs"]["text_offset"] == [0, 1]


def test_conversations_go_to_chats_and_to_the_model_alone(client, gateway):
    messages = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": [{"type": "text", "text": "hi"}]},
    ]
    for model in ("talk", "tiny"):
        assert client.post("/v1/chat/completions", json={"model": model, "messages": messages}).status_code == 200
        assert gateway.engine.requests[-1].row == {
            "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}]
        }
    refused = error_of(client.post("/v1/chat/completions", json={"model": "summary", "messages": messages}), 400)
    assert (refused["param"], refused["got"]) == ("messages", "system, user")
    assert error_of(client.post("/v1/chat/completions", json={"model": "tiny", "messages": messages, "n": 2}), 400)


def test_a_label_prompt_answers_a_chat_with_its_label(client):
    body = {"model": "movie", "messages": [{"role": "user", "content": "fine"}], "temperature": 0.8}
    reply = client.post("/v1/chat/completions", json=body).json()
    assert reply["choices"][0]["message"]["content"] == "positive"
    assert reply["overture"]["kind"] == "classification"
    assert reply["overture"]["answer"]["confidence"] == 0.75
    assert error_of(client.post("/v1/chat/completions", json={**body, "logprobs": True}), 400)["param"] == "model"


def events_of(reply):
    return [line.removeprefix("data: ") for line in reply.text.split("\n\n") if line.startswith("data: ")]


def test_a_stream_grows_ends_and_counts(client):
    body = {"model": "summary", "messages": [{"role": "user", "content": "a b"}], "stream": True}
    reply = client.post("/v1/chat/completions", json={**body, "stream_options": {"include_usage": True}})
    assert reply.headers["content-type"].startswith("text/event-stream")
    *chunks, done = events_of(reply)
    assert done == "[DONE]"
    parsed = list(map(json.loads, chunks))
    assert "".join(c["choices"][0]["delta"]["content"] or "" for c in parsed[:-1]) == "a b"
    assert parsed[0]["choices"][0]["delta"]["role"] == "assistant"
    assert [c["choices"][0]["finish_reason"] for c in parsed[:-1]][-1] == "stop"
    assert (parsed[-1]["choices"], parsed[-1]["usage"]["completion_tokens"]) == ([], 2)
    text = client.post("/v1/completions", json={"model": "movie", "prompt": "x", "stream": True})
    assert "".join(json.loads(c)["choices"][0]["text"] for c in events_of(text)[:-1]) == "positive"


def test_an_overloaded_engine_is_429_with_retry_after_also_for_streams(tmp_path):
    failure = ErrorEvent(id="", error="Overloaded", message="wait", status=429, retry_after_s=2.4)
    gateway = Gateway(tmp_path, ReadyEngine(failure=failure))
    gateway.add("summary")
    with gateway.client() as client:
        for stream in (False, True):
            reply = client.post("/v1/completions", json={"model": "summary", "prompt": "x", "stream": stream})
            refused = error_of(reply, 429)
            assert (refused["code"], refused["param"]) == ("overloaded", "prompt")
            assert reply.headers["retry-after"] == "3"


def test_a_slow_stream_is_kept_alive_and_a_broken_one_ends_with_the_error(tmp_path, monkeypatch):
    class Breaking(ReadyEngine):
        def _events(self, request):
            failure = ErrorEvent(id=request.id, error="Unavailable", message="gone", status=503, retry_after_s=1.0)
            return [super()._events(request)[0], failure]

    monkeypatch.setattr("overture.server.openai._KEEP_ALIVE_S", 0.05)
    gateway = Gateway(tmp_path, Breaking(delay_s=0.3))
    gateway.add("summary")
    with gateway.client() as client:
        reply = client.post("/v1/completions", json={"model": "summary", "prompt": "a b", "stream": True})
    assert reply.text.count(": keep-alive\n\n") >= 2
    first, error, done = events_of(reply)
    assert json.loads(first)["choices"][0]["text"] == "a"
    assert json.loads(error)["error"]["code"] == "not_ready"
    assert done == "[DONE]"


def test_system_one_asks_tuned_prompts(client, gateway):
    questions = {
        "spam": {"type": "noul", "instructions": "Is it spam?"},
        "mood": {"type": "choice", "prompt": "movie", "criteria": {"positive": None, "negative": None}},
        "step": {"type": "score", "prompt": "movie@1", "criteria": ["negative", "positive"]},
    }
    reply = client.post("/v1/systemone", json={"state": "buy now", "questions": questions}).json()
    assert reply["answers"]["spam"] == {"type": "noul", "noul": 0.9}
    assert reply["answers"]["mood"]["choice"] == "positive"
    assert reply["answers"]["step"]["score"] == 0.75
    assert reply["answers"]["step"]["legend"] == {"0": "negative", "1": "positive"}
    assert len(gateway.engine.requests) == 1
    for name, question in {
        "movie": {"type": "noul"},
        "summary": {"type": "choice"},
        "mood": {"type": "choice", "prompt": "movie", "criteria": {"angry": None, "calm": None}},
    }.items():
        refused = error_of(client.post("/v1/systemone", json={"state": "x", "questions": {name: question}}), 400)
        assert refused["param"].startswith(f"questions.{name}")
    assert error_of(client.post("/v1/systemone", json={"state": "x", "questions": {"q": {"type": "noul"}}}), 404)


def test_system_one_asks_the_model_alone_where_it_is_served(client, gateway):
    questions = {
        "urgent": {"type": "noul", "instructions": "Is it urgent?"},
        "tone": {"type": "choice", "prompt": "tiny", "criteria": {"calm": "at ease", "angry": None}},
        "movie": {"type": "choice", "instructions": "a prompt answers what is called like it"},
    }
    reply = client.post("/v1/systemone", json={"state": {"text": "x"}, "questions": questions}).json()
    assert (reply["model"], reply["answers"]["urgent"]["noul"]) == ("tiny, movie@1", 0.5)
    assert reply["answers"]["movie"]["choice"] == "positive"
    alone = [request for request in gateway.engine.requests if request.labels]
    assert [request.labels for request in alone] == [("yes", "no"), ("calm", "angry")]
    assert alone[1].row == {
        "state": '{"text": "x"}',
        "question": "tone\ncalm: at ease\nAnswer with one of: calm, angry",
    }
    one = {"q": {"type": "choice", "instructions": "?", "criteria": ["a"]}}
    refused = error_of(client.post("/v1/systemone", json={"state": "x", "questions": one}), 400)
    assert refused["param"] == "questions.q.criteria"
    gateway.registry.serves_base = False
    reply = client.post("/v1/systemone", json={"state": "x", "questions": {"q": questions["urgent"]}})
    assert error_of(reply, 404)["param"] == "questions.q.prompt"


def test_embeddings_come_as_numbers_and_as_base64(client, gateway):
    body = {"model": "movie", "input": ["a", "b"]}
    reply = client.post("/v1/embeddings", json=body).json()
    assert [row["embedding"] for row in reply["data"]] == [[1.0, -0.5]] * 2
    assert (reply["model"], reply["data"][1]["index"]) == ("movie@1", 1)
    coded = client.post("/v1/embeddings", json={**body, "encoding_format": "base64"}).json()["data"][0]["embedding"]
    assert struct.unpack("<2f", base64.b64decode(coded)) == (1.0, -0.5)
    # The prompt stands behind the text.
    assert {request.pooling for request in gateway.engine.requests} == {"last"}
    client.post("/v1/embeddings", json={"model": "tiny", "input": [3, 4]})
    assert (gateway.engine.requests[-1].ids, gateway.engine.requests[-1].pooling) == ((3, 4), "mean")
    assert error_of(client.post("/v1/embeddings", json={**body, "input": [3, 4]}), 400)["param"] == "input"


def test_a_prompt_that_writes_nothing_has_no_echo_and_no_schema(client):
    body = {"model": "movie", "prompt": "x"}
    for change in ({"echo": True}, {"prompt": [1, 2]}, {"response_format": {"type": "json_object"}}):
        assert error_of(client.post("/v1/completions", json={**body, **change}), 400)["param"] == "model"
    wrong = {"model": "summary", "prompt": "x", "max_tokens": 0}
    assert error_of(client.post("/v1/completions", json=wrong), 400)["param"] == "max_tokens"


def test_an_alias_that_moves_within_a_request_names_one_version(client, gateway, monkeypatch):
    gateway.add("movie", "spam")
    pinned, number = gateway.store.pinned, iter(range(1000))
    monkeypatch.setattr(gateway.store, "pinned", lambda ref: pinned(f"{ref.partition('@')[0]}@{next(number) % 2 + 1}"))
    body = {"prompt": ["movie@prod", "movie@prod"], "inputs": ["x", "y"]}
    for result in client.post("/v1/predict", json=body).json()["results"]:
        assert len(result["answers"]) == 1
    for _ in range(2):
        reply = client.post("/v1/systemone", json={"state": "x", "questions": {"spam": {"type": "noul"}}})
        assert reply.json()["answers"]["spam"]["noul"] == 0.9


def test_models_come_in_pages_with_scores(client, gateway):
    accuracy = {"value": 0.8, "low": 0.7, "high": 0.9, "n": 100}
    gateway.add("movie", metrics={"test": {"accuracy": accuracy}})
    gateway.store.move_alias("movie@2", "prod")
    page = client.get("/v1/models", params={"limit": 2}).json()
    assert [card["id"] for card in page["data"]] == ["tiny", "movie@2"]
    assert page["data"][1]["overture"]["interval"] == [0.7, 0.9]
    assert page["data"][1]["overture"]["aliases"] == ["prod"]
    assert (page["has_more"], page["last_id"]) == (True, "movie@2")
    ids = []
    while page["data"]:
        ids += [card["id"] for card in page["data"]]
        page = client.get("/v1/models", params={"limit": 2, "after": ids[-1]}).json()
    assert len(ids) == 9 == len(set(ids))
    versions = client.get("/v1/models", params={"name": "movie"}).json()
    assert [card["id"] for card in versions["data"]] == ["movie@1", "movie@2"]
    assert client.get("/v1/models/movie@prod").json()["id"] == "movie@2"
    assert error_of(client.get("/v1/models/none"), 404)


def test_a_wrong_alias_names_its_field_and_the_model_is_always_warm(client):
    refused = error_of(client.post("/v1/prompts/movie/alias", json={"alias": "../x"}), 400)
    assert (refused["param"], refused["code"]) == ("alias", "invalid_name")
    assert client.post("/v1/prompts/tiny/warm").json()["id"] == "tiny"


def test_wrong_fields_are_named_as_the_caller_wrote_them(client):
    reply = client.post("/v1/predict", json={"prompt": "movie", "inputs": [5]})
    error = error_of(reply, 400)
    assert error["param"] == "inputs.0"
    assert error["message"] == "inputs.0: must be text, or must be a mapping of keys and values"
    reply = client.post("/v1/predict", json={"prompts": "movie", "inputs": ["a"]})
    assert error_of(reply, 400)["message"] == "prompt: this key is required; prompts: no such field"
    reply = client.post("/v1/predict", content=b"{bad", headers={"content-type": "application/json"})
    error = error_of(reply, 400)
    assert (error["param"], error["wanted"]) == ("body", "JSON")
    assert error["message"].startswith("the body is not JSON: ")


def test_a_prompt_of_another_model_is_409_and_listed_with_its_problem(client, gateway):
    other = {**manifest_of("movie").backbone.model_dump(mode="json"), "weights_sha256": "x" * 64}
    gateway.add("spam", backbone=other)
    assert error_of(client.post("/v1/predict", json={"prompt": "spam", "inputs": ["x"]}), 409)["got"]
    assert client.get("/v1/prompts/spam/drift").json()["fits"] is False
    assert client.get("/v1/prompts/movie/drift").json() == {"prompt": "movie@1", "fits": True, "problem": None}
    assert list(gateway.registry.refused()) == ["spam@2"]
    # Of an older prompt the worker, which has the tensors, decides.
    gateway.add("stars", backbone={**other, "dtype": None})
    assert client.get("/v1/prompts/stars/drift").json()["fits"] is True
    assert error_of(client.put("/v1/prompts/spam", json=upload("spam", tensor_file(), backbone=other)), 409)
    assert gateway.store.versions("spam") == (1, 2)


def test_words_found_with_another_model_are_refused_until_drift_is_allowed(client, gateway):
    other = {**manifest_of("movie").backbone.model_dump(mode="json"), "weights_sha256": "x" * 64}
    words = manifest_of("spam", backbone=other, text={"after": " Spam?", "after_ids": [1, 2]})
    gateway.store.add(words, {})
    refused = error_of(client.post("/v1/predict", json={"prompt": "spam", "inputs": ["x"]}), 409)
    assert "--allow-drift" in refused["message"]
    assert client.get("/v1/models/spam").json()["overture"]["problem"]
    assert list(gateway.registry.refused()) == ["spam@2"]
    gateway.registry.allow_drift = True
    assert client.get("/v1/prompts/spam/drift").json()["fits"] is True
    # The same words with the model that they were found with.
    gateway.registry.allow_drift = False
    gateway.store.add(words.model_copy(update={"backbone": manifest_of("spam").backbone}), {})
    assert client.post("/v1/predict", json={"prompt": "spam@3", "inputs": ["x"]}).status_code != 409


def test_a_version_with_an_alias_is_not_removed(client, gateway):
    gateway.add("movie")
    gateway.store.move_alias("movie@1", "prod")
    for ref in ("movie@1", "movie@prod", "tiny:movie@1"):
        assert error_of(client.delete(f"/v1/prompts/{ref}"), 409)["code"] == "prompt_has_alias"
    assert client.delete("/v1/prompts/tiny:movie@2").json() == {"removed": ["movie@2"]}


def test_half_a_character_in_criteria_is_a_mistake(client):
    body = b'{"state": "x", "questions": {"movie": {"type": "choice", "criteria": {"\\ud800": 1}}}}'
    assert error_of(client.post("/v1/systemone", content=body, headers={"content-type": "application/json"}), 400)


def test_health_ready_metrics_and_tokens(client):
    assert client.get("/health").json() == {"status": "ok", "restarts": 0}
    assert client.get("/ready").status_code == 200
    client.post("/v1/predict", json={"prompt": "movie", "inputs": ["x"]})
    assert 'overture_requests_total{prompt="movie@1",status="200"} 1.0' in client.get("/metrics").text
    assert client.post("/tokenize", json={"text": "ab"}).json() == {"tokens": [97, 98], "count": 2}
    assert client.post("/v1/prompts/movie/warm").json()["id"] == "movie@1"


def test_a_damaged_prompt_is_told_without_the_servers_folders(client, gateway):
    (gateway.store.prompts / "movie" / "v1" / "prompt.json").write_text("{")
    refused = error_of(client.post("/v1/predict", json={"prompt": "movie", "inputs": ["x"]}), 409)
    assert refused["param"] == "prompt.json"
    assert str(gateway.store.root) not in json.dumps(refused)
    card = client.get("/v1/models/movie").json()
    assert card["overture"]["problem"]
    gateway.store.remove("stars")
    assert "stars" not in error_of(client.get("/v1/models/star"), 404)["message"]
    gateway.add("stars")
    assert "stars@2" in [card["id"] for card in client.get("/v1/models").json()["data"]]


def test_an_unforeseen_error_is_json_without_its_reason(tmp_path):
    def broken(prompt, request):
        raise RuntimeError("secret")

    gateway = Gateway(tmp_path, ReadyEngine(answer=broken))
    gateway.add("movie")
    with gateway.client() as client:
        reply = client.post("/v1/predict", json={"prompt": "movie", "inputs": ["x"]})
        assert error_of(reply, 500)["code"] == "internal_error"
        assert "secret" not in reply.text


def test_a_store_that_fails_is_no_unknown_prompt(client, gateway, monkeypatch):
    ask = {"prompt": "movie@prod", "inputs": ["x"]}
    (gateway.store.prompts / "movie" / ".aliases.json").write_text("{")
    assert error_of(client.post("/v1/predict", json=ask), 409)["code"] == "store_damaged"
    monkeypatch.setattr("overture.store.store._LOCK_WAIT_S", 0.05)
    with exclusive(gateway.store.root / ".lock", "to this store"):
        reply = client.put("/v1/prompts/movie", json=upload("movie", tensor_file()))
    assert error_of(reply, 503)["code"] == "store_locked"
    assert reply.headers["retry-after"]

    def unreadable(ref):
        raise OSError(5, "Input/output error", "/secret/place")

    monkeypatch.setattr(gateway.store, "pinned", unreadable)
    refused = error_of(client.post("/v1/predict", json=ask), 503)
    assert (refused["code"], refused["got"]) == ("store_unavailable", "Input/output error")
    assert "secret" not in json.dumps(refused)


def test_an_error_names_the_field_that_holds_the_name(client):
    questions = {"q": {"type": "noul", "prompt": "movi"}}
    for path, body, param in (
        ("/v1/predict", {"prompt": ["movie", "movi"], "inputs": ["x"]}, "prompt"),
        ("/v1/completions", {"model": "movi", "prompt": "x"}, "model"),
        ("/v1/systemone", {"state": "x", "questions": questions}, "questions.q.prompt"),
        ("/v1/prompts/movi/warm", {}, "ref"),
    ):
        assert error_of(client.post(path, json=body), 404)["param"] == param


def test_a_bug_of_the_model_is_a_500_that_names_the_request(client, gateway, monkeypatch):
    async def broken(prompt, request_id="command"):
        raise OvertureError("shapes do not fit")

    monkeypatch.setattr(gateway.engine, "load", broken)
    reply = client.post("/v1/prompts/movie/warm")
    assert reply.headers["x-request-id"] in error_of(reply, 500)["message"]
    assert "shapes" not in reply.text
