"""The state of one search: rows in each wording, the space, the budget, the candidates and their files."""

import math
import time
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import Tensor

from overture.core.errors import BackboneError, ConfigError, Stopped
from overture.core.injection import Injection
from overture.core.records.base import read_record
from overture.core.records.events import ProgressEvent
from overture.core.records.search import Spent, SpentBook
from overture.core.records.training import EpochRecord
from overture.core.rows import Encoded, OneOf
from overture.core.sealed import read_sealed
from overture.data.encode import Encoder
from overture.engine.backbone import Backbone
from overture.engine.compiled import compiled_prompt
from overture.engine.prompted import PromptedModel
from overture.evaluate.metrics import NOTHING, metric_named
from overture.jobs.run.members import SeededSetting
from overture.jobs.run.work import Work
from overture.jobs.search.options import SearchConfig, SearchRequest
from overture.jobs.search.space import NUM_PAIRS, Pair, Setting, Space, options_of, requested_pairs
from overture.prompt.config import PromptConfig
from overture.prompt.pack import prompt_from
from overture.store.runs import Run

SECONDS_PER_HOUR = 3600
_COST_WEIGHT = 0.002
"""Score points that ten times the training tokens cost while candidates are compared."""


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of one setting.

    Args:
        serving: live prompt tokens of a request, once the prompt is compiled.
        epoch_tokens: live tokens of an epoch of training and of the validation after it; padding is not counted, and a
            backward pass counts nothing of its own.
        is_input_kept: whether each input runs once and is kept.
    """

    serving: int
    epoch_tokens: float
    is_input_kept: bool

    @classmethod
    def of(cls, model: PromptedModel, train: Sequence[Encoded], validation: Sequence[Encoded]) -> "Cost":
        """The cost of a prompt on training and validation rows."""
        injection = model.injections(train[:1])[0]
        compiled_injection = compiled_prompt(model.backbone, injection) if injection else None
        serving = compiled_injection.vectors.length if compiled_injection and compiled_injection.vectors else 0
        tokens = sum(row_tokens(model.backbone, injection, row) for row in (*train, *validation))
        return cls(serving, tokens, _is_input_kept(model.backbone, injection))


def row_tokens(backbone: Backbone, injection: Injection | None, row: Encoded) -> float:
    """Live tokens of one row; those that run in the upper layers only count for their share of the layers."""
    has_vectors = injection is not None and injection.labels is not None
    label_words = row.target.candidates.words if isinstance(row.target, OneOf) and not has_vectors else ()
    # A word's last token is predicted and not read.
    words = sum(len(word) - 1 for word in label_words)
    vectors = injection.vectors.length if injection and injection.vectors else 0
    text = row.num_text - (row.num_input if _is_input_kept(backbone, injection) else 0)
    layers = backbone.info.num_layers
    upper = layers - (injection.layer if injection else 0)
    return (text + vectors + words + row.target.num_tokens) * upper / layers


def _is_input_kept(backbone: Backbone, injection: Injection | None) -> bool:
    return injection is not None and injection.leaves_input and backbone.family.is_causal


class Budget:
    """The budget of a search and the amount spent, kept in ``spent.json``.

    Args:
        run: the run, in whose folder the book lies.
        options: the budget: tokens, seconds, money, or tunes.
        tune_tokens: live tokens of tuning the task file's own setting.
    """

    def __init__(self, run: Run, options: SearchConfig, tune_tokens: float) -> None:
        self.run, self.price = run, options.price
        self.limit_seconds = options.seconds
        if options.money and options.price:
            self.limit_seconds = options.money / options.price * SECONDS_PER_HOUR
        self.limit_tokens = options.tokens or options.tunes * tune_tokens
        book = read_record(SpentBook, run.folder / "spent.json") or SpentBook()
        self.counted = dict(book.counted)
        self._earlier_seconds, self._started = book.seconds, time.monotonic()

    def count(self, part: str, tokens: float) -> None:
        """Note that a part has run so many tokens since it began; what a resumed search repeats counts once."""
        self.counted[part] = max(tokens, self.counted.get(part, 0.0))

    @property
    def tokens(self) -> float:
        """Live tokens so far."""
        return sum(self.counted.values())

    @property
    def seconds(self) -> float:
        """Seconds so far, over all sittings."""
        return self._earlier_seconds + time.monotonic() - self._started

    @property
    def share(self) -> float:
        """Share of the budget that is spent; over 1 when it was exceeded."""
        return self.seconds / self.limit_seconds if self.limit_seconds else self.tokens / self.limit_tokens

    def share_of(self, tokens: float) -> float:
        """The share of the budget that so many more tokens take, at the pace so far."""
        if self.limit_seconds:
            return tokens * self.seconds / max(1.0, self.tokens) / self.limit_seconds
        return tokens / self.limit_tokens

    def save(self) -> None:
        """Write the book and report how far the budget has gone."""
        self.run.write("spent.json", SpentBook(counted=self.counted, seconds=self.seconds))
        thousandths = min(1000, round(1000 * self.share))
        self.run.event(ProgressEvent(what="search, thousandths of the budget", done=thousandths, total=1000))

    def spent(self) -> Spent:
        """The amounts spent, for the result."""
        return Spent(
            tokens=self.tokens,
            seconds=self.seconds,
            share=self.share,
            money=self.seconds / SECONDS_PER_HOUR * self.price if self.price else None,
            unit="seconds" if self.limit_seconds else "tokens",
            limit=self.limit_seconds or self.limit_tokens,
        )


@dataclass(slots=True)
class Trial:
    """One candidate and its training.

    Args:
        number: its number in Optuna's study.
        setting: the candidate.
        cost: its cost.
        is_default: whether it is the task file's own setting.
        history: its epochs so far.
        seconds: of its training.
    """

    number: int
    setting: Setting
    cost: Cost
    is_default: bool = False
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
        """Live tokens of its epochs."""
        return self.cost.epoch_tokens * len(self.history)

    def seeded(self, seed: int) -> SeededSetting:
        """The candidate as a member of a group that is trained with a seed."""
        assert self.setting.prompt is not None
        return SeededSetting(key=self.key, prompt=self.setting.prompt, train=self.setting.train, seed=seed)


class SearchState:
    """Everything that the parts of one search share; what is finished is read back from the run's folder.

    Args:
        work: rows and model, test rows included.
    """

    def __init__(self, work: Work) -> None:
        assert isinstance(work.config, SearchRequest)
        self.work, self.run, self.config, self.options = work, work.run, work.config, work.config.search
        # Candidates are chosen without test rows.
        self._works = {0: replace(work, rows={**work.rows, "test": []})}
        self._costs: dict[Hashable, Cost] = {}
        self.trials: list[Trial] = []
        self.space = self._space(self._usable_pairs())
        default = self.space.default()
        self.default_cost = self.cost(default)
        # Tuning reads the inputs that it keeps.
        inputs = self.input_tokens(0) if self.default_cost.is_input_kept else 0
        self.budget = Budget(self.run, self.options, self.default_cost.epoch_tokens * default.train.num_epochs + inputs)

    # -- what may be chosen

    @property
    def prompt(self) -> PromptConfig:
        """The task file's own prompt."""
        return self.work.config.prompt

    def set_rates(self, rates: dict[Pair, float]) -> None:
        """Make learning rates that were found the middle of what is tried."""
        self.space = self._space(self.space.pairs, rates)

    def _space(self, pairs: Sequence[Pair], rates: dict[Pair, float] | None = None) -> Space:
        work = self.work
        return Space(self.config, pairs, work.backbone.info.num_layers, len(work.rows["train"]), rates)

    def _usable_pairs(self) -> list[Pair]:
        """Methods and places that this model can answer with."""
        usable: list[Pair] = []
        errors: list[BackboneError | ConfigError] = []
        is_asked = bool(self.options.method or self.options.place)
        for method, place in requested_pairs(self.config):
            options = options_of(self.prompt, method, 1)
            prompt = self.prompt.model_copy(update={"method": method, "place": place, "options": options})
            try:
                self.work.check(self.work.built(prompt, self.work.config.seed))
            except (BackboneError, ConfigError) as error:
                errors.append(error)
                if is_asked:
                    self.work.notice(f"{method} at {place} is left out: {error.what}")
            else:
                usable.append((method, place))
        if not usable:
            raise errors[0]
        return usable if is_asked else usable[:NUM_PAIRS]

    # -- rows and their cost

    def in_wording(self, wording: int) -> Work:
        """Training and validation rows in one wording."""
        if wording not in self._works:
            self._works[wording] = self.reworded(wording, ("train", "validation"))
        return self._works[wording]

    def reworded(self, wording: int, splits: Sequence[str]) -> Work:
        """The work with the rows of these splits alone, in one wording."""
        work, task = self.work, self.space.wordings[wording]
        weights = work.config.train.class_weights
        encoder = Encoder(task, work.backbone.text.tokenizer, reserve=self.space.room, class_weights=weights)
        rows = {
            split: encoder.encode_split(split, getattr(work.splits, split) if split in splits else [])
            for split in work.rows
        }
        for text in encoder.notices:
            work.notice(text)
        return replace(work, config=work.config.model_copy(update={"task": task}), encoder=encoder, rows=rows)

    def cost(self, setting: Setting) -> Cost:
        """The cost of a candidate on the rows in its wording."""
        prompt, passes = setting.prompt, setting.train.num_passes
        assert prompt is not None
        key = (prompt.method, prompt.place, prompt.length, str(prompt.options), setting.wording, passes)
        if key not in self._costs:
            work = self.in_wording(setting.wording)
            model = work.built(prompt, work.config.seed)
            self._costs[key] = Cost.of(model, work.rows["train"] * passes, work.rows["validation"])
        return self._costs[key]

    def count_inputs(self, cost: Cost, wording: int) -> None:
        """Count a wording's inputs, which run once, where a candidate keeps them."""
        if cost.is_input_kept:
            self.budget.count(f"inputs {wording}", self.input_tokens(wording))

    def input_tokens(self, wording: int) -> int:
        """Tokens of the inputs of training and validation rows."""
        rows = self.in_wording(wording).rows
        return sum(map(len, {row.input_elements for split in ("train", "validation") for row in rows[split]}))

    # -- candidates

    @property
    def default_trial(self) -> Trial | None:
        """The candidate that is the task file's own setting; None where it could not be trained."""
        return next((trial for trial in self.trials if trial.is_default), None)

    def trial(self, number: int) -> Trial:
        """The candidate of a number."""
        return next(trial for trial in self.trials if trial.number == number)

    def worth(self, trial: Trial) -> tuple[float, float]:
        """Candidates are compared by their score less a little for their cost, then by their loss."""
        best = trial.best
        if best is None:
            return -math.inf, -math.inf
        times = max(trial.cost.epoch_tokens, 1.0) / max(self.default_cost.epoch_tokens, 1.0)
        return best.validation_score - _COST_WEIGHT * math.log10(times), -best.validation_loss

    def ranked(self) -> list[Trial]:
        """Candidates that trained, the best first."""
        return sorted((trial for trial in self.trials if trial.history), key=self.worth, reverse=True)

    def empty_answers(self) -> tuple[tuple[Hashable, ...], float]:
        """An empty answer to each validation row, and their score: a prompt that diverged has this."""
        metric, gold = metric_named(self.work.task.metric), self.work.answers("validation")
        answers = (NOTHING[metric.of],) * len(gold)
        return answers, metric(gold, answers)

    # -- their files

    def values_file(self, trial: Trial) -> Path | None:
        """The values that a trial left when it was explored; None where it did not come to its end."""
        return next(iter(self.run.folder.glob(f"cohort-*/{trial.key}.prompt.safetensors")), None)

    def loaded(self, work: Work, setting: Setting, path: Path) -> PromptedModel:
        """The model under a prompt from a file, its inputs read in the order in which training reads them."""
        from overture.evaluate.source import prompt_source

        assert setting.prompt is not None
        tensors = {name: value.to(work.backbone.device) for name, value in self.values(path).items()}
        source = prompt_source(work.backbone, work.encoder, work.rows["train"], work.store, work.cache)
        model = PromptedModel(work.backbone, prompt_from(tensors, setting.prompt, source), work.cache)
        work.warm(model)
        return model

    def values(self, path: Path) -> dict[str, Tensor]:
        """The values in a candidate's file, on the CPU.

        Raises:
            ArtifactError: the file is missing or damaged.
        """
        return read_sealed(path, "start the search again: overture search TASK.yaml")[0]

    def check_stop(self) -> None:
        """Raise `Stopped` when a stop was asked for."""
        if self.work.is_stop_asked():
            self.budget.save()
            raise Stopped


def with_room(config: SearchRequest) -> SearchRequest:
    """The request with room for the longest prompt in front of each row, so that all candidates see the same rows."""
    longest = config.prompt.model_copy(update={"length": Space(config, (), 1, 1).room})
    return config.model_copy(update={"prompt": longest})
