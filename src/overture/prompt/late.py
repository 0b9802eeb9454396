"""Late prompt: P trainable vectors that enter at layer k; below it the text runs alone.

The text's hidden states at layer k do not depend on the prompt: they are computed once and kept, and neither training
nor its gradient ever runs the k lower layers. Trainable values: P D.

Source: Liu et al. 2022, "Late Prompt Tuning: A Late Prompt Could Be Better Than Many Prompts".
Deviations: the vectors are trained themselves, the paper's best variant makes them from the row (see `idpg`). They
start as token vectors do, not as hidden states of layer k; a layer reads them through its norm, so their length
hardly matters to it.
"""

import torch
from pydantic import Field
from torch import Tensor

from overture.core.config import Config
from overture.core.errors import ConfigError
from overture.core.types import Injection, Place, Vectors
from overture.prompt.method import Method, PromptModule, Request, Shape

PLACES: tuple[Place, ...] = ("before", "after", "slots")


class Options(Config):
    """Options of a late prompt."""

    layer: int = Field(ge=1, description="The first layer that sees the prompt, counted from 0; half-way is a start.")


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
    options: Options = request.options
    num_layers = request.source.num_layers
    if options.layer >= num_layers:
        raise ConfigError(
            "the model has no such layer",
            where="prompt.options.layer",
            got=str(options.layer),
            wanted=f"1 to {num_layers - 1}",
            fix=f"--set prompt.options.layer={num_layers // 2}",
        )
    return LatePrompt(request.start, request.place, options.layer)


def num_trainable(options: Options, shape: Shape) -> int:
    """P D, whatever the layer."""
    del options
    return shape.length * shape.hidden_size


METHOD = Method(
    title="vectors among the hidden states of one layer",
    source="Liu et al. 2022 (late prompt tuning)",
    options=Options,
    places=PLACES,
    learning_rate={"before": 3e-2, "after": 3e-2, "slots": 3e-2},
    build=build,
    num_trainable=num_trainable,
    formula="P D",
)
