"""What a worker holds and how long it makes others wait: slots, memory, pieces of long texts, two lanes."""

from itertools import pairwise

import pytest
from kind_samples import SAMPLES, task_of
from test_host import make_task, stored
from test_worker import assert_alike, finished, request_of, worker_of

from fakes import backbone_of
from overture.core.records.prompt import TextPrompt
from overture.core.records.serving import Command, Request, WorkerOptions
from overture.engine import slots
from overture.engine.lora import LoraOptions
from overture.engine.slots import Slots
from overture.evaluate.host import Ask, Host
from overture.server.worker import Worker
from overture.store.artifact import read_manifest, save_artifact


def test_answers_wait_for_memory(tmp_path):
    host = Host(backbone_of("llama"))
    task = task_of(SAMPLES["generation"], max_new_tokens=20)
    ask = Ask(host.open(stored(tmp_path / "p", "llama", task)), SAMPLES["generation"].rows[0])
    worker = worker_of(host, slot_bytes=2 * Slots.bytes_of(host.backbone, 100))
    most = 0
    for number in range(8):
        worker.do(Command(do="ask", id=str(number), request=request_of(number, ask, want="write")))
    while not worker.is_idle:
        worker.step()
        stats = worker.report().stats
        most = max(most, stats.slots)
        assert stats.slot_bytes <= worker.options.slot_bytes
    assert most == 2
    # One that is larger than all of it is written alone.
    (events,) = finished(worker_of(host, slot_bytes=0), [request_of(9, ask, want="write")]).values()
    assert events[-1].kind == "done"


def test_one_long_answer_takes_one_slot(tmp_path, monkeypatch):
    monkeypatch.setattr(slots, "_SHORTEST", 8)
    host = Host(backbone_of("llama"))
    task = task_of(SAMPLES["generation"], max_new_tokens=20)
    ask = Ask(host.open(stored(tmp_path / "p", "llama", task)), SAMPLES["generation"].rows[0])
    worker = worker_of(host)
    worker.do(Command(do="ask", id="0", request=request_of(0, ask, want="write")))
    worker.step()
    stats = worker.report().stats
    assert (stats.slots, stats.slot_bytes) == (1, Slots.bytes_of(host.backbone, 33))


def test_every_open_prompt_counts_as_memory(tmp_path):
    host = Host(backbone_of("llama"))
    folder = stored(tmp_path / "words", "llama", make_task())
    words = read_manifest(folder).model_copy(update={"text": TextPrompt(), "length": 0})
    save_artifact(tmp_path / "no words", words, {})
    folders = [tmp_path / "no words", stored(tmp_path / "rows", "llama", make_task(), "idpg", "after")]
    for number, path in enumerate(folders):
        worker = worker_of(host, prompt_bytes=1)
        for name in (folder, path):
            worker.do(Command(do="load", id=f"{number}", text=str(name)))
        closed = worker.prompts.num_bytes
        worker.do(Command(do="unload", id="other", text=str(folder)))
        assert (len(worker.prompts), worker.prompts.num_bytes) == (1, closed)
        assert closed > 500


def test_prompts_are_closed_when_their_memory_is_needed(tmp_path):
    host = Host(backbone_of("llama"))
    folders = [stored(tmp_path / str(n), "llama", make_task(), seed=n) for n in range(4)]
    asks = [Ask(host.open(folder), "fine") for folder in folders]
    worker = worker_of(Host(backbone_of("llama")), prompt_bytes=1)
    events = finished(worker, [request_of(number, ask) for number, ask in enumerate([*asks, *asks])])
    assert all(of_request[-1].kind == "done" for of_request in events.values())
    assert worker.report().stats.prompts == 1
    worker.do(Command(do="unload", id="u", text=str(folders[-1])))
    worker.do(Command(do="load", id="l", text=str(tmp_path / "none")))
    worker.do(Command(do="tokenize", id="t", text="ab"))
    report = worker.report()
    assert report.stats.prompts == 0
    assert [outcome.error is None for outcome in report.outcomes] == [True, False, True]
    assert len(report.outcomes[2].tokens) > 0


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3_text"])
def test_a_long_text_is_read_in_pieces_while_others_write(tmp_path, family):
    host = Host(backbone_of(family))
    task = task_of(SAMPLES["generation"], max_new_tokens=40)
    short = Ask(host.open(stored(tmp_path / "short", family, task, "prefix", "memory")), SAMPLES["generation"].rows[0])
    text = "a long text " * 12
    asks = []
    behind = LoraOptions(rank=2, place="after")
    prompts = [("prefix", "after", None), ("prefix", "memory", None), ("vectors", "before", None)]
    for number, (method, place, adapter) in enumerate([("prefix", "after", behind), *prompts]):
        label = host.open(stored(tmp_path / f"label{number}", family, make_task(), method, place, adapter=adapter))
        free = task_of(SAMPLES["generation"], template="{text}", max_new_tokens=5)
        folder = stored(tmp_path / f"free{number}", family, free, method, place, adapter=adapter)
        asks += [Ask(label, text), Ask(host.open(folder), text)]
    wanted = host.answer([short, *asks])
    # Pieces of 16 tokens.
    worker = Worker(Host(backbone_of(family)), WorkerOptions(store="store", step_s=0.01), tokens_per_s=400.0)
    requests = [request_of(0, short, want="write")]
    requests += [
        request_of(n, ask, want="write" if n % 2 == 0 else "answer", temperature=0.0 if n % 2 == 0 else None)
        for n, ask in enumerate(asks, 1)
    ]
    worker.do(Command(do="ask", id="0", request=requests[0]))
    worker.step()
    for request in requests[1:]:
        worker.do(Command(do="ask", id=request.id, request=request))
    events, num_steps = {request.id: [] for request in requests}, 0
    while not worker.is_idle:
        num_steps += 1
        worker.step()
        reported = worker.report().events
        for event in reported:
            events[event.id].append(event)
        # The short answer grows at every step, whatever is read beside it.
        assert any(event.id == "0" for event in reported) or events["0"][-1].kind == "done"
    assert num_steps > 20
    for request, ask, reply in zip(requests[1:], asks, wanted[1:], strict=True):
        assert events[request.id][-1].kind == "done", events[request.id]
        if request.want == "answer":
            shown = ask.handle.task.spec.shown(ask.handle.task, reply.result())
            assert_alike(events[request.id][0].answers[request.prompts[0]], shown)
        else:
            assert "".join(event.text for event in events[request.id][:-1]) == reply.result().text


def test_a_long_text_that_nobody_waits_for_is_read_no_further(tmp_path):
    worker = Worker(Host(backbone_of("llama")), WorkerOptions(store="store", step_s=0.01), tokens_per_s=400.0)
    worker.do(Command(do="ask", id="0", request=Request(id="0", prompts=("",), row={"text": "a " * 90}, want="write")))
    worker.step()
    assert not worker.is_idle
    worker.do(Command(do="cancel", id="0"))
    assert worker.is_idle


def test_an_adapter_counts_as_memory_of_its_prompt(tmp_path):
    task = task_of(SAMPLES["generation"])
    folders = [str(stored(tmp_path / str(n), "llama", task, adapter=LoraOptions(rank=2))) for n in range(2)]
    host = Host(backbone_of("llama"))
    num_bytes = sum(tensor.nbytes for tensor in host.open(folders[0]).prompt.tensors().values())
    worker = worker_of(host, prompt_bytes=2 * num_bytes)
    for folder in folders:
        worker.do(Command(do="load", id=folder, text=folder))
    assert worker.report().stats.prompts == 1


def test_it_tells_which_answers_it_has_begun(tmp_path):
    host = Host(backbone_of("llama"))
    folder = stored(tmp_path / "p", "llama", task_of(SAMPLES["generation"], max_new_tokens=4))
    worker = Worker(host, WorkerOptions(store="store", slots=1), 400.0)
    for number in range(2):
        ask = Ask(host.open(folder), SAMPLES["generation"].rows[0])
        worker.do(Command(do="ask", id=str(number), request=request_of(number, ask, want="write")))
    begun = []
    while not worker.is_idle:
        worker.step()
        assert worker.has_news
        begun.append(worker.report().begun)
    assert not worker.has_news
    # The second has to wait for the slot of the first.
    assert begun[0] == ("0",)
    assert [told for told in begun if told] == [("0",), ("1",)]


def test_both_lanes_share_the_time_between_two_tokens(tmp_path):
    host = Host(backbone_of("llama"))
    free = task_of(SAMPLES["generation"], max_new_tokens=40)
    write = Ask(host.open(stored(tmp_path / "free", "llama", free)), SAMPLES["generation"].rows[0])
    label = Ask(host.open(stored(tmp_path / "label", "llama", make_task())), "a text")
    # Time for a single token: in each step one question is read, in turn of either kind.
    worker = Worker(Host(backbone_of("llama")), WorkerOptions(store="store", step_s=0.25), tokens_per_s=4.0)
    worker.do(Command(do="ask", id="0", request=request_of(0, write, want="write")))
    worker.step()
    worker.tokens_per_s = 4.0
    for number in range(1, 9):
        request = request_of(number, write if number % 2 else label, want="write" if number % 2 else "answer")
        worker.do(Command(do="ask", id=request.id, request=request))
    begun: list[set[str]] = []
    seen = {"0"}
    worker.report()
    for _ in range(8):
        worker.step()
        worker.tokens_per_s = 4.0
        new = {event.id for event in worker.report().events} - seen
        seen |= new
        begun.append(new)
    assert all(len(new) == 1 for new in begun)
    kinds = [int(*new) % 2 for new in begun]
    assert all(a != b for a, b in pairwise(kinds))
