"""The page of a run and of an evaluation, made from the records of their folders; never torch."""

import json
from collections.abc import Callable
from pathlib import Path

from overture.core.errors import StoreError
from overture.core.records.events import EpochEvent, StepEvent
from overture.core.records.hard import FormsResult, HardResult
from overture.core.records.runs import RunKind
from overture.core.records.search import SearchResult
from overture.core.records.tune import Evaluation, TuneResult
from overture.evaluate.diagnose import diagnose, read
from overture.report.run_page import PromptFacts, RunFacts, write_run_page
from overture.report.search_page import write_search_page
from overture.report.words_page import write_forms_page, write_words_page
from overture.store.artifact import TENSORS_FILE, read_manifest
from overture.store.manifest import Manifest
from overture.store.runs import PAGE, RESULT, Run
from overture.store.usage import predict_command, sample_input


def write_page(run: Run, store_flag: str = "") -> Path:
    """Write ``page.html`` and ``page.png`` into the folder of a finished run; returns the page's path.

    Args:
        run: a run of any kind.
        store_flag: what commands on the page need to find the store.

    Raises:
        StoreError: the run has no result, or a file of it is damaged.
    """
    if not run.is_finished:
        raise StoreError("the run has no result yet", where=str(run.folder), fix=f"overture resume {run.name}")
    return _WRITERS[run.request().kind](run, store_flag)


def _write_page_of_search(run: Run, store_flag: str) -> Path:
    result = run.read(RESULT, SearchResult)
    assert result is not None
    commands = _prompt_commands(result.folder, store_flag)
    commands += [f"{result.command}{store_flag}"] if commands else []
    return write_search_page(result, commands, run.folder / PAGE)


def _write_page_of_words(run: Run, store_flag: str) -> Path:
    result = run.read(RESULT, HardResult)
    assert result is not None
    return write_words_page(result, _prompt_commands(result.folder, store_flag), run.folder / PAGE)


def _write_page_of_forms(run: Run, store_flag: str) -> Path:
    result = run.read(RESULT, FormsResult)
    assert result is not None
    return write_forms_page(result, _prompt_commands(result.folder, store_flag), run.folder / PAGE)


def _prompt_commands(folder: str | None, store_flag: str) -> list[str]:
    """Commands that use a stored prompt; none if it has been deleted."""
    return _commands(read_manifest(Path(folder)), store_flag) if folder and Path(folder).is_dir() else []


def _write_page_of_tuning(run: Run, store_flag: str) -> Path:
    result = run.read(RESULT, TuneResult)
    assert result is not None
    folder = Path(result.folder) if result.folder else None
    manifest = read_manifest(folder) if folder and folder.is_dir() else None
    _, trainings = read(run)
    steps: list[StepEvent] = [step for training in trainings for step in training.steps]
    epochs: list[EpochEvent] = [epoch for training in trainings for epoch in training.epochs]
    facts = RunFacts(
        title=f"{result.task}: a prompt tuned and measured",
        result=result,
        prompt=_prompt_facts(manifest, folder) if manifest and folder else None,
        commands=_commands(manifest, store_flag) if manifest else (),
        python=_python(manifest) if manifest else "",
        steps=steps,
        epochs=epochs,
        findings=diagnose(run),
        notices=result.notices,
    )
    return write_run_page(facts, run.folder / PAGE)


_WRITERS: dict[RunKind, Callable[[Run, str], Path]] = {
    "tune": _write_page_of_tuning,
    "search": _write_page_of_search,
    "hard": _write_page_of_words,
    "forms": _write_page_of_forms,
}


def write_page_of_evaluation(result: Evaluation, folder: Path, path: Path, store_flag: str = "") -> Path:
    """Write the page of an evaluation, and its picture beside it; returns the page's path.

    Args:
        result: of the evaluation.
        folder: of the stored prompt.
        path: of the page.
        store_flag: what commands on the page need to find the store.

    Raises:
        ArtifactError: the prompt's folder is damaged.
    """
    manifest = read_manifest(folder)
    facts = RunFacts(
        title=f"{manifest.ref} measured again",
        result=result,
        prompt=_prompt_facts(manifest, folder),
        commands=_commands(manifest, store_flag),
        python=_python(manifest),
        notices=result.notices,
    )
    return write_run_page(facts, path)


def _prompt_facts(manifest: Manifest, folder: Path) -> PromptFacts:
    words_of = manifest.task.get("labels") or {}
    labels = {
        label: ", ".join(map(repr, words)) if isinstance(words, list | tuple) else repr(words)
        for label, words in (words_of.items() if isinstance(words_of, dict) else ())
    }
    rates = (manifest.options.train or {}).get("lr")
    weights = folder / TENSORS_FILE
    rows = manifest.lineage.train_rows
    return PromptFacts(
        ref=manifest.ref,
        method=manifest.method,
        place=manifest.place,
        length=manifest.length,
        trainable=manifest.trainable,
        model=Path(manifest.backbone.id).name if Path(manifest.backbone.id).is_absolute() else manifest.backbone.id,
        template=str(manifest.task.get("template") or ""),
        labels=labels,
        stored_bytes=weights.stat().st_size if weights.exists() else None,
        lr=rates if isinstance(rates, float) else None,
        seed=manifest.lineage.seed,
        train_rows=rows if isinstance(rows, int) else None,
        created=manifest.created,
    )


def _commands(manifest: Manifest, store_flag: str) -> list[str]:
    return [
        predict_command(manifest.ref, manifest.task, store_flag),
        f"overture predict {manifest.ref}{store_flag} rows.csv -o answers.csv",
        f"overture eval {manifest.ref}{store_flag} rows.csv",
    ]


def _python(manifest: Manifest) -> str:
    sample = sample_input(manifest.task)
    row = repr(json.loads(sample)) if sample.startswith("{") else f'"{sample}"'
    return f'import overture\n\nprompt = overture.load("{manifest.ref}")\nprint(prompt.predict([{row}])[0])'
