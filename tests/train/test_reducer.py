"""Two processes that train on halves of every batch train the same prompt as one."""

from threading import Barrier, Thread

import pytest
import torch
from tiny import Recorded, make_fit
from torch import Tensor

from fakes import Case
from overture.train.fit import Apart, Fit, FitTogether


class TwoThreads:
    """Sums over two threads, each with its own copy of everything that is trained."""

    size = 2
    is_lockstep = False

    def __init__(self, rank: int, barrier: Barrier, given: dict[int, list[Tensor]]) -> None:
        self.rank, self.barrier, self.given = rank, barrier, given
        self.is_first = rank == 0
        self.num_sums = 0

    def most(self, value) -> float:
        return max(self.exchanged([value]))

    def from_first(self, values) -> list[float]:
        self.exchanged(values)
        return self.first

    def exchanged(self, values) -> list[float]:
        self.given[self.rank] = list(values)
        self.barrier.wait(timeout=60)
        self.first, both = self.given[0], [*self.given[0], *self.given[1]]
        self.barrier.wait(timeout=60)
        return both

    def sum(self, values) -> None:
        self.num_sums += 1
        self.given[self.rank] = [value.clone() for value in values]
        self.barrier.wait(timeout=60)
        for number, value in enumerate(values):
            value.copy_(self.given[0][number] + self.given[1][number])
        self.barrier.wait(timeout=60)


def trained_by_two(case: Case, **options) -> list[tuple[Fit, Recorded, TwoThreads]]:
    barrier, given = Barrier(2), {}
    members = []
    for rank in range(2):
        trainee = Recorded(case)
        members.append((make_fit(trainee, **options), trainee, TwoThreads(rank, barrier, given)))

    def run(fit: Fit, reducer: TwoThreads) -> None:
        FitTogether([fit], Apart([fit.trainee]), lambda which: [fit.validate()], reducer=reducer).run()

    threads = [Thread(target=run, args=(fit, reducer)) for fit, _, reducer in members]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return members


@pytest.mark.parametrize("case", [Case("vectors", "before"), Case("prefix", "after")], ids=str)
def test_two_halves_of_each_batch_train_as_the_whole(case) -> None:
    # A clip that cuts: it must look at the summed gradient, not at a half.
    options = {"epochs": 2, "clip": 0.05}
    whole = make_fit(Recorded(case), **options)
    expected = whole.run()
    members = trained_by_two(case, **options)
    for fit, _, reducer in members:
        assert reducer.num_sums == expected.progress.step
        for name, value in whole.values.items():
            torch.testing.assert_close(fit.values[name], value, rtol=1e-5, atol=1e-5)
        losses = [(epoch.train_loss, epoch.validation_loss) for epoch in fit.progress.history]
        wanted = [(epoch.train_loss, epoch.validation_loss) for epoch in expected.progress.history]
        torch.testing.assert_close(losses, wanted, rtol=1e-5, atol=1e-5)
    first, second = (trainee.seen for _, trainee, _ in members)
    assert sum(map(len, first)) + sum(map(len, second)) == sum(map(len, whole.trainee.seen))


def test_a_batch_of_one_row_leaves_the_second_process_with_nothing() -> None:
    options = {"epochs": 1, "batch_size": 1}
    whole = make_fit(Recorded(Case("vectors", "before")), **options)
    whole.run()
    for fit, trainee, reducer in trained_by_two(Case("vectors", "before"), **options):
        assert bool(trainee.seen) is (reducer.rank == 0)
        for name, value in whole.values.items():
            torch.testing.assert_close(fit.values[name], value, rtol=1e-5, atol=1e-5)
