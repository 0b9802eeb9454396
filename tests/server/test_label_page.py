"""Label and learn: a key labels a row, every label is on the disk, the curve grows, a restart goes on."""

import json

import pytest

from browser import findings
from overture.core.records.label import Learnt, LearntRound
from overture.jobs.label.session import Session, new_session
from overture.server.pages import label

TEXTS = [f"film number {number} is {'good' if number % 3 else 'bad'}" for number in range(40)]


@pytest.fixture(autouse=True)
def started(monkeypatch):
    """No process learns; the names of the sessions whose learner was started."""
    names = []
    monkeypatch.setattr(label.Learners, "start", lambda self, name: names.append(name))
    return names


def begun(gateway, name="reviews"):
    gateway.add("movie")
    source = gateway.store.root / "rows" / "films.jsonl"
    source.parent.mkdir(exist_ok=True)
    source.write_text("".join(json.dumps({"text": text, "id": number}) + "\n" for number, text in enumerate(TEXTS)))
    return new_session(gateway.store, name, "movie", source)


def learn(session, labels=8):
    """What a learner would write: the stored prompt is wrong everywhere, the new one right."""
    apart = sorted(session.apart)
    rounds = [(0, "negative"), (labels, "positive")]
    session.write_learnt(
        Learnt(
            state="waiting",
            rounds=[LearntRound(num_labels=count, said=dict.fromkeys(apart, said)) for count, said in rounds],
            queue=[index for index in range(39, -1, -1) if index not in session.apart],
        )
    )


def test_keys_label_rows_and_the_curve_grows(page_gateway, visit, started):
    gateway = page_gateway()
    session = begun(gateway)
    with visit(gateway, "/label/reviews") as page:
        assert findings(page) == []
        for count in range(1, 13):
            before = page.inner_text("#desk .text")
            page.keyboard.press("2" if count != 5 else "s")
            # A key that is pressed while the page waits for its next row is not heard.
            page.wait_for_selector(f"#desk .text:text-is({before!r})", state="detached")
            shown = count - (count >= 5)
            page.wait_for_selector(f"#desk .note:has-text('{shown} labelled')")
            assert len(Session(gateway.store, "reviews").labels()) == count
        page.keyboard.press("z")
        page.wait_for_selector("#desk .note:has-text('10 labelled')")
        assert len(session.labels()) == 11
        assert 2 <= len(session.testing()) <= 4
        learn(session)
        # The first chart is drawn by libraries that take seconds to import where others work.
        page.wait_for_selector("#panel .big:has-text('100%')", timeout=30_000)
        page.wait_for_selector("#panel svg")
        assert findings(page) == []
    assert started[0] == "reviews"


def test_a_session_begins_with_pasted_rows_and_goes_on_after_a_restart(page_gateway, visit):
    gateway = page_gateway()
    gateway.add("movie", "pair")
    with visit(gateway, "/label", size="phone", color_scheme="dark") as page:
        assert findings(page) == []
        page.fill("#name", "pasted")
        page.fill("#prompt", "movie")
        page.fill("#pasted", "\n".join(TEXTS))
        page.click("text=Begin >> nth=-1")
        page.wait_for_selector("#desk .text")
        assert findings(page) == []
        page.click("button[value=positive]")
        page.wait_for_selector("#desk .note:has-text('1 labelled')")
        shown = page.text_content("#desk .text")
    again = page_gateway()
    with visit(again, "/label/pasted", java_script_enabled=False) as page:
        assert page.text_content("#desk .text") == shown
        page.click("button[value=negative]")
        page.wait_for_selector("#desk .note:has-text('2 labelled')")
    labels = Session(again.store, "pasted").labels()
    assert list(labels.values()) == ["positive", "negative"]


def test_labels_come_back_as_a_table(page_gateway):
    gateway = page_gateway()
    session = begun(gateway)
    session.give(session.next_row(), "positive")
    with gateway.client() as client:
        text = client.get("/label/reviews/labels.csv").text.splitlines()
        assert text[0] == "text,id,label,chosen_by"
        assert len(text) == 2
        for fields in ({"row": "3"}, {"row": "3", "label": "none such"}, {"row": "999", "label": "positive"}):
            assert client.post("/label/reviews", data=fields).status_code in (400, 422)
        assert client.get("/label/none").status_code == 404
        for name, file in (("../x", "films.jsonl"), ("x", "../prompts"), ("reviews", "films.jsonl")):
            refused = client.post("/label", data={"name": name, "prompt": "movie", "file": file})
            assert refused.status_code >= 400
    assert len(session.labels()) == 1


def test_rows_kept_apart_come_in_their_share_and_teach_nothing(page_gateway):
    session = begun(page_gateway())
    learn(session)
    for _ in range(len(TEXTS)):
        session.give(session.next_row(), "positive")
    assert session.next_row() is None
    order = list(session.labels())
    assert sorted(order) == list(range(40))
    num_apart = [sum(index in session.apart for index in order[:count]) for count in (10, 20, 30)]
    wanted = [min(count, len(session.apart)) for count in (2, 4, 6)]
    assert all(abs(found - least) <= 1 for found, least in zip(num_apart, wanted, strict=True))
    assert not set(session.teaching()) & session.apart
    assert next(index for index in order if index not in session.apart) == max(set(range(40)) - session.apart)
    assert [point.score.value for point in session.curve()] == [0.0, 1.0]
