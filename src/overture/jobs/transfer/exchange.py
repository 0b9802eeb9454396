"""Prompts from and to other programs: adapters of peft come in; adapters, arrays and JSON go out."""

from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from overture.core.errors import BackboneError, ConfigError
from overture.core.records.prompt import Lineage
from overture.core.records.transfer import ExportResult, ImportResult
from overture.data.encode import Encoder
from overture.data.task import Task
from overture.engine.backbone import Backbone
from overture.engine.load import load_backbone
from overture.engine.options import HUB_IDS
from overture.evaluate.facts import config_of
from overture.exchange.export import FORMATS, LOST, check_form, check_target, write_files
from overture.exchange.peft_files import fitted_tensors, read_adapter
from overture.exchange.peft_forms import Adapter, ModelShape
from overture.jobs.run.keep import new_manifest
from overture.jobs.run.request import TuneConfig, tune_config
from overture.store.artifact import load_artifact
from overture.store.manifest import Manifest
from overture.store.names import ref_of
from overture.store.store import Store

Notify = Callable[[str], None]


def import_adapter(
    folder: str | Path,
    store: Store,
    *,
    task: str | Path,
    backbone: str | Backbone | None = None,
    name: str | None = None,
    task_id: int | None = None,
    notify: Notify = lambda text: None,
) -> ImportResult:
    """Keep the prompt of a peft adapter as a prompt of the store; it gives the logits that it gives in peft.

    Everything is checked before anything is stored. An adapter holds no fingerprint of its model's weights, so only the
    shapes of the model are checked.

    Args:
        folder: the adapter's folder, as peft's `save_pretrained` writes it.
        store: where the prompt is kept.
        task: the task file: an adapter knows no template and no label words.
        backbone: the model; the one that the adapter names when None.
        name: the prompt's name; the task's when None.
        task_id: which task's prompt of an adapter for several tasks; the first when None.
        notify: called with sentences about long work and about checks that were not possible.

    Raises:
        ArtifactError: the adapter is unsafe, damaged, no prompt, or made for a model of another shape.
        ConfigError: the task file is wrong, no model is named, or there is no such task.
        BackboneError: the model cannot be loaded.
        StoreError: the name is wrong.
    """
    adapter = read_adapter(Path(folder), task_id)
    config = tune_config(Path(task))
    prompt_name = name or config.task.name
    store.check_can_add(prompt_name)
    model = backbone if isinstance(backbone, Backbone) else _model(adapter, config, backbone, notify)
    manifest, tensors, notices = _prompt_of(adapter, model, config.task, prompt_name, task_id)
    prompt_folder = store.add(manifest, tensors)
    model_name = backbone.info.id if isinstance(backbone, Backbone) else backbone
    adapter_model = adapter.config.base_model_name_or_path
    if model_name not in (None, adapter_model):
        names = f"the adapter names {adapter_model}" if adapter_model else "the adapter names no model"
        notices.insert(0, f"{names} and no fingerprint of its weights; only the shapes of {model_name} were checked")
    for text in notices:
        notify(text)
    return ImportResult(
        prompt=str(ref_of(prompt_folder)),
        folder=str(prompt_folder),
        backbone=model.info.id,
        method=manifest.method,
        place=manifest.place,
        length=manifest.length,
        imported_from="peft",
        peft_type=adapter.config.peft_type,
        peft_version=adapter.config.peft_version,
        base_model=adapter_model,
        task_id=manifest.lineage.task_id,
        notices=notices,
    )


def _prompt_of(
    adapter: Adapter, model: Backbone, task: Task, name: str, task_id: int | None
) -> tuple[Manifest, dict[str, Tensor], list[str]]:
    """The adapter's prompt for a model, with its manifest and what is odd about the task."""
    info = model.info
    shape = ModelShape(
        info.id,
        info.hidden_size,
        info.num_layers,
        info.num_kv_heads,
        info.head_dim,
        info.max_length,
        model.family.kind,
        len(task.words),
        model.pooler,
    )
    tensors = fitted_tensors(adapter, shape)
    # The template and the label words must fit this model before anything is stored.
    own_task = task.model_copy(update={"backbone": info.id})
    encoder = Encoder(own_task, model.text.tokenizer, reserve=adapter.length)
    lineage = Lineage(
        imported_from="peft",
        peft_type=adapter.config.peft_type,
        peft_version=adapter.config.peft_version,
        base_model=adapter.config.base_model_name_or_path,
        task_id=task_id or 0 if adapter.format.extra else None,
    )
    manifest = new_manifest(
        name,
        model,
        own_task,
        method=adapter.format.method,
        place=adapter.format.place,
        length=adapter.length,
        lineage=lineage,
        trainable=sum(tensor.numel() for tensor in tensors.values()),
    )
    # A prompt that could not be loaded again is not kept.
    config_of(manifest)
    return manifest, tensors, list(encoder.notices)


def _model(adapter: Adapter, config: TuneConfig, name: str | None, notify: Notify) -> Backbone:
    """Load the model of a name, or the one that the adapter names."""
    adapter_model = adapter.config.base_model_name_or_path
    model_name = name or adapter_model
    if not model_name:
        raise ConfigError(
            "the adapter does not name its model", where=adapter.where, fix="name the model with --backbone"
        )
    path = Path(model_name).expanduser()
    # A folder by its whole path: the prompt is used from elsewhere too.
    is_folder = model_name.startswith((".", "~")) or path.exists()
    revision = config.revision or (adapter.config.revision if model_name == adapter_model else None)
    try:
        return load_backbone(
            str(path.resolve()) if is_folder else model_name,
            revision=revision,
            device=config.device,
            dtype=config.dtype,
            notify=notify,
        )
    except BackboneError as error:
        if name:
            raise
        # The caller named no model, and need not know how an adapter of the embedded one is written.
        alias = next((alias for alias, hub_id in HUB_IDS.items() if hub_id == adapter_model), "")
        alias_text = f" {alias}, which was made from it" if alias else ""
        fix = f"{error.fix}; or name the model with --backbone{alias_text}"
        raise BackboneError(error.what, where=error.where, got=error.got, wanted=error.wanted, fix=fix) from error


def export_prompt(ref: str | Path, folder: str | Path, store: Store, *, to: str) -> ExportResult:
    """Write a stored prompt for other programs.

    Args:
        ref: ``name``, ``name@2``, or a prompt's folder.
        folder: the folder to make.
        store: where the prompt is.
        to: ``peft``, ``npy`` or ``json``; of a prompt of words ``text``, ``openai``, ``promptfoo`` or ``lm-eval``; of a
            concept ``diffusers`` or ``webui``.

    Raises:
        StoreError: no such prompt, or the folder holds something.
        ArtifactError: the prompt is damaged, or peft has no form for it.
        ConfigError: there is no such format.
        DiskFull: no room; nothing is left behind.
    """
    if to not in FORMATS:
        raise ConfigError("prompts cannot be exported to this", where="to", got=to, wanted=", ".join(FORMATS))
    target = Path(folder)
    check_target(target)
    manifest, tensors = load_artifact(store.get(ref), may_draw=True)
    check_form(manifest, to)
    files = FORMATS[to](manifest, tensors)
    write_files(target, files)
    losses = LOST[to](manifest, tensors)
    return ExportResult(prompt=manifest.ref, to=to, folder=str(target), files=sorted(files), lost=losses)
