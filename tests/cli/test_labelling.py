"""The learner of a labelling session: it reads once, learns when labels come, and stores its prompt when asked."""

import json
from pathlib import Path

from moods import rows_of

from overture.evaluate.host import Host
from overture.jobs.label.process import SessionLearner, run
from overture.jobs.label.session import KEEP, Session, new_session
from overture.store.artifact import read_manifest
from overture.store.store import Store


def test_a_session_is_learnt_while_it_is_labelled(tuned):
    store = Store(Path(tuned["folder"]).parents[2])
    rows = [{"text": row["text"]} for row in rows_of(40)]
    gold = {row["text"]: row["label"] for row in rows_of(40)}
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    session = new_session(store, "moods", "mood", Path("rows.jsonl"))
    learner = SessionLearner(session, Host(store=store))
    learner.begin()
    learnt = session.learnt()
    assert (learnt.state, len(learnt.rounds)) == ("waiting", 1)
    assert set(learnt.rounds[0].said) == session.apart
    assert len(learnt.queue) == 24
    assert not set(learnt.queue) & session.apart
    assert not learner.step(), "there are no labels"
    for _ in range(12):
        index = session.next_row()
        session.give(index, gold[session.rows[index].fields["text"]])
    assert learner.step()
    assert not learner.step(), "nothing is new"
    learnt = Session(store, "moods").learnt()
    assert [training.num_labels for training in learnt.rounds] == [0, len(session.teaching())]
    assert not set(learnt.queue) & set(session.labels())
    assert [point.score.n for point in session.curve()] == [len(session.testing())] * 2
    (session.folder / KEEP).touch()
    assert learner.step()
    assert session.learnt().kept_as == "mood@2"
    manifest = read_manifest(store.get("mood@2"))
    assert manifest.lineage.train_rows == len(session.teaching())
    assert manifest.metrics.test["accuracy"].value == session.curve()[-1].score.value
    assert (manifest.shares.num_rows, manifest.shares.source) == (len(session.testing()), "file")
    said = (
        Host(store=store)
        .open(store.get("mood@2"))
        .predict([session.rows[index].fields["text"] for index in sorted(session.apart)])
    )
    assert [prediction.text for prediction in said] == [learnt.rounds[1].said[index] for index in sorted(session.apart)]
    # Another process goes on where this one ended.
    run(store, "moods", is_over=lambda: True)
    assert [training.num_labels for training in session.learnt().rounds] == [0, len(session.teaching())]
