"""``overture similar``: which stored prompts are like a given one."""

from typing import Any

from overture.cli.options import JsonOption, PromptArgument, StoreOption, store_flag, store_root
from overture.cli.out import console, emit, say
from overture.cli.progress import display, stages
from overture.cli.report import show_next, tune_from


def command(prompt: PromptArgument, store: StoreOption = None, is_json: JsonOption = False) -> None:
    """Find stored prompts of the same model that are like a prompt: a start for its task, or for one like it."""
    root = store_root(store)

    from overture.jobs.transfer.similar import similar
    from overture.store.store import Store

    show = display()
    with show.live():
        found = similar(prompt, Store(root, say), stages(show))
    if is_json:
        emit(found)
    else:
        _show(found, store_flag(store))


def _show(found: dict[str, Any], flag: str) -> None:
    from rich.table import Table

    out = console()
    if not found["similar"]:
        out.print(f"no other prompt of {found['backbone']} can be compared with {found['prompt']}", soft_wrap=True)
    else:
        title = f"like {found['prompt']} ({found['kind']}), cosine similarity"
        table = Table(title=title, title_justify="left")
        for name in ("prompt", "task", "method", "place"):
            table.add_column(name)
        for name in ("length", "average tokens", "pairs of tokens"):
            table.add_column(name, justify="right")
        for one in found["similar"]:
            facts = [one[name] for name in ("prompt", "task", "method", "place")]
            table.add_row(*facts, str(one["length"]), f"{one['average']:+.3f}", f"{one['pairs']:+.3f}")
        out.print(table)
    if found["left_out"]:
        out.print("left out: " + ", ".join(f"{count} {why}" for why, count in found["left_out"].items()))
    if found["similar"]:
        show_next("Start from the first:", [start_line(found["similar"][0], found["kind"], flag)])


def start_line(one: dict[str, Any], kind: str, flag: str) -> str:
    """The command that tunes from a stored prompt."""
    from overture.prompt.registry import method_from, plainest_at

    length: int | None = None
    options = {"layer": one["layer"]} if one["layer"] else {}
    if kind.startswith("keys and values"):
        method, length = method_from(one["method"], one["place"], is_memory=True), one["length"]
    else:
        method = plainest_at(one["place"], is_memory=False, is_late=bool(options))
    return tune_from(one["prompt"], method, one["place"], length, options, flag)
