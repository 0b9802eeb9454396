"""The rows that teach most: those that a prompt is unsure of, far from each other.

Each row stands for the gradient that its likeliest label would give a linear head: (shares - one-hot) x features. It is
long where the prompt is unsure, and points elsewhere for other texts and other doubts. Rows are drawn like the seeds of
k-means++, each with a chance that grows with the squared distance from those already drawn.

Source: Ash et al. 2020, "Deep Batch Active Learning by Diverse, Uncertain Gradient Lower Bounds" (BADGE). Deviations:
features are centred, because those of language models share a large common part; the origin counts as drawn, because a
row near it teaches nothing, however far from the drawn ones.

Shape letters: N rows, C labels, D width.
"""

import torch
from torch import Tensor


def diverse(shares_NC: Tensor, features_ND: Tensor, count: int, seed: int) -> list[int]:
    """Indices of the chosen rows, in the order in which they were drawn.

    Args:
        shares_NC: probabilities of the labels.
        features_ND: hidden states of the rows.
        count: how many; all rows if there are no more.
        seed: of the draws.
    """
    count = min(count, len(shares_NC))
    if not count:
        return []
    doubt_NC = shares_NC.double() - torch.nn.functional.one_hot(shares_NC.argmax(1), shares_NC.shape[1])
    features_ND = features_ND.double() - features_ND.double().mean(0)
    lengths_N = doubt_NC.square().sum(1) * features_ND.square().sum(1)
    random = torch.Generator().manual_seed(seed)
    indices = [int(lengths_N.argmax())]
    distances_N = lengths_N.clone()
    while len(indices) < count:
        last = indices[-1]
        products_N = (doubt_NC @ doubt_NC[last]) * (features_ND @ features_ND[last])
        distances_N = torch.minimum(distances_N, (lengths_N + lengths_N[last] - 2 * products_N).clamp_min(0))
        distances_N[indices] = 0
        if float(distances_N.sum()) <= 0:
            # All rows that are left equal one that was drawn: they follow in their order.
            others = [index for index in range(len(shares_NC)) if index not in set(indices)]
            return [*indices, *others[: count - len(indices)]]
        indices.append(int(torch.multinomial(distances_N / distances_N.sum(), 1, generator=random)))
    return indices
