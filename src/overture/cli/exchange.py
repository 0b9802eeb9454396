"""``overture import`` and ``overture export``: prompts from and to other programs."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from overture.cli.options import JsonOption, PromptArgument, StoreOption, store_flag, store_root
from overture.cli.out import console, emit, loading, remark, say, show_text
from overture.cli.report import asking, show_next
from overture.core.errors import ArtifactError


def import_command(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="A peft adapter: adapter_config.json and adapter_model.safetensors.")
    ],
    task: Annotated[
        Path,
        typer.Option(metavar="TASK.yaml", help="The task file: an adapter knows no template and no label words."),
    ],
    backbone: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="The frozen model: a known name, a Hub id, a folder or a file; the adapter's own if not given.",
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="The prompt's name; the task's if not given.")] = None,
    task_id: Annotated[
        int | None,
        typer.Option(
            min=0, help="Which task's prompt of a multitask adapter; the first, 0, if not given.", show_default=False
        ),
    ] = None,
    store: StoreOption = None,
    is_json: JsonOption = False,
) -> None:
    """Keep the prompt of a peft adapter; it gives the logits that it gives in peft."""
    root = store_root(store)

    from overture.jobs.run.request import tune_config
    from overture.store.names import checked_name
    from overture.store.store import Store

    tune_config(task)
    if name:
        checked_name(name)
    if not (folder / "adapter_config.json").is_file():
        raise ArtifactError(
            "this is no adapter's folder",
            where=str(folder),
            got="no adapter_config.json" if folder.is_dir() else "no such folder",
            wanted="a folder with adapter_config.json and adapter_model.safetensors",
            fix="for an adapter of the Hub: hf download OWNER/NAME --local-dir DIR",
        )
    loading()

    from overture.jobs.transfer.exchange import import_adapter

    result = import_adapter(
        folder,
        Store(root, say),
        task=task,
        backbone=backbone,
        name=name,
        task_id=task_id,
        notify=lambda text: remark(f"note: {text}"),
    )
    if is_json:
        emit(result.dump())
        return
    what = f"{result.method} at {result.place}, {result.length} tokens, for {result.backbone}"
    show_text(console(), f"stored {result.prompt}: {what}")
    flag = store_flag(store)
    show_next(
        "Measure and use it:",
        [
            f"overture eval {result.prompt}{flag} rows.jsonl",
            asking(result.prompt, result.folder, flag),
        ],
    )


def export_command(
    prompt: PromptArgument,
    to: Annotated[
        Literal["peft", "npy", "json", "vllm", "text", "openai", "promptfoo", "lm-eval"],
        typer.Option(
            help="An adapter for peft, NumPy arrays, numbers in one JSON file, or keys and values for vLLM; of a "
            "prompt of words a plain text, OpenAI messages, a promptfoo config, or a task of lm-evaluation-harness."
        ),
    ],
    old_folder: Annotated[Path | None, typer.Argument(metavar="DIR", hidden=True)] = None,
    folder: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="DIR",
            help="The folder to make; NAME.FORM if not given. For vLLM the folder of all prompts; vllm-prompts.",
        ),
    ] = None,
    store: StoreOption = None,
    is_json: JsonOption = False,
) -> None:
    """Write a prompt for other programs."""
    root = store_root(store)
    if old_folder:
        say("note: name the folder with -o DIR; as an argument it works in this version")
    folder = folder or old_folder or Path("vllm-prompts" if to == "vllm" else f"{Path(prompt).name}.{to}")

    from overture.exchange.export import check_form, check_target
    from overture.store.artifact import read_manifest
    from overture.store.store import Store

    kept = Store(root, say)
    check_form(read_manifest(kept.get(prompt)), to)
    if to != "vllm":
        check_target(folder)
    loading()

    if to == "vllm":
        from overture.jobs.transfer.vllm import export_to_vllm

        result = export_to_vllm(prompt, folder, kept, notify=remark)
    else:
        from overture.jobs.transfer.exchange import export_prompt

        result = export_prompt(prompt, folder, kept, to=to)
    if is_json:
        emit(result.dump())
        return
    show_text(console(), f"wrote {', '.join(result.files)} in {result.folder}")
    for text in result.lost:
        remark(f"note: {text}")
    if to == "peft":
        show_text(console(), f"how to load it: {folder / 'README.md'}")
