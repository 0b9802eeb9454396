"""A frozen model: it maps live tokens and memory to hidden states.

Shape letters: B rows, S live tokens, D width, N layers, H key/value heads, K head width, V vocabulary.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import cached_property
from random import Random
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from overture.core.contracts import Frontend
from overture.core.errors import BackboneError
from overture.core.injection import LayerMemory
from overture.engine.attention import install
from overture.engine.compiler import Backend, check_compiler, compiled_layers
from overture.engine.families import Family, family_of
from overture.engine.info import TextFacts, info_of
from overture.engine.masters import with_masters
from overture.engine.packed import packed_layers
from overture.engine.stack import Stack
from overture.engine.step import Columns, Images, Step
from overture.engine.transfer import moved, sent
from overture.engine.words_head import WordsHead

if TYPE_CHECKING:
    from overture.engine.captions import CaptionTower
    from overture.engine.frontends.text import TextFrontend
    from overture.engine.ranks import Ranks


class Backbone:
    """A frozen model and the frontends that make the vectors that enter its first layer.

    Args:
        model: a transformers model of a supported family: a causal or masked language model, or an encoder's body.
        facts: tokens and lengths of the texts that it reads.
        text: makes the frontend of texts.
        id: the user's name for it.
        revision: commit of a Hub model.
        weights_sha256: fingerprint of the weight files; computed from the tensors when empty.
        family: facts of the stack of layers that this runs; those of the model's family when None.
        others: functions that make the frontends of other modalities.

    Attributes:
        base: the module of the model that runs the layers.
        stack: runs the layers.
        words_head: maps hidden states to logits; None for the body of an encoder.
        text: the frontend of texts.
        frontends: those of all modalities.
        encoder: the stack whose output the layers read; None for models of one stack. Then this is the decoder.
        cross_columns: its output as the layers' cross-attentions read it; None outside `reading`.
        inner: values inside the model that may be trained, by name; none but in copies that `copied` made.
        inner_rate: factor on the learning rate of these values.
        ranks: the processes that share the heads of each layer; None where this process has all of them.
        reader: runs texts by themselves, whose keys and values can be kept: this model, or the frozen one where a
            copy's own values change only what stands behind the input.
        captions: the tower of texts that the model's images are compared with; None in other models.

    Raises:
        BackboneError: the family is not supported.
    """

    def __init__(
        self,
        model: Any,
        facts: TextFacts,
        text: Callable[["Backbone"], "TextFrontend"],
        *,
        id: str,
        revision: str | None = None,
        weights_sha256: str = "",
        family: Family | None = None,
        others: Sequence[Callable[["Backbone"], Frontend]] = (),
    ) -> None:
        self.family = family or family_of(model.config.model_type, id)
        self.model = model.eval().requires_grad_(False)
        self.base: Any = self.family.base_of(model)
        install(model, self.layers, self.family.cross, self.family.drops_keywords)
        if self.family.is_stack and self.family.is_causal:
            # CLIP's attention modules serve both towers and have this attribute False.
            for module in (part for layer in self.layers for part in layer.modules() if hasattr(part, "is_causal")):
                module.is_causal = True
        self.cross_columns: Columns | None = None
        # Some models of sounds have no token embedding and raise an error here.
        self._embedding: Any = model.get_input_embeddings() if self.family.has_words else None
        has_head = model.get_output_embeddings() is not None
        self.words_head = WordsHead(model, self.family) if has_head else None
        self.ranks: Ranks | None = None
        self.inner: dict[str, Tensor] = {}
        self.inner_rate = 1.0
        self._reader: Backbone | None = None
        self._identity = object()
        self.info = info_of(model, self.family, facts, len(self.layers), self._table, id, revision, weights_sha256)
        self.stack = Stack(self.base, self.family, self.dtype)
        self._makers = (facts, text, tuple(others))
        self.text = text(self)
        of_text = (self.text,) if self.family.has_words else ()
        self.frontends: tuple[Frontend, ...] = (*of_text, *(make(self) for make in others))
        if others:
            digests = [frontend.fingerprint for frontend in self.frontends[len(of_text) :]]
            self.info = replace(self.info, processor_sha256="+".join(digests))
        if self.family.is_stack:
            self.stack.check_reached(self._any_token(), self.info.id)
        self.captions: CaptionTower | None = None
        self.encoder: Backbone | None = None
        if self.family.encoder:
            digest = self.info.weights_sha256
            self.encoder = Backbone(
                model,
                facts,
                text,
                id=id,
                revision=revision,
                weights_sha256=digest,
                family=self.family.encoder,
                others=others,
            )
            self.encoder._identity = self._identity

    # -- copies with values of their own

    def copied(self, is_own: Callable[[str], bool] = lambda name: False) -> "Backbone":
        """A second module tree on the same tensors; the parameters that ``is_own`` picks are copied and may be trained.

        Trained values are float32, also where the model is in half precision (`engine.masters`).

        Args:
            is_own: takes a parameter's name; whether the copy gets a tensor of its own for it.
        """
        shared = [value for name, value in self.model.named_parameters() if not is_own(name)]
        memo = {id(value): value for value in (*shared, *self.model.buffers())}
        model = copy.deepcopy(self.model, memo)
        for family in (self.family, self.family.encoder):
            for layer in family.layers_of(family.base_of(model)) if family else ():
                # A wrapper that recomputes activations would call the original's layer.
                layer.__dict__.pop("forward", None)
        info = self.info
        facts, text, others = self._makers
        digest = info.weights_sha256
        copied_backbone = Backbone(
            model, facts, text, id=info.id, revision=info.revision, weights_sha256=digest, others=others
        )
        copied_backbone.captions = self.captions
        trained = {name: value for name, value in model.named_parameters() if is_own(name)}
        copied_backbone.train_inner(with_masters(model, trained))
        return copied_backbone

    def with_compiled_layers(self, backend: Backend = "inductor") -> "Backbone":
        """The same model, whose layers run as compiled kernels; this one stays as it is.

        Modules outside the layers, answers written token by token, and copies with own values run uncompiled.

        Args:
            backend: what compiles graphs, as `torch.compile` takes it.

        Raises:
            BackboneError: the model is an encoder-decoder or has values that are trained, or there is no compiler.
        """
        if self.encoder is not None or self.inner or not self.family.has_words:
            other_kind = (
                "a copy with values of its own" if self.inner else f"a model of {', '.join(sorted(self.modalities))}"
            )
            raise BackboneError(
                "these layers are not compiled",
                where=self.info.id,
                got="an encoder-decoder" if self.encoder else other_kind,
                wanted="a frozen decoder or encoder of texts",
                fix="leave out compile_layers",
            )
        check_compiler(self.device, backend)
        compiled_backbone = copy.copy(self)
        compiled_backbone.stack = self.stack.with_compiled(compiled_layers(self.layers, backend), self._any_token())
        return compiled_backbone

    def with_packed_matrices(self) -> "Backbone":
        """The same frozen model with packed matrices, for passes without gradients in float32 on a CPU.

        This backbone stays as it is, so the matrices are in memory twice (`engine.packed`).
        """
        packed_backbone = copy.copy(self)
        packed_backbone.stack = self.stack.with_layers(packed_layers(self.layers))
        packed_backbone.words_head = self.words_head.packed() if self.words_head else None
        return packed_backbone

    def own_heads(self, values: Tensor) -> Tensor:
        """The part of values of all heads, [..., H, M, K], whose heads this process runs."""
        return values if self.ranks is None else self.ranks.own_heads(values)

    def _all_heads(self, values: Tensor) -> Tensor:
        return values if self.ranks is None else self.ranks.all_heads(values)

    def _any_token(self) -> Tensor:
        return self.embed([0])[None]

    def train_inner(self, values: dict[str, Tensor]) -> None:
        """Make these values of the model trainable; no other backbone may share them."""
        self.inner = {name: value.requires_grad_(True) for name, value in values.items()}
        if self.encoder:
            # Both stacks are one model: cached results of either depend on the same values.
            self.encoder.inner = self.inner

    @property
    def reader(self) -> "Backbone":
        """The model that runs texts by themselves."""
        return self._reader or self

    def leave_texts_to(self, reader: "Backbone") -> None:
        """Let another model with the same embeddings run the texts; this one runs only the tokens behind them.

        Args:
            reader: the frozen model that this is a copy of.
        """
        self._reader = reader

    def freeze(self) -> None:
        """End training of the values inside the model, so that results may be cached again."""
        for value in self.inner.values():
            value.requires_grad_(False)
            value.grad = None

    @property
    def is_frozen(self) -> bool:
        """Whether no value inside the model is trainable, so that results can be cached."""
        return not any(value.requires_grad for value in self.inner.values())

    @property
    def state(self) -> tuple[object, int]:
        """Identity of the model's function: the module tree, and how often its own values were written."""
        return self._identity, sum(value._version for value in self.inner.values())

    # -- embeddings, passes and heads

    @property
    def _table(self) -> Any:
        """The module that holds a vector for each token that the model can predict, or read."""
        return self._embedding if self.words_head is None else self.words_head.map

    @property
    def has_head(self) -> bool:
        """Whether the model predicts tokens; the body of an encoder does not."""
        return self.words_head is not None

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return torch.device(next(self.model.parameters()).device)

    @property
    def dtype(self) -> torch.dtype:
        """The data type of the weights."""
        return torch.empty(0, dtype=getattr(torch, self.info.dtype)).dtype

    def embed(self, ids: Tensor | Sequence[int]) -> Tensor:
        """Vectors of tokens as the first layer gets them: [..., D]; a family's scaling and projection are included."""
        tokens = moved(ids, self.device) if isinstance(ids, Tensor) else sent(ids, self.device, torch.long)
        if not self.family.has_words:
            # In a model without words a token is a placeholder for a part of an image or of a prompt.
            return torch.zeros(*tokens.shape, self.info.hidden_size, dtype=self.dtype, device=self.device)
        vectors = self._embedding(tokens)
        return self.family.entering(self.base, vectors)

    def frontend_of(self, modality: str) -> Frontend:
        """The frontend of a modality.

        Raises:
            BackboneError: the model reads no such input.
        """
        for frontend in self.frontends:
            if modality in frontend.modalities:
                return frontend
        raise BackboneError(
            f"this model does not read this input: {modality}",
            where=self.info.id,
            got=modality,
            wanted=", ".join(sorted(self.modalities)),
        )

    @property
    def modalities(self) -> frozenset[str]:
        """The inputs that the model reads."""
        return frozenset().union(*(frontend.modalities for frontend in self.frontends))

    @cached_property
    def embedding_norm(self) -> float:
        """Mean length of a vocabulary vector, or of a part of an image, in the first layer's units."""
        if not self.family.has_words:
            return float(self.frontends[0].sample(2048, Random(0)).float().norm(dim=-1).mean())
        sample = sorted(set(torch.linspace(0, self.info.vocab_size - 1, 2048).long().tolist()))
        return float(self.embed(sample).float().norm(dim=-1).mean())

    def run(self, live: Tensor, step: Step, start_layer: int = 0, end_layer: int | None = None) -> Tensor:
        """Hidden states of live tokens after the last layer and its norm, or of what enters a layer.

        Args:
            live: what enters ``start_layer``, [B, S, D].
            step: positions, validity, branches, memory; collects keys and values when asked.
            start_layer: the first layer that runs; below it nothing is computed.
            end_layer: stop before this layer; None runs to the end.

        Returns:
            [B, S, D], or of the head's width where that is another; rows of padding are meaningless.
        """
        step.cross_columns = self.cross_columns
        return self.stack.run(live, step, start_layer, end_layer)

    def run_to(
        self, live: Tensor, step: Step, index: Tensor, start_layer: int = 0, end_layer: int | None = None
    ) -> Tensor:
        """Hidden states of one live token of each row, as `run` has them: [B, 1, D].

        Args:
            live: what enters ``start_layer``, [B, S, D].
            step: of the live tokens; it collects no keys and values.
            index: of the token that is read, [B].
            start_layer: the first layer that runs.
            end_layer: stop before this layer; None runs to the end.
        """
        step.cross_columns = self.cross_columns
        return self.stack.run_to(live, step, index, start_layer, end_layer)

    def reading(self, cross_columns: Columns) -> "Backbone":
        """A decoder for one batch: the same weights, with the encoder's keys and values for its cross-attentions."""
        decoder = copy.copy(self)
        decoder.cross_columns = cross_columns
        return decoder

    def cross_columns_of(self, hidden: Tensor, valid: Tensor) -> Columns:
        """The keys and values that the decoder's cross-attentions make of the encoder's output.

        Args:
            hidden: [B, L, D].
            valid: [B, L].
        """
        width = self.info.head_dim
        maps = [self.cross_maps_of(layer) for layer in self.layers]
        keys, values = [
            {
                number: to_heads(hidden).unflatten(-1, (-1, width)).transpose(1, 2)
                for number, to_heads in enumerate(layer_maps)
            }
            for layer_maps in zip(*maps, strict=True)
        ]
        return Columns(keys, values, torch.zeros_like(valid, dtype=torch.long), valid)

    def cross_maps_of(self, layer: Any) -> list[Any]:
        """A layer's maps from the encoder's output to keys and values; none without cross-attention."""
        inside = layer.get_submodule(self.family.cross) if self.family.cross else None
        return [getattr(inside, name) for name in self.family.cross_maps] if inside is not None else []

    @property
    def layers(self) -> Any:
        """The model's layers, lowest first."""
        return self.family.layers_of(self.base)

    @property
    def all_layers(self) -> list[Any]:
        """The layers of both stacks, where there are two."""
        return [*self.layers, *(self.encoder.layers if self.encoder else ())]

    def transformed(self, hidden: Tensor) -> Tensor:
        """Hidden states as the head's rows are compared with them: masked language models map them first."""
        return self.words_head.transformed(hidden) if self.words_head else hidden

    def head(self, hidden: Tensor, rows: Tensor | None = None) -> Tensor:
        """Logits over the vocabulary or over some of its rows.

        Args:
            hidden: [..., D].
            rows: token ids, [R]; all when None.

        Returns:
            [..., R], float32 or finer.
        """
        assert self.words_head is not None
        return self.words_head.logits(hidden, rows)

    @property
    def unwritten(self) -> tuple[list[int], list[int]]:
        """Tokens that the model's files say it never writes, and those that it does not begin with."""
        assert self.words_head is not None
        return self.words_head.unwritten

    @property
    def pooler(self) -> tuple[Tensor, Tensor] | None:
        """Weight and bias of BERT's pooler, which maps the first token's state before a tanh; None without one."""
        pooler = getattr(self.base, self.family.pooler, None) if self.family.pooler else None
        return None if pooler is None else (pooler.dense.weight.detach(), pooler.dense.bias.detach())

    def remember(
        self,
        live: Tensor,
        positions: Tensor,
        valid: Tensor,
        start_layer: int = 0,
        memory: Sequence[Columns] = (),
        images: Images | None = None,
    ) -> Columns:
        """Run tokens once and keep their keys and values.

        Args:
            live: [B, S, D].
            positions: [B, S].
            valid: [B, S]; padding stands behind the rest.
            start_layer: the first layer that runs; those below it keep nothing.
            memory: columns before the tokens; they are not kept.
            images: parts of images among them.
        """
        step = Step(positions, valid, memory=memory, key_values={}, is_packed=True, images=images)
        self.run(live, step, start_layer)
        layer_pairs = step.key_values or {}
        keys, values = [{layer: pair[which] for layer, pair in layer_pairs.items()} for which in (0, 1)]
        return Columns(keys, values, positions, valid)

    def memory_of(self, live: Tensor, start_layer: int = 0) -> LayerMemory:
        """Keys and values of one sequence at positions from 0.

        Args:
            live: what enters ``start_layer``, [P, D].
            start_layer: below it the columns weigh nothing.
        """
        positions = torch.arange(len(live), device=self.device)[None]
        (memory,) = self.memories_of(live[None], positions, start_layer=start_layer)
        if not start_layer:
            return memory
        upper, lower = memory.keys.shape[0], memory.keys.new_zeros(start_layer, *memory.keys.shape[1:])
        weights = torch.cat([memory.keys.new_zeros(start_layer, len(live)), memory.keys.new_ones(upper, len(live))])
        return LayerMemory(torch.cat([lower, memory.keys]), torch.cat([lower, memory.values]), weights)

    def memories_of(
        self, live: Tensor, positions: Tensor, memory: Sequence[Columns] = (), start_layer: int = 0
    ) -> list[LayerMemory]:
        """Keys and values of sequences of one length, in the layers that run.

        Args:
            live: what enters ``start_layer``, [J, P, D].
            positions: [J, P].
            memory: columns before the sequences.
            start_layer: the first layer that runs.
        """
        valid = torch.ones_like(positions, dtype=torch.bool)
        columns = self.remember(live.to(self.device, self.dtype), positions, valid, start_layer, memory)
        layers = range(start_layer, self.info.num_layers)
        keys, values = [
            self._all_heads(torch.stack([part[n] for n in layers], dim=1)) for part in (columns.keys, columns.values)
        ]
        return [LayerMemory(*pair) for pair in zip(keys, values, strict=True)]

    @torch.no_grad()
    def memory_of_tokens(self, ids: Sequence[int]) -> LayerMemory:
        """Keys and values of tokens that stand at positions from 0."""
        return self.memory_of(self.embed(list(ids)))

    def memory_of_layers(self, values: Tensor) -> LayerMemory:
        """Keys and values that prompt vectors have when they replace the hidden states entering every layer.

        Args:
            values: [N, P, D], at positions from 0.
        """
        positions = torch.arange(values.shape[1], device=self.device)[None]
        valid = torch.ones_like(positions, dtype=torch.bool)
        pairs = []
        for layer, layer_values in enumerate(values.to(self.device, self.dtype)):
            pairs.append(
                self.stack.keys_and_values(
                    layer_values[None], Step(positions, valid, cross_columns=self.cross_columns), layer
                )
            )
        keys, values = [self._all_heads(torch.cat(part)) for part in zip(*pairs, strict=True)]
        return LayerMemory(keys, values)

    def head_rows(self, ids: Sequence[int]) -> Tensor:
        """The head's vectors of tokens, [n, D]; the input embeddings without a head, zeros in a model without words."""
        if not self.family.has_words:
            return self.embed(list(ids))
        return self._table.weight[sent(list(ids), self.device, torch.long)].detach()

    @contextmanager
    def checkpointing(self, enabled: bool) -> Iterator[None]:
        """Recompute activations in the backward pass: less memory, about a third more time."""
        if not enabled:
            yield
            return
        with self.stack.recomputing(), self.encoder.stack.recomputing() if self.encoder else nullcontext():
            yield
