"""How each type of peft adapter stores a prompt, for each kind of model, and how its tensors become ours.

The order of a prefix's numbers is that of peft's `get_prompt`. For encoder-decoders (`SEQ_2_SEQ_LM`) there are three
surprises. (1) Tables of vectors have twice the prompt's length, of which peft reads only the first half. (2) It reads
the whole table of multitask prompts when it is given labels (half for the encoder, half for the decoder), but the first
half alone when it generates. With `num_transformer_submodules` 1 the whole table is the encoder's; only that can be
imported. (3) A prefix stands in the decoder, whose layer i reads the table's entry 2 i, counted round: peft doubles the
table and cuts it by four, as if cross-attentions had a share of it, and drops that share. Adapters for classification
(`SEQ_CLS`) bring the classifier: its rows are our label vectors, and its map in front of them is a `LabelHead`.

Source: peft 0.21.2: `peft_model.py` (`get_prompt`, and the `forward` of each kind) and, under `tuners/`,
`multitask_prompt_tuning/model.py` (a task's prompt), `cpt/model.py` and `cartridge/model.py` (both store what the model
reads: the projected delta is added, the frozen first tokens stand in front).
Shape letters as in `core.injection`; T tasks, R ranks.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from overture.core.errors import ArtifactError, ConfigError, Problem
from overture.core.injection import ModelKind

if TYPE_CHECKING:
    import torch

TABLE = "prompt_embeddings"
HEAD = ("classifier", "score")
"""peft's names of the classifiers that it trains beside a prompt."""

Count = Annotated[int, Field(gt=0)]
# No control characters: names are shown on terminals.
Name = Annotated[str, StringConstraints(max_length=1000, pattern=r"^[^\x00-\x1f\x7f-\x9f]*$")]
Tensors = dict[str, "torch.Tensor"]


class AdapterConfig(BaseModel):
    """The keys of ``adapter_config.json`` that decide how the tensors are read; those of training are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    peft_type: Name = Field(description="the method")
    task_type: Name = Field(description="the kind of model")
    base_model_name_or_path: Name | None = Field(None, description="the model that the adapter was trained on")
    revision: Name | None = Field(None, description="branch, tag or commit of that model")
    peft_version: Name | None = Field(None, description="the peft that wrote the files")
    num_virtual_tokens: Count | None = Field(None, description="prompt length, P")
    token_dim: Count | None = Field(None, description="width of a vector, D; of a prefix H * K")
    num_layers: Count | None = Field(None, description="layers of the model, N")
    num_attention_heads: Count | None = Field(None, description="heads; of a prefix key/value heads, H")
    num_transformer_submodules: Literal[1, 2] | None = Field(None, description="2 for encoder-decoders")


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The facts of a model that decide whether a prompt fits it; of an encoder-decoder, the decoder's.

    Args:
        id: the user's name for it.
        hidden_size: width of a token vector, D.
        num_layers: N.
        num_kv_heads: H.
        head_dim: K.
        max_length: the context, in tokens.
        kind: of the model.
        num_labels: C of the task; 0 for free text.
        pooler: weight [D, D] and bias [D] of the map between a BERT and its classifier.
    """

    id: str
    hidden_size: int
    num_layers: int
    num_kv_heads: int
    head_dim: int
    max_length: int
    kind: ModelKind = "decoder"
    num_labels: int = 0
    pooler: "tuple[torch.Tensor, torch.Tensor] | None" = None


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter that was read and checked in itself, not yet against a model.

    Args:
        config: its facts.
        format: of its type.
        table: one row for each virtual token, [P, D] or [P, N * 2 * H * K].
        where: its folder.
        head: the classifier's tensors, by their names in its module.
    """

    config: AdapterConfig
    format: "Format"
    table: "torch.Tensor"
    where: str
    head: Tensors = field(default_factory=dict)

    @property
    def length(self) -> int:
        """Prompt length, P."""
        return int(self.table.shape[0])


@dataclass(frozen=True, slots=True)
class Format:
    """How a type of adapter stores a prompt.

    Args:
        method: our method of the same form.
        place: where the prompt enters.
        table: makes one row for each virtual token from the file's tensors, its config, the task's number and a name
            for errors.
        misfits: lists the facts of an adapter that do not fit a model.
        tensors: makes the tensors of our artifact from an adapter that fits.
        kinds: the kinds of models that it is for.
        extra: tensors beside the table.
        is_memory: the table holds keys and values.
        has_head: the adapter brings a classifier.
        is_written: prompts are also exported in this form; otherwise in the plain one of their place.
    """

    method: str
    place: str
    table: Callable[[Tensors, AdapterConfig, int, str], "torch.Tensor"]
    misfits: Callable[[Adapter, ModelShape], Iterator[Problem]]
    tensors: Callable[[Adapter, ModelShape], Tensors]
    kinds: tuple[ModelKind, ...] = ("decoder",)
    extra: tuple[str, ...] = ()
    is_memory: bool = False
    has_head: bool = False
    is_written: bool = True


# -- vectors


def _only_table(tensors: Tensors, config: AdapterConfig, task_id: int, where: str) -> "torch.Tensor":
    del config, task_id, where
    return tensors[TABLE]


def _first_half(tensors: Tensors, config: AdapterConfig, task_id: int, where: str) -> "torch.Tensor":
    """The encoder's vectors, the only ones that peft reads."""
    del task_id, where
    table = tensors[TABLE]
    return table[: len(table) // (config.num_transformer_submodules or 2)]


def _table_of_task(tensors: Tensors, config: AdapterConfig, task_id: int, where: str) -> "torch.Tensor":
    """A task's prompt: the shared vectors times the task's matrix of low rank, P * (cols @ rows)."""
    del config
    # peft computes in float32, whatever the file holds.
    vectors, cols, rows = (tensors[name].float() for name in (TABLE, *_TASK_TENSORS))
    if not 0 <= task_id < cols.shape[0]:
        raise ConfigError(
            "the adapter has no such task", where=where, got=str(task_id), wanted=f"0 to {cols.shape[0] - 1}"
        )
    return vectors * (cols[task_id] @ rows[task_id])


def _table_of_task_in_encoder(tensors: Tensors, config: AdapterConfig, task_id: int, where: str) -> "torch.Tensor":
    if config.num_transformer_submodules != 1:
        raise ArtifactError(
            "the adapter's vectors stand in the encoder and in the decoder; a prompt of Overture stands in one of them",
            where=where,
            got=f"num_transformer_submodules {config.num_transformer_submodules}, peft_type {config.peft_type}",
            wanted="1: then they stand in the encoder alone; peft's own generate() leaves the decoder's out, too",
            fix="train with MultitaskPromptTuningConfig(num_transformer_submodules=1), or with prompt tuning",
        )
    return _table_of_task(tensors, config, task_id, where)


def _vector_misfits(adapter: Adapter, model: ModelShape) -> Iterator[Problem]:
    width = adapter.table.shape[1]
    if model.kind != "encoder-decoder" and adapter.config.num_layers not in (None, model.num_layers):
        yield Problem("layers", f"{adapter.config.num_layers}, {model.id} has {model.num_layers}")
    if width != model.hidden_size:
        yield Problem("hidden size", f"{width}, {model.id} has {model.hidden_size}")


# -- keys and values


def _column_misfits(adapter: Adapter, model: ModelShape) -> Iterator[Problem]:
    heads, width = adapter.config.num_attention_heads, adapter.config.token_dim
    if adapter.config.num_layers is not None and not _are_enough(adapter.config.num_layers, model):
        yield Problem("layers", f"{adapter.config.num_layers}, {model.id} has {model.num_layers}")
    if heads not in (None, model.num_kv_heads):
        yield Problem("key/value heads", f"{heads}, {model.id} has {model.num_kv_heads}")
    expected_width = model.num_kv_heads * model.head_dim
    if width not in (None, expected_width):
        yield Problem("width of a layer's keys", f"{width}, {model.id} has {expected_width}")
    layers, remainder = divmod(adapter.table.shape[1], 2 * expected_width)
    if remainder or not _are_enough(layers, model):
        num_needed = f"{model.num_layers * 2 * expected_width}"
        yield Problem("numbers of a token", f"{adapter.table.shape[1]}, {model.id} needs {num_needed}")


def _are_enough(layers: int, model: ModelShape) -> bool:
    """An encoder-decoder's table is counted round, and may hold more than the decoder reads."""
    return layers >= model.num_layers if model.kind == "encoder-decoder" else layers == model.num_layers


def _as_columns(adapter: Adapter, model: ModelShape) -> Tensors:
    """[P, N * 2 * H * K] to keys and values [N, H, P, K]: a token's numbers run over layers, key and value, heads."""
    table, (heads, width) = adapter.table, (model.num_kv_heads, model.head_dim)
    memory = table.reshape(table.shape[0], -1, 2, heads, width).permute(2, 1, 3, 0, 4)
    if model.kind == "encoder-decoder":
        memory = memory[:, [2 * layer % memory.shape[1] for layer in range(model.num_layers)]]
    return {"keys": memory[0].contiguous(), "values": memory[1].contiguous()}


# -- classifiers


def _with_head(inner: Format) -> Format:
    def misfits(adapter: Adapter, model: ModelShape) -> Iterator[Problem]:
        yield from inner.misfits(adapter, model)
        yield from _head_misfits(adapter.head, model)

    def tensors(adapter: Adapter, model: ModelShape) -> Tensors:
        return inner.tensors(adapter, model) | _as_head(adapter.head, model)

    form = replace(inner, misfits=misfits, tensors=tensors, kinds=("decoder", "encoder"), has_head=True)
    return form if inner.is_memory else replace(form, method="warp")


def _head_misfits(head: Tensors, model: ModelShape) -> Iterator[Problem]:
    kind = _known_head(head)
    if kind is None or (model.kind == "encoder") != (kind != "score"):
        yield Problem("classifier", f"{', '.join(sorted(head)) or 'none'}: no {model.kind}'s that is known")
        return
    if kind == "classifier" and model.pooler is None:
        yield Problem("pooler", f"{model.id} was loaded without one: name the folder of the classification model")
    rows = head[_ROWS[kind]]
    if rows.shape[0] != model.num_labels:
        yield Problem("labels", f"{rows.shape[0]} in the classifier, {model.num_labels} in the task file")
    for name, tensor in head.items():
        if tensor.shape[-1] != (rows.shape[0] if name == _BIAS.get(kind) else model.hidden_size):
            yield Problem(name, f"shape {list(tensor.shape)}, {model.id} has width {model.hidden_size}")


def _known_head(head: Tensors) -> str | None:
    return next((kind for kind, names in _HEADS.items() if set(head) == set(names)), None)


def _as_head(head: Tensors, model: ModelShape) -> Tensors:
    kind = _known_head(head)
    assert kind is not None
    rows = {"labels": head[_ROWS[kind]]}
    if kind == "score":
        return rows
    dense = (head["dense.weight"], head["dense.bias"]) if kind == "dense" else model.pooler
    assert dense is not None
    weight, bias = dense
    return rows | {"label_bias": head[_BIAS[kind]], "head_weight": weight, "head_bias": bias}


_HEADS = {
    "score": ("weight",),
    "classifier": ("weight", "bias"),
    "dense": ("dense.weight", "dense.bias", "out_proj.weight", "out_proj.bias"),
}
"""Classifiers: of decoders, of BERT behind its pooler, of RoBERTa."""
_ROWS = {"score": "weight", "classifier": "weight", "dense": "out_proj.weight"}
_BIAS = {"classifier": "bias", "dense": "out_proj.bias"}

_TASK_TENSORS = ("prefix_task_cols", "prefix_task_rows")
_VECTORS = Format("vectors", "before", _only_table, _vector_misfits, lambda adapter, model: {"vectors": adapter.table})
_OF_TASKS = replace(_VECTORS, table=_table_of_task, extra=_TASK_TENSORS)
_COLUMNS = Format("prefix", "memory", _only_table, _column_misfits, _as_columns, is_memory=True)
_IN_ENCODER = replace(_VECTORS, table=_first_half, kinds=("encoder-decoder",))
# Of these peft takes no decoder_input_ids, only labels: plain vectors can be used in more of its calls.
_OF_TASKS_IN_ENCODER = replace(_OF_TASKS, table=_table_of_task_in_encoder, kinds=("encoder-decoder",), is_written=False)
_IN_DECODER = replace(_COLUMNS, place="after", kinds=("encoder-decoder",))

FORMATS: dict[str, dict[str, Format]] = {
    "CAUSAL_LM": {
        "PROMPT_TUNING": _VECTORS,
        "P_TUNING": _VECTORS,
        "CPT": _VECTORS,
        "MULTITASK_PROMPT_TUNING": _OF_TASKS,
        "PREFIX_TUNING": _COLUMNS,
        "CARTRIDGE": _COLUMNS,
    },
    "SEQ_2_SEQ_LM": {
        "PROMPT_TUNING": _IN_ENCODER,
        "P_TUNING": _IN_ENCODER,
        "MULTITASK_PROMPT_TUNING": _OF_TASKS_IN_ENCODER,
        "PREFIX_TUNING": _IN_DECODER,
        "CARTRIDGE": _IN_DECODER,
    },
    "SEQ_CLS": {
        "PROMPT_TUNING": _with_head(_VECTORS),
        "P_TUNING": _with_head(_VECTORS),
        "MULTITASK_PROMPT_TUNING": _with_head(_OF_TASKS),
        "PREFIX_TUNING": _with_head(_COLUMNS),
        "CARTRIDGE": _with_head(_COLUMNS),
    },
}
"""Adapters that can be read, by task type and type. The files hold no networks of P-tuning and prefix tuning, only
their results."""
