"""Commands around a vLLM server: prompts written for it, and what is refused before anything starts."""

import json

import pytest
import safetensors.torch
import torch

from overture.exchange.vllm_files import ModelFacts, PromptFolder, weight_files_digest

WIDTH, LAYERS = 32, 3


@pytest.fixture
def imported(tmp_path, tiny, make_task, overture):
    """A stored prompt of vectors before the text."""
    folder = tmp_path / "adapter"
    folder.mkdir()
    config = {"peft_type": "PROMPT_TUNING", "task_type": "CAUSAL_LM", "base_model_name_or_path": str(tiny)}
    config |= {"num_virtual_tokens": 3, "token_dim": WIDTH, "num_layers": LAYERS, "peft_version": "0.21.2"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    table = torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(0))
    (folder / "adapter_model.safetensors").write_bytes(safetensors.torch.save({"prompt_embeddings": table}))
    assert overture("import", folder, "--task", make_task(), "--json").code == 0
    return "mood"


def test_a_prompt_is_written_for_vllm_compiled_and_with_its_models_fingerprint(imported, overture, tiny, tmp_path):
    done = overture("export", imported, "--to", "vllm", "-o", tmp_path / "prompts", "--json")
    assert done.code == 0, done
    assert done.json["files"] == ["prompt.json", "prompt.safetensors"]
    model = json.loads((tiny / "config.json").read_text())
    heads = model["num_key_value_heads"]
    facts = ModelFacts(LAYERS, heads, WIDTH // model["num_attention_heads"], weight_files_digest(tiny))
    prompt = PromptFolder(tmp_path / "prompts", facts, 1 << 30).get("mood@1")
    assert prompt.keys.shape == (LAYERS, 3, heads, facts.head_dim)
    # Once more is the same folder; a second version stands beside it.
    assert overture("export", imported, "--to", "vllm", "-o", tmp_path / "prompts", "--json").code == 0


def test_serving_on_vllm_is_checked_before_anything_starts(overture):
    assert overture("serve", "--url", "http://127.0.0.1:8001", "--json").json["where"] == "--url"
    assert overture("serve", "--vllm-prompts", "here", "--json").json["where"] == "--vllm-prompts"
    for url in ("127.0.0.1:8001", "ftp://here", "http://", "http://u:p@here", "http://here/v1"):
        assert overture("serve", "--engine", "vllm", "--url", url, "--port", "0", "--json").json["where"] == "--url"


def test_tuning_for_vllm_refuses_what_it_cannot_serve(make_task, overture):
    done = overture("tune", make_task(), "--for", "vllm", "--method", "late", "--json")
    assert (done.code, done.json["error"]) == (2, "ConfigError")
    assert any("prompt.method" in problem for problem in done.json["problems"])
