"""``overture similar``: which stored prompts are like a given one."""

from typing import TYPE_CHECKING, cast

from overture.cli.options import JsonOption, PromptArgument, StoreOption, store_flag, store_root
from overture.cli.out import console, emit, loading, say
from overture.cli.progress import display, stages
from overture.cli.report import show_next, tune_from

if TYPE_CHECKING:
    from overture.core.injection import Place
    from overture.core.records.transfer import SimilarPrompt, SimilarResult


def command(prompt: PromptArgument, store: StoreOption = None, is_json: JsonOption = False) -> None:
    """Find stored prompts of the same model that are like a prompt: a start for its task, or for one like it."""
    root = store_root(store)

    from overture.store.store import Store

    kept = Store(root, say)
    kept.get(prompt)
    loading()

    from overture.jobs.transfer.similar import similar

    show = display()
    with show.live():
        result = similar(prompt, kept, stages(show))
    if is_json:
        emit(result.dump())
    else:
        _show(result, store_flag(store))


def _show(result: "SimilarResult", flag: str) -> None:
    from rich.table import Table

    out = console()
    if not result.similar:
        out.print(f"no other prompt of {result.backbone} can be compared with {result.prompt}", soft_wrap=True)
    else:
        table = Table(title=f"like {result.prompt} ({result.kind}), cosine similarity", title_justify="left")
        for name in ("prompt", "task", "method", "place"):
            table.add_column(name)
        for name in ("length", "average tokens", "pairs of tokens"):
            table.add_column(name, justify="right")
        for prompt in result.similar:
            figures = [str(prompt.length), f"{prompt.average:+.3f}", f"{prompt.pairs:+.3f}"]
            table.add_row(prompt.prompt, prompt.task, prompt.method, prompt.place, *figures)
        out.print(table)
    if result.left_out:
        out.print("left out: " + ", ".join(f"{count} {why}" for why, count in result.left_out.items()))
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
