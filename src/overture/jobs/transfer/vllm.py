"""Stored prompts as vLLM reads them: opened on their model, compiled, and written as keys and values."""

from collections.abc import Callable
from pathlib import Path

from overture.core.errors import ArtifactError, ConfigError
from overture.core.injection import Injection
from overture.core.records.transfer import ExportResult
from overture.engine.backbone import Backbone
from overture.engine.compiled import compiled_prompt
from overture.engine.model_files import model_files
from overture.evaluate.host import Handle, Host
from overture.exchange.export import write_files
from overture.exchange.vllm_files import gap_of, read_served, vllm_files
from overture.prompt.pack import prompt_tensors
from overture.store.store import Store


def vllm_gap(handle: Handle) -> str:
    """Why vLLM cannot serve an open prompt, in a few words; empty where it can."""
    prompt = handle.prompt
    if prompt is None:
        return ""
    tensors = prompt.tensors() if isinstance(prompt, Injection) else prompt_tensors(prompt)
    return gap_of(handle.manifest, tuple(tensors), handle.adapted.family.kind)


def written_for_vllm(handle: Handle, root: Path, weight_files_sha256: str) -> tuple[Path, list[str]]:
    """Write an open prompt into a folder of prompts; the same one is left as it is.

    Args:
        handle: the prompt; one for which `vllm_gap` is empty, and none of words.
        root: the folder of prompts.
        weight_files_sha256: fingerprint of the model's weight files.

    Returns:
        The prompt's folder, and its files.

    Raises:
        ArtifactError: the prompt is more than keys and values, or another one of its name is there.
        StoreError: the folder cannot be written.
    """
    folder, prompt = root / handle.manifest.ref, handle.prompt
    if folder.is_dir():
        facts = read_served(folder)
        if facts.source_sha256 != handle.manifest.tensors_sha256:
            raise ArtifactError(
                "another prompt of this name is in the folder",
                where=str(folder),
                got=facts.source_sha256,
                wanted=handle.manifest.tensors_sha256,
                fix="give each store a folder of its own",
            )
        return folder, sorted(path.name for path in folder.iterdir())
    tensors = compiled_prompt(handle.adapted, prompt).tensors() if isinstance(prompt, Injection) else {}
    files = vllm_files(handle.manifest, tensors, weight_files_sha256)
    write_files(folder, files)
    return folder, sorted(files)


def export_to_vllm(
    ref: str | Path,
    root: str | Path,
    store: Store,
    *,
    backbone: Backbone | None = None,
    notify: Callable[[str], None] = lambda text: None,
) -> ExportResult:
    """Write a stored prompt into a folder of prompts that vLLM's connector reads.

    Args:
        ref: ``name``, ``name@2``, or a prompt's folder.
        root: the folder of prompts; each gets a folder of its own in it.
        store: where the prompt is.
        backbone: the model; that of the prompt is loaded when None.
        notify: called with a line before work that takes long.

    Raises:
        StoreError: no such prompt, or the folder cannot be written.
        ConfigError: vLLM cannot serve the prompt.
        ArtifactError: the prompt is damaged, or made for another model.
        BackboneError: the model cannot be loaded.
    """
    handle = Host(backbone, notify=notify).open(store.get(ref))
    why = vllm_gap(handle)
    if handle.manifest.text:
        why = "it is a prompt of words, which vLLM reads as text"
    elif not handle.manifest.version:
        why = "it is no version of a store, and vLLM knows prompts by name and version"
    if why:
        raise ConfigError(
            "this prompt cannot be written for vLLM",
            where=handle.manifest.ref,
            got=why,
            wanted="a prompt of a decoder at 'before' or 'memory', without vectors for labels",
            fix="--to text" if handle.manifest.text else "overture serve answers under it on the local engine",
        )
    info = handle.backbone.info
    folder, files = written_for_vllm(handle, Path(root), model_files(info.id, info.revision)[1])
    losses = [
        "The template and the labels are not in the files: overture serve --engine vllm renders rows and reads answers."
    ]
    return ExportResult(prompt=handle.manifest.ref, to="vllm", folder=str(folder), files=files, lost=losses)
