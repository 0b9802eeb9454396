"""Late prompt: P trainable vectors that enter at layer k; below it the text runs alone.

    X_(n+1) = layer_n(X_n),   n = 0..k-1,   X_n [L, D] the hidden states of the text that enter layer n
    H_k = [V; X_k] at `before`, [X_k; V; A_k] at `after` (A_k [T, D] the anchor's);   H_(n+1) = layer_n(H_n),   n >= k

with V [P, D] trained. X_k does not depend on V: it is computed once and kept, and neither training nor its gradient
ever runs the k lower layers. Trainable values: P D.

Source: Liu et al. 2022, "Late Prompt Tuning: A Late Prompt Could Be Better Than Many Prompts", the section on the
method: a late prompt in an intermediate layer. Deviations: V is a free matrix, the same for all rows; the paper's LPT
makes an instance's prompt by a trained generator from the hidden states below layer k, which nothing here does (`idpg`
makes a row's prompt from its token vectors, for layer 0). V starts as token vectors do, not as hidden states of layer
k, unless `init: patches` gives those; a layer reads them through its norm, so their length hardly matters to it.
"""

import torch
from torch import Tensor

from overture.core.errors import ConfigError
from overture.core.injection import Injection, Place, Vectors
from overture.prompt.methods import LateOptions
from overture.prompt.module import PromptModule, Request


class LatePrompt(PromptModule):
    """Trainable vectors [P, D] for one layer and those above."""

    def __init__(self, start: Tensor, place: Place, layer: int) -> None:
        super().__init__()
        self.place, self.layer = place, layer
        self.values = torch.nn.Parameter(start.clone())

    def injection(self) -> Injection:
        """The vectors as they are."""
        return Injection(Vectors(self.values, self.place, self.layer))


def build(request: Request) -> LatePrompt:
    """Vectors at their start.

    Raises:
        ConfigError: the model has no such layer.
    """
    options: LateOptions = request.options
    num_layers = request.source.num_layers
    if options.layer >= num_layers:
        raise ConfigError(
            "the model has no such layer",
            where="prompt.options.layer",
            got=str(options.layer),
            wanted=f"1 to {num_layers - 1}",
            fix=f"--set prompt.options.layer={num_layers // 2}",
        )
    start = request.start if request.states is None else request.states[options.layer]
    return LatePrompt(start, request.place, options.layer)
