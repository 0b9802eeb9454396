"""``overture list``, ``show``, ``diff``, ``alias`` and ``rm``: the prompts of a store."""

import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

import typer

from overture.cli.options import JsonOption, PromptArgument, StoreOption, open_store, store_flag
from overture.cli.out import console, emit, is_verbose, loading, show_text
from overture.cli.report import gates_line, interval_text, scaling_text, show_next, worth_of
from overture.cli.tables import Column, show_facts, show_table
from overture.core.errors import StoreError

if TYPE_CHECKING:
    from rich.console import Console

    from overture.core.records.shares import KeptShares
    from overture.store.manifest import Manifest
    from overture.store.store import Entry, Store

_NAMES_AT_ONCE = 100


def list_command(
    match: Annotated[str, typer.Option("--match", help="only names that contain this text")] = "",
    after: Annotated[str, typer.Option("--after", help="begin behind this name")] = "",
    limit: Annotated[
        int | None,
        typer.Option("--limit", min=1, help="names at once; 100 on a screen and all of them in JSON, if not given"),
    ] = None,
    store: StoreOption = None,
    is_json: JsonOption = False,
) -> None:
    """List the prompts of a store, with their scores."""
    prompt_store = open_store(store)
    root = prompt_store.root
    names_at_once = limit or (len(prompt_store.names()) if is_json else _NAMES_AT_ONCE)
    page = prompt_store.page(after, names_at_once, match)
    entries = page.entries
    aliases = [_aliases_of(prompt_store, entry.name, entry.version) for entry in entries]
    if is_json:
        listed = [{**_listed(entry), "aliases": names} for entry, names in zip(entries, aliases, strict=True)]
        emit({"store": str(root), "prompts": listed, "after": page.after or None})
        return
    if not entries and not page.after:
        if match or after:
            where = f"behind {after!r} " if after else ""
            show_text(console(), f"no prompt {where}in {root}" + (f" has {match!r} in its name" if match else ""))
            show_next("See all:", ["overture list"])
            return
        show_text(console(), f"no prompts in {root}")
        show_next("Make one:", ["overture demo", "overture init your.jsonl"])
        return
    out = console()
    rows = [_cells(entry) for entry in entries]
    for row, names in zip(rows, aliases, strict=True):
        row[0] = " ".join([row[0], *(f"@{name}" for name in names)])
    show_list(out, rows, bad=[n for n, entry in enumerate(entries) if entry.problem])
    for entry in entries:
        if entry.problem:
            show_text(out, f"damaged: {entry.name}@{entry.version}: {entry.problem}")
    if page.after:
        show_text(out, f"{names_at_once:,} names of {page.num_names:,}")
        options = f" --match {quote(match)}" if match else ""
        show_next("See more:", [f"overture list --after {page.after}{options}"])


def show_list(out: "Console", rows: Sequence[Sequence[str]], bad: Collection[int]) -> None:
    """Print the list of prompts.

    Args:
        out: where to print.
        rows: of each prompt name, score, interval, what it is, model, number of rows, time.
        bad: numbers of the rows that cannot be read.
    """
    heads = ("prompt", "score", "95% interval", "prompt is", "model", "rows", "created")
    ranks = (0, 0, 1, 2, 3, 4, 5)
    columns = [
        Column(head, cells, rank, is_left=head in ("prompt", "prompt is", "model", "created"))
        for head, cells, rank in zip(heads, zip(*rows, strict=True), ranks, strict=True)
    ]
    show_table(out, columns, bad=bad)


def _aliases_of(store: "Store", name: str, version: int) -> list[str]:
    return sorted(alias for alias, number in store.aliases(name).items() if number == version)


def _listed(entry: "Entry") -> dict[str, Any]:
    facts = {"prompt": f"{entry.name}@{entry.version}", "folder": str(entry.folder), "problem": entry.problem or None}
    manifest = entry.manifest
    if manifest is None:
        return facts
    settings = {name: getattr(manifest, name) for name in ("method", "place", "length", "trainable", "created")}
    return {**facts, "backbone": manifest.backbone.id, **settings, "metrics": manifest.metrics.dump()}


def _cells(entry: "Entry") -> list[str]:
    ref, manifest = f"{entry.name}@{entry.version}", entry.manifest
    if manifest is None:
        return [ref, "damaged", *[""] * 5]
    metric = str(manifest.task.get("metric", ""))
    value, interval, rows = "-", "-", "-"
    for split, scores in (("validation", manifest.metrics.validation), ("test", manifest.metrics.test)):
        if scores and (score := scores.scores.get(metric)):
            value, interval, rows = f"{split} {metric} {score.value:.3f}", interval_text(score), str(score.n)
    what = "linear probe" if manifest.is_probe else f"{manifest.method} {manifest.place}, {manifest.length}"
    return [ref, value, interval, what, manifest.backbone.id, rows, manifest.created[:16].replace("T", " ")]


def show_command(prompt: PromptArgument, store: StoreOption = None, is_json: JsonOption = False) -> None:
    """Show what a prompt is: its model, task, scores and origin."""
    from overture.store.names import is_path
    from overture.store.usage import predict_command

    prompt_store = open_store(store)
    entry = prompt_store.show(prompt)
    manifest = entry.manifest
    assert manifest is not None
    ref = f"{entry.name}@{entry.version}" if entry.version else entry.name
    if is_json:
        emit({"prompt": ref, "folder": str(entry.folder), "manifest": manifest.model_dump(mode="json")})
        return
    out = console()
    aliases = [] if is_path(prompt) else _aliases_of(prompt_store, entry.name, entry.version)
    facts = {"aliases": ", ".join(aliases)} if aliases else {}
    show_facts(out, {**_facts(entry.folder, manifest), **facts}, ref)
    out.print()
    if not manifest.concept:
        _show_scores(out, manifest)
    flag = store_flag(store)
    use = predict_command(prompt, manifest.task, flag)
    show_next("Use it:", [f"overture export {prompt}{flag} --to diffusers" if manifest.concept else use])


def _facts(folder: Path, manifest: "Manifest") -> dict[str, str]:
    backbone, task = manifest.backbone, manifest.task
    template = task.get("template", "")
    template_text = (
        template if isinstance(template, str) else "\n".join(f"[{m['role']}] {m['content']}" for m in template)
    )
    labels = {k: v if isinstance(v, str) else " | ".join(v) for k, v in (task.get("labels") or {}).items()}
    options = task.get("options") or {}
    temperature, biases = options.get("temperature", 1.0), options.get("label_bias", {})
    prompt = f"{manifest.method} at {manifest.place}"
    method = f"linear probe, beside {prompt}" if manifest.is_probe else f"{prompt}, {manifest.length} tokens"
    return {
        "model": f"{backbone.id} ({backbone.model_type}, {backbone.num_layers} layers of width {backbone.hidden_size})",
        "method": f"{method}, {manifest.trainable:,} values",
        **_text_facts(manifest),
        **({} if manifest.concept else {"template": template_text}),
        **({"labels": ", ".join(f"{label}: {word!r}" for label, word in labels.items())} if labels else {}),
        **({"label scores": scaling_text(temperature, biases)} if temperature != 1 or biases else {}),
        **({"sure by": _sure_by(manifest.shares)} if manifest.shares else {}),
        **({"gates": gates_line(manifest.lineage.gates)} if manifest.lineage.gates else {}),
        "made": ", ".join(
            [manifest.created, *(f"{k} {v}" for k, v in manifest.lineage.dump().items() if k != "gates")]
        ),
        "training": "-" if manifest.seconds is None else f"{manifest.seconds:.1f} s",
        "folder": str(folder),
    }


def _sure_by(shares: "KeptShares") -> str:
    rows = "rows of a file" if shares.source == "file" else "validation rows"
    return f"{shares.num_rows} {rows}, for --coverage and --abstain ({len(shares.rows):,} bytes)"


def _text_facts(manifest: "Manifest") -> dict[str, str]:
    """The words of a prompt of words, or of a concept."""
    text, concept = manifest.text, manifest.concept
    if concept:
        began = f", begun at {concept.word!r}" if concept.word else ""
        worth = {"error": worth_of(concept.errors)} if concept.errors else {}
        return {"concept": f"{concept.token}{began}", **worth}
    if text is None:
        return {}
    facts = {"text in front": text.before, "text after the input": text.after}
    return {name: repr(words) for name, words in facts.items() if words}


def _show_scores(out: "Console", manifest: "Manifest") -> None:
    """Print the scores by the task's metric, and all scores for a verbose command."""
    metric = str(manifest.task.get("metric", ""))
    scores = list(manifest.metrics.named())
    main = [score for score in scores if score[0].rpartition(".")[2] == metric]
    visible_scores = scores if is_verbose() or not main else main
    intervals = [(interval_text(score), str(score.n)) if score else ("-", "-") for _, _, score in visible_scores]
    columns = [
        Column("score", [_score_name(name) for name, _, _ in visible_scores], is_left=True),
        Column("value", [f"{value:.3f}" for _, value, _ in visible_scores]),
        Column("95% interval", [interval for interval, _ in intervals], rank=1),
        Column("rows", [rows for _, rows in intervals], rank=2),
    ]
    show_table(out, columns)
    if len(visible_scores) < len(scores):
        show_text(out, f"{len(scores) - len(visible_scores)} more scores with --verbose", style="dim")


def _score_name(dotted: str) -> str:
    """A score's name for people: ``no-prompt test accuracy``."""
    return dotted.replace("no_prompt", "no-prompt").replace(".", " ")


def diff_command(a: PromptArgument, b: PromptArgument, store: StoreOption = None, is_json: JsonOption = False) -> None:
    """Show what differs between two prompts."""
    prompt_store = open_store(store)
    for prompt in (a, b):
        prompt_store.get(prompt)
    loading()
    diff = prompt_store.diff(a, b)
    if is_json:
        emit(diff)
        return
    out = console()
    out.print("the values are bit-equal" if diff.is_same_prompt else "the values differ")
    options, scores, values = diff.config.values(), diff.metrics.values(), diff.tensors.values()
    tables = (
        [
            Column("option", list(diff.config), is_left=True),
            Column(diff.a, [_short(pair.a) for pair in options], is_left=True, is_prose=True),
            Column(diff.b, [_short(pair.b) for pair in options], is_left=True, is_prose=True),
        ],
        [
            Column(
                "score",
                list(map(_score_name, diff.metrics)),
                is_left=True,
            ),
            Column(diff.a, [_short(pair.a) for pair in scores]),
            Column(diff.b, [_short(pair.b) for pair in scores]),
            Column("difference", [_short(pair.difference) for pair in scores]),
        ],
        [
            Column("values", list(diff.tensors), is_left=True),
            Column(diff.a, [str(pair.a.shape) if pair.a else "-" for pair in values], rank=1),
            Column(diff.b, [str(pair.b.shape) if pair.b else "-" for pair in values], rank=1),
            Column("largest difference", [_short(pair.max_difference) for pair in values]),
            Column("cosine", [_short(pair.cosine) for pair in values]),
        ],
    )
    for columns in tables:
        if columns[0].cells:
            out.print()
            show_table(out, columns)


def _short(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def alias_command(
    prompt: Annotated[
        str, typer.Argument(metavar="PROMPT", help="name@version, or name for the latest; with -r name@alias.")
    ],
    alias: Annotated[
        str | None, typer.Argument(metavar="ALIAS", help="Its name, such as prod; lists all if left out.")
    ] = None,
    is_removed: Annotated[bool, typer.Option("--remove", "-r", help="Take the name away from its version.")] = False,
    store: StoreOption = None,
    is_json: JsonOption = False,
) -> None:
    """Name a version of a prompt; predict, eval, serve and the others then take name@alias.

    A name moves in one step: `overture alias movie@3 prod` changes what movie@prod is, and a server that runs answers
    with it from the next request on.
    """
    from overture.store.names import Ref, parsed_ref

    prompt_store = open_store(store)
    if is_removed and alias is not None:
        raise StoreError("--remove takes one argument", got=f"{prompt} {alias}", wanted=f"{prompt}@{alias}")
    name = parsed_ref(prompt).name
    if alias and "@" in alias:
        # Both arguments have the form of a reference to somebody who has just read `overture list`.
        first, second = parsed_ref(prompt), parsed_ref(alias)
        words = f"{alias} {first.alias or first.name}" if second.version else f"{prompt} {second.alias}"
        raise StoreError(
            "the arguments are in the wrong order",
            got=f"overture alias {prompt} {alias}",
            wanted="overture alias NAME@VERSION ALIAS",
            fix=f"overture alias {words}",
        )
    result: dict[str, Any]
    if is_removed:
        result, text = (
            {"removed": prompt, "version": prompt_store.remove_alias(prompt)},
            f"{prompt} is no alias any more",
        )
    elif alias is not None:
        version = prompt_store.move_alias(prompt, alias)
        result, text = {"alias": f"{name}@{alias}", "version": version}, f"{name}@{alias} is {version}"
    else:
        prompt_store.get(prompt, named_only=True)
        aliases = {f"{name}@{key}": str(Ref(name, number)) for key, number in prompt_store.aliases(name).items()}
        lines = [f"{key} is {version}" for key, version in sorted(aliases.items())]
        result, text = {"aliases": aliases}, "\n".join(lines) or f"{name} has no aliases"
    if is_json:
        emit(result)
    else:
        show_text(console(), text)


def rm_command(
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="name@version, or a name for all its versions.")],
    is_sure: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    store: StoreOption = None,
    is_json: JsonOption = False,
) -> None:
    """Remove a prompt from a store."""
    from overture.store.names import is_path

    if is_path(prompt):
        raise StoreError("only a prompt's name can be removed", got=prompt, wanted="name or name@version")
    prompt_store = open_store(store)
    prompt_store.get(prompt, named_only=True)
    if not is_sure:
        if is_json or not sys.stdin.isatty():
            raise StoreError(
                "nothing was removed: without a terminal there is no question to answer",
                got=prompt,
                fix="repeat with --yes",
            )
        what = prompt if "@" in prompt else f"all versions of {prompt}"
        typer.confirm(f"remove {what}?", abort=True, err=True)
    refs = list(prompt_store.remove(prompt))
    if is_json:
        emit({"removed": refs})
    else:
        show_text(console(), f"removed {', '.join(refs)}")
