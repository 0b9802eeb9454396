"""What a search spends: live tokens, seconds, money; and what a prompt costs to train and to use."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from overture.core.injection import Injection
from overture.core.rows import Encoded, OneOf
from overture.engine.backbone import Backbone
from overture.engine.prompted import PromptedModel
from overture.jobs.run.search_config import SearchConfig

SECONDS_PER_HOUR = 3600


@dataclass(frozen=True, slots=True)
class Cost:
    """What one setting costs.

    Args:
        serving: live prompt tokens of a request, once the prompt is compiled.
        epoch_tokens: live tokens of an epoch of training and of the validation after it.
        is_input_kept: inputs run once and are kept.
    """

    serving: int = 0
    epoch_tokens: float = 0.0
    is_input_kept: bool = False


def cost_of(model: PromptedModel, train: Sequence[Encoded], validation: Sequence[Encoded]) -> Cost:
    """What a prompt costs on such rows; padding is not counted, and a backward pass counts nothing of its own."""
    injection = model.injections(train[:1])[0]
    rows = (*train, *validation)
    tokens = sum(row_tokens(model.backbone, injection, row) for row in rows)
    compiled = model.backbone.compile(injection) if injection else None
    serving = compiled.vectors.length if compiled and compiled.vectors else 0
    return Cost(serving, tokens, _is_kept(model.backbone, injection))


def row_tokens(backbone: Backbone, injection: Injection | None, row: Encoded) -> float:
    """Live tokens of one row; those that run in the upper layers only count for their share of the layers."""
    has_vectors = injection is not None and injection.labels is not None
    label_words = row.target.candidates.words if isinstance(row.target, OneOf) and not has_vectors else ()
    # A word's last token is predicted and not read.
    words = sum(len(word) - 1 for word in label_words)
    vectors = injection.vectors.length if injection and injection.vectors else 0
    text = len(row.anchor_ids) if _is_kept(backbone, injection) else len(row.input_ids) + len(row.anchor_ids)
    layers = backbone.info.num_layers
    upper = layers - (injection.layer if injection else 0)
    return (text + vectors + words + row.target.num_tokens) * upper / layers


def _is_kept(backbone: Backbone, injection: Injection | None) -> bool:
    return injection is not None and injection.leaves_input and backbone.family.is_causal


@dataclass(slots=True)
class Spending:
    """What was spent of a budget.

    Args:
        unit: tokens or seconds.
        limit: how much there is, in that unit.
        price: of an hour; None when money does not count.
        counted: live tokens so far, by what ran them.
        seconds: of earlier sittings.
    """

    unit: str
    limit: float
    price: float | None = None
    counted: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    _started: float = field(default_factory=time.monotonic)

    @classmethod
    def of(cls, asked: SearchConfig, tokens_of_a_tune: float) -> "Spending":
        """The budget that was asked for."""
        if asked.seconds:
            return cls("seconds", asked.seconds)
        if asked.money and asked.price:
            return cls("seconds", asked.money / asked.price * SECONDS_PER_HOUR, asked.price)
        return cls("tokens", asked.tokens or asked.tunes * tokens_of_a_tune)

    def count(self, what: str, tokens: float) -> None:
        """Note that something ran so many tokens from its beginning on; what a resumed search does again is no more."""
        self.counted[what] = max(tokens, self.counted.get(what, 0.0))

    @property
    def tokens(self) -> float:
        """Live tokens so far."""
        return sum(self.counted.values())

    @property
    def all_seconds(self) -> float:
        """Seconds so far, over all sittings."""
        return self.seconds + time.monotonic() - self._started

    @property
    def share(self) -> float:
        """Share of the budget that is spent; over 1 when it was exceeded."""
        return (self.tokens if self.unit == "tokens" else self.all_seconds) / self.limit

    def share_of(self, tokens: float) -> float:
        """The share of the budget that so many more tokens take, at the pace so far."""
        if self.unit == "tokens":
            return tokens / self.limit
        return tokens * self.all_seconds / max(1.0, self.tokens) / self.limit

    def facts(self) -> dict[str, Any]:
        """As results tell it."""
        found = {"tokens": self.tokens, "seconds": self.all_seconds, "share": self.share}
        money = {"money": self.all_seconds / SECONDS_PER_HOUR * self.price} if self.price else {}
        return {**found, **money, "unit": self.unit, "limit": self.limit}
