"""``overture list``, ``show``, ``diff`` and ``rm``: the prompts of a store."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from overture.cli.options import JsonOption, PromptArgument, StoreOption, store_flag, store_root
from overture.cli.out import console, emit, say
from overture.cli.report import gates_line, interval_text, show_next
from overture.core.errors import StoreError

if TYPE_CHECKING:
    from overture.core.records.scores import Interval
    from overture.store.manifest import Manifest
    from overture.store.store import Entry


def list_command(store: StoreOption = None, is_json: JsonOption = False) -> None:
    """List the prompts of a store, with their scores."""
    from overture.store.store import Store

    root = store_root(store)
    entries = Store(root, say).list()
    if is_json:
        emit({"store": str(root), "prompts": [_listed(entry) for entry in entries]})
        return
    if not entries:
        console().print(f"no prompts in {root}", soft_wrap=True)
        show_next("Make one:", ["overture demo", "overture init your.jsonl"])
        return
    from rich.table import Table

    table = Table("prompt", "model", "method", "place", "length", "score", "95% interval", "rows", "created")
    for entry in entries:
        table.add_row(f"{entry.name}@{entry.version}", *(_cells(entry.manifest) if entry.manifest else ["damaged"]))
    console().print(table)
    for entry in entries:
        if entry.problem:
            console().print(f"damaged: {entry.name}@{entry.version}: {entry.problem}", soft_wrap=True)


def _listed(entry: "Entry") -> dict[str, Any]:
    facts = {"prompt": f"{entry.name}@{entry.version}", "folder": str(entry.folder), "problem": entry.problem or None}
    manifest = entry.manifest
    if manifest is None:
        return facts
    chosen = {name: getattr(manifest, name) for name in ("method", "place", "length", "trainable", "created")}
    return {**facts, "backbone": manifest.backbone.id, **chosen, "metrics": manifest.metrics.dump()}


def _cells(manifest: "Manifest") -> list[str]:
    name, score = _main_score(manifest)
    shown = [f"{name} {score.value:.3f}", interval_text(score), str(score.n)] if score else ["-"] * 3
    facts = [manifest.backbone.id, manifest.method, manifest.place, str(manifest.length)]
    return [*facts, *shown, manifest.created[:16].replace("T", " ")]


def _main_score(manifest: "Manifest") -> tuple[str, "Interval | None"]:
    """The task's metric on test rows, or on validation rows."""
    metric = str(manifest.task.get("metric", ""))
    for split, scores in (("test", manifest.metrics.test), ("validation", manifest.metrics.validation)):
        if scores and metric in scores.scores:
            return f"{split} {metric}", scores[metric]
    return "", None


def show_command(prompt: PromptArgument, store: StoreOption = None, is_json: JsonOption = False) -> None:
    """Show what a prompt is: its model, task, scores and origin."""
    from overture.store.store import Store
    from overture.store.usage import predict_command

    entry = Store(store_root(store), say).show(prompt)
    manifest = entry.manifest
    assert manifest is not None
    named = f"{entry.name}@{entry.version}" if entry.version else entry.name
    if is_json:
        emit({"prompt": named, "folder": str(entry.folder), "manifest": manifest.model_dump(mode="json")})
        return
    from rich.table import Table

    out = console()
    facts = Table(title=named, title_justify="left", show_header=False)
    for name, value in _facts(entry.folder, manifest).items():
        facts.add_row(name, value)
    out.print(facts)
    out.print(_score_table(manifest))
    show_next("Use it:", [predict_command(prompt, manifest.task, store_flag(store))])


def _facts(folder: Path, manifest: "Manifest") -> dict[str, str]:
    backbone, task = manifest.backbone, manifest.task
    template = task.get("template", "")
    shown = template if isinstance(template, str) else "\n".join(f"[{m['role']}] {m['content']}" for m in template)
    labels = {k: v if isinstance(v, str) else " | ".join(v) for k, v in (task.get("labels") or {}).items()}
    return {
        "model": f"{backbone.id} ({backbone.model_type}, {backbone.num_layers} layers of width {backbone.hidden_size})",
        "method": f"{manifest.method} at {manifest.place}, {manifest.length} tokens, {manifest.trainable:,} values",
        **_text_facts(manifest),
        "template": shown,
        **({"labels": ", ".join(f"{label}: {word!r}" for label, word in labels.items())} if labels else {}),
        **({"gates": gates_line(manifest.lineage.gates)} if manifest.lineage.gates else {}),
        "made": ", ".join(
            [manifest.created, *(f"{k} {v}" for k, v in manifest.lineage.dump().items() if k != "gates")]
        ),
        "training": "-" if manifest.seconds is None else f"{manifest.seconds:.1f} s",
        "folder": str(folder),
    }


def _text_facts(manifest: "Manifest") -> dict[str, str]:
    """The words of a prompt of words."""
    text = manifest.text
    if text is None:
        return {}
    facts = {"text in front": text.before, "text behind the input": text.after}
    return {name: repr(words) for name, words in facts.items() if words}


def _score_table(manifest: "Manifest") -> Any:
    from rich.table import Table

    table = Table("score", "value", "95% interval", "rows")
    for name, value, score in manifest.metrics.named():
        table.add_row(name, f"{value:.3f}", *((interval_text(score), str(score.n)) if score else "--"))
    return table


def diff_command(a: PromptArgument, b: PromptArgument, store: StoreOption = None, is_json: JsonOption = False) -> None:
    """Show what differs between two prompts."""
    from overture.store.store import Store

    diff = Store(store_root(store), say).diff(a, b)
    if is_json:
        emit(diff)
        return
    from rich.table import Table

    out = console()
    out.print("the values are bit-equal" if diff.is_same_prompt else "the values differ")
    options = Table("option", diff.a, diff.b)
    for name, values in diff.config.items():
        options.add_row(name, _short(values.a), _short(values.b))
    metrics = Table("score", diff.a, diff.b, "difference")
    for name, scores in diff.metrics.items():
        metrics.add_row(name, _short(scores.a), _short(scores.b), _short(scores.difference))
    tensors = Table("values", diff.a, diff.b, "largest difference", "cosine")
    for name, both in diff.tensors.items():
        shapes = [str(side.shape) if side else "-" for side in (both.a, both.b)]
        tensors.add_row(name, *shapes, _short(both.max_difference), _short(both.cosine))
    for table in (options, metrics, tensors):
        if table.row_count:
            out.print(table)


def _short(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def rm_command(
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="name@version, or a name for all its versions.")],
    is_sure: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    store: StoreOption = None,
    is_json: JsonOption = False,
) -> None:
    """Remove a prompt from a store."""
    from overture.store.names import is_path
    from overture.store.store import Store

    if is_path(prompt):
        raise StoreError("only a prompt's name can be removed", got=prompt, wanted="name or name@version")
    kept = Store(store_root(store), say)
    kept.get(prompt, named_only=True)
    if not is_sure:
        if is_json or not sys.stdin.isatty():
            raise StoreError("nothing was removed: nobody can be asked", got=prompt, fix="repeat with --yes")
        what = prompt if "@" in prompt else f"all versions of {prompt}"
        typer.confirm(f"remove {what}?", abort=True, err=True)
    removed = list(kept.remove(prompt))
    if is_json:
        emit({"removed": removed})
    else:
        console().print(f"removed {', '.join(removed)}", soft_wrap=True)
