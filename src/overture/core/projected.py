"""Vectors kept as a few numbers each and a seed: the stored form of what a frozen random projection makes.

    V = (Z R) * s + b

with Z [P, r] (`codes`), s [D] (`scale`) and b [D] (`shift`). R [r, D] is normal with variance 1/r and drawn from a seed
by Python's own generator, whose numbers depend on no version of Python or torch. `projection` has the seed and the
SHA-256 of R, as 18 numbers of 16 bits, which float32 holds exactly. Kept values: P r + 2 D + 18.
"""

import hashlib
import math
import random

import torch
from torch import Tensor

from overture.core.errors import ArtifactError, ConfigError

NAMES = ("codes", "scale", "shift", "projection")
MAX_VALUES = 2**22
"""Values of a projection at most: they are drawn one by one, and a small file must not keep a machine busy."""
NUM_WORDS = 18
_SEED_BYTES, _WORD_BYTES = 4, 2


def projection(seed: int, rank: int, width: int) -> Tensor:
    """R, float32 [r, D]; it depends on the arguments alone.

    Args:
        seed: 32 bits.
        rank: r.
        width: D.

    Raises:
        ConfigError: it would have too many values.
    """
    if rank * width > MAX_VALUES:
        raise ConfigError(
            "the projection is too large",
            where="prompt.options.rank",
            got=str(rank),
            wanted=f"at most {MAX_VALUES // width} for vectors of {width} values",
        )
    chance = random.Random(seed)
    normal = torch.tensor([_normal(chance) for _ in range(rank * width)], dtype=torch.float64)
    return (normal / math.sqrt(rank)).float().reshape(rank, width)


def _normal(chance: random.Random) -> float:
    """A normal number by the ratio of uniforms: of Python's generator, only `random` promises its numbers."""
    while True:
        below = 1.0 - chance.random()
        ratio = math.sqrt(8 / math.e) * (chance.random() - 0.5) / below
        if ratio * ratio <= -4 * math.log(below):
            return ratio


def origin(seed: int, drawn: Tensor) -> Tensor:
    """The seed and the fingerprint of what was drawn from it, float32 [18]."""
    raw = seed.to_bytes(_SEED_BYTES, "big") + hashlib.sha256(drawn.numpy().astype("<f4").tobytes()).digest()
    words = [int.from_bytes(raw[at : at + _WORD_BYTES], "big") for at in range(0, len(raw), _WORD_BYTES)]
    return torch.tensor(words, dtype=torch.float32)


def vectors_of(codes: Tensor, scale: Tensor, shift: Tensor, drawn: Tensor) -> Tensor:
    """The vectors, [P, D]."""
    return codes @ drawn * scale + shift


def expanded(tensors: dict[str, Tensor], where: str = "prompt") -> dict[str, Tensor]:
    """A prompt's tensors with its vectors in place of the numbers that they are kept as; others as they are.

    Args:
        tensors: of an artifact.
        where: what they were read from, for the error.

    Raises:
        ArtifactError: they do not fit together, or the projection is not the one that the prompt was trained with.
    """
    if "projection" not in tensors:
        return tensors
    rest = {name: value for name, value in tensors.items() if name not in NAMES}
    if len(tensors) - len(rest) != len(NAMES) or "vectors" in rest or not _is_fit(*(tensors[name] for name in NAMES)):
        shapes = {name: list(value.shape) for name, value in tensors.items() if name not in rest or name == "vectors"}
        wanted = f"codes [P, r], scale [D], shift [D] and projection [{NUM_WORDS}], r D at most {MAX_VALUES}"
        raise ArtifactError("the numbers of projected vectors do not fit", where=where, got=str(shapes), wanted=wanted)
    codes, scale, shift, kept = (tensors[name] for name in NAMES)
    first, second = (int(word) for word in kept[:2])
    seed = first * 2**16 + second
    drawn = projection(seed, codes.shape[1], len(scale))
    if not torch.equal(origin(seed, drawn), kept.cpu()):
        raise ArtifactError(
            "the seed gives another projection here than it gave in training",
            where=where,
            fix="export the prompt where it was trained, with --to npy, or train it again",
        )
    return rest | {"vectors": vectors_of(codes, scale, shift, drawn.to(codes))}


def _is_fit(codes: Tensor, scale: Tensor, shift: Tensor, kept: Tensor) -> bool:
    is_shaped = codes.dim() == 2 and scale.dim() == 1 and scale.shape == shift.shape and kept.shape == (NUM_WORDS,)
    is_whole = bool(((kept == kept.round()) & (kept >= 0) & (kept < 2**16)).all())
    return is_shaped and is_whole and codes.shape[1] * len(scale) <= MAX_VALUES
