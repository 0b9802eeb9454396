"""Prompts of words for other programs: a text, OpenAI messages, a promptfoo config, an lm-evaluation-harness task.

Each field of the template becomes the other program's own placeholder. The words stand where they were scored: in front
of the template, and behind its last field.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import yaml

from overture.core.config import validated
from overture.core.errors import ArtifactError
from overture.core.records.prompt import TextPrompt
from overture.data.task import Task
from overture.data.template import Parsed, Slot, parse
from overture.store.manifest import Manifest

if TYPE_CHECKING:
    import torch

Files = dict[str, bytes]
Message = dict[str, str]


def _facts(manifest: Manifest) -> tuple[TextPrompt, Task]:
    if manifest.text is None:
        raise ArtifactError("this prompt has no words", where=manifest.ref, got=f"method {manifest.method}")
    return manifest.text, validated(Task, manifest.task, f"{manifest.name}: prompt.json")


def messages_of(
    text: TextPrompt, task: Task, placeholder: Callable[[str], str] = lambda name: f"{{{name}}}"
) -> list[Message]:
    """The prompt as messages: the instruction, each example as a user's and an assistant's turn, the row.

    Args:
        text: the words.
        task: its template is a text or messages.
        placeholder: a field's placeholder, by its name.
    """
    template = task.template
    turns = [("user", template)] if isinstance(template, str) else [(part.role, part.content) for part in template]
    parsed_turns = [(role, parse(content)) for role, content in turns]
    last = max(number for number, (_, pieces) in enumerate(parsed_turns) if any(isinstance(p, Slot) for p in pieces))

    def messages_with(values: Callable[[str], str]) -> list[Message]:
        messages = []
        for number, (role, pieces) in enumerate(parsed_turns):
            words = _filled(pieces, values, text.after if number == last else "")
            messages.append({"role": role, "content": words})
        return messages

    opening = [{"role": "system", "content": text.instruction.strip()}] if text.instruction.strip() else []
    shots = [
        message
        for shot in text.shots
        for message in (
            *(turn for turn in messages_with(lambda name: shot.fields.get(name, "")) if turn["role"] != "system"),  # noqa: B023
            {"role": "assistant", "content": shot.answer.strip()},
        )
    ]
    row = messages_with(placeholder)
    systems = [message for message in row if message["role"] == "system"]
    return [*opening, *systems, *shots, *(message for message in row if message["role"] != "system")]


def _filled(pieces: Sequence[Parsed], values: Callable[[str], str], behind: str) -> str:
    """A template's text with its fields filled in, and words behind the last of them."""
    slots = [number for number, piece in enumerate(pieces) if isinstance(piece, Slot)]
    parts = []
    for number, piece in enumerate(pieces):
        parts.append(values(piece.name) if isinstance(piece, Slot) else piece if isinstance(piece, str) else "")
        if slots and number == slots[-1]:
            parts.append(behind)
    return "".join(parts)


def plain_text(text: TextPrompt, task: Task, placeholder: Callable[[str], str] = lambda name: f"{{{name}}}") -> str:
    """The prompt as the one text that the model was scored with; chats as lines of roles.

    Args:
        text: the words.
        task: its template.
        placeholder: a field's placeholder, by its name.
    """
    if isinstance(task.template, str):
        return text.before + _filled(parse(task.template), placeholder, text.after)
    return "\n\n".join(f"[{message['role']}]\n{message['content']}" for message in messages_of(text, task, placeholder))


def text_files(manifest: Manifest, tensors: "dict[str, torch.Tensor]") -> Files:
    """``prompt.txt``, with ``{field}`` for a field."""
    del tensors
    return {"prompt.txt": plain_text(*_facts(manifest)).encode()}


def openai_files(manifest: Manifest, tensors: "dict[str, torch.Tensor]") -> Files:
    """``messages.json``, the messages of a chat request, with ``{field}`` for a field."""
    del tensors
    messages = messages_of(*_facts(manifest))
    return {"messages.json": (json.dumps({"messages": messages}, indent=1, ensure_ascii=False) + "\n").encode()}


def promptfoo_files(manifest: Manifest, tensors: "dict[str, torch.Tensor]") -> Files:
    """``promptfooconfig.yaml`` with the prompt beside it; providers and rows are the user's to add."""
    del tensors
    text, task = _facts(manifest)
    prompt = _as_jinja(text, task)
    sample = task.spec.sample(task)
    config = {
        "description": f"{manifest.ref}, found with Overture for {manifest.backbone.id}",
        "prompts": ["file://prompt.txt"],
        "providers": [{"id": "openai:completion:MODEL", "config": {"temperature": 0, "max_tokens": 4}}],
        "tests": [{"vars": sample}],
    }
    return {"promptfooconfig.yaml": _yaml(config), "prompt.txt": prompt.encode()}


def lm_eval_files(manifest: Manifest, tensors: "dict[str, torch.Tensor]") -> Files:
    """``NAME.yaml``, a task of lm-evaluation-harness on rows of ``rows.jsonl``, which the user adds."""
    del tensors
    text, task = _facts(manifest)
    config: dict[str, Any] = {
        "task": f"overture_{manifest.name.replace('-', '_')}",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": "rows.jsonl"}},
        "test_split": "test",
        "doc_to_text": _as_jinja(text, task),
        "target_delimiter": "",
    }
    if task.words:
        config |= {
            "output_type": "multiple_choice",
            "doc_to_choice": [words[0] for words in task.words.values()],
            "doc_to_target": f"{{{{ {json.dumps(list(task.words))}.index({task.label_field}) }}}}",
            "metric_list": [{"metric": "acc"}],
        }
    else:
        config |= {
            "output_type": "generate_until",
            "doc_to_target": f"{{{{{task.answer_field}}}}}",
            "generation_kwargs": {"until": list(task.stop), "max_gen_toks": task.max_new_tokens},
            "metric_list": [{"metric": "exact_match"}],
        }
    return {f"{manifest.name}.yaml": _yaml(config)}


def _as_jinja(text: TextPrompt, task: Task) -> str:
    """The prompt as one template of Jinja's, or Nunjucks', whose own marks in the words are written as text."""
    marked_text = plain_text(text, task, lambda name: f"\0{name}\0")
    literal = re.sub(r"\{[{%#]", lambda mark: f"{{{{ '{mark.group()}' }}}}", marked_text)
    return re.sub("\0(.*?)\0", lambda field: f"{{{{ {field.group(1)} }}}}", literal)


def _yaml(values: Mapping[str, Any]) -> bytes:
    return yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True, width=100).encode()


def lost_in_text(manifest: Manifest, tensors: Mapping[str, Any]) -> list[str]:
    """Sentences on what other programs do otherwise."""
    del tensors
    text, task = _facts(manifest)
    notes = ["The words travel to any model; the scores hold for the model that they were found with."]
    if task.is_calibrated:
        notes.append("Label scores are calibrated here; a program that only compares words gives other answers.")
    if task.is_scaled:
        notes.append("Label scores have a temperature and biases here; a program that only compares words has neither.")
    if any(len(words) > 1 for words in task.words.values()):
        notes.append("A label with several words has the first of them; here their probabilities add up.")
    if text.shots and not isinstance(task.template, str):
        notes.append("Examples stand as turns of the chat, as the model's own chat template writes them.")
    return notes


TEXT_FORMATS: "dict[str, Callable[[Manifest, dict[str, torch.Tensor]], Files]]" = {
    "text": text_files,
    "openai": openai_files,
    "promptfoo": promptfoo_files,
    "lm-eval": lm_eval_files,
}
"""Formats of prompts of words: each makes files, by name, from a prompt's manifest."""
