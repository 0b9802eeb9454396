"""The model card: a prompt's ``README.md``, generated from its manifest."""

import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from overture.core.records.prompt import PromptScores

if TYPE_CHECKING:
    from overture.core.records.prompt import Concept
    from overture.store.manifest import Manifest

_LONGEST_CELL = 400
_USE = """\
```sh
overture show PROMPT_FOLDER
COMMAND
```

```python
import overture

print(overture.load("./PROMPT_FOLDER").predict([ROW]))
```"""


def model_card(manifest: "Manifest") -> str:
    """Markdown that tells a stranger what the prompt is, for which model, how good, and how to use it."""
    kind = "text-prompt" if manifest.text else "textual-inversion" if manifest.concept else "soft-prompt"
    # JSON strings are YAML strings: no value can end the block early.
    front = f"---\nbase_model: {json.dumps(manifest.backbone.id)}\nlibrary_name: overture\ntags: [{kind}]\n---"
    origin = {
        "created": manifest.created,
        **({} if manifest.seconds is None else {"training seconds": round(manifest.seconds, 1)}),
        "options": manifest.options.dump(),
        **manifest.lineage.dump(),
        **{f"version of {name}": text for name, text in manifest.versions.items()},
    }
    sections = {
        "Base model": _facts(manifest.backbone.model_dump(exclude_none=True)),
        "Task": _facts(manifest.task) or "Not recorded.",
        "Scores": _worth(manifest.concept) if manifest.concept else _scores(manifest.metrics),
        "Use": _use(manifest),
        "Limits": _limits(manifest),
        "How it was made": _facts(origin),
    }
    body = [f"## {title}\n\n{text}" for title, text in sections.items()]
    return "\n\n".join([front, f"# {_cell(manifest.name)}", _opening(manifest), *body]) + "\n"


def _use(manifest: "Manifest") -> str:
    if manifest.concept:
        return "```sh\noverture export PROMPT_FOLDER --to diffusers\n```"
    from overture.store.usage import predict_command, sample_input

    sample = sample_input(manifest.task)
    row = sample if sample.startswith("{") else json.dumps(sample)
    return _USE.replace("COMMAND", predict_command("PROMPT_FOLDER", manifest.task)).replace("ROW", row)


def _opening(manifest: "Manifest") -> str:
    version = f", version {manifest.version}" if manifest.version else ""
    if manifest.text:
        words = "\n\n".join(code_block(text) for text in (manifest.text.before, manifest.text.after) if text)
        return (
            f"A prompt of words, found with Overture{version}: {manifest.length} tokens at {_cell(manifest.place)}. "
            f"The model itself is unchanged.\n\n{words}"
        )
    if manifest.concept:
        return (
            f"The word {_cell(manifest.concept.token)} for {_cell(manifest.backbone.id)}, kept by Overture{version}: "
            f"{manifest.length} vectors of its text encoders. The model itself is unchanged."
        )
    return (
        f"A prompt tuned with Overture{version}: method {_cell(manifest.method)} at {_cell(manifest.place)}, "
        f"{manifest.length} tokens long, {manifest.trainable} trained values. The model itself is unchanged."
    )


def _limits(manifest: "Manifest") -> str:
    model = _cell(manifest.backbone.id)
    fits = f"The prompt fits only {model} with the weights named above; Overture refuses any other model."
    if manifest.text:
        fits = f"The words were found with {model}; any model can read them, and the scores do not hold for it."
    lines = (
        fits,
        f"The licence and the terms of use of {model} apply to what the model writes with this prompt.",
        "The scores hold for data like the evaluation data. Measure again on your own.",
    )
    return "\n".join(f"- {line}" for line in lines)


def _facts(values: Mapping[str, Any]) -> str:
    return "\n".join(f"- {_cell(name)}: {_cell(value)}" for name, value in values.items())


def _scores(metrics: PromptScores) -> str:
    rows = []
    for name, value, score in metrics.named():
        interval = "- | - | -"
        if score:
            interval = f"{score.low:.4g} to {score.high:.4g} ({score.level:.0%}) | {score.n} | {_cell(score.method)}"
        rows.append(f"| {_cell(name)} | {value:.4g} | {interval} |")
    if not rows:
        return "Not measured."
    return "\n".join(["| score | value | interval | rows | interval by |", "|---|---|---|---|---|", *rows])


def _worth(concept: "Concept") -> str:
    errors = concept.errors
    if errors is None:
        return "Not measured."
    rows = {"the vectors": errors.concept, "the word": errors.word, "word minus vectors": errors.difference}
    table = [f"| {name} | {score.value:.4g} | {score.low:.4g} to {score.high:.4g} |" for name, score in rows.items()]
    text = f"Mean squared error of the noise on {errors.concept.n} draws of {errors.num_images} {errors.images} images."
    return "\n".join([text, "", "| caption with | error | 95% interval |", "|---|---|---|", *table])


def _cell(value: Any) -> str:
    """Text of others on one line, in which nothing is Markdown or HTML."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    line = " ".join(text.split())
    cut = line if len(line) <= _LONGEST_CELL else line[:_LONGEST_CELL] + "..."
    return re.sub(r"([\\`*\[\]<>|#])", r"\\\1", cut)


def code_block(text: str, language: str = "") -> str:
    """Text of others as a Markdown block that it cannot end early."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"
