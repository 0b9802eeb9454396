"""The layers of one model: they map live tokens and memory to hidden states.

Shape letters: B rows, S live tokens, D width, H key/value heads, K head width.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from overture.core.errors import BackboneError
from overture.engine.families import Family, layers_view
from overture.engine.joined import Joined, Rider, in_one_row
from overture.engine.ragged import groups_of, in_groups
from overture.engine.step import Columns, KeysMade, MaskKind, Step

_riding: ContextVar["tuple[Stack, Rider] | None"] = ContextVar("riding", default=None)
"""A stack and the pass that its next pass in this thread may carry."""


class Stack:
    """Runs live tokens through all layers of a model or through some of them.

    Args:
        base: the module whose forward pass runs the layers.
        family: facts of its layers.
        dtype: of the weights.

    Attributes:
        modules: the modules that run: the layers, or others in their place.
        rotations: places of patches as cosine and sine by index in the row, [L + 1, K] each; the last one is the
            identity. None for models that do not rotate patches.
    """

    def __init__(self, base: Any, family: Family, dtype: torch.dtype) -> None:
        self._base, self._family, self._dtype = base, family, dtype
        self._bias = family.bias_of(base)
        self._first_position = family.first_position(base)
        self._views: dict[tuple[int, int | None], Any] = {}
        self.modules: Any = self.layers
        self._masks: dict[bool, list[MaskKind]] = {}
        self.rotations: tuple[Tensor, Tensor] | None = None

    @property
    def layers(self) -> Any:
        """The model's own layers, lowest first."""
        return self._family.layers_of(self._base)

    @property
    def is_compiled(self) -> bool:
        """Whether the layers run as compiled kernels."""
        return bool(self._masks)

    def with_layers(self, layers: Any) -> "Stack":
        """The same stack with other modules in place of its layers: packed, or spread over processes."""
        changed_stack = copy.copy(self)
        changed_stack._views, changed_stack.modules, changed_stack._masks = {}, layers, {}
        return changed_stack

    def with_compiled(self, layers: Any, live: Tensor) -> "Stack":
        """The same stack with compiled kernels in place of its layers; each pass computes their masks beforehand.

        Args:
            layers: of `engine.compiler`.
            live: any token, [1, 1, D]; a pass of it finds the masks that the layers use.
        """
        compiled_stack = self.with_layers(layers)
        compiled_stack._masks = {is_plain: self._mask_kinds(live, is_plain) for is_plain in (False, True)}
        return compiled_stack

    @torch.no_grad()
    def _mask_kinds(self, live: Tensor, is_packed: bool) -> list[MaskKind]:
        zero = torch.zeros(1, 1, dtype=torch.long, device=live.device)
        step = Step(zero, zero == 0, is_packed=is_packed)
        self.run_together(live, step)
        return step.mask_kinds

    @torch.no_grad()
    def check_reached(self, live: Tensor, where: str) -> None:
        """Check that the attention of each layer gets the step: without it a prompt would silently have no effect.

        Args:
            live: any token, [1, 1, D].
            where: the model, for the error.

        Raises:
            BackboneError: a layer does not get it, as may happen with another version of transformers.
        """
        zero = torch.zeros(1, 1, dtype=torch.long, device=live.device)
        step = Step(zero, zero == 0, key_values={})
        self.run_together(live, step)
        missed = set(range(len(self.layers))) - set(step.key_values or {})
        if missed:
            raise BackboneError(
                "prompts would not reach every attention layer of this model",
                where=where,
                got=f"{self._base.config.model_type}: layers {', '.join(map(str, sorted(missed)))} are not reached",
                fix="install the version of transformers that constraints.txt names, and report this model",
            )

    def run(self, live: Tensor, step: Step, start_layer: int = 0, end_layer: int | None = None) -> Tensor:
        """Hidden states of live tokens after the last layer and its norm, or of what enters a layer.

        On a CPU, rows of unlike length run in groups of like length (`engine.ragged`).

        Args:
            live: what enters ``start_layer``, [B, S, D].
            step: positions, validity, branches, memory; collects keys and values when asked.
            start_layer: the first layer that runs; below it nothing is computed.
            end_layer: stop before this layer; None runs to the end.

        Returns:
            [B, S, D], or of the head's width where that is another; rows of padding are meaningless.
        """
        groups = groups_of(live, step) if step.cross_columns is None else []
        if len(groups) > 1:
            return in_groups(
                lambda part, part_step: self.run_together(part, part_step, start_layer, end_layer), live, step, groups
            )
        return self.run_together(live, step, start_layer, end_layer)

    def run_together(self, live: Tensor, step: Step, start_layer: int = 0, end_layer: int | None = None) -> Tensor:
        """As `run`, with all rows in one pass."""
        stack, rider = _riding.get() or (None, None)
        if rider and stack is self and start_layer == 0 and end_layer is None and self._can_carry(step):
            return self._run_carrying(live, step, rider)
        # transformers passes on a mask of four dimensions as it is; the real one is in the step.
        full_mask = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=live.device)
        step.bias = self._bias
        if self._masks:
            for window, num_groups, is_causal in self._masks[step.is_plain(None, live)]:
                step.mask(window, num_groups, live.dtype, is_causal)
        if self._bias:
            # Its table may be trained: a mask made within a layer would be missing when that layer is recomputed.
            step.mask(None, 1, self._dtype, self._family.is_causal)
        arguments: dict[str, Any] = {"attention_mask": full_mask, "use_cache": False, "overture": step}
        if step.cross_columns is not None:
            # Cross-attention reads keys and values from the step; these states only switch it on.
            arguments["encoder_hidden_states"] = live[:, :1].detach()
            if self._family.encoder is not None and self._family.encoder.has_words:
                # A decoder of sounds takes none.
                arguments["encoder_attention_mask"] = full_mask
        if self._family.adds_positions and not start_layer:
            live = self._family.positioned(self._base, live, step.positions)
        if not self._family.embedded_norm and not self._bias:
            if self.rotations is not None:
                arguments["position_embeddings"] = self._rotations_of(step)
            arguments["position_ids"] = step.positions + self._first_position
            if self._family.has_grid and step.images is not None and step.images.shifts is not None:
                # A token's own place, and those of its row and column.
                rows, columns = step.images.shifts.unbind(-1)
                arguments["position_ids"] = torch.stack(
                    [step.positions, step.positions + rows, step.positions + columns]
                )
        return self._view(start_layer, end_layer)(inputs_embeds=live, **arguments).last_hidden_state

    def _view(self, start_layer: int, end_layer: int | None) -> Any:
        key = (start_layer, end_layer)
        if key not in self._views:
            self._views[key] = layers_view(self._base, self._family, self.modules, start_layer, end_layer)
        return self._views[key]

    # -- passes that are carried along

    @contextmanager
    def carrying(self, rider: Rider | None) -> Iterator[None]:
        """Let this thread's next suitable pass carry another along; where none is suitable, the other does not run.

        Args:
            rider: a pass of this model; None for none.
        """
        family = self._family
        has_plain_positions = not (family.adds_positions or family.embedded_norm or self._bias or self.rotations)
        can_carry = has_plain_positions and family.is_causal and family.encoder is None and not self.is_compiled
        token = _riding.set((self, rider) if rider and can_carry else None)
        try:
            yield
        finally:
            _riding.reset(token)

    @staticmethod
    def _can_carry(step: Step) -> bool:
        """Whether a pass needs only states, keys and values, without gradients, so that another may join it."""
        is_plain = step.cross_columns is None and step.images is None and step.shares is None
        return is_plain and step.layer is None and not step.is_for_keys and not torch.is_grad_enabled()

    def _run_carrying(self, live: Tensor, step: Step, rider: Rider) -> Tensor:
        # Reset first: if this pass fails, no other may carry the same rider.
        _riding.set(None)
        other_live, other_step = rider.step()
        joined_step = Joined([step, other_step])
        hidden = self._view(0, None)(
            inputs_embeds=in_one_row([live, other_live]),
            attention_mask=torch.ones(1, 1, 1, 1, dtype=torch.bool, device=live.device),
            use_cache=False,
            overture=joined_step,
            position_ids=joined_step.positions + self._first_position,
        ).last_hidden_state
        hidden_read, hidden_carried = joined_step.apart(hidden)
        rider.arrived(hidden_carried)
        return hidden_read

    def _rotations_of(self, step: Step) -> tuple[Tensor, Tensor]:
        """Cosine and sine for each live token, [B, 1, S, K]; prompt vectors are not rotated."""
        assert self.rotations is not None
        index = torch.full_like(step.positions, -1) if step.text_index is None else step.text_index
        cosine, sine = [values[index][:, None] for values in self.rotations]
        return cosine, sine

    def run_to(
        self, live: Tensor, step: Step, index: Tensor, start_layer: int = 0, end_layer: int | None = None
    ) -> Tensor:
        """Hidden states of one live token of each row, as `run` has them: [B, 1, D].

        In an encoder's last layer only keys and values of the other tokens are computed: their queries and later states
        have no effect.

        Args:
            live: what enters ``start_layer``, [B, S, D].
            step: of the live tokens; it collects no keys and values.
            index: of the token that is read, [B].
            start_layer: the first layer that runs.
            end_layer: stop before this layer.
        """
        rows = torch.arange(len(live), device=live.device)
        last_layer = (len(self.layers) if end_layer is None else end_layer) - 1
        if self.is_compiled or self._family.kind != "encoder":
            return self.run(live, step, start_layer, end_layer)[rows, index][:, None]
        if start_layer < last_layer:
            live = self.run(live, step, start_layer, last_layer)
        keys, values = self.keys_and_values(live, step, last_layer)
        is_other = step.valid.clone()
        is_other[rows, index] = False
        other_columns = Columns({last_layer: keys}, {last_layer: values}, step.positions, is_other)
        one_step = Step(
            step.positions[rows, index][:, None],
            torch.ones_like(index, dtype=torch.bool)[:, None],
            memory=[*step.memory, other_columns],
            is_packed=True,
            text_index=None if step.text_index is None else step.text_index[rows, index][:, None],
        )
        return self.run_together(live[rows, index][:, None], one_step, last_layer, end_layer)

    def keys_and_values(self, live: Tensor, step: Step, layer: int) -> tuple[Tensor, Tensor]:
        """Keys and values of live tokens in a layer, [B, H, S, K] each; the pass ends as soon as it has them."""
        key_values: dict[int, tuple[Tensor, Tensor]] = {}
        # Compiled layers, and layers gathered from other processes, cannot be left by an exception.
        is_whole = self.modules is not self.layers
        step_for_keys = Step(
            step.positions,
            step.valid,
            key_values=key_values,
            cross_columns=step.cross_columns,
            text_index=step.text_index,
            is_for_keys=not is_whole,
        )
        # Nor can a layer that is recomputed in the backward pass: its wrapper is removed meanwhile.
        module = self.modules[layer]
        wrapper = None if is_whole else vars(module).pop("forward", None)
        try:
            self.run_together(live, step_for_keys, layer, layer + 1)
        except KeysMade:
            pass
        finally:
            if wrapper is not None:
                module.forward = wrapper
        return key_values[layer]

    @contextmanager
    def recomputing(self) -> Iterator[None]:
        """Recompute each layer's activations in the backward pass.

        The model's own switch is not used: it makes all embeddings require a gradient for good, its name has changed,
        and it works only in training mode, in which OPT's layers apply dropout.
        """
        forwards = [vars(layer).get("forward") for layer in self.modules]
        for layer in self.modules:
            layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
        try:
            yield
        finally:
            for layer, forward in zip(self.modules, forwards, strict=True):
                del layer.forward
                if forward is not None:
                    layer.forward = forward
