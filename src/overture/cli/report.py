"""Prints a result for people: table, verdicts in words, next commands."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from overture.cli.mistakes import show_mistakes
from overture.cli.out import console, show_notes, show_text, size_text
from overture.cli.tables import Column, show_table
from overture.core.records.concept import ConceptErrors
from overture.core.records.prompt import OpenGates
from overture.core.records.scores import Interval, Paired
from overture.core.records.tune import Evaluation, Measured, TuneResult

if TYPE_CHECKING:
    from rich.console import Console

_SURE = 0.05


def show_result(result: TuneResult, store_flag: str = "", with_next: bool = True) -> None:
    """Print a finished run: table, comparison, spread over seeds, notices, next commands if wanted."""
    out = console()
    split = "test" if "test" in result.metrics else "validation"
    out.print()
    show_scores(out, result, split)
    if result.gates:
        show_text(out, f"Gates: {gates_line(result.gates)}.")
    show_verdicts(out, result)
    if result.kept:
        show_text(out, f"{result.kept.why[0].upper()}{result.kept.why[1:]}.")
    for line in spread_lines(result, split):
        show_text(out, line)
    ref = f"{result.prompt}{store_flag}" if result.prompt else None
    show_mistakes(out, result, result.metrics[split][result.metric].n, split, ref)
    show_notes(out, result.notices)
    if result.status == "diverged":
        text = "The loss became NaN or infinite; the last good prompt was kept. A smaller learning rate may help."
        show_text(out, text, style="red")
    if result.folder:
        _show_findings(out, result.run, Path(result.folder).parents[2] / "runs", store_flag)
    is_probe = result.kept is not None and result.kept.what == "probe"
    if result.prompt and result.folder and with_next:
        show_next(
            f"Stored as {result.prompt}{is_probe * ', the linear probe'}. Next:",
            [
                predict_line(result.prompt, result.folder, store_flag),
                f"overture eval {result.prompt}{store_flag}",
                f"overture show {result.prompt}{store_flag}",
            ],
        )
        if result.peft_gap:
            show_text(out, result.peft_gap)


def _show_findings(out: "Console", name: str, runs: Path, store_flag: str) -> None:
    """Print what may explain a bad result, in short."""
    from overture.evaluate.diagnose import diagnose
    from overture.store.runs import Run

    findings = list(dict.fromkeys(finding.what for finding in diagnose(Run.open(runs, name), store_flag=store_flag)))
    if not findings:
        return
    count = "1 finding" if len(findings) == 1 else f"{len(findings)} findings"
    show_text(out, f"Doctor: {count}; evidence and what to do: overture doctor {name}{store_flag}", style="yellow")
    for what in findings:
        show_text(out, f"  - {what}")


def gates_line(gates: OpenGates) -> str:
    """The gates that a prompt leaves open, in words."""
    layers, columns = gates.layers, gates.columns
    counts = f"{layers.open} of {layers.of} layers, {columns.open} of {columns.of} columns"
    return f"{counts} are open (above {gates.above:g})"


def worth_of(errors: ConceptErrors) -> str:
    """The noise error with a concept's vectors, compared with its word's."""
    difference, kind = errors.difference, "held out" if errors.images == "held out" else "trained on"
    return (
        f"noise error {errors.concept.value:.4f} with the vectors, {errors.word.value:.4f} with the word: difference "
        f"{difference.value:+.4f} ({difference.low:+.4f} to {difference.high:+.4f}), {difference.n} draws of "
        f"{errors.num_images} images that were {kind}"
    )


def predict_line(prompt: str, folder: str, store_flag: str = "") -> str:
    """The command that asks a stored prompt, by its name and its folder."""
    from overture.store.artifact import read_manifest
    from overture.store.usage import predict_command

    return predict_command(prompt, read_manifest(Path(folder)).task, store_flag)


def show_next(title: str, commands: Sequence[str], out: "Console | None" = None) -> None:
    """Print commands to try; each stays whole, so that it can be copied."""
    out = out or console()
    show_text(out, f"\n{title}")
    for command in commands:
        out.print(f"  {command}", soft_wrap=True)


def tune_from(
    prompt: str, method: str, place: str, length: int | None, options: Mapping[str, Any], store_flag: str
) -> str:
    """The command that tunes another task from a stored prompt; no length where the method takes the prompt's own."""
    way = f"--method {method} --place {place}" + (f" --length {length}" if length else "")
    settings = [f"prompt.options.{key}={json.dumps(value)}" for key, value in options.items()]
    settings += ["prompt.init=prompt", f"prompt.init_prompt={prompt}"]
    return f"overture tune TASK.yaml {way} {' '.join(f'--set {quote(text)}' for text in settings)}{store_flag}"


def show_scores(out: "Console", result: TuneResult | Evaluation, split: str) -> None:
    """Print the model without a prompt, with examples, with the tuned prompt, side by side."""
    measured_by_name = dict(_columns(result))
    scores = [measurement.metrics[split] for measurement in measured_by_name.values()]
    main = [column[result.metric] for column in scores]
    rows = {result.metric: [f"{score.value:.3f}" for score in main], "95% interval": list(map(interval_text, main))}
    for name in dict.fromkeys(name for column in scores for name in column.scores if name != result.metric):
        rows[name] = [f"{column[name].value:.3f}" if name in column.scores else "" for column in scores]
    trainable = [result.trainable if m.trainable is None else m.trainable for m in measured_by_name.values()]
    is_run = isinstance(result, TuneResult)
    rows |= {
        "rows": [str(score.n) for score in main],
        "trained values": [f"{number:,}" for number in trainable],
        "seconds": [
            f"{m.seconds:.1f} {'training' if is_run and m is result else 'scoring'}" for m in measured_by_name.values()
        ],
        "peak memory": [size_text(m.peak_bytes) for m in measured_by_name.values()],
    }
    columns = [Column("", list(rows), is_left=True)]
    columns += [Column(name, [row[n] for row in rows.values()]) for n, name in enumerate(measured_by_name)]
    title = result.task if isinstance(result, TuneResult) else result.prompt
    show_table(out, columns, f"{title}, {split} rows", good=[0])


def _columns(result: TuneResult | Evaluation) -> Iterator[tuple[str, Measured]]:
    if result.no_prompt:
        yield result.no_prompt.plain_name, result.no_prompt
    if isinstance(result, TuneResult) and result.in_context:
        yield f"in-context ({result.in_context.shots})", result.in_context
    yield "tuned prompt", result
    if isinstance(result, Evaluation) and (calibration := result.calibration):
        yield (
            ("calibrated", calibration.with_it)
            if calibration.stored == "without"
            else ("not calibrated", calibration.without)
        )


def calibration_lines(result: Evaluation, split: str) -> Iterator[str]:
    """The effect of calibration on the tuned prompt."""
    calibration = result.calibration
    if not calibration:
        return
    without, with_it = (
        measurement.metrics[split]["ece"].value for measurement in (calibration.without, calibration.with_it)
    )
    yield f"Expected calibration error: {without:.3f} without calibration, {with_it:.3f} with it."
    yield sentence("the same without calibration", calibration.compared, "calibrated prompt")


def show_verdicts(out: "Console", result: TuneResult | Evaluation) -> None:
    """Print the paired tests in words."""
    shots = result.in_context.shots if isinstance(result, TuneResult) and result.in_context else 0
    plain_name = result.no_prompt.plain_name if result.no_prompt else "no-prompt"
    names = {"no_prompt": plain_name, "in_context": f"{shots} examples"}
    for control, compared in (result.compared or {}).items():
        show_text(out, sentence(names.get(control, control), compared), style=verdict_style(compared))


def verdict_style(paired: Paired) -> str:
    """The colour of a paired test: green for better, red for worse."""
    if paired.p_value >= _SURE or paired.difference.value == 0:
        return "yellow"
    return "green" if paired.difference.value > 0 else "red"


def interval_text(score: Interval) -> str:
    """A score's interval."""
    return f"{score.low:.3f} to {score.high:.3f}"


def scaling_text(temperature: float, biases: Mapping[str, float]) -> str:
    """The temperature and shifts of label scores, in words."""
    shifts = ", ".join(f"{label} {bias:+.2f}" for label, bias in biases.items())
    return f"divided by {temperature:.2f}" + (f", then shifted: {shifts}" if shifts else "")


def sentence(control: str, paired: Paired, name: str = "tuned prompt") -> str:
    """One paired test in plain words."""
    difference = paired.difference
    value, low, high = 100 * difference.value, 100 * difference.low, 100 * difference.high
    chance = "p < 0.001" if paired.p_value < 0.001 else f"p = {paired.p_value:.2g}"
    if paired.p_value >= _SURE or value == 0:
        return (
            f"{name.capitalize()} against {control}: no difference could be shown "
            f"({value:+.1f} points, 95% interval {low:.1f} to {high:.1f}, {chance})."
        )
    if value < 0:
        low, high = -high, -low
    better = "better" if value > 0 else "worse"
    return (
        f"The {name} is {better} than {control} by {abs(value):.1f} points, "
        f"95% interval {low:.1f} to {high:.1f}, {chance}."
    )


def spread_lines(result: TuneResult, split: str) -> Iterator[str]:
    """How the score varies from seed to seed, for more than one."""
    spread = result.seeds.test if split == "test" else result.seeds.validation
    if spread and spread.sd is not None:
        yield (
            f"Over {spread.n_seeds} seeds: mean {spread.mean:.3f}, standard deviation {spread.sd:.3f}, "
            f"95% interval of the mean {spread.low:.3f} to {spread.high:.3f}, which counts the {split} rows as well; "
            f"seed {result.seed} was kept."
        )
