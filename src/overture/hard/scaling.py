"""Temperature and biases under which label scores come nearest to given shares of the labels.

Source: Alexandari et al. 2020, "Maximum likelihood with bias-corrected calibration", section 3. Deviations: the target
is a distribution for each row instead of its label, so no label is needed; the inverse temperature and the biases have
normal priors, which matter on the few rows of a race's first rung; Newton's method, since the loss is convex in both.

Shape letters: J candidates, B rows, C labels, F = 1 + C fitted values: inverse temperature, then biases.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from overture.core.records.hard import Scaling

_DEVIATION = 2.0
_STEPS = 30
_TOLERANCE = 1e-9
_LEAST = 1e-3


def fitted(scores_JBC: Tensor, shares_BC: Tensor) -> Tensor:
    """Inverse temperature and biases of each candidate, [J, F], by the least divergence from the shares.

    Args:
        scores_JBC: log-probabilities of the labels.
        shares_BC: target probabilities.
    """
    scores_JBC, shares_BC = scores_JBC.double(), shares_BC.double()
    num_candidates, _, num_labels = scores_JBC.shape
    identity_CC = torch.eye(num_labels, dtype=torch.float64)
    # d logits / d fitted values: the scores, then one for each label's own bias.
    slopes_JBCF = torch.cat([scores_JBC[..., None], identity_CC.expand(*scores_JBC.shape, num_labels)], -1)
    start_F = torch.zeros(1 + num_labels, dtype=torch.float64)
    start_F[0] = 1
    precision_FF = torch.eye(1 + num_labels, dtype=torch.float64) / _DEVIATION**2
    values_JF = start_F.repeat(num_candidates, 1)

    def loss_of(values_JF: Tensor) -> Tensor:
        logs_JBC = rescaled(scores_JBC, values_JF)
        return -(shares_BC * logs_JBC).sum((1, 2)) + (values_JF - start_F).square().sum(1) / (2 * _DEVIATION**2)

    loss_J = loss_of(values_JF)
    for _ in range(_STEPS):
        probabilities_JBC = rescaled(scores_JBC, values_JF).exp()
        mean_JBF = torch.einsum("jbc,jbcf->jbf", probabilities_JBC, slopes_JBCF)
        gradient_JF = torch.einsum("jbc,jbcf->jf", probabilities_JBC - shares_BC, slopes_JBCF)
        gradient_JF += (values_JF - start_F) / _DEVIATION**2
        curvature_JFF = torch.einsum("jbc,jbcf,jbcg->jfg", probabilities_JBC, slopes_JBCF, slopes_JBCF)
        curvature_JFF += precision_FF - torch.einsum("jbf,jbg->jfg", mean_JBF, mean_JBF)
        # An inverse temperature at its lower bound stays there while the loss would fall below it.
        is_least_J = (values_JF[:, 0] <= _LEAST) & (gradient_JF[:, 0] > 0)
        gradient_JF[is_least_J, 0] = 0
        curvature_JFF[is_least_J, 0, 1:] = 0
        curvature_JFF[is_least_J, 1:, 0] = 0
        step_JF = torch.linalg.solve(curvature_JFF, gradient_JF)
        # Halved until the loss falls; a candidate whose loss does not fall stays.
        length_J = torch.ones(num_candidates, dtype=torch.float64)
        for _ in range(20):
            next_JF = values_JF - length_J[:, None] * step_JF
            next_JF[:, 0] = next_JF[:, 0].clamp_min(_LEAST)
            next_loss_J = loss_of(next_JF)
            is_worse_J = next_loss_J > loss_J
            if not is_worse_J.any():
                break
            length_J = torch.where(is_worse_J, length_J / 2, length_J)
        values_JF = torch.where(is_worse_J[:, None], values_JF, next_JF)
        fall_J = torch.where(is_worse_J, 0.0, loss_J - next_loss_J)
        loss_J = loss_J - fall_J
        if float(fall_J.max()) < _TOLERANCE:
            break
    return values_JF


def rescaled(scores_JBC: Tensor, values_JF: Tensor) -> Tensor:
    """Log-probabilities under fitted values, [J, B, C]."""
    return (scores_JBC * values_JF[:, :1, None] + values_JF[:, None, 1:]).log_softmax(-1)


def scaling_of(values_F: Tensor, labels: Sequence[str]) -> Scaling:
    """Fitted values of one candidate as a record."""
    factor, *bias = values_F.tolist()
    return Scaling(temperature=1 / factor, label_bias=dict(zip(labels, bias, strict=True)))
