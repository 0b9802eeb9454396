"""Deep prompts: P trainable vectors that replace the prompt's hidden states in every layer.

Layer n reads its own V[n], [P, D], instead of what layer n - 1 gave at the prompt's positions:

    [_; X_n+1] = layer_n([V[n]; X_n]),   V [N, P, D],   X_n [L, D] the text's hidden states that enter layer n

Nothing else sees these positions but through their keys and values, so for a causal model the prompt is a memory:

    K_n = rotate(norm_n(V[n]) Wk_n, 0..P-1),   V_n = norm_n(V[n]) Wv_n,   both [H, P, K]

with the layer's own frozen norm and projections (and the rotation of positions, where the model has one). It is kept as
keys and values. Trainable values: N P D.

Source: Liu et al. 2022, "P-Tuning v2", section 3, as it is described there (its code trains keys and values, see
`prefix`); Jia et al. 2022, "Visual Prompt Tuning", section 3 (deep). Deviation: every layer begins at the same vectors
of real tokens instead of noise, or at its own states of training rows (`init: patches`). The former are shorter than
hidden states of upper layers, for which the layers' norms make up, and one learning rate fits them all.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from overture.core.injection import Injection, LayerMemory, Memory, Place
from overture.prompt.module import PromptModule, Request


class DeepVectors(PromptModule):
    """Trainable vectors [N, P, D]."""

    def __init__(self, start: Tensor, place: Place, memory_of_layers: Callable[[Tensor], LayerMemory]) -> None:
        super().__init__()
        self.place = place
        self.memory_of_layers = memory_of_layers
        self.values = torch.nn.Parameter(start.clone())

    def injection(self) -> Injection:
        """The keys and values of the vectors."""
        return Injection(memory=Memory(self.memory_of_layers(self.values), self.place))


def build(request: Request) -> DeepVectors:
    """The starting vectors in every layer, or each layer's own where the start has them."""
    source, states = request.source, request.states
    start = request.start.repeat(source.num_layers, 1, 1) if states is None else states
    return DeepVectors(start, request.place, source.memory_of_layers)
