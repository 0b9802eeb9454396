"""The learning rates of a comparison's ways: which is tried next, and which is taken."""

import time
from collections.abc import Sequence

from overture.core.contracts import Executor
from overture.core.errors import DiskFull, OvertureError, StoreError
from overture.core.records.cells import Key, Plan, RateChoice, Trial
from overture.core.records.events import Listener, NoticeEvent
from overture.jobs.compare.cells import CellJob
from overture.jobs.compare.folder import CellFolder, keys_of
from overture.jobs.compare.ways import Way

FURTHER = 2
"""Largest number of rates beyond the list."""


def best_rate(rates: Sequence[float], trials: Sequence[Trial]) -> float:
    """The rate of the best score, then of the least loss; the first of the list where all diverged."""
    scored = [
        (trial.score, -trial.loss, trial.lr) for trial in trials if trial.score is not None and trial.loss is not None
    ]
    return max(scored, key=lambda entry: entry[:2])[2] if scored else rates[0]


def next_rate(rates: Sequence[float], trials: Sequence[Trial]) -> float | None:
    """The rate to try next; None where enough are tried.

    First those of the list, then up to two beyond it for as long as the best lies at an end of those tried, so that no
    way is compared at a rate that its list ended before. A step beyond is as long as the last one before it.
    """
    tried_rates = sorted(trial.lr for trial in trials)
    rest = [rate for rate in rates if rate not in tried_rates]
    if rest:
        return rest[0]
    if len(tried_rates) < 2 or len(tried_rates) >= len(rates) + FURTHER or all(trial.score is None for trial in trials):
        return None
    best = best_rate(rates, trials)
    if best not in (tried_rates[0], tried_rates[-1]):
        return None
    beside = tried_rates[1] if best == tried_rates[0] else tried_rates[-2]
    return float(f"{best * best / beside:.1g}")


class Rates:
    """The learning rate of each way: chosen once for the folder, at the largest size, with the first seed.

    Args:
        ways: those that are compared.
        folder: keeps what was tried and chosen.
        trials: trains with a rate.
        listener: called with every event.
        seeds: of the comparison.
    """

    def __init__(
        self,
        ways: Sequence[Way],
        folder: CellFolder,
        trials: Executor[CellJob, Trial],
        listener: Listener,
        seeds: Sequence[int],
    ) -> None:
        self._ways, self._folder, self._trials, self._listener, self._seeds = ways, folder, trials, listener, seeds
        self.seconds = 0.0
        """Seconds spent on trials."""

    def choose_all(self, plan: Plan) -> None:
        """Choose the rates of all ways that have cells to run; a way that cannot be trained is left to its cells.

        Raises:
            StoreError: the folder cannot be written.
            DiskFull: no room.
        """
        for way in self._ways:
            if way.rates and not all(map(self._folder.has, keys_of(way, plan.sizes, self._seeds[: plan.seeds]))):
                try:
                    self.of(way, plan)
                except (StoreError, DiskFull):
                    raise
                except OvertureError:
                    # The way's first cell tries again, and reports the error.
                    continue

    def of(self, way: Way, plan: Plan) -> float | None:
        """A way's rate, chosen now if it is not yet; None of a way that has none.

        Raises:
            OvertureError: the way cannot be trained.
        """
        if not way.rates:
            return None
        choice = self._folder.chosen(way)
        if choice is None:
            if self._folder.has_other_rate(way):
                self._notify(f"the learning rate of {way.name} was chosen for another request, and is chosen anew")
            key = Key(way=way.name, size=plan.sizes[-1], seed=self._seeds[0])
            trials = self._tried(way, key) if plan.is_tuned and len(way.rates) > 1 else ()
            choice = RateChoice(**dict(key), lr=best_rate(way.rates, trials), tried=trials)
            self._folder.keep_rate(way, choice)
        return choice.lr

    def notify_untuned(self, plan: Plan) -> None:
        """Notify that a way keeps the default rate of cells that were measured without choosing one."""
        for way in self._ways:
            choice = self._folder.chosen(way)
            if plan.is_tuned and len(way.rates) > 1 and choice and not choice.tried:
                self._notify(
                    f"{way.name} keeps the default learning rate that its cells here have; another --output chooses it"
                )

    def _tried(self, way: Way, key: Key) -> tuple[Trial, ...]:
        """A trial of each rate; those that a stopped call has tried are not tried again."""
        start, earlier = time.monotonic(), self._folder.trials_at(way, key)
        choice = earlier or RateChoice(**dict(key), lr=None)
        while (rate := next_rate(way.rates, choice.tried)) is not None:
            tried_rates = {trial.lr for trial in choice.tried}
            # Those of the list do not depend on each other; those beyond it do.
            rates = [rate for rate in way.rates if rate not in tried_rates] or [rate]
            for outcome in self._trials.map([CellJob(key=key, lr=rate) for rate in rates], self._listener):
                choice = choice.model_copy(update={"tried": (*choice.tried, outcome.checked())})
                self._folder.keep_rate(way, choice)
        self.seconds += time.monotonic() - start
        return choice.tried

    def _notify(self, text: str) -> None:
        self._listener(NoticeEvent(text=text))
