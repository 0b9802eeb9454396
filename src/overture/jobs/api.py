"""Overture from Python: tune, search and compare for a task, use and score a stored prompt.

A task is a task file, or a mapping with the same keys; its rows may be in memory. Results are records with a short
form for notebooks; what is wrong is a `UserError`, which says how to mend it.

Example:
    >>> import overture  # doctest: +SKIP
    >>> result = overture.tune("task.yaml", seeds=3)  # doctest: +SKIP
    >>> prompt = overture.load(result.prompt)  # doctest: +SKIP
    >>> prompt.predict("A film that stays with you.")  # doctest: +SKIP
"""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from overture.core.config import validated
from overture.core.errors import ConfigError, Problem
from overture.core.files import check_writable, store_dir, write_atomic
from overture.core.records.compare import Summary
from overture.core.records.data import notice_texts
from overture.core.records.events import Listener, NoticeEvent, as_progress, ignore
from overture.core.records.search import SearchResult
from overture.core.records.tune import Evaluation, TuneResult
from overture.data.read import table_of
from overture.data.task import Task
from overture.jobs.run.early import check_early
from overture.jobs.run.request import PromptUse, TuneConfig, check_no_adapter, resolved, task_values
from overture.store.store import Store

if TYPE_CHECKING:
    from overture.evaluate.host import Handle

Rows = Any
"""Rows in memory: a list of mappings, or a DataFrame."""

_SPLITS = ("train", "validation", "test")
_SOURCES = (*_SPLITS, "path", "dataset", "subset", "format")
_SECTION_HINT = re.compile(r"did you mean '(\w+)\.(\w+)'\?")
R = TypeVar("R", bound=TuneConfig)


def tune(
    task: str | Path | Mapping[str, Any] | Task,
    rows: Rows = None,
    *,
    store: str | Path | None = None,
    listener: Listener = ignore,
    **settings: Any,
) -> TuneResult:
    """Tune a prompt for a task, measure it, store it.

    Args:
        task: the task file, or a mapping with its keys.
        rows: rows in place of the task's own: a list of mappings or a DataFrame, which is split, or a mapping from
            train, validation and test to such rows. They are kept in the store, so that the run can be resumed.
        store: where prompts and runs are; ``OVERTURE_HOME`` or ``.overture`` when None.
        listener: called with every event.
        settings: what wins over the file: ``seeds=3``, ``method="vectors"``, ``train={"epochs": 2}``.

    Returns:
        The result as ``overture tune --json`` prints it.

    Raises:
        UserError: task, data, model or settings are wrong.
        Diverged: no seed gave a finite prompt.
        DiskFull: the run can be resumed when there is room.
    """
    opened_store = _store(store)
    config = _request(TuneConfig, task, rows, settings, opened_store, listener)
    check_writable(opened_store.root)
    check_early(config, opened_store)

    from overture.jobs.tune.tune import tune as tune_in_store

    result = tune_in_store(config, opened_store, listener)
    assert isinstance(result, TuneResult), "nobody asked it to stop"
    return result


def search(
    task: str | Path | Mapping[str, Any] | Task,
    rows: Rows = None,
    *,
    store: str | Path | None = None,
    listener: Listener = ignore,
    **settings: Any,
) -> SearchResult:
    """Search method, place, length, rate and wording within a budget; the winner is stored.

    Args:
        task: the task file, or a mapping with its keys.
        rows: rows in memory in place of the task's own, as for `tune`.
        store: where prompts and runs are; ``OVERTURE_HOME`` or ``.overture`` when None.
        listener: called with every event.
        settings: what wins over the file: ``search={"tunes": 4}``, ``train={"batch_size": 8}``.

    Returns:
        The result as ``overture search --json`` prints it.

    Raises:
        UserError: task, data, model or settings are wrong.
    """
    from overture.jobs.search.options import SearchRequest
    from overture.jobs.search.space import requested_pairs, wordings

    opened_store = _store(store)
    config = _request(SearchRequest, task, rows, settings, opened_store, listener)
    check_no_adapter(config, "search")
    requested_pairs(config)
    wordings(config)
    check_writable(opened_store.root)
    check_early(config, opened_store)

    from overture.jobs.search.search import search as search_in_store

    file = str(task) if isinstance(task, str | Path) else "TASK.yaml"
    result = search_in_store(config, opened_store, listener, file=file)
    assert isinstance(result, SearchResult), "nobody asked it to stop"
    return result


def compare(
    task: str | Path | Mapping[str, Any] | Task,
    rows: Rows = None,
    *,
    output: str | Path | None = None,
    store: str | Path | None = None,
    listener: Listener = ignore,
    **settings: Any,
) -> Summary:
    """Measure prompts, adapters, fine-tuning and the model as it is side by side.

    Args:
        task: the task file, or a mapping with its keys.
        rows: rows in memory in place of the task's own, as for `tune`.
        output: folder of finished measurements; ``compare-NAME`` when None. Given again, it goes on from there.
        store: where prompts are that starts refer to; ``OVERTURE_HOME`` or ``.overture`` when None.
        listener: called with every event.
        settings: of the comparison, such as ``ways=["no-prompt", "prefix-after"]``, ``sizes=[16, 64]``, ``seeds=3`` and
            ``budget=30``; all others win over the task file.

    Returns:
        The summary as ``overture compare --json`` prints it.

    Raises:
        UserError: task, data, model, a way or settings are wrong.
    """
    from overture.jobs.compare.options import CompareConfig
    from overture.jobs.compare.ways import ways_of

    opened_store = _store(store)
    of_comparison = {name: settings.pop(name) for name in CompareConfig.model_fields if name in settings}
    tune_request = _request(TuneConfig, task, rows, settings, opened_store, listener, prompt_use="as a model")
    check_no_adapter(tune_request, "compare")
    config = validated(CompareConfig, {**of_comparison, "tune": tune_request}, "overture.compare")
    if config.ways:
        ways_of(config)
    folder = Path(output) if output else Path(f"compare-{tune_request.task.name}")
    if folder.exists() and not folder.is_dir():
        raise ConfigError("the comparison's folder is a file", where=str(folder), fix="name a folder as output")
    check_writable(folder)
    check_early(tune_request, opened_store, is_tuned=False)

    from overture.jobs.compare.compare import compare as compare_in_folder

    result = compare_in_folder(config, folder, opened_store, listener)
    assert isinstance(result, Summary), "nobody asked it to stop"
    return result


def evaluate(
    prompt: "str | Path | Handle",
    rows: Rows = None,
    *,
    split: Literal["test", "validation"] | None = None,
    calibrated: bool = False,
    coverage: float | None = None,
    abstain: float | None = None,
    store: str | Path | None = None,
    allow_drift: bool = False,
    listener: Listener = ignore,
) -> Evaluation:
    """Score a stored prompt, and its model without one, on the same rows.

    Args:
        prompt: as `load` takes it, or a loaded prompt.
        rows: a file, a list of mappings or a DataFrame; the rows of the prompt's own run when None.
        split: which rows of its own run; test rows where there are any, when None.
        calibrated: measure it with and without contextual calibration.
        coverage: measure sets of labels that are to hold the right one in this share of rows.
        abstain: measure answers that are given only where this share of them is right.
        store: where prompts and runs are; ``OVERTURE_HOME`` or ``.overture`` when None.
        allow_drift: as for `load`.
        listener: called with every event.

    Raises:
        UserError: there is no such prompt, or rows are wrong.
    """
    if rows is not None and split:
        raise ConfigError("rows and split exclude each other", where="split", fix="leave one of them out")

    from overture.data.task_rows import rows_in_memory, rows_of_file
    from overture.evaluate.measure import measured
    from overture.evaluate.scored_rows import check_scorable, rows_of_run

    handle = load(prompt, store=store, allow_drift=allow_drift) if isinstance(prompt, str | Path) else prompt
    notices: list[str] = []
    if rows is None:
        name, eval_rows = rows_of_run(handle.host.store or _store(store), handle.manifest, split or "")
    else:
        name = "data"
        eval_rows, notice_records = (
            rows_of_file(handle.task, Path(rows)) if isinstance(rows, str | Path) else rows_in_memory(handle.task, rows)
        )
        notices = notice_texts(notice_records)
    check_scorable(handle.task, eval_rows)
    certainty = handle.certainty(coverage, abstain)
    result = measured(handle, eval_rows, name, as_progress(listener), calibrated, notices, certainty)[0]
    for text in result.notices:
        listener(NoticeEvent(text=text))
    return result


def load(ref: str | Path, *, store: str | Path | None = None, allow_drift: bool = False) -> "Handle":
    """A stored prompt on its model, ready to answer.

    Args:
        ref: ``name`` for the latest version, ``name@2``, or a prompt's folder.
        store: where prompts are kept; ``OVERTURE_HOME`` or ``.overture`` when None.
        allow_drift: accept another tokenizer, chat template or revision around the same weights.

    Raises:
        StoreError: no such prompt.
        ArtifactError: it is damaged, or made for another model.
        BackboneError: its model cannot be loaded.
    """
    if not isinstance(ref, str | Path):
        raise ConfigError(
            "this is no name of a prompt",
            got=f"{type(ref).__name__}: {ref!r:.60}",
            wanted="name, name@version, or a prompt's folder",
            fix="of a result, load result.prompt",
        )
    opened_store = _store(store)
    folder = opened_store.get(ref)

    from overture.evaluate.host import Host

    return Host(store=opened_store, allow_drift=allow_drift).open(folder)


def _store(root: str | Path | None) -> Store:
    return Store((Path(root) if root else store_dir()).absolute())


def _request(
    model: type[R],
    task: str | Path | Mapping[str, Any] | Task,
    rows: Rows,
    settings: Mapping[str, Any],
    store: Store,
    listener: Listener,
    prompt_use: PromptUse = "as it is",
) -> R:
    """The request for a task with rows in memory and settings by keyword.

    Raises:
        UserError: all that is wrong; an unknown keyword is reported with the section that its key belongs to.
    """
    if not isinstance(task, str | Path | Mapping | Task):
        raise ConfigError(
            "this is no task",
            got=f"{type(task).__name__}: {task!r:.60}",
            wanted="a task file, or a mapping with its keys",
            fix="overture.tune('task.yaml'), or overture.tune({'name': ..., 'template': ..., 'labels': ...}, rows)",
        )
    source: Path | Mapping[str, Any] = Path(task) if isinstance(task, str | Path) else dict(task)
    if isinstance(task, Task):
        source = task.model_dump(mode="json", exclude_unset=True)
    if rows is not None:
        values = task_values(source)
        data = {name: value for name, value in (values.get("data") or {}).items() if name not in _SOURCES}
        source = {**values, "data": {**data, **_stored_rows(rows, str(values.get("name", "rows")), store, listener)}}
    try:
        return resolved(model, source, settings, prompt_use=prompt_use)
    except ConfigError as error:
        problems = [_as_keyword(problem, settings) for problem in error.problems]
        raise ConfigError(
            error.what, where=error.where, got=error.got, wanted=error.wanted, fix=error.fix, problems=problems
        ) from None


def _as_keyword(problem: Problem, settings: Mapping[str, Any]) -> Problem:
    """A mistake with its fix as Python would have it: ``train={"epochs": 3}`` for ``epochs=3``."""
    hint = _SECTION_HINT.fullmatch(problem.fix)
    if not hint or problem.where not in settings:
        return problem
    section, key = hint.groups()
    return Problem(
        problem.where, problem.what, f"did you mean {section}={{{json.dumps(key)}: {settings[problem.where]!r}}}?"
    )


def _stored_rows(rows: Rows, name: str, store: Store, listener: Listener) -> dict[str, str]:
    """Files in the store with rows that were in memory, as keys of ``data``; equal rows share a file."""
    is_by_split = isinstance(rows, Mapping) and set(rows) <= set(_SPLITS) and "train" in rows
    files = {}
    for split, split_rows in (rows if is_by_split else {"path": rows}).items():
        table = table_of(split_rows, split if is_by_split else "rows")
        for text in notice_texts(table.notices):
            listener(NoticeEvent(text=text))
        text = "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in table.rows)
        digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:12]
        path = store.root.absolute() / "rows" / f"{re.sub(r'[^a-z0-9_-]+', '-', name.lower())[:64]}-{digest}.jsonl"
        if not path.exists():
            write_atomic(path, text.encode(errors="surrogatepass"))
        files[split] = str(path)
    return files
