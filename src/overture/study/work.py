"""What the parts of one run share."""

from collections.abc import Callable
from dataclasses import dataclass, field

from overture.core.types import Encoded
from overture.data import Encoder, Splits, Task
from overture.data.rows import answers_of
from overture.engine import Backbone, InputCache, PromptedModel
from overture.evaluate.scoring import Scored, score
from overture.store import Store
from overture.study.request import TuneConfig
from overture.study.run import Run

SPLITS = ("validation", "test")


@dataclass(slots=True)
class Work:
    """What all parts of one run share."""

    config: TuneConfig
    run: Run
    store: Store
    backbone: Backbone
    encoder: Encoder
    splits: Splits
    rows: dict[str, list[Encoded]]
    cache: InputCache
    is_stop_asked: Callable[[], bool]
    notices: list[str] = field(default_factory=list)

    @property
    def task(self) -> Task:
        """What is learnt."""
        return self.config.task

    def progress(self, what: str) -> Callable[[int, int], None]:
        """A listener that reports how far something has got."""
        return lambda done, total: self.run.event({"event": "progress", "what": what, "done": done, "total": total})

    def notice(self, text: str) -> None:
        """Tell the user something, once."""
        if text not in self.notices:
            self.notices.append(text)
            self.run.event({"event": "notice", "text": text})

    def answers(self, split: str) -> list[str]:
        """The right answers of a split; none for label tasks, whose rows hold them."""
        if self.task.labels:
            return []
        return [answers_of(self.task, row)[0] for row in getattr(self.splits, split)]

    def score(self, model: PromptedModel, split: str, what: str) -> Scored:
        """Score a model on a split."""
        max_tokens = self.config.train.max_tokens
        return score(model, self.rows[split], self.task, self.answers(split), max_tokens, self.progress(what))

    def warm(self, model: PromptedModel) -> None:
        """Read the inputs of every split once, as far as the prompt leaves them alone."""
        for name in ("train", *SPLITS):
            if self.rows[name]:
                model.warm(self.rows[name], self.progress(f"reading {name} inputs once"))
