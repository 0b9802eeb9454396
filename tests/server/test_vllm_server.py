"""Law 12 with a real vLLM server: what the worker gets of it is what the library answers, and reads no weights here.

`make vllm` makes the environment that it is started from; elsewhere one line says that this is skipped.
"""

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from fakes import make_inner_tokenizer
from overture.core.records.serving import Command, Event, Request, VllmOptions, WorkerOptions
from overture.data.encode import Encoder
from overture.data.task import Task
from overture.engine.load import load_backbone
from overture.engine.model_files import model_files
from overture.engine.unread import is_unread
from overture.evaluate.facts import backbone_ref
from overture.evaluate.host import Ask, Host
from overture.evaluate.source import prompt_source
from overture.jobs.transfer.vllm import written_for_vllm
from overture.prompt.build import build_prompt
from overture.prompt.config import PromptConfig
from overture.prompt.pack import prompt_tensors
from overture.server.remote import Remote
from overture.server.worker import Worker
from overture.store.manifest import Manifest
from overture.store.store import Store
from tiny_configs import VOCABULARY

ROOT = Path(__file__).parents[2]
VENV = ROOT / ".venv-vllm"
START_S = 420.0

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not any(VENV.glob("lib/python*/site-packages/vllm")),
        reason="vLLM is not installed here; make vllm makes an environment for it",
    ),
]
SORTS = {"block": ("prefix", "memory", 32), "short": ("prefix", "memory", 5), "vectors": ("vectors", "before", 20)}
TASK = Task(name="t", data={"path": "x"}, template="{text}", answer_field="answer", max_new_tokens=6, stop=[])


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A random model whose heads are as wide as vLLM's kernels want them."""
    monkeypatch.setenv("OVERTURE_CACHE", str(tmp_path / "cache"))
    torch.manual_seed(0)
    shape = {"hidden_size": 128, "intermediate_size": 96, "num_hidden_layers": 2, "max_position_embeddings": 256}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32}
    config = LlamaConfig(vocab_size=VOCABULARY, initializer_range=0.2, tie_word_embeddings=False, **shape, **heads)
    LlamaForCausalLM(config).save_pretrained(tmp_path / "model")
    make_inner_tokenizer("llama").save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


@pytest.fixture
def server(model: str, tmp_path: Path) -> Iterator[str]:
    """The address of a vLLM server with the connector."""
    (tmp_path / "prompts").mkdir()
    connector = {
        "kv_connector": "OvertureConnector",
        "kv_connector_module_path": "overture.exchange.vllm_connector",
        "kv_role": "kv_both",
        "kv_connector_extra_config": {"prompts": str(tmp_path / "prompts")},
    }
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [
        VENV / "bin/python",
        "-m",
        # What `vllm serve` starts; the command itself asks for a package of another name than the CPU build's.
        "vllm.entrypoints.openai.api_server",
        "--model",
        model,
        "--host",
        "127.0.0.1",
        "--port",
        port,
    ]
    words += ["--dtype", "float32", "--block-size", 32, "--max-model-len", 256, "--max-num-seqs", 8]
    words += ["--enforce-eager", "--enable-prefix-caching", "--kv-transfer-config", json.dumps(connector)]
    changes = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_CPU_KVCACHE_SPACE": "1", "OMP_NUM_THREADS": "1"}
    environment = os.environ | changes | {"PYTHONPATH": str(ROOT / "src"), "HF_HUB_OFFLINE": "1"}
    log = tmp_path / "vllm.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            list(map(str, words)), stdout=output, stderr=output, env=environment, start_new_session=True
        )
    try:
        ends = time.monotonic() + START_S
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < ends, log.read_text()[-3000:]
            time.sleep(1.0)
        yield f"http://127.0.0.1:{port}"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


def test_answers_are_the_librarys_and_no_weights_are_read(model, server, tmp_path) -> None:
    whole, store = load_backbone(model, notify=lambda text: None), Store(tmp_path / "store")
    known = Host(whole, store)
    source = prompt_source(whole, Encoder(TASK, whole.text.tokenizer))
    refs = []
    for seed, (name, (method, place, length)) in enumerate(SORTS.items()):
        config = PromptConfig(method=method, place=place, length=length)
        facts = {"name": name, "method": method, "place": place, "length": length, "trainable": 1}
        options = {"prompt": config.model_dump(mode="json")}
        manifest = Manifest(**facts, options=options, backbone=backbone_ref(whole), task=TASK.dump())
        store.add(manifest, prompt_tensors(build_prompt(config, source, seed)))
        refs.append(f"{name}@1")
    written_for_vllm(known.open(store.get("vectors")), tmp_path / "prompts", model_files(model)[1])

    reached = VllmOptions(url=server, prompts=str(tmp_path / "prompts"))
    host = Host(load_backbone(model, is_read_late=True, notify=lambda text: None), store)
    remote = Remote(reached, host)
    try:
        worker = Worker(host, WorkerOptions(store="store", vllm=reached), remote.tokens_per_second(), remote=remote)
        texts = ["a warm day", "rain over the sea", "so much noise for so little, they said"]
        asks = {f"{ref} {text}": Ask(known.open(store.get(ref)), text) for ref in refs for text in texts}
        events: dict[str, list[Event]] = {name: [] for name in asks}
        for name in asks:
            ref, _, text = name.partition(" ")
            request = Request(id=name, prompts=(ref,), row={"text": text})
            worker.do(Command(do="ask", id=name, request=request))
        ends = time.monotonic() + 120
        while not all(told and told[-1].kind in ("done", "error") for told in events.values()):
            assert time.monotonic() < ends
            select.select([remote], [], [], 0.5)
            worker.hear()
            for event in worker.report().events:
                events[event.id].append(event)
        for name, ask in asks.items():
            (reply,) = known.answer([ask])
            shown = TASK.spec.shown(TASK, reply.result())
            assert events[name][-1].kind == "done", events[name]
            assert events[name][0].answers[ask.handle.manifest.ref]["answer"] == shown["answer"]
        assert is_unread(host.backbone.model)
    finally:
        remote.close()
