"""The pages as HTML, without a browser: what they show, who may see them, how forms and errors are answered."""

import re
from html import unescape

import pytest

from gateway import Gateway
from overture.server.security import Access, add_key, read_keys

HTML = {"accept": "text/html"}


@pytest.fixture
def gateway(tmp_path):
    made = Gateway(tmp_path / "store", serves_base=True)
    made.add("movie", "spam", "names")
    return made


@pytest.fixture
def client(gateway):
    with gateway.client(**HTML, origin="http://127.0.0.1:8000") as client:
        yield client


def text_of(reply, status=200):
    assert reply.status_code == status, reply.text
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", reply.text)).split())


def test_prompts_are_listed_searched_and_paged(client, gateway, monkeypatch):
    gateway.store.move_alias("movie@1", "prod")
    gateway.add("movie")
    shown = text_of(client.get("/"))
    assert "movie@2 @prod: 1" in shown
    assert "3 prompts" in shown
    assert "movie@2" not in text_of(client.get("/?q=NAM"))
    assert "No name contains" in text_of(client.get("/?q=zzz"))
    monkeypatch.setattr("overture.server.pages.prompts.PAGE_SIZE", 2)
    first, last = client.get("/").text, client.get("/?page=99").text
    assert "page=2" in first
    assert "spam@1" not in first
    assert "spam@1" in last
    gateway.store.remove("spam")
    gateway.add("topics")
    assert "topics@1" in client.get("/?page=2").text
    gateway.store.remove("topics")
    assert "were removed" in text_of(client.get("/?page=2"))


def test_a_part_of_a_page_is_asked_for_by_htmx(client):
    part = client.get("/?q=mov", headers={"hx-request": "true"}).text
    assert part.strip().startswith('<div id="rows">')
    assert "movie@1" in part
    assert "<html" not in part


def test_an_empty_store_names_the_next_command(tmp_path):
    with Gateway(tmp_path).client(**HTML) as client:
        assert "overture demo" in text_of(client.get("/"))


def test_nothing_in_a_page_runs_but_files_of_the_server(client):
    reply = client.get("/")
    policy = reply.headers["content-security-policy"]
    assert "default-src 'none'; script-src 'self'; style-src 'self'" in policy
    assert "unsafe" not in policy
    assert reply.headers["referrer-policy"] == "same-origin"
    assert not re.search(r"<style|style=|<script(?![^>]*src=)|\son\w+=|javascript:|https?://", reply.text)
    files = re.findall(r'(?:src|href)="(/static/[^"]+)"', reply.text)
    sizes = [len(reply.content)]
    for path in dict.fromkeys(files):
        file = client.get(path)
        assert file.status_code == 200
        assert "immutable" in file.headers["cache-control"]
        sizes.append(len(file.content))
    assert sum(sizes) <= 80_000


def test_names_are_shown_as_text(client):
    assert "&lt;b&gt;" in client.get("/?q=<b>x").text


def test_errors_are_pages_for_browsers_and_json_for_programs(client):
    assert "Not found" in text_of(client.get("/nothing"), 404)
    assert client.get("/v1/models/nothing").json()["error"]["code"] == "model_not_found"
    assert client.get("/nothing", headers={"accept": "*/*"}).json()["error"]["code"] == "not_found"
    assert "page" in text_of(client.get("/?page=x"), 400)
    evil = text_of(client.get("/", headers={"origin": "https://evil.example"}), 403)
    assert "pages of other sites may not ask" in evil


# -- with keys


@pytest.fixture
def locked(tmp_path):
    path = tmp_path / "keys.json"
    secrets = {"app": add_key(path, "app", "predict"), "root": add_key(path, "root", "admin")}
    limited = tuple(
        key if key.name == "root" else key.model_copy(update={"prompts": ("mov*",)}) for key in read_keys(path)
    )
    made = Gateway(tmp_path / "store", access=Access(keys=limited))
    made.add("movie", "spam")
    return made, secrets


def test_a_start_link_works_once(locked):
    gateway, _ = locked
    token = gateway.sessions.link(gateway.access.keys[1])
    with gateway.client(**HTML) as client:
        assert "wants a key" in text_of(client.get("/"), 401)
        entered = client.get(f"/enter?token={token}")
        assert entered.url.path == "/"
        assert "spam@1" in entered.text
        cookie = entered.history[0].headers["set-cookie"]
        assert "HttpOnly; SameSite=Strict" in cookie
        assert token not in cookie
        client.cookies.clear()
        assert "used already" in text_of(client.get(f"/enter?token={token}"))
        assert client.get("/").status_code == 401


def test_a_key_opens_the_pages_that_it_may_see_until_sign_out(locked):
    gateway, secrets = locked
    page = {"origin": "http://127.0.0.1:8000"}
    with gateway.client(**HTML) as client:
        assert "not a key" in text_of(client.post("/enter", data={"key": "wrong"}, headers=page), 401)
        away = {"key": secrets["app"], "next_path": "//evil.example/"}
        assert client.post("/enter", data=away, headers=page, follow_redirects=False).headers["location"] == "/"
        shown = client.post("/enter", data={"key": secrets["app"], "next_path": "/?q=m"}, headers=page)
        assert shown.url.query == b"q=m"
        assert "movie@1" in shown.text
        assert "spam@1" not in client.get("/").text
        # The cookie is for this browser's own pages: what posts without saying where it comes from is refused.
        ask = {"prompt": "movie", "inputs": ["x"]}
        assert client.post("/v1/predict", json=ask).status_code == 403
        assert client.post("/v1/predict", json=ask, headers=page).status_code == 200
        assert client.post("/v1/prompts/movie/warm", headers=page).status_code == 403
        old = dict(client.cookies)
        client.post("/leave", headers=page)
        client.cookies.update(old)
        assert client.get("/").status_code == 401


def test_keys_cannot_be_guessed_without_end(locked):
    gateway, _ = locked
    guarded = Gateway(gateway.store.root, access=gateway.access.model_copy(update={"burst": 3, "rate_per_s": 0.01}))
    with guarded.client(**HTML) as client:
        statuses = [client.post("/enter", data={"key": "guess"}).status_code for _ in range(5)]
        assert statuses == [401, 401, 401, 429, 429]
        assert client.get("/health").status_code == 200
