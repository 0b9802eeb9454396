"""The README of an adapter: how to load it, and the template and label words, which peft's files do not hold."""

import json
import re
from typing import TYPE_CHECKING, Any

from overture.store.card import code_block

if TYPE_CHECKING:
    from overture.store.manifest import Manifest

_CLASSES = {
    "CAUSAL_LM": "AutoPeftModelForCausalLM",
    "SEQ_2_SEQ_LM": "AutoPeftModelForSeq2SeqLM",
    "SEQ_CLS": "AutoPeftModelForSequenceClassification",
}
_FIELD = re.compile(r"\{(?!prompt:)[^{}]+\}")
_SAMPLE = "some text"


def adapter_readme(manifest: "Manifest", base: str, task_type: str, has_tasks: bool) -> str:
    """The README's text.

    Args:
        manifest: of the prompt.
        base: the model's Hub id or folder, as ``adapter_config.json`` names it.
        task_type: as ``adapter_config.json`` names it.
        has_tasks: whether every call needs the number of a task.
    """
    task = manifest.task
    snippet = code_block(_snippet(manifest, base, task_type, has_tasks), "python")
    facts = [("Model", base), ("Weights, SHA-256", manifest.backbone.weights_sha256), ("Prompt", manifest.ref)]
    facts += [(name, f"{value:.4g}") for name, value, _ in manifest.metrics.named()]
    template = task.get("template") or "not recorded"
    template_text = (
        template if isinstance(template, str) else "\n".join(f"[{turn['role']}] {turn['content']}" for turn in template)
    )
    sections = [
        f"---\nbase_model: {json.dumps(base)}\nlibrary_name: peft\ntags: [soft-prompt]\n---",
        "# A prompt from Overture",
        "Load it with peft 0.21 or later, from this folder:",
        snippet,
        "Write the text as the template has it, and do not pad it on the left: then peft gives the logits that "
        "Overture gives. The prompt stands at the first positions, the text follows. It fits only the weights named "
        "below.",
        "Template:",
        code_block(template_text),
    ]
    if labels := task.get("labels"):
        words = [
            f"{label}: {', '.join(map(repr, [text] if isinstance(text, str) else text))}"
            for label, text in labels.items()
        ]
        sections += ["Label words:", code_block("\n".join(words))]
    sections.append("\n".join(f"- {name}: {value}" for name, value in facts))
    return "\n\n".join(sections) + "\n"


def _snippet(manifest: "Manifest", base: str, task_type: str, has_tasks: bool) -> str:
    """Six lines that run in the adapter's folder."""
    options = f", num_labels={len(manifest.task.get('labels') or ()) or 2}" if task_type == "SEQ_CLS" else ""
    more = ", task_ids=torch.tensor([0])" if has_tasks else ""
    if task_type == "SEQ_CLS":
        result = f"print(model(**inputs{more}).logits.argmax(-1))"
    else:
        result = f"print(tokenizer.decode(model.generate(**inputs{more}, max_new_tokens=8)[0]))"
    lines = [
        f"from peft import {_CLASSES[task_type]}",
        "from transformers import AutoTokenizer",
        f'model = {_CLASSES[task_type]}.from_pretrained("."{options})',
        f"tokenizer = AutoTokenizer.from_pretrained({json.dumps(base)})",
        f"inputs = {_inputs(manifest.task.get('template'))}",
        result,
    ]
    return "\n".join(["import torch", *lines] if has_tasks else lines)


def _inputs(template: Any) -> str:
    if isinstance(template, list):
        turns = [{"role": turn["role"], "content": _FIELD.sub(_SAMPLE, str(turn["content"]))} for turn in template]
        options = 'add_generation_prompt=True, return_dict=True, return_tensors="pt"'
        return f"tokenizer.apply_chat_template({json.dumps(turns, ensure_ascii=False)}, {options})"
    text = _FIELD.sub(_SAMPLE, template if isinstance(template, str) else "{text}")
    return f'tokenizer({json.dumps(text, ensure_ascii=False)}, return_tensors="pt")'
