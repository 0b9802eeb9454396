"""What the parts of one search share: the space, rows in each wording, costs, spending, candidates, their files."""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from overture.core.errors import BackboneError, ConfigError, Stopped
from overture.core.records.events import ProgressEvent
from overture.core.records.training import EpochRecord
from overture.data.encode import Encoder
from overture.engine.prompted import PromptedModel
from overture.evaluate.metrics import NOTHING, metric_named
from overture.jobs.run.members import SeededSetting
from overture.jobs.run.work import Work
from overture.jobs.search.options import SearchRequest
from overture.jobs.search.space import NUM_PAIRS, Pair, Setting, Space, asked_pairs, options_of
from overture.jobs.search.spending import Cost, Spending, cost_of
from overture.prompt.config import PromptConfig
from overture.prompt.pack import prompt_from, prompt_tensors
from overture.train.fit import FitResult

_COST_WEIGHT = 0.002
"""What ten times the training tokens take off a score while candidates are compared."""


@dataclass(slots=True)
class Trial:
    """One candidate and what became of it.

    Args:
        number: in the study.
        setting: the candidate.
        cost: of it.
        is_own: whether it is the task file's own setting.
        history: its epochs.
        seconds: of its training.
    """

    number: int
    setting: Setting
    cost: Cost
    is_own: bool = False
    history: list[EpochRecord] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def key(self) -> str:
        """Its name in groups and files."""
        return f"trial {self.number}"

    @property
    def best(self) -> EpochRecord | None:
        """Its best epoch by score, then by loss."""
        return max(self.history, key=lambda epoch: (epoch.validation_score, -epoch.validation_loss), default=None)

    @property
    def tokens(self) -> float:
        """Live tokens that it ran."""
        return self.cost.epoch_tokens * len(self.history)

    def seeded(self, seed: int) -> SeededSetting:
        """It, as a member of a group that is trained with that seed."""
        assert self.setting.prompt is not None
        return SeededSetting(self.key, self.setting.prompt, self.setting.train, seed)


class Shared:
    """What one search knows; every part of it that is done is read back from the run's folder."""

    def __init__(self, work: Work) -> None:
        assert isinstance(work.config, SearchRequest)
        self.config, self.whole, self.asked, self.run = work.config, work, work.config.search, work.run
        # What chooses never sees a test row.
        self.works = {0: replace(work, rows={**work.rows, "test": []})}
        self.costs: dict[Any, Cost] = {}
        self.trials: list[Trial] = []
        self.space = self._space(self._pairs())
        own = self.space.own()
        self.own_cost = self.cost(own)
        # A tune reads its inputs too.
        read = self.input_tokens(0) if self.own_cost.is_input_kept else 0
        self.spending = Spending.of(self.asked, self.own_cost.epoch_tokens * own.train.num_epochs + read)
        spent = self.run.read("spent.json") or {}
        self.spending.counted, self.spending.seconds = spent.get("counted", {}), spent.get("seconds", 0.0)

    @property
    def own(self) -> PromptConfig:
        """The task file's own prompt."""
        return self.whole.config.prompt

    @property
    def own_trial(self) -> Trial | None:
        """The candidate that is the task file's own setting; None where it could not be trained."""
        return next((trial for trial in self.trials if trial.is_own), None)

    def set_rates(self, rates: dict[Pair, float]) -> None:
        """Learning rates that were found, as the middle of what is tried."""
        self.space = self._space(self.space.pairs, rates)

    def _space(self, pairs: Sequence[Pair], rates: dict[Pair, float] | None = None) -> Space:
        work = self.whole
        return Space(self.config, pairs, work.backbone.info.num_layers, len(work.rows["train"]), rates)

    def _pairs(self) -> list[Pair]:
        """Methods and places that this model can answer with."""
        found: list[Pair] = []
        refused: list[BackboneError | ConfigError] = []
        is_default = not (self.asked.method or self.asked.place)
        for method, place in asked_pairs(self.config):
            options = options_of(self.own, method, 1)
            config = self.own.model_copy(update={"method": method, "place": place, "options": options})
            try:
                self.whole.built(config, self.whole.config.seed).check(self.whole.rows["train"][:1])
            except (BackboneError, ConfigError) as error:
                refused.append(error)
                if not is_default:
                    self.whole.notice(f"{method} at {place} is left out: {error.what}")
            else:
                found.append((method, place))
        if not found:
            raise refused[0]
        return found[:NUM_PAIRS] if is_default else found

    def work(self, wording: int) -> Work:
        """The rows in one wording."""
        if wording not in self.works:
            self.works[wording] = self.reworded(wording, ("train", "validation"))
        return self.works[wording]

    def reworded(self, wording: int, splits: Sequence[str]) -> Work:
        """The work in a wording, with those splits alone."""
        work, task = self.whole, self.space.wordings[wording]
        encoder = Encoder(task, work.backbone.tokenizer, reserve=self.space.room)
        wanted = {name: getattr(work.splits, name) if name in splits else [] for name in work.rows}
        rows = {name: encoder.encode_split(name, found) for name, found in wanted.items()}
        for text in encoder.notices:
            work.notice(text)
        return replace(work, config=work.config.model_copy(update={"task": task}), encoder=encoder, rows=rows)

    def cost(self, setting: Setting) -> Cost:
        """What a candidate costs on the rows in its wording."""
        prompt, passes = setting.prompt, setting.train.num_passes
        assert prompt is not None
        key = (prompt.method, prompt.place, prompt.length, str(prompt.options), setting.wording, passes)
        if key not in self.costs:
            work = self.work(setting.wording)
            model = work.built(prompt, work.config.seed)
            self.costs[key] = cost_of(model, work.rows["train"] * passes, work.rows["validation"])
        return self.costs[key]

    def unanswered(self) -> tuple[list[Hashable], float]:
        """What a prompt whose loss was never a number answers to the validation rows, and its score."""
        metric, gold = metric_named(self.whole.task.metric), self.whole.answers("validation")
        answers = [NOTHING[metric.of]] * len(gold)
        return answers, metric(gold, answers)

    def worth(self, trial: Trial) -> tuple[float, float]:
        """What candidates are compared by: the score less a little for what it costs, then the loss."""
        best = trial.best
        if best is None:
            return -math.inf, -math.inf
        times = max(trial.cost.epoch_tokens, 1.0) / max(self.own_cost.epoch_tokens, 1.0)
        return best.validation_score - _COST_WEIGHT * math.log10(times), -best.validation_loss

    def ranked(self) -> list[Trial]:
        """Candidates that trained, the best first."""
        return sorted((trial for trial in self.trials if trial.history), key=self.worth, reverse=True)

    def of(self, number: int) -> Trial:
        """The candidate of that number."""
        return next(trial for trial in self.trials if trial.number == number)

    def values_of(self, trial: Trial) -> Path | None:
        """What the seed that found it left; None when it did not come to its end."""
        return next(iter(self.run.folder.glob(f"cohort-*/{trial.key}.prompt.safetensors")), None)

    def keep(self, work: Work, member: SeededSetting, result: FitResult, path: str) -> PromptedModel:
        """The model under a trained prompt; its values are written."""
        import torch
        from safetensors.torch import save

        from overture.core.files import write_atomic

        model = work.built(member.prompt, member.seed)
        with torch.no_grad():
            for name, value in model.trainable().items():
                value.copy_(result.best[name])
        tensors = {name: value.cpu().contiguous() for name, value in prompt_tensors(model.prompt).items()}
        write_atomic(self.run.folder / path, save(tensors))
        return model

    def loaded(self, work: Work, setting: Setting, path: Path) -> PromptedModel:
        """The model under a prompt from a file."""
        from safetensors.torch import load_file

        from overture.evaluate.source import prompt_source

        assert setting.prompt is not None
        tensors = {name: value.to(work.backbone.device) for name, value in load_file(path).items()}
        source = prompt_source(work.backbone, work.encoder, work.rows["train"], work.store)
        return PromptedModel(work.backbone, prompt_from(tensors, setting.prompt, source), work.cache)

    def read_inputs(self, cost: Cost, wording: int) -> None:
        """Count the inputs that run once, the first time that somebody needs them."""
        if cost.is_input_kept:
            self.spending.count(f"inputs {wording}", self.input_tokens(wording))

    def input_tokens(self, wording: int) -> int:
        """Tokens of the inputs of the rows that choose."""
        rows = self.work(wording).rows
        return sum(map(len, {row.input_ids for name in ("train", "validation") for row in rows[name]}))

    def check_stop(self) -> None:
        """Raise `Stopped` when somebody asked to stop."""
        if self.whole.is_stop_asked():
            self.save_spent()
            raise Stopped

    def save_spent(self) -> None:
        """Write down what was spent, and tell how far the budget has gone."""
        spent = self.spending
        self.run.write("spent.json", {"counted": spent.counted, "seconds": spent.all_seconds})
        done = min(1000, round(1000 * spent.share))
        self.run.event(ProgressEvent(what="search, thousandths of the budget", done=done, total=1000))
