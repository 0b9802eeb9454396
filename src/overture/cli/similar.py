"""``overture similar``: finds stored prompts that resemble one."""

from typing import TYPE_CHECKING, cast

from overture.cli.options import JsonOption, PromptArgument, StoreOption, open_store, store_flag
from overture.cli.out import console, emit, loading, show_text
from overture.cli.progress import live_display
from overture.cli.report import show_next, tune_from
from overture.cli.tables import Column, show_table
from overture.core.records.events import as_progress

if TYPE_CHECKING:
    from overture.core.injection import Place
    from overture.core.records.transfer import SimilarPrompt, SimilarResult


def command(prompt: PromptArgument, store: StoreOption = None, is_json: JsonOption = False) -> None:
    """Find stored prompts of the same model that are like a prompt: a start for its task, or for one like it."""
    prompt_store = open_store(store)
    prompt_store.get(prompt)
    loading()

    from overture.jobs.transfer.similar import similar

    with live_display() as show:
        result = similar(prompt, prompt_store, as_progress(show))
    if is_json:
        emit(result.dump())
    else:
        _show(result, store_flag(store))


def _show(result: "SimilarResult", flag: str) -> None:
    out, similar = console(), result.similar
    if not similar:
        show_text(out, f"no other prompt of {result.backbone} can be compared with {result.prompt}")
    else:
        columns = [
            Column("prompt", [prompt.prompt for prompt in similar], is_left=True),
            Column("task", [prompt.task for prompt in similar], rank=2, is_left=True),
            Column("method", [prompt.method for prompt in similar], rank=1, is_left=True),
            Column("place", [prompt.place for prompt in similar], rank=1, is_left=True),
            Column("length", [str(prompt.length) for prompt in similar], rank=3),
            Column("average tokens", [f"{prompt.average:+.3f}" for prompt in similar]),
            Column("pairs of tokens", [f"{prompt.pairs:+.3f}" for prompt in similar]),
        ]
        show_table(out, columns, f"prompts most similar to {result.prompt} ({result.kind}), cosine similarity")
    if result.left_out:
        show_text(out, "left out: " + ", ".join(f"{count} {why}" for why, count in result.left_out.items()))
    if result.similar:
        show_next("Start from the first:", [start_line(result.similar[0], result.kind, flag)])


def start_line(prompt: "SimilarPrompt", kind: str, flag: str) -> str:
    """The command that tunes from a stored prompt."""
    from overture.prompt.registry import method_from, plainest_at

    length: int | None = None
    place = cast("Place", prompt.place)
    options = {"layer": prompt.layer} if prompt.layer else {}
    if kind.startswith("keys and values"):
        method, length = method_from(prompt.method, place, is_memory=True), prompt.length
    else:
        method = plainest_at(place, is_memory=False, is_late=bool(options))
    return tune_from(prompt.prompt, method, prompt.place, length, options, flag)
