"""Gated prefix memory: keys and values in every layer, with learned gates for layers and for columns.

    attention to column p in layer n is multiplied by w[n, p] = sigmoid(a[n]) sigmoid(c[p])

before it is normalised, with layer gates a [N] and column gates c [P]. A gate at zero is a layer without the prompt, or
a prompt that is one column shorter: which layers, and how long, is learned. All gates begin open, at sigmoid(3) = 0.95.
Trainable values: 2 N P H K + N + P.

Source: Zhu and Tan 2023, "SPT: Learning to Selectively Insert Prompts for Better Prompt Tuning", its learnable
probabilistic gate at each layer; Yang et al. 2023, "Dynamic Prompting: A Unified Framework for Prompt Tuning", section
3, its dynamic length. Deviations: what is gated is a memory, and a gate weighs the numerator of the attention, so that
a closed gate is exactly no prompt; gates are plain sigmoids, trained together with the prompt by its own loss, without
relaxed sampling or a second level of optimisation; the length is the task's, not the row's; nothing is cut in the end,
but what is kept says how many layers and columns are open (`open_gates`). Cutting a column would give another prompt,
however small its gate: the text's positions count from behind the prompt, and the keys of those that stay have theirs
in them.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from overture.core.errors import ConfigError
from overture.core.injection import Injection, LayerMemory, Memory, Place
from overture.core.records.prompt import GateCount, OpenGates
from overture.prompt.methods import GatedOptions
from overture.prompt.module import PromptModule, Request

OPEN = 3.0
EFFECTIVE = 0.5
"""A layer or a column counts as open when its weight exceeds this somewhere."""
_CLOSED, _CLOSE = 1e-6, 1e-3


class GatedMemory(PromptModule):
    """Keys and values [2, N, H, P, K], layer gates [N], column gates [P]."""

    def __init__(self, start: LayerMemory, place: Place, options: GatedOptions) -> None:
        super().__init__()
        self.place = place
        values = torch.stack([start.keys, start.values]).detach().float().clone()
        self.values = torch.nn.Parameter(values)
        num_layers, length = values.shape[1], values.shape[3]
        layers, columns = values.new_full((num_layers,), OPEN), values.new_full((length,), OPEN)
        if start.weights is not None:
            layers, columns = gates_of(start.weights, options)
        self.layer_gates = torch.nn.Parameter(layers.to(values)) if options.layers else None
        self.column_gates = torch.nn.Parameter(columns.to(values)) if options.columns else None

    def injection(self) -> Injection:
        """Keys and values as they are, with their weights."""
        return Injection(memory=Memory(LayerMemory(self.values[0], self.values[1], self._weights()), self.place))

    def _weights(self) -> Tensor:
        """Factors [N, P]."""
        weights = self.values.new_ones(self.values.shape[1], self.values.shape[3])
        if self.layer_gates is not None:
            weights = weights * self.layer_gates.sigmoid()[:, None]
        if self.column_gates is not None:
            weights = weights * self.column_gates.sigmoid()
        return weights


def gates_of(weights_NP: Tensor, options: GatedOptions) -> tuple[Tensor, Tensor]:
    """Gates of layers [N] and of columns [P] whose products are a stored prompt's weights.

    Raises:
        ConfigError: the gates that the options ask for have no such products.
    """
    weights = weights_NP.detach().double().clamp(_CLOSED, 1 - _CLOSED)
    # The row and column of the largest weight determine all gates; layer and column share that weight evenly.
    layer, column = divmod(int(weights.argmax()), weights.shape[1])
    widest = weights.max() ** (1 / (options.layers + options.columns))
    layers, columns = [gates / weights.max() * widest for gates in (weights[:, column], weights[layer])]
    products = (layers if options.layers else torch.ones_like(layers))[:, None] * (columns if options.columns else 1.0)
    if (products - weights).abs().max() > _CLOSE:
        raise ConfigError(
            "the options ask for other gates than the stored prompt has",
            where="prompt.options",
            got=", ".join(name for name, is_there in options if is_there),
            fix="--set prompt.options.layers=true --set prompt.options.columns=true",
        )
    return layers.logit(), columns.logit()


def open_gates(tensors: Mapping[str, Tensor]) -> OpenGates:
    """How many layers and columns a stored prompt leaves open: its effective size, and its size."""
    is_open = tensors["weights"] > EFFECTIVE
    num_layers, length = is_open.shape
    return OpenGates(
        layers=GateCount(open=int(is_open.any(1).sum()), of=num_layers),
        columns=GateCount(open=int(is_open.any(0).sum()), of=length),
        above=EFFECTIVE,
    )


def build(request: Request) -> GatedMemory:
    """The memory at its start, with a stored prompt's gates, or open ones."""
    return GatedMemory(request.start_memory(), request.place, request.options)
