"""P-tuning: prompt vectors made by an encoder from P trainable codes.

    V = V0 + W2 gelu(W1 x + b1) + b2,   x = e (encoder mlp) or x = BiLSTM(e) (encoder lstm)

with codes e [P, W], W1 [W, W] and W2 [D, W]. The LSTM has two layers of W/2 units in each direction, so its output is
[P, W] again. In the end the encoder is folded away: what is kept is V [P, D].
Trainable values: P W + W W + W + (W + 1) D; the LSTM has 12 W W + 16 W more.

Source: Liu et al. 2021, "GPT Understands, Too", section 3 (codes, LSTM and perceptron; `slots` is its mixing of prompt
and template); two layers of LSTM as in the authors' code. Deviations: the encoder's output is added to the starting
vectors and begins at zero, so that the prompt begins where the others do; codes have the encoder's width instead of the
model's; GELU instead of ReLU, since the encoder only ever sees P inputs and a unit that is off for all of them would
learn nothing; no dropout.
"""

from typing import Any

import torch
from torch import Tensor

from overture.core.injection import Injection, Place, Vectors
from overture.prompt.methods import PTuningOptions
from overture.prompt.module import PromptModule, Request


class EncodedVectors(PromptModule):
    """Vectors [P, D] that an encoder makes."""

    start: Tensor

    def __init__(self, start: Tensor, place: Place, options: PTuningOptions, generator: torch.Generator) -> None:
        super().__init__()
        self.place = place
        self.register_buffer("start", start.clone())
        width = options.width
        self.code = torch.nn.Parameter(torch.randn(len(start), width, generator=generator))
        self.inner_weight = torch.nn.Parameter(torch.randn(width, width, generator=generator) / width**0.5)
        self.inner_bias = torch.nn.Parameter(torch.zeros(width))
        self.outer_weight = torch.nn.Parameter(torch.zeros(start.shape[1], width))
        self.outer_bias = torch.nn.Parameter(torch.zeros(start.shape[1]))
        self.lstm = _lstm(width, generator) if options.encoder == "lstm" else None

    def injection(self) -> Injection:
        """The start plus the encoder's output."""
        hidden = torch.nn.functional.linear(self._read_code(), self.inner_weight, self.inner_bias)
        change = torch.nn.functional.linear(torch.nn.functional.gelu(hidden), self.outer_weight, self.outer_bias)
        return Injection(Vectors(self.start + change, self.place))

    def _read_code(self) -> Tensor:
        if self.lstm is None:
            return self.code
        # Without gradients torch takes a kernel that rounds differently; the stored prompt must be the scored one.
        with torch.enable_grad():
            states: Tensor = self.lstm(self.code)[0]
        return states if torch.is_grad_enabled() else states.detach()


def _lstm(width: int, generator: torch.Generator) -> torch.nn.LSTM:
    """An LSTM with torch's initialisation, from a generator of its own."""
    with torch.random.fork_rng(devices=()):
        lstm = torch.nn.LSTM(width, width // 2, num_layers=2, bidirectional=True)
    bound = (width // 2) ** -0.5
    for value in lstm.parameters():
        torch.nn.init.uniform_(value, -bound, bound, generator)
    return lstm


def build(request: Request) -> EncodedVectors:
    """An encoder that adds nothing yet."""
    return EncodedVectors(request.start, request.place, request.options, request.generator("encoder"))


def peft_keys(options: PTuningOptions) -> dict[str, Any]:
    """Config keys of peft's nearest encoder; peft drops the encoder when it saves a prompt, as we do."""
    encoder = {"encoder_reparameterization_type": options.encoder.upper(), "encoder_hidden_size": options.width}
    return encoder | {"encoder_num_layers": 2, "encoder_dropout": 0.0}
