"""Multi-task prompt: one prompt that tasks share, scaled entry by entry by each task's low-rank factors.

    P = P* o (U V),   P* [P, D], U [P, r], V [r, D],   o entry by entry

With rank 1, as in the paper, U V is the outer product of one factor for each position and one for each dimension. The
factors begin at ones, so P begins at P*: the start, or the stored prompt that `source` names. All parts are trained.
Trainable values: P D + r (P + D) for one task; P D + T r (P + D) for T tasks that share P* (`jobs/transfer/multi.py`).

Source: Wang et al. 2023, "Multitask Prompt Tuning Enables Parameter-Efficient Transfer Learning", section 3: P* is
trained on several tasks under teachers (`overture multi`), then starts a target task (`source`). Deviations: factors
begin at ones, also on the target task, where the paper takes the mean of the source tasks'; ranks above one.
"""

from typing import Any

import torch
from torch import Tensor

from overture.core.injection import Injection, Place, Vectors
from overture.prompt.methods import MptOptions
from overture.prompt.module import PromptModule, Request
from overture.prompt.stored import stored_vectors


class SharedPrompt(PromptModule):
    """The shared prompt [P, D] and the task's factors, [P, r] and [r, D]."""

    def __init__(self, start: Tensor, place: Place, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        self.place = place
        length, size = start.shape
        self.shared = torch.nn.Parameter(start.clone())
        # Beyond the first rank one factor is random and the other zero: nothing is added yet, but it can be learned.
        left, right = torch.randn(length, rank, generator=generator).to(start), start.new_zeros(rank, size)
        left[:, 0], right[0] = 1.0, 1.0
        self.left, self.right = torch.nn.Parameter(left), torch.nn.Parameter(right)

    def injection(self) -> Injection:
        """The scaled prompt."""
        return Injection(Vectors(self.shared * (self.left @ self.right), self.place))


def build(request: Request) -> SharedPrompt:
    """The shared prompt at its start, or at a stored prompt.

    Raises:
        ConfigError: the stored prompt is unknown, or has no vectors.
    """
    options: MptOptions = request.options
    start = request.start
    if options.source:
        start = stored_vectors(request.source, options.source, request.length, "prompt.options.source").to(start)
    return SharedPrompt(start, request.place, options.rank, request.generator("factors"))


def shared_start(prompt: SharedPrompt) -> Injection:
    """The shared prompt, from which another task starts."""
    return Injection(Vectors(prompt.shared, prompt.place))


def peft_keys(options: MptOptions) -> dict[str, Any]:
    """One task: what is kept is the scaled prompt, beside which the factors are ones, of rank one."""
    del options
    starts = {"prompt_tuning_init": "RANDOM", "prompt_tuning_init_text": None, "prompt_tuning_init_task": 0}
    starts |= dict.fromkeys(("prompt_tuning_init_state_dict_path", "tokenizer_kwargs", "tokenizer_name_or_path"))
    return {"num_tasks": 1, "num_ranks": 1, **starts}
