"""The pages as HTML, without a browser: what they show, who may see them, how forms and errors are answered."""

import re
from html import unescape
from urllib.parse import urlencode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway import BACKBONE, Gateway, fake_answer
from overture.core.records.serving import ErrorEvent
from overture.core.records.shares import KeptShares
from overture.server.answers import Span
from overture.server.pages.answering import cut
from overture.server.pages.site import NAV
from overture.server.security import Access, add_key, read_keys
from overture.store.explanations import explanation_path
from overture.store.manifest import BackboneRef
from overture.store.names import Ref

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


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    made = Gateway(tmp_path_factory.mktemp("pages") / "store", serves_base=True)
    made.add("movie", "names", "pair")
    with made.client(**HTML) as client:
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


@pytest.mark.parametrize("path", [*(item.path for item in NAV), "/p/movie", "/nothing"])
def test_nothing_in_a_page_runs_but_files_of_the_server(client, path):
    reply = client.get(path)
    policy = reply.headers["content-security-policy"]
    assert "default-src 'none'; script-src 'self'; style-src 'self'" in policy
    assert "unsafe" not in policy
    assert reply.headers["referrer-policy"] == "same-origin"
    assert not re.search(
        r"<style|style=|<script(?![^>]*src=)|\son\w+=|javascript:|(?:src|href|action)=.?https?:", reply.text
    )
    files = re.findall(r'(?:src|href)="(/static/[^"]+)"', reply.text)
    sizes = [len(reply.content)]
    for address in dict.fromkeys(files):
        file = client.get(address)
        assert file.status_code == 200
        assert "immutable" in file.headers["cache-control"]
        sizes.append(len(file.content))
    assert sum(sizes) <= 80_000


def test_names_are_shown_as_text(client):
    assert "&lt;b&gt;" in client.get("/?q=<b>x").text


def test_the_page_says_whether_the_model_is_ready(client, gateway):
    assert "hx-get" not in client.get("/state", headers={"hx-request": "true"}).text
    stats = gateway.engine.stats()
    gateway.engine.stats = lambda: stats.model_copy(update={"is_ready": False})
    assert "tiny is loading" in text_of(client.get("/"))
    assert 'hx-get="/state"' in client.get("/state", headers={"hx-request": "true"}).text
    gateway.engine.stats = lambda: stats.model_copy(update={"failure": "no such model"})
    assert "tiny is down" in text_of(client.get("/try"))


def test_errors_are_pages_for_browsers_and_json_for_programs(client):
    assert "Not found" in text_of(client.get("/nothing"), 404)
    assert client.get("/v1/models/nothing").json()["error"]["code"] == "model_not_found"
    assert client.get("/nothing", headers={"accept": "*/*"}).json()["error"]["code"] == "not_found"
    assert "page" in text_of(client.get("/?page=x"), 400)
    evil = text_of(client.get("/", headers={"origin": "https://evil.example"}), 403)
    assert "pages of other sites may not ask" in evil


def test_a_prompt_has_a_page_with_its_facts_and_how_to_use_it(client, gateway):
    scores = {"accuracy": {"value": 0.9, "low": 0.8, "high": 0.95, "n": 100}}
    gateway.add("movie", metrics={"test": {"scores": scores, "loss": 0.3}, "no_prompt": {"test": {"scores": scores}}})
    shown = text_of(client.get("/p/movie"))
    assert "movie@2" in shown
    assert "95% interval 0.800 to 0.950, 100 rows" in shown
    assert """-d '{"prompt": "movie@2", "inputs": ["some text"]}'""" in shown
    assert "0.900 without a prompt" in shown
    assert f"overture.load('movie@2', store='{gateway.store.root}')" in shown
    assert f"overture predict movie@2 --store {gateway.store.root} 'some text'" in shown
    assert "{text} Sentiment:" in shown
    assert "overture explain movie@2" in shown
    assert "0.900" not in text_of(client.get("/p/spam"))
    assert "did you mean movie" in text_of(client.get("/p/movi"), 404)


def test_a_prompt_shows_how_often_it_was_asked_and_how_long_it_took(client):
    for number in range(3):
        asked = {"prompt": "movie", "inputs": ["a film"], **({"top": -1} if number == 2 else {})}
        client.post("/v1/predict", json=asked)
    shown = text_of(client.get("/p/movie@1"))
    assert "Calls 2 since the server began; half of the last 2 answers took at most" in shown
    assert "Calls 0 since the server began" in text_of(client.get("/p/spam@1"))


def test_a_prompt_of_another_model_says_what_differs(client, gateway):
    gateway.add("stars", backbone=BackboneRef(**{**BACKBONE, "num_layers": 3}))
    shown = text_of(client.get("/p/stars"))
    assert "num_layers: 2, wanted 3" in shown
    assert "Use it" not in shown
    (gateway.store.prompts / "spam" / "v1" / "prompt.json").write_text("{")
    assert "JSON cannot be read" in text_of(client.get("/p/spam"))


def test_an_alias_is_moved_and_removed_by_a_form(client, gateway):
    gateway.add("movie")
    moved = client.post("/p/movie/alias", data={"alias": "prod", "version": "1"})
    assert "movie@prod is now movie@1" in text_of(moved)
    assert gateway.store.aliases("movie") == {"prod": 1}
    assert "no version" in text_of(client.post("/p/movie/alias", data={"alias": "../x", "version": "1"}), 400)
    assert client.post("/p/movie/alias", data={"alias": "prod", "version": "9"}).status_code == 404
    assert client.post("/p/movie/alias/remove", data={"alias": "2"}).status_code == 400
    assert client.post("/p/movie/alias/remove", data={"alias": "prod"}).status_code == 200
    assert gateway.store.aliases("movie") == {}
    away = {"origin": "https://evil.example"}
    assert client.post("/p/movie/alias", data={"alias": "prod", "version": "1"}, headers=away).status_code == 403


def test_an_explanation_is_shown_where_it_can_run_nothing(client, gateway):
    assert "overture explain movie" in text_of(client.get("/p/movie/explanation"), 404)
    path = explanation_path(gateway.store.root, Ref("movie", 1))
    path.parent.mkdir()
    path.write_text("<style>p {}</style><script>alert(1)</script>")
    reply = client.get("/p/movie/explanation")
    assert reply.text == path.read_text()
    policy = reply.headers["content-security-policy"]
    assert "sandbox" in policy
    assert "script-src" not in policy
    assert "/p/movie@1/explanation" in client.get("/p/movie").text
    gateway.store.remove("movie")
    assert not path.exists()


# -- playground


def test_the_playground_answers_without_a_script(client, gateway):
    form = {"prompt": ["movie", "tiny", "names"], "text": "Ada\r\nsaw it", "max_tokens": "8"}
    page = client.post("/try", data=form)
    shown = text_of(page)
    columns = [
        shown.index(part) for part in ("tiny no prompt Ada saw it", "movie@1 classification positive", "names@1")
    ]
    assert columns == sorted(columns)
    assert "positive 0.750" in shown
    assert "<mark>Ada<small>PER</small></mark>\nsaw it" in page.text
    labels, written = gateway.engine.requests[-1], gateway.engine.requests[-2]
    assert {labels.want, written.want} == {"answer", "write"}
    typed = labels if labels.want == "answer" else written
    assert (typed.prompts, typed.row) == (("movie@1", "names@1"), {"text": "Ada\nsaw it"})
    for command in ("overture predict movie@1", "/v1/predict", "/v1/completions", "overture.load"):
        assert command in shown


def test_sets_of_labels_are_shown_where_a_prompt_promises_them(client, gateway):
    def answer(prompt, request):
        sure = {"set": ["negative", "positive"]} if request.coverage == 0.95 else {}
        return {**fake_answer(prompt, request), **sure}

    gateway.engine.answer = answer
    gateway.add("movie", shares=KeptShares(source="file", num_rows=2, of_rows=2, rows="0:9000,1000;1:2000,8000"))
    assert 'name="coverage"' not in client.get("/try?prompt=spam").text
    assert 'name="coverage"' in client.get("/try?prompt=movie").text
    shown = text_of(client.post("/try", data={"prompt": ["movie", "spam"], "text": "x", "coverage": "0.95"}))
    assert shown.count("the right label is among: negative positive") == 1
    assert {(request.prompts, request.coverage) for request in gateway.engine.requests} == {
        (("movie@2",), 0.95),
        (("spam@1",), None),
    }


def test_the_playground_begins_with_two_prompts_side_by_side(client):
    chosen = re.findall(r'name="prompt" value="([^"]+)" checked', client.get("/try").text)
    assert chosen == ["tiny", "movie"]
    assert 'value="movie" checked' not in client.get("/try?prompt=spam").text


def test_the_playground_does_not_begin_with_a_prompt_of_another_model(client, gateway):
    gateway.add("movie", backbone=BackboneRef(**{**BACKBONE, "num_layers": 3}))
    page = client.get("/try").text
    assert 'value="movie"' in page
    assert re.findall(r'name="prompt" value="([^"]+)" checked', page) == ["tiny", "names"]


def test_what_the_playground_cannot_ask_it_says(client, gateway):
    gateway.add("stars", backbone=BackboneRef(**{**BACKBONE, "num_layers": 3}))
    shown = text_of(client.post("/try", data={"prompt": ["movie", "stars", "movi"], "text": "x"}))
    assert "positive" in shown
    assert "made for another model" in shown
    assert "did you mean movie" in shown
    assert "no text yet" in text_of(client.post("/try", data={"prompt": "movie", "text": " "}))
    assert "no prompt is chosen" in text_of(client.post("/try", data={"text": "x"}))
    assert "too many prompts" in text_of(client.post("/try", data={"prompt": [f"p{n}" for n in range(9)]}), 400)
    assert "cannot be read" in text_of(client.post("/try", content=b"prompt=movie&text=%ED%A0%80"), 400)
    gateway.engine.failure = ErrorEvent(id="", error="x", message="the model is busy", status=429)
    assert "the model is busy" in text_of(client.post("/try", data={"prompt": ["movie", "tiny"], "text": "x"}))


def test_templates_of_several_fields_have_a_field_each(client, gateway):
    gateway.add("pair", "talk")
    page = client.post("/try/form", data={"prompt": "pair", "text": "kept"})
    assert 'name="field.a"' in page.text
    assert 'name="text" value="kept"' in page.text
    shown = text_of(client.post("/try", data={"prompt": "pair", "field.a": "x", "field.b": "<y>"}))
    assert "pair@1 classification no" in shown
    assert gateway.engine.requests[-1].row == {"a": "x", "b": "<y>"}
    client.post("/try", data={"prompt": "talk", "text": "hello"})
    assert gateway.engine.requests[-1].row == {"messages": [{"role": "user", "content": "hello"}]}


def test_answers_are_streamed_as_parts_of_the_page(client, gateway):
    gateway.add("summary")
    form = {"prompt": ["movie", "summary"], "text": "a <b> c"}
    reply = client.post("/try", data=form, headers={"hx-request": "true"})
    assert reply.headers["content-type"].startswith("text/event-stream")
    events = [event.replace("data: ", "") for event in reply.text.strip().split("\n\n")]
    assert 'id="answer-1"' in events[0]
    grown = [event for event in events if "beforeend" in event]
    assert grown == [
        f'<hx-partial hx-target="#written-1" hx-swap="beforeend"><span>{text}</span></hx-partial>'
        for text in (" &lt;b&gt;", " c")
    ]
    assert "3 tokens written" in events[-1] or "3 tokens written" in events[-2]
    assert not gateway.engine.running


def test_text_is_cut_at_spans_that_do_not_overlap():
    spans = [Span(label="B", start=4, end=6), Span(label="A", start=0, end=3), Span(label="C", start=5, end=7)]
    assert cut("Ada saw", spans) == [("Ada", "A"), (" ", ""), ("sa", "B"), ("w", "")]
    assert cut(["Ada", "saw"], [Span(label="A", start=0, end=1)]) == [("Ada ", "A"), ("saw ", "")]
    assert cut(None, spans) == []


@settings(max_examples=60, deadline=None)
@given(
    path=st.sampled_from(
        ["/try", "/try/form", "/enter", "/p/movie/alias", "/p/movie/alias/remove", "/p/nothing/alias"]
    ),
    pairs=st.lists(
        st.tuples(
            st.sampled_from(
                ["prompt", "text", "add", "alias", "version", "key", "max_tokens", "coverage", "field.a", "x"]
            ),
            st.one_of(st.sampled_from(["movie", "names", "1", "0.9", "tiny", "@", "movie@1@2"]), st.text(max_size=8)),
        ),
        max_size=6,
    ),
    tail=st.one_of(st.just(b""), st.binary(max_size=6)),
)
def test_no_form_breaks_a_page(shared, path, pairs, tail):
    body = urlencode(pairs, errors="ignore").encode() + tail
    assert shared.post(path, content=body, headers={"origin": "http://127.0.0.1:8000"}).status_code < 500


def test_a_failure_within_an_answer_ends_the_page(client, gateway):
    def answer(prompt, request):
        raise RuntimeError("a bug")

    gateway.engine.answer = answer
    assert "its log has the reason" in text_of(client.post("/try", data={"prompt": "movie", "text": "x"}), 500)


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
        shown = text_of(client.get("/"), 401)
        assert "needs a key" in shown
        assert "Sign out" not in shown
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
        wrong = client.post("/enter", data={"key": "wrong", "next_path": "/p/movie"}, headers=page)
        assert "not a key" in text_of(wrong, 401)
        assert 'name="next_path" value="/p/movie"' in wrong.text
        away = {"key": secrets["app"], "next_path": "//evil.example/"}
        assert client.post("/enter", data=away, headers=page, follow_redirects=False).headers["location"] == "/"
        shown = client.post("/enter", data={"key": secrets["app"], "next_path": "/?q=m"}, headers=page)
        assert shown.url.query == b"q=m"
        assert "movie@1" in shown.text
        assert "spam@1" not in client.get("/").text
        assert "Sign out" in client.get("/").text
        assert client.get("/p/spam").status_code == 404
        assert "/p/movie/alias" not in client.get("/p/movie").text
        assert client.post("/p/movie/alias", data={"alias": "x", "version": 1}, headers=page).status_code == 403
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
