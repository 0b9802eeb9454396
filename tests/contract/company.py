"""A law that encoders of images and of sounds share."""

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
