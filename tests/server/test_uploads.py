"""Uploads of prompts: kept, refused, or taken back."""

import asyncio
import base64
import threading

import pytest

from gateway import Gateway, ReadyEngine, error_of, fake_answer, manifest_of, tensor_file, upload


def test_an_upload_is_kept_opened_and_repeatable(client, gateway):
    kept = client.put("/v1/prompts/movie", json=upload("movie", tensor_file(0.25)))
    assert (kept.status_code, kept.json()["prompt"]) == (201, "movie@2")
    assert "movie@2" in gateway.engine.loaded
    same = {"if-none-match": f'"{kept.json()["sha256"]}"'}
    again = client.put("/v1/prompts/movie", json=upload("movie", tensor_file(0.25)), headers=same)
    assert (again.status_code, again.json()) == (200, kept.json())
    assert client.delete("/v1/prompts/movie@2").json() == {"removed": ["movie@2"]}
    assert "movie@2" not in gateway.engine.loaded
    assert client.put("/v1/prompts/movie", json=upload("movie", tensor_file())).json()["prompt"] == "movie@3"


@pytest.mark.parametrize(
    ("name", "change", "status"),
    [
        ("movie", {"tensors": "not base64!"}, 400),
        ("movie", {"tensors": base64.b64encode(b"PK\3\4" + tensor_file()).decode()}, 409),
        ("movie", {"tensors": base64.b64encode(tensor_file(float("nan"))).decode()}, 409),
        ("movie", {"tensors": ""}, 409),
        ("movie", {"manifest": {}}, 400),
        ("movie", {"manifest": {**manifest_of("movie").model_dump(mode="json"), "created": "yesterday"}}, 400),
        ("Movie", {}, 400),
        ("..", {}, 404),
        ("aux", {}, 400),
    ],
)
def test_an_unsafe_upload_leaves_nothing(client, gateway, name, change, status):
    reply = client.put(f"/v1/prompts/{name}", json={**upload("movie", tensor_file()), **change})
    assert error_of(reply, status)["message"]
    assert gateway.store.versions("movie") == (1,)


def test_a_broken_upload_is_a_mistake(client):
    reply = client.put("/v1/prompts/movie", content=b'{"manifest": {"b": {}}{"manifest"')
    assert error_of(reply, 400)["wanted"] == "JSON"


def test_an_upload_that_the_model_cannot_open_is_taken_back(tmp_path):
    gateway = Gateway(tmp_path / "store", ReadyEngine(answer=fake_answer, refused=("movie@1",)))
    with gateway.client() as client:
        assert error_of(client.put("/v1/prompts/movie", json=upload("movie", tensor_file())), 409)
    assert gateway.store.versions("movie") == ()


def test_an_upload_is_read_beside_the_event_loop(client, monkeypatch):
    threads = []

    def decoded(*args, **options):
        threads.append(threading.current_thread())
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()
        return b64decode(*args, **options)

    b64decode = base64.b64decode
    monkeypatch.setattr("overture.server.registry.base64.b64decode", decoded)
    large = {"manifest": {"x": "y" * 2_000_000}, "tensors": ""}
    assert error_of(client.put("/v1/prompts/movie", json=large), 400)["param"].startswith("manifest")
    assert len(threads) == 1
