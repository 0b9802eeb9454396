"""The twelve runs whose figures a refactoring must not change, and what is recorded of each.

Everything goes the way of a user: a task file, rows and a model in a folder, `overture.tune` or a command, files in the
store, `overture.load`. What else is needed of the inside stands in the first section.
"""

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import Mock, patch

import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor

import overture
from fakes import Case, make_backbone, make_inner_tokenizer, make_model, make_prompt, make_rows

# -- all that is used of the inside: adapt it when names or types change, and nothing below


def command_result(*words: str | Path) -> Any:
    """What a command prints under --json, run in this process."""
    from typer.testing import CliRunner

    from overture.cli.app import app

    done = CliRunner().invoke(app, [*map(str, words), "--json"], prog_name="overture")
    assert done.exit_code == 0, (done.stderr, done.exception)
    return json.loads(done.stdout)


def first_loss(family: str, case: Case, kind: str) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of a batch under a fresh prompt, and the prompt's trainable values with their gradients."""
    from overture.engine.prompted import PromptedModel

    backbone = make_backbone(family)
    model = PromptedModel(backbone, make_prompt(case, backbone))
    loss = model.loss(make_rows(kind))
    loss.backward()
    return loss, model.trainable()


def value(result: Any, *path: str | int) -> Any:
    """A part of a result, be it of dictionaries or of records; None where it is not there."""
    for key in path:
        if isinstance(result, dict):
            result = result.get(key)
        elif isinstance(key, int):
            result = result[key]
        else:
            result = getattr(result, key, None)
    return plain(result)


def plain(result: Any) -> Any:
    """A result or a part of one as JSON has it, without the names of statistical methods, tests and tokenizers."""
    if hasattr(result, "model_dump"):
        result = result.model_dump(mode="json")
    elif dataclasses.is_dataclass(result) and not isinstance(result, type):
        result = dataclasses.asdict(result)
    if isinstance(result, dict):
        names = ("method", "test", "tokenizer")
        kept = {key: each for key, each in result.items() if not (key in names and isinstance(each, str))}
        return {str(key): plain(each) for key, each in kept.items()}
    return [plain(each) for each in result] if isinstance(result, list | tuple) else result


def events_of(run: Path) -> list[dict[str, Any]]:
    """What happened in a run, from its folder."""
    return [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]


def predicted_in(run: Path) -> dict[str, Any]:
    """What each control and each seed answered, from the run's folder."""
    controls = json.loads((run / "controls.json").read_text())
    answers = {name: control["predicted"] for name, control in controls.items()}
    for path in sorted(run.glob("seed-*/result.json")):
        answers[path.parent.name] = json.loads(path.read_text())["predicted"]
    return answers


# -- the runs


@dataclass(frozen=True)
class Run:
    """One of the twelve.

    Args:
        family: the model's, as `fakes` names it.
        task: the kind's part of the task file.
        row: a row from its number and a text.
        prompt: method, place, length and options.
        batch: the kind of rows whose loss and gradients are recorded besides.
        settings: the rest of the task file.
        command: how it is run, where not by `overture.tune`.
        direct: method, place and options of the prompt whose gradients are recorded, where not those of the run.
        is_portable: whether other processors give the same but for rounding; method `split` draws its noise by the bits
            of its values, so the smallest difference gives another prompt.
    """

    family: str
    task: dict[str, Any]
    row: Callable[[int, str], dict[str, Any]]
    prompt: dict[str, Any]
    batch: str
    settings: dict[str, Any] = field(default_factory=dict)
    command: str = ""
    direct: Case | None = None
    is_portable: bool = True


MOODS = {"good": " fine", "bad": " poor", "odd": " drab"}
CLASSIFICATION = {"kind": "classification", "template": "{text}\nMood:", "labels": MOODS}
MULTILABEL = {"kind": "multilabel", "template": "{text}\nMoods:", "labels": MOODS}
REGRESSION = {"kind": "regression", "template": "{text}\nScore:", "labels": {1: " low", 3: " mid", 5: " high"}}
CHOICE = {"kind": "choice", "template": "{text} {prompt:2}\nAnswer:"}
TAGGING = {"kind": "tagging", "template": "{tokens}", "labels": {"per": " person", "loc": " place"}}
ANSWERING = {"kind": "qa", "template": "{question} {context}", "options": {"max_answer_tokens": 6}}
GENERATION = {"kind": "generation", "template": "{text}\nShort:", "answer_field": "short", "metric": "chrf"}
MASKED = {"kind": "classification", "template": "{text} is {mask}.", "labels": {"good": "g", "bad": "b", "odd": "o"}}
LORA = {"kind": "lora", "rank": 2, "lr": 0.01, "targets": ["q_proj", "down_proj"]}


def _class_row(number: int, text: str) -> dict[str, Any]:
    return {"text": text, "label": list(MOODS)[number % 3]}


def _mood_row(number: int, text: str) -> dict[str, Any]:
    return {"text": f"{('glad', 'grim')[number % 2]} {text[:9]}", "label": ("good", "bad")[number % 2]}


def _multilabel_row(number: int, text: str) -> dict[str, Any]:
    return {"text": text, "label": [label for bit, label in enumerate(MOODS) if number >> bit & 1]}


def _score_row(number: int, text: str) -> dict[str, Any]:
    return {"text": text, "label": 1 + number % 9 / 2}


def _choice_row(number: int, text: str) -> dict[str, Any]:
    return {"text": text, "choices": ["good", "very bad", f"as {number}"][: 2 + number % 2], "label": number % 2}


def _tags_row(number: int, text: str) -> dict[str, Any]:
    words = text.split()
    return {"tokens": [*words, "Ada", "Rome"], "tags": ["O"] * len(words) + ["B-per", ("B-loc", "O")[number % 2]]}


def _question_row(number: int, text: str) -> dict[str, Any]:
    words = text.split()
    return {"context": text, "question": f"Which, {number}?", "answers": [words[number % len(words)]]}


def _summary_row(number: int, text: str) -> dict[str, Any]:
    return {"text": text, "short": f" {text[number % 3 :][:4]}"}


def _chat_row(number: int, text: str) -> dict[str, Any]:
    turns = ("user", text), ("assistant", text[:3]), ("user", f"And {number}?"), ("assistant", text[-3:])
    return {"messages": [{"role": role, "content": said} for role, said in turns[: 2 + 2 * (number % 2)]]}


def _prompt(method: str, place: str, length: int = 3, **options: Any) -> dict[str, Any]:
    return {"method": method, "place": place, "length": length, "options": options}


RUNS = {
    "classification vectors before llama, two seeds": Run(
        "llama", CLASSIFICATION, _class_row, _prompt("vectors", "before"), "one token", {"seeds": 2}
    ),
    "multilabel prefix after gpt2": Run(
        "gpt2",
        MULTILABEL,
        _multilabel_row,
        _prompt("prefix", "after", reparameterise="mlp", mlp_width=6),
        "several tokens",
    ),
    "regression gated memory gemma3": Run(
        "gemma3_text", REGRESSION, _score_row, _prompt("gated", "memory"), "one token", {"seed": 5}
    ),
    "choice low_rank slots llama, lora": Run(
        "llama",
        CHOICE,
        _choice_row,
        {"method": "low_rank", "place": "slots", "options": {"rank": 2}},
        "several tokens",
        {"adapter": LORA},
    ),
    "tagging deep memory modernbert": Run("modernbert", TAGGING, _tags_row, _prompt("deep", "memory"), "mask"),
    "answering prefix after t5": Run("t5", ANSWERING, _question_row, _prompt("prefix", "after"), "free text"),
    "generation idpg before gpt2, beams": Run(
        "gpt2", {**GENERATION, "decoding": {"beams": 2}}, _summary_row, _prompt("idpg", "before", width=4), "free text"
    ),
    "chat late before llama": Run(
        "llama", {"kind": "chat", "template": "{messages}"}, _chat_row, _prompt("late", "before", layer=1), "free text"
    ),
    "classification split around llama": Run(
        "llama", CLASSIFICATION, _class_row, _prompt("split", "around", 4), "one token", is_portable=False
    ),
    "classification residual before bert": Run(
        "bert", MASKED, _class_row, _prompt("residual", "before", bottleneck=4), "mask"
    ),
    "compare cpt-before lora gemma3": Run(
        "gemma3_text",
        CLASSIFICATION,
        _class_row,
        {"length": 24},
        "one token",
        command="compare --way no-prompt --way cpt-before --way lora --size 8 --seeds 1 --default-rates --min-steps 4",
        direct=Case("cpt", "before"),
    ),
    "search prefix vectors llama": Run(
        "llama",
        {**CLASSIFICATION, "labels": {"good": " fine", "bad": " poor"}},
        _mood_row,
        {"length": 2},
        "several tokens",
        {
            "search": {"tunes": 8, "cohort": 3, "min_steps": 0, "lr": [0.003, 0.3], "race_seeds": 1},
            # Steps that are large enough for a prompt to win: a search keeps none that is not worth its cost.
            "train": {"epochs": 4, "batch_size": 4, "lr": 0.1, "warmup_steps": 0},
        },
        command="search --method prefix --method vectors --place after --length 2 --length 3",
        direct=Case("dept", "after", {"rank": 2, "max_tokens": 4}),
    ),
}
COUNTS = {"train": 12, "validation": 8, "test": 8}
TRAIN = {"epochs": 2, "batch_size": 4, "lr": 0.03, "warmup_steps": 2}
_TEXTS = ["sun and joy", "rain, alas", "snöw ☃ falls", "wind blows", "a calm day with clouds", "fog", "hail hits roofs"]


def rows_of(run: Run, split: str) -> list[dict[str, Any]]:
    """The rows of a split: texts of unlike length, each of its own."""
    start = 100 * list(COUNTS).index(split)
    texts = {number: [_TEXTS[number % 7]] * (1 + number % 4) for number in range(start, start + COUNTS[split])}
    return [run.row(number, f"{' and '.join(each)} {number}") for number, each in texts.items()]


def write_task(run: Run, folder: Path) -> Path:
    """A task file with its rows and its model beside it."""
    make_model(run.family).save_pretrained(folder / "model")
    make_inner_tokenizer(run.family).save_pretrained(folder / "model")
    for split in COUNTS:
        lines = [json.dumps(row) + "\n" for row in rows_of(run, split)]
        (folder / f"{split}.jsonl").write_text("".join(lines))
    values = {"name": "one", "backbone": str(folder / "model"), "data": {split: f"{split}.jsonl" for split in COUNTS}}
    values |= {"max_new_tokens": 6, "shots": 2, "cache_gb": 0.1, "device": "cpu", "dtype": "float32"}
    values |= {"prompt": run.prompt, "train": TRAIN, **run.task, **run.settings}
    path = folder / "task.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


# -- what is recorded

Figures = dict[str, Any]


def figures_of(run: Run, folder: Path) -> Figures:
    """All figures of a run that is carried out in an empty folder."""
    path, store = write_task(run, folder), folder / "store"
    torch.set_num_threads(1)
    with _own_folders(folder):
        figures = {"weights": digest(make_model(run.family).state_dict().values())}
        if not run.command:
            figures |= _tune_figures(run, path, store)
        elif run.command.startswith("compare"):
            figures |= _compare_figures(run, path, store)
        else:
            figures |= _search_figures(run, path, store)
        case = run.direct or Case(run.prompt["method"], run.prompt["place"], run.prompt["options"])
        loss, values = first_loss(run.family, case, run.batch)
    figures["first loss"] = float(loss.detach())
    for name, each in values.items():
        assert each.grad is not None
        figures[f"gradient of {name}"] = summary(each.grad)
    return figures


def _tune_figures(run: Run, path: Path, store: Path) -> Figures:
    result = overture.tune(path, store=store)
    folder = store / "runs" / value(result, "run")
    figures = _training_figures(events_of(folder))
    for name, predicted in predicted_in(folder).items():
        figures[f"answers of {name}"] = predicted
    for part in ("trainable", "best_epoch", "metrics", "compared"):
        figures[part] = value(result, part)
    figures["no_prompt"] = value(result, "no_prompt", "metrics")
    figures["in_context"] = value(result, "in_context", "metrics")
    figures["seeds"] = value(result, "seeds", "each")
    return figures | _prompt_figures(run, value(result, "prompt"), store)


def _training_figures(events: Sequence[dict[str, Any]]) -> Figures:
    """Each step's loss and gradient, each epoch's losses and score, by seed and, where there are two, by stage."""
    figures: Figures = {}
    for event in events:
        key = " ".join(str(event[name]) for name in ("who", "seed", "stage") if name in event)
        if event["event"] == "step":
            figures.setdefault(f"steps of {key}", []).append([event["loss"], event["grad_norm"]])
        elif event["event"] == "epoch":
            scores = [event[name] for name in ("train_loss", "validation_loss", "validation_score")]
            figures.setdefault(f"epochs of {key}", []).append(scores)
    assert figures
    return figures


def _prompt_figures(run: Run, ref: str, store: Path) -> Figures:
    """The stored prompt's tensors, and what it answers once it is loaded."""
    prompt = overture.load(ref, store=store)
    (path,) = store.glob("prompts/one/v1/prompt.safetensors")
    figures = {f"stored {name}": summary(tensor) for name, tensor in sorted(load_file(path).items())}
    answers = [plain(answer) for answer in prompt.predict(rows_of(run, "test"))]
    figures["texts"] = [answer["text"] for answer in answers]
    figures["probabilities"] = [answer["shares"] for answer in answers]
    return figures


def _compare_figures(run: Run, path: Path, store: Path) -> Figures:
    out = path.parent / "out"
    command_result(*run.command.split(), path, "--store", store, "-o", out)
    figures: Figures = {}
    for cell in sorted((out / "cells").glob("*.json")):
        written = json.loads(cell.read_text())
        for part in ("metrics", "predicted", "trainable", "lr", "best_epoch"):
            figures[f"{part} of {cell.stem}"] = value(written, part)
        history = [
            [epoch[name] for name in ("train_loss", "validation_loss", "validation_score")]
            for epoch in written.get("history", ())
        ]
        figures[f"epochs of {cell.stem}"] = history
    assert len(figures) == 3 * 6
    return figures


def _search_figures(run: Run, path: Path, store: Path) -> Figures:
    result = command_result(*run.command.split(), path, "--store", store)
    figures: Figures = {}
    facts = ("method", "place", "length", "lr", "score", "loss", "epochs_done", "tokens")
    for trial in result["trials"]:
        figures[f"trial {trial['key']}"] = [trial[name] for name in facts]
    for racer in result["race"]:
        # Its p-values came from a permutation test of the search's own, which drew otherwise than the shared one.
        figures[f"race {racer['key']}"] = [racer["scores"], racer["mean"]]
    figures["winner"] = value(result, "winner", "key")
    figures["metrics"] = value(result, "metrics")
    return figures | _prompt_figures(run, value(result, "prompt"), store)


@contextmanager
def _own_folders(folder: Path) -> Iterator[None]:
    """Everything that is kept lies in the folder, and no picture is drawn: pictures take longer than all the rest."""
    pictures = {"vegalite_to_png": b"", "vegalite_to_svg": "", "vegalite_to_html": ""}
    home = {"OVERTURE_HOME": str(folder / "store"), "OVERTURE_CACHE": str(folder / "cache")}
    drawn = {name: Mock(return_value=empty) for name, empty in pictures.items()}
    with patch.dict(os.environ, home), patch.multiple("vl_convert", **drawn):
        yield


def digest(tensors: Any) -> dict[str, str]:
    """One sha256 over the bytes of several tensors."""
    total = hashlib.sha256()
    for tensor in tensors:
        total.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return {"sha256": total.hexdigest()}


def summary(tensor: Tensor) -> dict[str, Any]:
    """A tensor's bytes as a sha256, and a few numbers for processors that round otherwise."""
    values = tensor.detach().double().flatten()
    numbers = {"mean": float(values.mean()), "norm": float(values.norm()), "first": values[:3].tolist()}
    return {"shape": list(tensor.shape), **digest([tensor]), **numbers}


# -- the processor


def processor() -> dict[str, str]:
    """What decides how sums round: the version of torch, and a sha256 over results of its operations."""
    torch.set_num_threads(1)
    results: list[Tensor] = []
    generator = torch.Generator().manual_seed(0)
    for rows, inner, columns in ((3, 5, 7), (4, 32, 48), (24, 48, 32), (61, 64, 300), (1, 32, 300)):
        left = torch.randn(rows, inner, generator=generator).requires_grad_()
        right = torch.randn(inner, columns, generator=generator).requires_grad_()
        product = left @ right
        each = [product.softmax(-1), (product / 9).exp(), torch.nn.functional.gelu(product), product.logsumexp(-1)]
        each += [torch.nn.functional.layer_norm(product, (columns,)), torch.nn.functional.silu(product), product.sin()]
        each += [torch.nn.functional.gelu(product, approximate="tanh"), product.square().mean(-1).rsqrt()]
        heads = left[None, None]
        each += [torch.nn.functional.scaled_dot_product_attention(heads, heads, heads)]
        torch.stack([one.square().sum() for one in each]).sum().backward()
        assert left.grad is not None
        assert right.grad is not None
        results += [product, *each, left.grad, right.grad]
    results += torch.linalg.svd(torch.randn(9, 20, generator=generator), full_matrices=False)
    return {"torch": torch.__version__, **digest(results)}


# -- comparing


def differences(recorded: Any, now: Any, is_exact: bool, where: str = "") -> list[str]:
    """A line for each figure that is another now, with both values.

    Args:
        recorded: figures, in lists and dictionaries.
        now: the same of this code.
        is_exact: whether numbers must be equal; else they may differ by 1e-4 of themselves, or by 1e-5, and no
            sha256 is compared.
        where: what stands in front of each line.
    """
    if isinstance(recorded, dict) and isinstance(now, dict):
        keys = [key for key in {**recorded, **now} if is_exact or key != "sha256"]
        # A field that is not there is as one without a value.
        pairs = [(f"{where} / {key}" if where else key, recorded.get(key), now.get(key)) for key in keys]
    elif isinstance(recorded, list) and isinstance(now, list) and len(recorded) == len(now):
        pairs = [(f"{where}[{index}]", *both) for index, both in enumerate(zip(recorded, now, strict=True))]
    else:
        return [] if _is_same(recorded, now, is_exact) else [f"{where}: recorded {recorded!r}, now {now!r}"]
    return [line for place, old, new in pairs for line in differences(old, new, is_exact, place)]


def _is_same(recorded: Any, now: Any, is_exact: bool) -> bool:
    if not (_is_number(recorded) and _is_number(now)):
        return type(recorded) is type(now) and recorded == now
    if is_exact:
        # As bits, so that NaN is itself; a count may become a float.
        return float(recorded).hex() == float(now).hex()
    return math.isclose(now, recorded, rel_tol=1e-4, abs_tol=1e-5) or (math.isnan(now) and math.isnan(recorded))


def _is_number(figure: Any) -> bool:
    return isinstance(figure, int | float) and not isinstance(figure, bool)
