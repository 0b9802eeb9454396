"""Proposers give candidates that can be scored; those with another model end with a reason, whatever it answers."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from fakes import CHAT, backbone_of, make_inner_tokenizer, make_model
from overture.core.errors import BackboneError, ConfigError, DataError, OvertureError
from overture.core.records.hard import Candidate, Standing
from overture.core.seeds import named_random
from overture.engine.frontends.text import text_backbone
from overture.engine.tokenizer import Tokenizer
from overture.hard.proposer import Ask, WrongRow
from overture.hard.proposers.file import read_wordings
from overture.hard.proposers.registry import DEFAULTS, STAGES, check_source, proposer_of
from overture.hard.proposers.url import KEY, Url
from overture.hard.scorer import Refused, TextScorer
from text_prompts import TEXTS, scorer_of


def ask_of(scorer: TextScorer, *candidates: Candidate, count: int = 12) -> Ask:
    best = [Standing(candidate=candidate, log_likelihood=-1.0, rows=4) for candidate in candidates]
    wrong = [WrongRow(TEXTS[0], "good", "bad")]
    return Ask(scorer, best, wrong, count, named_random(0, "test"))


LEADER = Candidate(text="\nWhat is the mood of it?", shots=[0, 1])


@pytest.mark.parametrize("name", DEFAULTS)
def test_proposals_can_be_scored_and_repeat_by_seed(name):
    # The tiny tokenizer has no token of a space and a letter, so label words stand without one.
    scorer = scorer_of("llama", labels={"good": "ab", "bad": "ec"})
    leaders = [LEADER, Candidate(text="\nWell then?"), Candidate()]
    for leader in (leaders, leaders[1:], leaders[2:]):
        proposals = proposer_of(name).propose(ask_of(scorer, *leader))
        again = proposer_of(name).propose(ask_of(scorer, *leader))
        assert [p.key for p in proposals] == [p.key for p in again]
        scored = []
        for proposal in proposals[:12]:
            try:
                scorer.text_of(proposal)
            except Refused:
                continue
            scored.append(proposal)
        if scored:
            assert scorer.losses(scored, "validation", [0, 1]).isfinite().all()
        needs_text = name in ("edits", "gradient", "pruning")
        assert scored or (needs_text and leader == leaders[2:]) or name == "own"


def test_pruning_leaves_out_each_word_and_example_once():
    proposals = proposer_of("pruning").propose(ask_of(scorer_of("llama"), LEADER))
    assert len(proposals) == len(LEADER.text.split()) + len(LEADER.shots)
    assert Candidate(text="\nWhat is mood of it?", shots=[0, 1]).key in {p.key for p in proposals}
    assert Candidate(text=LEADER.text, shots=[1]).key in {p.key for p in proposals}


def test_a_file_of_wordings(tmp_path):
    path = tmp_path / "wordings.jsonl"
    path.write_text('Say it.\n\n{"text": "Mood?\\n", "place": "before"}\n')
    assert read_wordings(path) == [{"text": "\nSay it.", "place": "after"}, {"text": "Mood?\n", "place": "before"}]
    proposals = proposer_of(f"file:{path}").propose(ask_of(scorer_of("llama"), LEADER))
    assert [(p.text, p.place, p.shots) for p in proposals] == [
        ("\nSay it.", "after", [0, 1]),
        ("Mood?\n", "before", [0, 1]),
    ]
    path.write_text('{"place": "before"}\n{"text": 3}\nfine\n')
    with pytest.raises(DataError) as error:
        read_wordings(path)
    assert [problem.where for problem in error.value.problems] == [f"{path}:1", f"{path}:2"]
    path.write_text("\n")
    with pytest.raises(DataError):
        read_wordings(path)


@pytest.mark.parametrize("source", ["editz", "file", "file:nowhere.txt", "url", "edits:3", "model"])
def test_unknown_sources_are_refused(source):
    with pytest.raises(ConfigError) as error:
        check_source(source)
    assert error.value.where == "--from"


def test_every_proposer_has_a_stage():
    assert set(DEFAULTS) < set(STAGES)


# -- a server that misbehaves


@pytest.fixture
def server():
    """A server whose next answers are set by the test: bodies, statuses, or seconds to wait."""
    answers: list[str | int | float] = []
    heard: list[dict] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            heard.append({"path": self.path, "body": body, "key": self.headers.get("Authorization")})
            answer = answers.pop(0) if len(answers) > 1 else answers[0]
            if isinstance(answer, float):
                time.sleep(answer)
                return
            raw = answer.encode() if isinstance(answer, str) else b"broken"
            self.send_response(answer if isinstance(answer, int) else 200)
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, *args):
            pass

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    running.daemon_threads = True
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{running.server_port}/v1", answers, heard
    running.shutdown()
    running.server_close()


def reply(text: str) -> str:
    return json.dumps({"choices": [{"message": {"content": text}}]})


def test_a_servers_instructions_are_read_between_tags(server, monkeypatch):
    address, answers, heard = server
    monkeypatch.setenv(KEY, "secret")
    answers.append(reply("Sure! <instruction>Say\n good or bad.</instruction> and <instruction> </instruction> x"))
    proposals = Url(address, "big", 5).propose(ask_of(scorer_of("llama"), LEADER))
    assert [proposal.text for proposal in proposals] == ["\nSay good or bad."]
    assert heard[0]["path"] == "/v1/chat/completions"
    assert heard[0]["key"] == "Bearer secret"
    assert heard[0]["body"]["model"] == "big"
    assert TEXTS[0] in heard[0]["body"]["messages"][0]["content"]


@pytest.mark.parametrize("answer", [500, "{}", "no json", reply("")[:-5], 1.0])
def test_a_server_that_fails_three_times_ends_with_a_reason(server, answer):
    address, answers, heard = server
    answers.append(answer)
    with pytest.raises(OvertureError) as error:
        Url(address, timeout_s=0.2).propose(ask_of(scorer_of("llama"), LEADER))
    assert error.value.where == address
    assert error.value.got
    assert len(heard) == 3


def test_a_second_try_is_enough_and_garbage_is_no_proposal(server):
    address, answers, _ = server
    answers += [500, reply("<instruction>Say it.</instruction>")]
    assert len(Url(address, timeout_s=5).propose(ask_of(scorer_of("llama"), LEADER))) == 1
    answers[:] = [reply("I cannot help with that.")]
    assert Url(address, timeout_s=5).propose(ask_of(scorer_of("llama"), LEADER)) == []


@pytest.mark.parametrize("is_chat", [True, False])
def test_a_local_model_is_asked_and_repeats_by_seed(monkeypatch, is_chat):
    inner = make_inner_tokenizer("llama")
    inner.chat_template = CHAT if is_chat else None
    writer = text_backbone(make_model("llama"), Tokenizer(inner, 4096), id="writer")
    monkeypatch.setattr("overture.hard.proposers.model.load_backbone", lambda name, notify: writer)
    scorer = scorer_of("llama")
    first, second = (proposer_of("model:writer").propose(ask_of(scorer, LEADER)) for _ in range(2))
    assert [proposal.text for proposal in first] == [proposal.text for proposal in second]
    # Random bytes hold no tags; where the tag is given, what follows is the instruction.
    assert len(first) == (0 if is_chat else 1)
    assert all((proposal.origin, proposal.place) == ("model", "after") for proposal in first)
    short = text_backbone(make_model("llama"), Tokenizer(inner, 512), id="short")
    monkeypatch.setattr("overture.hard.proposers.model.load_backbone", lambda name, notify: short)
    with pytest.raises(BackboneError) as error:
        proposer_of("model:short").propose(ask_of(scorer, LEADER))
    assert error.value.where == "short"


def test_an_encoder_is_no_proposer(monkeypatch):
    monkeypatch.setattr("overture.hard.proposers.model.load_backbone", lambda name, notify: backbone_of("bert"))
    with pytest.raises(BackboneError) as error:
        proposer_of("model:bert")
    assert error.value.where == "bert"


def test_copied_rows_are_refused():
    scorer = scorer_of("llama")
    with pytest.raises(Refused):
        scorer.text_of(Candidate(text=f"\nFor example, {TEXTS[3].upper()}: bad"))
    assert scorer.text_of(Candidate(text=f"\n{' '.join(TEXTS[3].split()[:4])}"))
