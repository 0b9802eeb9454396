"""``overture import`` and ``overture export``: prompts from and to other programs and stores."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from overture.cli.options import JsonOption, PromptArgument, StoreOption, open_store, store_flag, store_root
from overture.cli.out import console, emit, loading, remark, say, show_text
from overture.cli.report import predict_line, show_next
from overture.core.errors import ArtifactError, ConfigError
from overture.core.files import check_writable

if TYPE_CHECKING:
    from overture.store.store import Store


def import_command(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="DIR|FILE",
            help="A peft adapter: adapter_config.json and adapter_model.safetensors; a prompt of another store: "
            "prompt.json and prompt.safetensors; or a concept of a model that draws: learned_embeds.safetensors.",
        ),
    ],
    task: Annotated[
        Path | None,
        typer.Option(
            metavar="TASK.yaml",
            help="The task file: an adapter knows no template and no label words; none of a concept.",
        ),
    ] = None,
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
    token: Annotated[
        str | None,
        typer.Option(help="The word that stands for a concept; the file's own, or its name, if not given."),
    ] = None,
    store: StoreOption = None,
    is_json: JsonOption = False,
) -> None:
    """Keep the prompt of a peft adapter, which gives the logits that it gives in peft; or any other prompt."""
    root = store_root(store)

    from overture.store.artifact import MANIFEST_FILE
    from overture.store.names import checked_name

    if name:
        checked_name(name)
    check_writable(root)
    if (folder / MANIFEST_FILE).is_file():
        task_flags = {"--task": task, "--backbone": backbone, "--task-id": task_id, "--token": token}
        if useless_flags := [option for option, value in task_flags.items() if value is not None]:
            what = "these options are part of the prompt and cannot be set"
            raise ConfigError(
                what, where=", ".join(useless_flags), wanted="--name and --store alone", fix="leave it out"
            )
        _import_prompt(folder, open_store(store), name, store_flag(store), is_json)
    elif _is_concept(folder):
        _import_concept(folder, open_store(store), backbone, token, name, store_flag(store), is_json)
    else:
        _import_adapter(folder, store, task, backbone, name, task_id, is_json)


def _import_adapter(
    folder: Path,
    store: Path | None,
    task: Path | None,
    backbone: str | None,
    name: str | None,
    task_id: int | None,
    is_json: bool,
) -> None:
    """Keep the prompt of a peft adapter."""
    from overture.jobs.run.request import tune_config

    if task is None:
        raise ConfigError(
            "an adapter contains no template and no label words", where="--task", got="none", fix="--task TASK.yaml"
        )
    tune_config(task)
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
        open_store(store),
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
    commands = [f"overture eval {result.prompt}{flag} rows.jsonl", predict_line(result.prompt, result.folder, flag)]
    show_next("Measure and use it:", commands)


def _import_prompt(folder: Path, store: "Store", name: str | None, flag: str, is_json: bool) -> None:
    """Keep a prompt of another store as the next version of its name, whole: scores, task and origin with it."""
    from overture.store.artifact import load_artifact, read_manifest

    manifest, tensors = load_artifact(folder, may_draw=True)
    stored_folder = store.add(manifest if name is None else manifest.model_copy(update={"name": name}), tensors)
    manifest = read_manifest(stored_folder)
    result = {"prompt": manifest.ref, "folder": str(stored_folder), "imported_from": str(folder)}
    if is_json:
        emit(result)
        return
    what = f"{manifest.method} at {manifest.place}, {manifest.length} tokens, for {manifest.backbone.id}"
    show_text(console(), f"stored {manifest.ref}: {what}")
    show_next("Look at it:", [f"overture show {manifest.ref}{flag}"])


def _is_concept(path: Path) -> bool:
    """Whether this is a file of vectors, or a folder that holds one, and no adapter."""
    if path.is_dir():
        names = [file.name for file in path.iterdir()]
        is_adapter = any(name.startswith("adapter_") for name in names)
        return not is_adapter and any(name.endswith(".safetensors") or name.startswith("learned_") for name in names)
    return path.is_file()


def _import_concept(
    path: Path, store: "Store", backbone: str | None, token: str | None, name: str | None, flag: str, is_json: bool
) -> None:
    """Keep an embedding of textual inversion."""
    if backbone is None:
        raise ConfigError(
            "the file does not say which model its vectors are for",
            where="--backbone",
            got="none",
            fix="--backbone FOLDER, with the folder of a model of diffusers",
        )
    loading()

    from overture.engine.options import local_source
    from overture.jobs.concept.take import import_concept

    result = import_concept(path, store, backbone=local_source(backbone), token=token, name=name)
    for text in result.notices:
        remark(f"note: {text}")
    if is_json:
        emit(result.dump())
        return
    show_text(console(), f"stored {result.prompt}: {result.token}, {result.length} vectors, for {result.backbone}")
    show_next("Use it:", [f"overture export {result.prompt}{flag} --to diffusers"])


def export_command(
    prompt: PromptArgument,
    to: Annotated[
        Literal["peft", "npy", "json", "vllm", "text", "openai", "promptfoo", "lm-eval", "diffusers", "webui"],
        typer.Option(
            help="An adapter for peft, NumPy arrays, numbers in one JSON file, or keys and values for vLLM; of a "
            "prompt of words a plain text, OpenAI messages, a promptfoo config, or a task of lm-evaluation-harness; of "
            "a concept a file for diffusers or for web UIs."
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
    if old_folder:
        say("note: name the folder with -o DIR; as an argument it works in this version")
    folder = folder or old_folder or Path("vllm-prompts" if to == "vllm" else f"{Path(prompt).name}.{to}")

    from overture.exchange.export import check_form, check_target
    from overture.store.artifact import read_manifest

    prompt_store = open_store(store)
    check_form(read_manifest(prompt_store.get(prompt)), to)
    if to != "vllm":
        check_target(folder)
    loading()

    if to == "vllm":
        from overture.jobs.transfer.vllm import export_to_vllm

        result = export_to_vllm(prompt, folder, prompt_store, notify=remark)
    else:
        from overture.jobs.transfer.exchange import export_prompt

        result = export_prompt(prompt, folder, prompt_store, to=to)
    if is_json:
        emit(result.dump())
        return
    show_text(console(), f"wrote {', '.join(result.files)} in {result.folder}")
    for text in result.lost:
        remark(f"note: {text}")
    if "README.md" in result.files:
        show_text(console(), f"how to load it: {folder / 'README.md'}")
