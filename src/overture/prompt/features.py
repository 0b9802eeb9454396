"""Features of a row, for methods whose prompt depends on the row."""

from torch import Tensor


def unit(features: Tensor) -> Tensor:
    """Vectors [..., D] with a root mean square of one: how large a model's token vectors are must not matter."""
    return features * features.square().mean(-1, keepdim=True).add(1e-12).rsqrt()
