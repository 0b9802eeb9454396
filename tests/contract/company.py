"""Laws that models of images and of sounds share."""

import pytest
import torch

from overture.core.contracts import Losses
from overture.engine.cache import InputCache
from overture.engine.prompted import PromptedModel


def check_company_changes_nothing(backbone, rows, prompt, close) -> None:
    """Kept inputs in one batch give each row its own loss and gradient; the model stays as it was."""
    before = [value.clone() for value in backbone.model.state_dict().values()]
    values = list(prompt.trainable().values())
    kept = PromptedModel(backbone, prompt, InputCache(1 << 24))
    kept.warm(rows)
    together = torch.stack(kept.ask(rows, Losses()))
    alone = torch.stack([PromptedModel(backbone, prompt).ask([row], Losses())[0] for row in rows])
    torch.testing.assert_close(together, alone, **close)
    ours, theirs = [torch.autograd.grad(total.sum(), values) for total in (together, alone)]
    torch.testing.assert_close(ours, theirs, **close)
    assert all(bool((gradient != 0).any()) for gradient in ours)
    assert len({round(loss, 9) for loss in together.tolist()}) == len(rows)
    for old, value in zip(before, backbone.model.state_dict().values(), strict=True):
        assert torch.equal(old, value)


def check_gradients(model, rows) -> None:
    """The gradient of each trained value is the slope of the loss along a random direction."""
    for value in model.trainable().values():
        (gradient,) = torch.autograd.grad(model.loss(rows), [value])
        direction = torch.randn(value.shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
        sides = []
        for sign in (1, -1):
            with torch.no_grad():
                value.add_(sign * 1e-5 * direction)
                sides.append(float(model.loss(rows)))
                value.sub_(sign * 1e-5 * direction)
        assert (sides[0] - sides[1]) / 2e-5 == pytest.approx(float((gradient * direction).sum()), rel=1e-5, abs=1e-7)
