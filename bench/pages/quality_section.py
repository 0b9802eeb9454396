"""The section on quality: test accuracy of each way over the seeds, and the time to LoRA's."""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from overture.core.records.cells import NO_PROMPT
from overture.evaluate.intervals import across_seeds
from page_parts import table, threads

LORA = "LoRA (peft)"


@dataclass(frozen=True)
class Cell:
    """One way on one task with one seed.

    Args:
        way: its name, with the variant's tag.
        task: the task's name.
        seed: of rows, start and order.
        test: accuracy on the test rows.
        num_test: test rows.
        validation: accuracy on the validation rows, after the best epoch.
        history: per epoch the seconds of training so far and the validation accuracy.
        cache_seconds: spent on running the inputs once.
        trainable: number of trained values.
        setting: what else decides the numbers, for the reader.
        command: what to type, without the number of seeds.
    """

    way: str
    task: str
    seed: int
    test: float
    num_test: int
    validation: float
    history: tuple[tuple[float, float], ...]
    cache_seconds: float
    trainable: int
    setting: str
    command: str

    @property
    def train_seconds(self) -> float:
        return self.history[-1][0] if self.history else 0.0

    def seconds_to(self, accuracy: float) -> float | None:
        """Seconds of training, cache included, until an epoch ends with this validation accuracy."""
        reached = [seconds for seconds, score in self.history if score >= accuracy]
        return self.cache_seconds + reached[0] if reached else None


def cell_of(path: Path) -> Cell | None:
    """A result file as a cell; None for checks whose test rows were not scored."""
    result = json.loads(path.read_text(encoding="utf-8"))
    if not result.get("test"):
        return None
    return _lora_cell(path, result) if result.get("method") == "lora" else _our_cell(path, result)


def _lora_cell(path: Path, result: dict[str, Any]) -> Cell:
    config, is_check = result["config"], "-lr" in path.name
    return Cell(
        way=f"{LORA}, lr {config['lr']:g}" if is_check else LORA,
        task=config["task"],
        seed=config["seed"],
        test=result["test"]["accuracy"],
        num_test=result["test"]["n"],
        validation=result["validation_accuracy"],
        history=tuple((epoch["train_seconds"], epoch["validation_accuracy"]) for epoch in result["epochs"]),
        cache_seconds=0.0,
        trainable=result["num_trainable_values"],
        setting=f"r = {config['rank']}, lr {config['lr']:g}, {config['num_epochs']} epochs, "
        f"{config['num_train']} training rows, {threads(result)}",
        command=f"python bench/quality/peft_baseline.py --data DIR --model MODEL --task {config['task']} "
        f"--threads {result['threads']}" + (f" --lr {config['lr']:g} --test" if is_check else ""),
    )


def _our_cell(path: Path, result: dict[str, Any]) -> Cell:
    # The file's name alone holds the variant's tag.
    way = path.stem.removesuffix(f"-{result['task']}-seed{result['seed']}")
    return Cell(
        way=way,
        task=result["task"],
        seed=result["seed"],
        test=result["test"]["accuracy"],
        num_test=result["test"]["n"],
        validation=result["validation"]["accuracy"],
        history=tuple((epoch["seconds"], epoch["validation_score"]) for epoch in result.get("history", [])),
        cache_seconds=result.get("cache_seconds", 0.0),
        trainable=result.get("trainable", 0),
        setting=_setting(result),
        command=_command(result, way.removeprefix(result["way"]).removeprefix("-")),
    )


def _setting(result: dict[str, Any]) -> str:
    if "config" not in result:
        return f"nothing is trained, {threads(result)}"
    prompt, train = result["config"]["prompt"], result["config"]["train"]
    return (
        f"P = {prompt['length']}, start {prompt['init']}, lr {train['lr']:g}, {train['epochs']} epochs, "
        f"{result['train_rows']} training rows, {threads(result)}"
    )


def _command(result: dict[str, Any], tag: str) -> str:
    parts = [f"python bench/quality/quality.py --data DIR --task {result['task']} --way {result['way']}"]
    parts.append(f"--threads {result['threads']} --train-rows {result['train_rows']}")
    if "config" in result:
        prompt, train = result["config"]["prompt"], result["config"]["train"]
        parts.append(f"--length {prompt['length']} --init {prompt['init']}")
        parts.append(f"--epochs {train['epochs']} --lr {train['lr']:g}")
        if prompt["options"]:
            parts.append(f'--options "{prompt["options"]}"')
    return " ".join([*parts, f"--tag {tag}"] if tag else parts)


def quality_text(cells: Sequence[Cell]) -> str:
    """The section on quality: one table per task."""
    by_task: dict[str, list[Cell]] = defaultdict(list)
    for cell in cells:
        by_task[cell.task].append(cell)
    head = (
        "Test accuracy: mean over the seeds, their standard deviation and the 95% t interval of the mean. A seed draws "
        "the training rows, the start and the order. Seconds are of training alone, without validation. The time to "
        "LoRA's validation accuracy is that to the end of the first epoch that reaches LoRA's mean (best epoch of each "
        "seed), the inputs' one run included; (reached/seeds)."
    )
    return "\n\n".join([head, *(_quality_part(task, members) for task, members in sorted(by_task.items()))])


def _quality_part(task: str, cells: Sequence[Cell]) -> str:
    ways: dict[str, list[Cell]] = defaultdict(list)
    for cell in sorted(cells, key=lambda cell: (cell.way != NO_PROMPT, not cell.way.startswith(LORA), cell.way)):
        ways[cell.way].append(cell)
    lora = [cell.validation for cell in cells if cell.way == LORA]
    goal = fmean(lora) if lora else None
    head = [
        "way",
        "test accuracy",
        "sd",
        "95% interval",
        "seeds",
        "test rows",
        "training, s",
        "inputs' one run, s",
        f"to LoRA's {goal:.3f}, s" if goal is not None else "to LoRA's accuracy, s",
        "trained values",
    ]
    rows = [_quality_row(way, members, goal) for way, members in ways.items()]
    settings = "\n".join(f"- {way}: {'; '.join(sorted({c.setting for c in members}))}" for way, members in ways.items())
    return f"### {task}\n\n{table(head, rows)}\n\n{settings}\n\nMade by\n\n{_commands(ways)}"


def _quality_row(way: str, cells: Sequence[Cell], goal: float | None) -> list[str]:
    accuracy = across_seeds([cell.test for cell in cells], bounds=(0.0, 1.0))
    is_trained = any(cell.history for cell in cells)
    return [
        way,
        f"{accuracy.mean:.3f}",
        "-" if accuracy.sd is None else f"{accuracy.sd:.3f}",
        "-" if accuracy.low is None or accuracy.high is None else f"{accuracy.low:.3f}-{accuracy.high:.3f}",
        str(accuracy.n_seeds),
        "/".join(sorted({f"{cell.num_test:,}" for cell in cells})),
        f"{fmean(cell.train_seconds for cell in cells):.0f}" if is_trained else "-",
        f"{fmean(cell.cache_seconds for cell in cells):.0f}" if is_trained else "-",
        _time_to(cells, goal) if is_trained else "-",
        f"{cells[0].trainable:,}",
    ]


def _time_to(cells: Sequence[Cell], goal: float | None) -> str:
    if goal is None:
        return "-"
    reached = [seconds for cell in cells if (seconds := cell.seconds_to(goal)) is not None]
    return f"{f'{fmean(reached):.0f}' if reached else 'not reached'} ({len(reached)}/{len(cells)})"


def _commands(ways: dict[str, list[Cell]]) -> str:
    lines = [
        f"{command} --seeds {len(cells)}" for cells in ways.values() for command in sorted({c.command for c in cells})
    ]
    return "```\n" + "\n".join(lines) + "\n```"
