"""What answers while the routes are still imported."""

import threading
from concurrent.futures import ThreadPoolExecutor

import httpx2 as httpx

from gateway import Gateway, served
from overture.server.front import Front
from overture.server.security import Guard


def test_health_is_told_before_the_routes_are_made(tmp_path):
    gateway, go_on, num_made = Gateway(tmp_path), threading.Event(), 0
    gateway.add("movie")

    def make():
        nonlocal num_made
        num_made += 1
        go_on.wait(20)
        return gateway.make()

    front = Front(gateway.engine, make)
    app = Guard(front, gateway.access, gateway.watch.finished, gateway.sessions, front.refuse)
    with (
        served(app, read_timeout_s=8.0) as port,
        ThreadPoolExecutor(3) as pool,
        httpx.Client(base_url=f"http://127.0.0.1:{port}") as client,
    ):
        models = [pool.submit(client.get, "/v1/models") for _ in range(2)]
        refused = pool.submit(client.get, "/v1/models", headers={"host": "elsewhere.example"})
        health = client.get("/health")
        assert (health.status_code, health.json()) == (200, {"status": "ok", "restarts": 0})
        assert health.headers["x-content-type-options"] == "nosniff"
        assert not any(reply.done() for reply in (*models, refused))
        go_on.set()
        assert [reply.result(20).json()["data"][0]["id"] for reply in models] == ["movie@1"] * 2
        assert refused.result(20).json()["error"]["code"] == "host_not_allowed"
        assert client.get("/health").json() == health.json()
        refused = client.post("/health").json()["error"]
        assert (refused["code"], refused["wanted"]) == ("method_not_allowed", "GET")
    assert num_made == 1
