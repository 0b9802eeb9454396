"""A text as a memory: the conversations, what is learnt from them, what stays, and the command."""

import json
import os
import signal
from pathlib import Path

import pytest
import torch

from fakes import backbone_of, make_inner_tokenizer
from overture.core.errors import BackboneError, ConfigError, DataError
from overture.engine.operations import count_operations
from overture.engine.tokenizer import Tokenizer
from overture.jobs.distil import cartridge as study
from overture.jobs.distil.cartridge import Frame, cartridge, frame_of
from overture.jobs.distil.options import CartridgeConfig
from overture.store.artifact import load_artifact
from overture.store.store import Store
from overture.train.options import TrainConfig

TEXT = " ".join(f"{number} is {chr(97 + number)}{number * 7}." for number in range(12))
SMALL = {"length": 6, "piece": 40, "conversations": 8, "held_out": 4, "question_tokens": 5, "answer_tokens": 6}
WORDS = ["--length", "6", "--piece", "40", "--conversations", "8", "--held-out", "4", "--set", "question_tokens=5"]
WORDS += ["--set", "answer_tokens=6", "--set", "train.epochs=2"]


def config_of(**changes) -> CartridgeConfig:
    return CartridgeConfig(**SMALL | {"train": TrainConfig(epochs=4, batch_size=4, lr=0.02)} | changes)


@pytest.fixture
def backbone():
    return backbone_of("llama")


@pytest.fixture
def inside(backbone) -> study._SelfStudy:
    return study._SelfStudy(TEXT, backbone, "x", config_of(), lambda event: None, lambda: False)


def test_the_frame_is_the_chat_template_cut_at_text_and_question(backbone) -> None:
    assert frame_of(backbone.text.tokenizer) == Frame("<|system|>", "<|end|><|user|>", "<|end|><|bot|>", "")
    inner = make_inner_tokenizer("llama")
    for template in (None, "{{ raise_exception('no system') }}", "{{ messages[1].content }}"):
        inner.chat_template = template
        assert frame_of(Tokenizer(inner, 256)).template == "\n\nQuestion: {question}\nAnswer:"


def test_teacher_and_student_read_the_same_conversation(inside, backbone) -> None:
    talks = inside._talks("trained", 8)
    assert len(talks) == 8
    for talk in talks:
        assert talk.teacher_row.answer_ids == talk.student_row.answer_ids
        assert talk.teacher_row.anchor_ids == talk.student_row.anchor_ids[-1:]
        used = (*talk.request_row.input_ids, *talk.request_row.anchor_ids, *talk.request_row.answer_ids)
        assert (*talk.student_row.anchor_ids, *talk.student_row.answer_ids) == used
        piece = talk.teacher_row.input_ids[len(inside.head) :]
        assert backbone.text.tokenizer.decode(piece) in TEXT
        assert 20 <= len(piece) <= 40


def test_what_is_taught_is_what_the_model_says_with_the_piece(inside, backbone) -> None:
    """Against the model on the plain sequence: piece, question, answer."""
    talk = inside._talks("trained", 1)[0]
    (said,) = inside._readouts([talk])
    ids = torch.tensor([[*talk.teacher_row.input_ids, *talk.teacher_row.anchor_ids, *talk.teacher_row.answer_ids]])
    logits = backbone.model(ids, use_cache=False).logits[0, -len(talk.teacher_row.answer_ids) - 1 : -1]
    torch.testing.assert_close(backbone.head(said.hidden), logits, rtol=1e-4, atol=1e-5)


def test_a_piece_runs_once_for_all_talks_about_it(inside, backbone) -> None:
    talks = inside._talks("trained", 5)
    (text,) = {talk.teacher_row.input_ids for talk in talks}
    with count_operations(backbone) as found:
        inside._readouts(talks)
    longest = max(len(talk.teacher_row.anchor_ids) + len(talk.teacher_row.answer_ids) - 1 for talk in talks)
    assert found.positions <= len(text) + len(talks) * longest


def test_the_teacher_is_asked_once_for_each_talk(backbone, tmp_path: Path, monkeypatch) -> None:
    asked, taught = [], study._SelfStudy._readouts
    monkeypatch.setattr(study._SelfStudy, "_readouts", lambda own, talks: asked.extend(talks) or taught(own, talks))
    found = cartridge(TEXT, Store(tmp_path / "s"), "x", config_of(), backbone=backbone)
    assert len(asked) == found.conversations.trained + found.conversations.held_out


def test_it_starts_as_the_beginning_of_the_text(inside, backbone) -> None:
    own = backbone.memory_of_tokens((*inside.head, *inside.ids)[:6])
    start = inside._start().injection().memory.memory
    assert torch.equal(start.keys, own.keys)
    assert torch.equal(start.values, own.values)


def test_the_divergence_falls_and_the_sink_stays(inside, backbone, tmp_path: Path) -> None:
    store = Store(tmp_path / "s")
    found = cartridge(TEXT, store, "x", config_of(), backbone=backbone)
    losses = [epoch.train_loss for epoch in found.history]
    assert losses[-1] < losses[0]
    ways = found.ways
    assert list(ways) == ["no text", "beginning", "cartridge", "whole text"]
    assert ways["cartridge"].divergence < min(ways[other].divergence for other in ("no text", "beginning"))
    assert ways["cartridge"].bytes == ways["beginning"].bytes == 2 * 3 * 2 * 8 * 6 * 4
    manifest, tensors = load_artifact(store.get("x"))
    assert manifest.trainable == found.trainable == 2 * 3 * 2 * 8 * 5
    own = backbone.memory_of_tokens((*inside.head, *inside.ids)[:6])
    for name, start in (("keys", own.keys), ("values", own.values)):
        assert torch.equal(tensors[name][:, :, 0], start[:, :, 0])
        assert (tensors[name][:, :, 1:] != start[:, :, 1:]).all()


def test_the_seed_decides(backbone, tmp_path: Path) -> None:
    store, few = Store(tmp_path / "s"), {"train": TrainConfig(epochs=1, batch_size=4)}
    ways = [cartridge(TEXT, store, "x", config_of(seed=seed, **few), backbone=backbone).ways for seed in (0, 0, 1)]
    assert ways[0] == ways[1]
    assert ways[0] != ways[2]


def test_a_text_that_the_model_cannot_read_at_once(backbone, tmp_path: Path) -> None:
    found = cartridge(TEXT * 3, Store(tmp_path / "s"), "x", config_of(), backbone=backbone)
    assert "whole text" not in found.ways
    assert any("cannot read it at once" in text for text in found.notices)


def test_measures_are_those_of_the_model_with_each_memory(inside, backbone) -> None:
    talks = inside._talks("held out", 4)
    ways = inside._measured(inside._start().injection(), talks, inside._readouts(talks))
    assert ways["cartridge"] == ways["beginning"]
    # The whole text in front, token by token, in the library's own way.
    total, count = 0.0, 0
    for talk in talks:
        answer = talk.request_row.answer_ids
        ids = torch.tensor(
            [[*inside.head, *inside.ids, *talk.request_row.input_ids, *talk.request_row.anchor_ids, *answer]]
        )
        found = backbone.model(ids, use_cache=False).logits[0, -len(answer) - 1 : -1].log_softmax(-1)
        total -= float(found[torch.arange(len(answer)), torch.tensor(answer)].sum())
        count += len(answer)
    assert ways["whole text"].perplexity == pytest.approx(float(torch.tensor(total / count).exp()), rel=1e-3)


def test_held_out_conversations_are_new(inside) -> None:
    talks = inside._talks("trained", 6)
    known = {talk.student_row.answer_ids for talk in talks[:4]}
    assert inside._unseen(talks, talks[:4]) == [talk for talk in talks if talk.student_row.answer_ids not in known]
    with pytest.raises(DataError, match="no held-out conversation differs"):
        inside._unseen(talks, talks)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    (tmp_path / "text.txt").write_text(TEXT)
    return tmp_path / "text.txt"


def test_command(text, tiny, overture) -> None:
    words = ["cartridge", text, "--name", "lines", "--backbone", tiny, *WORDS]
    found = overture(*words, "--json").json
    assert (found["status"], found["prompt"], len(found["history"])) == ("finished", "lines@1", 2)
    shown = overture(*words).out
    for part in ("beginning", "cartridge", "whole text", "held-out conversations", "Stored as lines@2"):
        assert part in shown
    answer = overture("predict", "lines", "What is 3?", "--json")
    assert answer.code == 0, answer.err
    Path("asked.jsonl").write_text(json.dumps({"question": "What?", "answer": "That."}) + "\n")
    assert overture("eval", "lines", "asked.jsonl", "--json").code == 0
    assert load_artifact(Path("store/prompts/lines/v1"))[0].lineage.text == "text.txt"


def test_a_task_says_what_the_prompt_is_for(text, make_task, overture) -> None:
    task = make_task(prompt={"length": 6})
    found = overture("cartridge", text, "--task", task, *WORDS, "--json").json
    assert found["prompt"] == "text@1"
    assert overture("predict", "text", "great", "--json").code == 0
    start = ["--method", "cartridge", "--set", "prompt.init=prompt", "--set", "prompt.init_prompt=text"]
    tuned = overture("tune", task, *start, "--json")
    assert tuned.code == 0, tuned.err
    assert tuned.json["trainable"] == 2 * 3 * 2 * 8 * 5


@pytest.mark.parametrize(("epoch", "prompt"), [(1, None), (2, "lines@1")])
def test_a_stop_keeps_the_best_epoch(text, tiny, overture, monkeypatch, epoch: int, prompt: str | None) -> None:
    step = study.Fit.take_step

    def stopped(fit, loss, weight):
        if fit.progress.epoch == epoch - 1:
            os.kill(os.getpid(), signal.SIGINT)
        step(fit, loss, weight)

    monkeypatch.setattr(study.Fit, "take_step", stopped)
    done = overture("cartridge", text, "--name", "lines", "--backbone", tiny, *WORDS, "--json")
    assert (done.code, done.json["status"], done.json["prompt"]) == (130, "interrupted", prompt)


@pytest.mark.parametrize("family", ["t5", "t5 gated", "bart", "bert"])
def test_only_decoders_answer_from_a_memory_of_a_text(family: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(study._SelfStudy, "run", lambda *_: pytest.fail("the model talked"))
    with pytest.raises(BackboneError, match="encoder"):
        cartridge(TEXT, Store(tmp_path / "s"), "x", config_of(), backbone=backbone_of(family))


def test_a_question_must_fit_behind_the_memory(tmp_path: Path, monkeypatch) -> None:
    backbone = backbone_of("gpt2")
    with pytest.raises(ConfigError, match="do not fit") as refused:
        cartridge(TEXT * 3, Store(tmp_path / "s"), "x", config_of(length=250), backbone=backbone)
    length = int(refused.value.fix.removeprefix("--length "))
    few = {"conversations": 5, "held_out": 5, "train": TrainConfig(epochs=1, batch_size=4)}
    found = cartridge(TEXT * 3, Store(tmp_path / "s"), "x", config_of(length=length, **few), backbone=backbone)
    assert found.status == "finished"
    with pytest.raises(ConfigError, match="question_tokens"):
        cartridge(TEXT, Store(tmp_path / "s"), "x", config_of(answer_tokens=250), backbone=backbone)


def test_what_cannot_be_distilled(text, tiny, overture, tmp_path: Path) -> None:
    (tmp_path / "bytes.bin").write_bytes(b"\xff\xfe\xff")
    for words, message in [
        ([text, "--length", "5000"], "no longer than the memory"),
        ([tmp_path / "nowhere.txt"], "cannot be read"),
        ([tmp_path / "bytes.bin"], "cannot be read"),
        ([text, *WORDS, "--set", "frozen=6"], "no column is left"),
        ([text, "--set", "epochs=3"], "unknown key"),
        ([text, "--set", "train.lr=0"], "train.lr"),
    ]:
        done = overture("cartridge", *words, "--name", "x", "--backbone", tiny)
        assert (done.code, message in done.err) == (2, True), done.err
