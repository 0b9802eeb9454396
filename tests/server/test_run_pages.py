"""The pages of runs and comparisons as HTML: how a run stands, what starts and stops it, who may do that."""

import json
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from html import unescape

import httpx2 as httpx
import pytest

from compare_cells import cells_of, summed
from gateway import Gateway, served
from overture.cli.compare import command as compare_command
from overture.cli.search import search_command
from overture.cli.tune import tune_command
from overture.core.files import exclusive
from overture.server.launch import Launcher
from overture.server.pages.forms import VERBS, settings_for
from overture.server.pages.lines import Line, line_chart, thinned, ticks
from overture.server.security import Access, add_key, read_keys
from overture.store.runs import Run
from run_folders import add_epoch, add_run, write_json

HEADERS = {"accept": "text/html", "origin": "http://127.0.0.1:8000"}
TASK = """
name: mood
data: {path: rows.jsonl, validation_share: 0.2}
template: "{text}:"
labels: {good: " good", bad: " bad"}
"""


@pytest.fixture
def root(tmp_path, monkeypatch):
    """The store beside a task file, in the working folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "task.yaml").write_text(TASK)
    rows = [{"text": f"row {n}", "label": ("good", "bad")[n % 2]} for n in range(20)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "store"


@pytest.fixture
def client(root):
    with Gateway(root).client(**HEADERS) as client:
        client.follow_redirects = False
        yield client


def text_of(reply, status=200):
    assert reply.status_code == status, reply.text
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", reply.text)).split())


def test_runs_are_listed_with_how_they_stand(client, root):
    assert "Nothing was tuned" in text_of(client.get("/runs"))
    add_run(root)
    held = add_run(root, state="running")
    add_run(root, state="stopped")
    add_run(root, state="running")
    (root / "runs" / "mood-3" / "result.json").unlink(missing_ok=True)
    with exclusive(held.folder / ".lock", "to test"):
        page = client.get("/runs")
        shown = text_of(page)
    states = re.findall(r"mood-\d (?:stored as mood@1 )?(\w+)", shown)
    assert states == ["killed", "stopped", "running", "finished"]
    assert "0.875 accuracy, 0.830 to 0.910, n = 200" in shown
    assert 'hx-trigger="every 4s"' in page.text
    assert "every" not in client.get("/runs").text


def test_a_run_that_goes_on_shows_its_losses_and_its_end(client, root):
    run = add_run(root, state="running", epochs=4)
    with exclusive(run.folder / ".lock", "to test"):
        page = client.get("/runs/mood-1")
        part = client.get("/runs/mood-1", headers={"hx-request": "true"}).text
    shown = text_of(page)
    assert "step 2 of 2 of the plan" in shown
    assert re.search(r"about \d+ s left in all", shown)
    assert 'hx-sse:connect="/runs/mood-1/live"' in page.text
    assert part.strip().startswith('<div class="head">')
    # A thin line for the steps and one for the epochs of each seed, in two widths; scores likewise.
    assert page.text.count("<polyline") == 2 * (2 * 2 + 2)
    assert "stopped_too_soon" not in page.text
    assert "Stop" in shown
    assert "Resume" not in shown
    assert "What it answers now" in shown
    assert "a <fine> day good is right good 91%, epoch 4 good 91%, epoch 4 no fun at all" in shown
    assert 'class="wrong"' not in page.text
    after = text_of(client.get("/runs/mood-1"))
    assert "Resume" in after
    assert "the run was interrupted" in after
    assert "the validation loss still fell" not in after


def test_a_run_is_followed_by_events_until_its_end(client, root):
    run = add_run(root, state="running", epochs=2)
    with ThreadPoolExecutor(1) as pool:
        with exclusive(run.folder / ".lock", "to test"):
            coming = pool.submit(client.get, "/runs/mood-1/live")
            time.sleep(1.0)
            add_epoch(run)
            time.sleep(1.0)
        reply = coming.result(timeout=20)
    assert reply.headers["content-type"].startswith("text/event-stream")
    *parts, end = reply.text.strip().split("\n\n")
    assert end == "event: end\ndata: end"
    assert ("Stop" in parts[0], "Resume" in parts[0]) == (True, False)
    assert "Resume" in parts[-1]
    # What was written meanwhile came before the end.
    assert len(parts) >= 3
    assert parts[0].count(" of 6</td>") < parts[1].count(" of 6</td>")


def test_streams_of_pages_end_with_the_server(root):
    run = add_run(root, state="running")
    with exclusive(run.folder / ".lock", "to test"), httpx.Client(timeout=20) as client:
        with served(Gateway(root).app, 8.0) as port:
            coming = client.stream("GET", f"http://127.0.0.1:{port}/runs/mood-1/live")
            reply = coming.__enter__()
            assert next(reply.iter_lines()).startswith("data: ")
            stopped = time.monotonic()
        assert time.monotonic() - stopped < 5
        coming.__exit__(None, None, None)


def test_a_finished_run_shows_its_score_and_what_is_wrong(client, root, monkeypatch):
    monkeypatch.setattr("overture.report.charts.svg_of", lambda chart: "<svg></svg>")
    monkeypatch.setattr("overture.report.run_page.png_of", lambda chart: b"")
    add_run(root)
    shown = text_of(client.get("/runs/mood-1"))
    assert "0.875 accuracy on 200 test rows 95% interval 0.830 to 0.910" in shown
    assert "not my <cup> of tea" in shown
    assert "bad was right, good was answered (97% sure)" in shown
    report = client.get("/runs/mood-1/report")
    assert report.headers["content-security-policy"].endswith("sandbox")
    write_json(root / "runs" / "mood-1" / "result.json", {"status": "finished"})
    assert "TuneResult of this version" in text_of(client.get("/runs/mood-1"))
    assert client.get("/runs/none-1").status_code == 404
    assert client.get("/runs/..%2Fmood-1").status_code == 404


def test_a_run_is_stopped_as_by_ctrl_c(client, root):
    run = add_run(root, state="running")
    assert "not running" in text_of(client.post("/runs/mood-1/stop"), 409)
    code = (
        "import sys, signal, time; from pathlib import Path; from overture.core.files import exclusive\n"
        "def stop(*_): print('asked', flush=True); sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, stop)\n"
        "with exclusive(Path(sys.argv[1]), 'x'): print('held', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(run.folder / ".lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        status = json.loads((run.folder / "status.json").read_text())
        write_json(run.folder / "status.json", status | {"pid": process.pid})
        assert client.post("/runs/mood-1/stop").status_code == 303
        assert process.stdout.readline() == "asked\n"


def test_the_form_is_made_of_the_options_and_shows_its_command(client, root):
    page = client.get("/runs/new").text
    assert 'name="train.weight_decay"' in page
    assert '<option value="prefix">' in page
    assert "data.path" not in page
    filled = {"task": "task.yaml", "train.lr": "0.5", "train.patience": "2", "seeds": ""}
    part = client.post("/runs/new", data={**filled, "action": "show"}, headers={"hx-request": "true"})
    assert "overture tune task.yaml --lr 0.5 --set train.patience=2" in text_of(part)
    assert "all settings are right" in text_of(client.post("/runs/new", data=filled))
    wrong = text_of(client.post("/runs/new", data={**filled, "train.lr": "fast", "action": "start"}), 400)
    assert "train.lr" in wrong
    assert "no such field" in text_of(client.post("/runs/new", data={**filled, "data.path": "/etc/passwd"}), 400)
    assert "no such task file" in text_of(client.post("/runs/new", data={"task": "/etc/hosts"}), 400)


@pytest.mark.parametrize("verb", VERBS)
def test_flags_of_a_form_are_those_of_its_command(verb):
    command = {"tune": tune_command, "search": search_command, "compare": compare_command}[verb]
    names = {flag.path: flag.parameter.annotation.__metadata__[0].default for flag in command.flags}
    assert dict(VERBS[verb].flags).items() <= names.items()
    assert set(VERBS[verb].chief) <= set(settings_for(verb))


def test_a_search_and_a_comparison_are_started_like_a_run(client, root, monkeypatch):
    assert 'name="search.place"' in client.get("/runs/new?do=search").text
    asked = {"task": "task.yaml", "do": "search", "search.place": "after, memory", "search.tunes": "3"}
    part = client.post("/runs/new", data={**asked, "action": "show"}, headers={"hx-request": "true"})
    assert "overture search task.yaml --place after --place memory --tunes 3" in text_of(part)
    assert "all settings are right" in text_of(client.post("/runs/new", data=asked))
    assert "search.place" in text_of(client.post("/runs/new", data={**asked, "search.place": "behind"}), 400)
    assert "no such field" in text_of(client.post("/runs/new", data={**asked, "hard.sources": "url:x"}), 400)

    page = client.get("/runs/new?do=compare&task=task.yaml").text
    assert 'name="ways"' in page
    assert 'name="unrelated"' not in page
    asked = {"task": "task.yaml", "do": "compare", "ways": "no-prompt, lora", "sizes": "8,16", "is_rate_tuned": "false"}
    assert "is_rate_tuned" in page
    shown = text_of(client.post("/runs/new", data={**asked, "action": "show"}))
    assert "overture compare task.yaml --way no-prompt --way lora --size 8 --size 16 --default-rates" in shown
    assert "all settings are right" in text_of(client.post("/runs/new", data=asked))
    assert "wizardry" in text_of(client.post("/runs/new", data={**asked, "ways": "wizardry"}), 400)

    popen, processes = subprocess.Popen, []

    def sleeping(words, **more):
        processes.append(popen([words[0], "-c", "print('cell 1'); input()"], **{**more, "stdin": subprocess.PIPE}))
        return processes[0]

    monkeypatch.setattr(subprocess, "Popen", sleeping)
    started = client.post("/runs/new", data={**asked, "action": "start"}).headers["location"]
    assert "Comparing" in text_of(client.get(started))
    (root.parent / "compare-mood").mkdir()
    shares = {"no-prompt": 0.5, "lora": 0.82}
    write_json(root.parent / "compare-mood" / "result.json", summed(cells_of(shares), list(shares)).dump())
    # What an earlier comparison has left is not the result.
    assert "Comparing" in text_of(client.get(started))
    processes[0].stdin.close()
    processes[0].wait()
    assert client.get(started).headers["location"] == "/compare/compare-mood"


def test_a_run_is_a_process_of_its_own_that_keeps_its_output(client, root, monkeypatch):
    """The program is a stand-in that makes a run's folder, as `overture tune` does."""
    code = (
        "import os, sys; sys.path[:0] = " + repr(sys.path) + "\n"
        "from pathlib import Path; from run_folders import add_run\n"
        "print('training', sys.argv[1:4], flush=True)\n"
        "add_run(Path(sys.argv[sys.argv.index('--store') + 1]), 'other')\n"
        "assert os.getsid(0) == os.getpid()"
    )
    popen = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda words, **more: popen([words[0], "-c", code, *words[3:]], **more))
    reply = client.post("/runs/new", data={"task": "task.yaml", "prompt.length": "3", "action": "start"})
    started = reply.headers["location"]
    for _ in range(200):
        reply = client.get(started)
        if reply.status_code == 303:
            break
        assert "Starting" in reply.text
        time.sleep(0.05)
    assert reply.headers["location"] == "/runs/other-1"
    shown = text_of(client.get("/runs/other-1"))
    assert "overture tune task.yaml --length 3" in shown
    assert "training ['tune', 'task.yaml', '--length']" in shown
    assert list((root / "started").iterdir()) == []


def test_a_run_that_is_taken_up_again_is_followed_from_the_start(client, root, monkeypatch):
    """Until its process holds it, the run still looks stopped; the page must ask again all the same."""
    add_run(root, state="stopped")
    popen, processes = subprocess.Popen, []

    def sleeping(words, **more):
        processes.append(popen([words[0], "-c", "import time; time.sleep(60)"], **more))
        return processes[0]

    monkeypatch.setattr(subprocess, "Popen", sleeping)
    assert client.post("/runs/mood-1/resume").status_code == 303
    page = client.get("/runs/mood-1")
    assert "Going on" in text_of(page)
    assert 'hx-sse:connect="/runs/mood-1/live"' in page.text
    assert "Resume" not in text_of(page)
    processes[0].kill()
    processes[0].wait()
    assert "Resume" in text_of(client.get("/runs/mood-1"))


def test_what_does_not_start_says_why_and_too_many_are_refused(root, monkeypatch):
    launcher, popen = Launcher(root), subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda words, **more: popen([words[0], "-c", "exit('no model')"], **more))
    start = launcher.start(["tune", "task.yaml"])
    launcher._processes[start].wait()
    assert (launcher.run_of(start), launcher.is_alive(start)) == (None, False)
    assert launcher.output(start).strip() == "no model"
    monkeypatch.setattr(
        subprocess, "Popen", lambda words, **more: popen([words[0], "-c", "import time; time.sleep(60)"], **more)
    )
    starts = [launcher.start(["tune"]), launcher.start(["tune"])]
    with pytest.raises(Exception, match="too many runs"):
        launcher.start(["tune"])
    run = add_run(root, state="stopped")
    with pytest.raises(Exception, match="too many runs"):
        launcher.resume(Run(run.folder))
    for name in starts:
        launcher._processes[name].send_signal(signal.SIGKILL)
        launcher._processes[name].wait()
    launcher.resume(Run(run.folder))
    launcher._processes["mood-1"].kill()
    launcher._processes["mood-1"].wait()


def test_only_admins_start_runs_and_only_keys_of_all_prompts_see_them(root, tmp_path):
    add_run(root)
    keys = tmp_path / "keys.json"
    secret = add_key(keys, "asker", "predict")
    gateway = Gateway(root, access=Access(keys=read_keys(keys)))
    with gateway.client(**HEADERS, authorization=f"Bearer {secret}") as client:
        shown = client.get("/runs").text
        assert "mood-1" in shown
        assert "New run" not in shown
        for path in ("/runs/new", "/runs/mood-1/stop", "/runs/mood-1/resume"):
            assert client.post(path).status_code == 403
        assert client.get("/runs/new").status_code == 403
    few = read_keys(keys)[0].model_copy(update={"prompts": ("movie",)})
    with Gateway(root, access=Access(keys=(few,))).client(**HEADERS, authorization=f"Bearer {secret}") as client:
        for path in ("/runs", "/runs/mood-1", "/compare"):
            assert client.get(path).status_code == 403


def test_comparisons_are_listed_and_shown(client, root, monkeypatch):
    monkeypatch.setattr("overture.report.charts.svg_of", lambda chart: "<svg></svg>")
    assert "no comparisons" in text_of(client.get("/compare"))
    folder = root.parent / "compare-mood"
    (folder / "cells").mkdir(parents=True)
    (folder / "cells" / "x.json").write_text("{}")
    assert "not finished 1 cell measured" in text_of(client.get("/compare"))
    shares = {"no-prompt": 0.5, "prefix-after": 0.8, "lora": 0.82}
    result = summed(cells_of(shares), list(shares))
    write_json(folder / "result.json", result.dump())
    assert "mood compare-mood lora" in text_of(client.get("/compare"))
    shown = text_of(client.get("/compare/compare-mood"))
    assert result.advice.what in shown
    for pair in result.against:
        assert f"{pair.way} {pair.verdict} {100 * pair.difference.value:+.1f}" in shown
    part = client.get("/compare/compare-mood?right=lora&wrong=no-prompt", headers={"hx-request": "true"}).text
    assert part.strip().startswith('<div id="disputed"')
    right_ways = [{answer.way for answer in row.answers if answer.is_right} for row in result.disagreement.rows]
    fitting = sum("lora" in ways and "no-prompt" not in ways for ways in right_ways)
    assert 0 < fitting < len(right_ways)
    assert part.count('<td class="row-text">') == fitting
    assert client.get("/compare/compare-mood/report").status_code == 200
    assert client.get("/compare/none").status_code == 404
    (folder / "result.json").write_text("{")
    assert "cannot be read" in text_of(client.get("/compare"))


def test_ticks_are_round_and_long_lines_are_thinned():
    assert ticks(0.13, 0.87, 4) == [0.2, 0.4, 0.6, 0.8]
    assert ticks(0, 3, 6, least=1.0) == [0, 1, 2, 3]
    assert ticks(2, 2, 4) == [2]
    points = [(float(n), float(n % 2)) for n in range(1000)]
    thin = thinned(points)
    assert len(thin) <= 240
    assert thin[-1][0] == 999
    assert line_chart([Line("a", 0, [])], "x", "y", "nothing") is None
    assert "&lt;b&gt;" in line_chart([Line("a", 0, [(1, 2)])], "<b>", "y", "one point")


def test_validation_losses_stay_in_the_chart_when_training_losses_fall_to_zero():
    steps = Line("training", 0, [(x / 10, 1 / (x + 1) ** 3) for x in range(50)], is_faint=True)
    epochs = Line("validation", 0, [(1, 0.5), (2, 0.6), (3, 0.7)])
    chart = line_chart([steps, epochs], "epoch", "loss", "losses")
    heights = re.findall(r'<circle class="s0" cx="[\d.]+" cy="([\d.]+)"', chart)
    assert len(set(heights)) == 3
