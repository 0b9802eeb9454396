"""Modules in front of the first layer of models that read sounds: one function for each form that families have.

Each takes the module that runs the layers and prepared features of one length, and gives what enters layer 0,
[B, L, D], positions added. In `log_mel` a sound may be shorter than those that the model was trained on.

Shape letters: B sounds, M bands, F frames, T samples, L positions, D width of the layers.
"""

from typing import Any

from torch import Tensor
from torch.nn.functional import gelu


def log_mel(encoder: Any, features: Tensor) -> Tensor:
    """Whisper's: two convolutions over log-mel bands [B, M, F], the second one halving the frames."""
    states = gelu(encoder.conv2(gelu(encoder.conv1(features)))).transpose(1, 2)
    return states + encoder.embed_positions.weight[: states.shape[1]]


def spectrogram(model: Any, features: Tensor) -> Tensor:
    """AST's: patches of a spectrogram [B, F, M], behind two tokens of the model's own."""
    states: Tensor = model.embeddings(features)
    return states


def waves(model: Any, samples: Tensor) -> Tensor:
    """wav2vec 2.0's and HuBERT's: convolutions over samples [B, T], then one that gives positions."""
    extracted = model.feature_extractor(samples).transpose(1, 2)
    projected = model.feature_projection(extracted)
    states = projected[0] if isinstance(projected, tuple) else projected
    states = states + model.encoder.pos_conv_embed(states)
    # With the norm in front of each layer, this one stands behind the last.
    return states if model.config.do_stable_layer_norm else model.encoder.layer_norm(states)
