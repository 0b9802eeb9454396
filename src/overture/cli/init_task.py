"""``overture init``: a first task file from data."""

import math
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from overture.cli.options import JsonOption
from overture.cli.out import console, counted, emit, show_text
from overture.cli.report import show_next
from overture.cli.settings import schema_line
from overture.core.errors import BackboneError, ConfigError
from overture.core.media import PLURALS
from overture.engine.options import EMBEDDED, local_source, sized

if TYPE_CHECKING:
    from overture.core.records.start import DataReport, MediaReport
    from overture.data.init_task import StartedTask
    from overture.engine.input_facts import InputFacts

_MAX_LABELS = 12
_TOLERANCE_S = 0.01
"""So much longer than the window a sound may be."""


def command(
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="FILE", help="A data file, several parts of one, or a folder with train, validation, test."
        ),
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="OUT", help="The task file to write.")] = Path(
        "task.yaml"
    ),
    name: Annotated[str | None, typer.Option(help="The task's name; from the file's name if not given.")] = None,
    lm_eval: Annotated[
        Path | None,
        typer.Option("--from-lm-eval", metavar="TASK.yaml", help="Translate a task of lm-evaluation-harness."),
    ] = None,
    backbone: Annotated[
        str | None, typer.Option(metavar="MODEL", help="The model; the template is made to fit it.")
    ] = None,
    is_forced: Annotated[bool, typer.Option("--force", help="Replace a file that exists.")] = False,
    is_json: JsonOption = False,
) -> None:
    """Write a task file from data, or from a task of lm-evaluation-harness."""
    if backbone and lm_eval:
        raise ConfigError(
            "--backbone cannot be combined with --from-lm-eval, whose template is kept",
            got=backbone,
            fix="overture tune TASK --backbone MODEL uses the file with a model",
        )
    if not (files or lm_eval):
        raise ConfigError("nothing to start from", wanted="a data file, or --from-lm-eval")
    from overture.core.files import write_atomic
    from overture.data.init_task import pattern_of
    from overture.data.read import SUFFIXES
    from overture.data.write import check_replaced

    check_replaced(output, is_forced, [*(files or []), *([lm_eval] if lm_eval else [])])
    file = files[0] if files else None
    if files and len(files) > 1 and (file := pattern_of(files)) is None:
        raise ConfigError(
            "these files are not the parts of one data file",
            got=", ".join(map(str, files[:5])),
            wanted="names that differ in numbers alone, such as train-1.csv and train-2.csv, and all of them",
            fix="name their folder, or one file",
        )
    if output.suffix.lower() in SUFFIXES:
        raise ConfigError(
            "a task file cannot have the name of a data file",
            where=str(output),
            wanted="a name with .yaml",
            fix=f"-o {shlex.quote(str(output.with_suffix('.yaml')))}",
        )

    report: DataReport | None = None
    if lm_eval is not None:
        from overture.data.task_text import slug
        from overture.exchange.tasks.lm_eval import task_of_lm_eval

        translated = task_of_lm_eval(lm_eval, file)
        if name is not None:
            translated.values["name"] = slug(name)
        text, notes = translated.text(str(lm_eval), output.parent), translated.notes
    else:
        assert file is not None
        started = _started(file, output.parent, backbone and local_source(backbone), name)
        text, notes, report = started.text, started.notes, started.report
    write_atomic(output, schema_line(output) + text)

    next_command = f"overture tune {shlex.quote(str(output))}"
    if is_json:
        report_facts = {"report": report.dump()} if report else {}
        emit({"task": str(output), "notes": notes, **report_facts, "next": next_command})
        return
    out = console()
    show_text(out, f"wrote {output}")
    for line in _lines(report) if report else ():
        show_text(out, line)
    for note in notes:
        show_text(out, f"note: {note}")
    show_next("Read it, correct it, then:", [next_command])


def _started(file: Path, folder: Path, backbone: str | None, name: str | None) -> "StartedTask":
    from overture.data.init_task import starting_task
    from overture.data.task import Task
    from overture.engine.input_facts import input_facts
    from overture.engine.token_counts import token_counter

    num_tokens = token_counter(backbone or Task.model_fields["backbone"].default)
    if backbone is None:
        return starting_task(file, folder, name=name, num_tokens=num_tokens)
    from overture.engine.load import label_place

    facts = input_facts(backbone)
    has_words = facts is None or facts.has_words
    started = starting_task(
        file, folder, backbone, lambda words: label_place(backbone, words), name, num_tokens, has_words
    )
    if facts is not None:
        _check_reads(backbone, facts, started.report.media)
        started.notes.extend(_window_notes(backbone, facts, started.report.media))
    return started


def _check_reads(backbone: str, facts: "InputFacts", media: "MediaReport | None") -> None:
    """Refuse a model that does not read such rows.

    Raises:
        BackboneError: it reads something else.
    """
    from overture.data.init_task import MEDIA_BACKBONES

    modality = media.modality if media else "text"
    if modality not in facts.modalities:
        noun = PLURALS[modality]
        usual = MEDIA_BACKBONES.get(modality, next(iter(EMBEDDED)))
        raise BackboneError(
            f"this model does not read {noun}, which the data hold",
            where="--backbone",
            got=f"{backbone}, a model of {' and '.join(PLURALS[part] for part in sorted(facts.modalities))}",
            wanted=f"a model of {noun}",
            fix=f"leave --backbone out, or name one such as {usual}",
        )


def _window_notes(backbone: str, facts: "InputFacts", media: "MediaReport | None") -> Iterator[str]:
    """A note on sounds that are longer than the model's window."""
    longest_s = max(media.seconds, default=0.0) if media else 0.0
    if facts.window_s is None or longest_s <= facts.window_s + _TOLERANCE_S:
        return
    window_s = math.ceil(longest_s)
    fix = "cut the longer ones"
    if facts.longest_window_s and facts.window_s < window_s <= facts.longest_window_s:
        fix += f", or name a longer window: --backbone {sized(backbone)[0]}@{window_s}s"
    yield (
        f"the longest sound has {longest_s:.2f} seconds, and {backbone} reads {facts.window_s:g} at most, so tune "
        f"would stop: {fix}"
    )


def _lines(report: "DataReport") -> Iterator[str]:
    """Sentences that describe the data."""
    what = "Labels" if report.kind in ("multilabel", "tagging") else "Label column"
    if report.kind in ("generation", "qa", "chat"):
        what = "Answer column"
    count = f" ({len(report.labels)} label{'s' if len(report.labels) > 1 else ''})" if report.labels else ""
    modality = report.media.modality if report.media else "text"
    columns = f"{modality} column{'s' if len(report.texts) > 1 else ''}: {', '.join(report.texts)}"
    yield f"{what}: {', '.join(report.target) or 'in the messages'}{count}; {columns}"
    total = sum(report.rows.values())
    splits = ", ".join(f"{split} {count:,}" for split, count in report.rows.items() if split != "path")
    yield f"Rows: {total:,}" + (f" ({splits})" if splits else "")
    if report.labels:
        counts = sorted(((sum(label.rows.values()), label.label) for label in report.labels), reverse=True)
        more = f", and {len(counts) - _MAX_LABELS} more" if len(counts) > _MAX_LABELS else ""
        yield f"Labels: {', '.join(f'{label} {count:,}' for count, label in counts[:_MAX_LABELS])}{more}"
    if lengths := report.tokens or report.words:
        unit = "Tokens" if report.tokens else "Words"
        yield f"{unit} per row: {lengths.median:,} (median), {lengths.longest:,} at most"
    if report.languages:
        shares = ", ".join(f"{language} {share:.0%}" for language, share in report.languages.items())
        yield f"Languages (a guess): {shares}"
    if report.media:
        yield from _media_lines(report.media)
    if report.empty:
        yield f"Rows with an empty text: {', '.join(f'{name} {count:,}' for name, count in report.empty.items())}"
    if report.unlabelled:
        yield f"Rows without a label or answer: {report.unlabelled:,}"
    if report.repeats:
        differing = f", {report.contradictions:,} of them with another answer" if report.contradictions else ""
        yield f"Rows that repeat an earlier row: {report.repeats:,}{differing}; data.drop: [repeats] leaves them out"
    for split, num_repeats in report.repeats_of_training.items():
        yield (
            f"Warning: {num_repeats:,} of {counted(report.rows[split], f'{split} row')} repeat a training row: the "
            "score will be too good; data.drop: [repeats] leaves those training rows out"
        )
    for label, other in report.alike:
        yield f"Nearly the same: {label!r} and {other!r}; list one of them under also if it is a misspelling"
    if report.left_out:
        yield f"Not shown: {', '.join(f'{field.field} ({field.why})' for field in report.left_out)}"


def _media_lines(media: "MediaReport") -> Iterator[str]:
    """Sentences that describe the images or sounds and their problems."""
    what = PLURALS[media.modality]
    if media.seconds:
        yield "Seconds: {} (shortest), {} (median), {} (longest)".format(*(f"{s:.2f}" for s in media.seconds))
        rates = ", ".join(f"{rate} ({counted(count, 'sound')})" for rate, count in media.rates.items())
        yield f"Samples a second: {rates}"
    if media.sizes:
        sizes = ", ".join(f"{size} ({counted(count, 'image')})" for size, count in media.sizes.items())
        yield f"Pixels: {sizes}"
    if media.broken:
        yield f"Broken {what}: {media.broken:,}; correct or remove them, since a run names them and does not start:"
        yield from (f"  {problem}" for problem in media.first_broken)
    if media.constant:
        content = "one colour" if media.modality == "image" else "silence"
        yield f"{what.capitalize()} that hold {content}: {', '.join(media.constant[:5])}"
    for first, second in media.alike[:5]:
        yield f"Nearly the same in two splits: {first} and {second}: scores will be too good"
    for source in media.sources:
        yield (
            f"Warning: {source.what} tells the label ({'; '.join(source.examples)}): a model may learn it instead of "
            "what the label means. Test with values that no training row has."
        )
