import math
from dataclasses import replace

import pytest
import torch
from tiny import LENGTHS, ROWS, Recorded, assert_equal, copied, make_fit, one_step

from fakes import CASES, Case, make_rows
from overture.core.averaging import Averaging
from overture.core.records.events import DivergedEvent, EpochEvent, StepEvent
from overture.core.records.training import EpochRecord
from overture.train.fit import Fit, Validation
from overture.train.optim import rate_at
from overture.train.options import TrainConfig

NUM_BATCHES = -(-len(LENGTHS) // 4)


def scripted(scores):
    """Validation scores one after another, an epoch each."""
    left = iter(scores)
    return lambda: Validation(next(left), 1.0)


def is_finite_everywhere(fit: Fit) -> bool:
    state = [value for each in fit.optimiser.state_dict()["state"].values() for value in each.values()]
    return all(value.isfinite().all() for value in [*fit.values.values(), *fit.best.values(), *state])


class TestFewRows:
    @pytest.mark.parametrize(("rows", "passes"), [(0, 12), (1, 12), (16, 12), (17, 6), (64, 3), (192, 1), (512, 1)])
    def test_an_epoch_passes_over_few_rows_more_often(self, rows, passes):
        found = TrainConfig(batch_size=16).for_rows(rows)
        assert (found.epochs, found.passes, found.patience) == (5, passes, 3)
        assert found.for_rows(rows) == found

    @pytest.mark.parametrize(
        ("asked", "passes"), [({"epochs": 2}, 1), ({"passes": 4}, 4), ({"epochs": 2, "passes": 3}, 3)]
    )
    def test_what_is_asked_for_is_taken(self, asked, passes):
        found = TrainConfig(**asked).for_rows(4)
        assert (found.epochs, found.passes) == (asked.get("epochs", 5), passes)

    @pytest.mark.parametrize(("rows", "epochs", "patience"), [(8, 60, 36), (16, 60, 36), (64, 15, 9), (512, 5, 3)])
    def test_a_comparison_adds_epochs(self, rows, epochs, patience):
        found = TrainConfig(batch_size=16, patience=3).with_steps(rows, 60)
        assert (found.epochs, found.passes, found.patience) == (epochs, 1, patience)

    def test_the_loop_takes_all_passes_before_it_validates(self):
        trainee, validated = Recorded(), []

        def validate():
            validated.append(len(trainee.seen))
            return Validation(float(len(validated)), 1.0)

        events = []
        result = make_fit(trainee, validate=validate, events=events.append, epochs=2, passes=3).run()
        assert {(event.num_epochs, event.num_steps) for event in events} == {(2, 6 * NUM_BATCHES)}
        assert events[-2].step == 6 * NUM_BATCHES
        assert validated == [3 * NUM_BATCHES, 6 * NUM_BATCHES]
        assert len(result.progress.history) == 2
        passes = [trainee.seen[start : start + NUM_BATCHES] for start in range(0, 6 * NUM_BATCHES, NUM_BATCHES)]
        assert all(sorted(row for batch in one for row in batch) == list(range(len(ROWS))) for one in passes)
        assert len({tuple(one) for one in passes}) == 6

    def test_three_passes_are_three_epochs_but_for_validation(self):
        ends = {}
        for asked in ({"epochs": 6, "passes": 1}, {"epochs": 2, "passes": 3}):
            fit = make_fit(Recorded(), **asked)
            fit.run()
            ends[asked["epochs"]] = copied(fit.values)
        assert_equal(ends[6], ends[2])


class TestTraining:
    @pytest.mark.parametrize("optimiser", ["adamw", "adafactor"])
    @pytest.mark.parametrize("case", CASES, ids=str)
    def test_the_loss_falls(self, case, optimiser):
        trainee = Recorded(case)
        with torch.no_grad():
            before = float(trainee.model.loss(ROWS))
        # At a rate where no start overshoots, for four epochs are few.
        result = make_fit(trainee, optimiser=optimiser, epochs=4, lr=0.02).run()
        assert result.status == "finished"
        assert result.progress.history[result.progress.best_epoch].validation_loss * len(ROWS) < before

    def test_every_row_once_an_epoch(self):
        trainee = Recorded()
        make_fit(trainee, epochs=2).run()
        assert len(trainee.seen) == 2 * NUM_BATCHES
        for epoch in (trainee.seen[:NUM_BATCHES], trainee.seen[NUM_BATCHES:]):
            assert sorted(row for batch in epoch for row in batch) == list(range(len(ROWS)))

    def test_history_and_events(self):
        events = []
        result = make_fit(Recorded(), events=events.append, epochs=2).run()
        steps = [event for event in events if isinstance(event, StepEvent)]
        epochs = [event for event in events if isinstance(event, EpochEvent)]
        assert [event.step for event in steps] == list(range(1, 2 * NUM_BATCHES + 1))
        assert [
            EpochRecord(**{name: getattr(event, name) for name in EpochRecord.model_fields}) for event in epochs
        ] == result.progress.history
        first = [event.loss * size for event, size in zip(steps, self._sizes(), strict=False)]
        assert result.progress.history[0].train_loss == pytest.approx(sum(first) / len(ROWS))

    def _sizes(self):
        trainee = Recorded()
        make_fit(trainee, epochs=1).run()
        return [len(batch) for batch in trainee.seen]

    @pytest.mark.parametrize("kind", ["one token", "free text"])
    def test_cut_batches_give_the_whole_batchs_gradient(self, kind):
        rows, found = make_rows(kind, LENGTHS), []
        for max_tokens in (1, 40, 10_000):
            trainee = Recorded(Case("prefix", "memory"))
            fit = make_fit(trainee, max_tokens=max_tokens, clip=1e9)
            one_step(fit, rows)
            found.append({name: value.grad.clone() for name, value in fit.values.items()})
            assert len(trainee.seen) == {1: len(rows), 10_000: 1}.get(max_tokens, len(trainee.seen))
        for other in found[:2]:
            torch.testing.assert_close(other, found[2], rtol=1e-4, atol=1e-6)

    def test_gradients_are_clipped(self):
        fit = make_fit(Recorded(), clip=1e-3)
        one_step(fit, ROWS)
        norm = torch.stack([value.grad.norm() for value in fit.values.values()]).norm()
        assert float(norm) == pytest.approx(1e-3, rel=1e-3)


class TestBest:
    def test_best_values_are_put_back(self):
        kept = []
        trainee = Recorded()
        scores = iter([0.5, 0.9, 0.2, 0.1])

        def validate():
            kept.append(copied(trainee.trainable()))
            return Validation(next(scores), 1.0)

        result = make_fit(trainee, validate=validate, epochs=4, patience=9).run()
        assert result.progress.best_epoch == 1
        assert_equal(result.best, kept[1])
        assert_equal(copied(trainee.trainable()), kept[1])
        assert not torch.equal(kept[1]["values"], kept[3]["values"])

    def test_the_loss_breaks_ties(self):
        found = iter([Validation(0.5, 1.0), Validation(0.5, 0.8), Validation(0.5, 0.9), Validation(0.5, 0.8)])
        assert make_fit(Recorded(), validate=lambda: next(found), epochs=4).run().progress.best_epoch == 1

    @pytest.mark.parametrize(
        ("scores", "patience", "num_epochs", "status"),
        [
            ([0.5, 0.4, 0.4, 0.4, 0.4], 2, 3, "stopped early"),
            ([0.5, 0.4, 0.6, 0.5, 0.5], 2, 5, "finished"),
            ([0.5, 0.4, 0.6, 0.5, 0.5], 1, 2, "stopped early"),
            ([0.1, 0.2, 0.3, 0.4, 0.5], 1, 5, "finished"),
        ],
    )
    def test_patience(self, scores, patience, num_epochs, status):
        result = make_fit(Recorded(), validate=scripted(scores), epochs=5, patience=patience).run()
        assert (result.status, result.progress.epoch) == (status, num_epochs)


class TestDivergence:
    def test_after_a_good_epoch_its_values_are_put_back(self, tmp_path):
        events = []
        trainee = Recorded(break_at=NUM_BATCHES + 2)
        fit = make_fit(trainee, tmp_path / "run", events=events.append, checkpoint_seconds=0.0)
        result = fit.run()
        assert result.status == "diverged"
        counts = {"num_epochs": fit.config.epochs, "num_steps": fit.config.epochs * NUM_BATCHES}
        assert events[-1] == DivergedEvent(seed=7, epoch=1, step=NUM_BATCHES + 2, **counts)
        assert result.progress.best_epoch == 0
        assert_equal(copied(trainee.trainable()), result.best)
        assert is_finite_everywhere(fit)

    def test_in_the_first_epoch_the_last_good_values_stay(self):
        trainee = Recorded(break_at=2)
        fit = make_fit(trainee)
        result = fit.run()
        assert (result.status, result.progress.step) == ("diverged", 2)
        assert is_finite_everywhere(fit)
        good = Recorded()
        stopped = make_fit(good, is_stop_asked=lambda: len(good.seen) == 2)
        assert stopped.run().status == "interrupted"
        assert_equal(copied(trainee.trainable()), copied(good.trainable()))

    def test_a_gradient_that_is_not_finite_is_not_taken(self):
        trainee = Recorded()
        value = trainee.trainable()["values"]
        hook = value.register_hook(lambda gradient: gradient.index_fill(0, torch.tensor([0]), torch.inf))
        before = copied(trainee.trainable())
        fit = make_fit(trainee)
        assert fit.run().status == "diverged"
        hook.remove()
        assert_equal(copied(trainee.trainable()), before)

    def test_a_validation_loss_that_is_not_finite(self, tmp_path):
        found = iter([Validation(0.5, 1.0), Validation(0.6, float("nan"))])
        trainee = Recorded()
        result = make_fit(trainee, tmp_path / "run", validate=lambda: next(found)).run()
        assert result.status == "diverged"
        assert result.progress.best_epoch == 0
        assert_equal(copied(trainee.trainable()), result.best)

    def test_a_rate_that_is_much_too_high_offers_nothing_infinite(self):
        trainee = Recorded()
        fit = make_fit(trainee, lr=1e30, warmup_steps=0)
        result = fit.run()
        assert result.status == "diverged"
        assert all(value.isfinite().all() for value in result.best.values())


class TestRate:
    @pytest.mark.parametrize(
        ("step", "share"), [(0, 0.25), (1, 0.5), (3, 1.0), (4, 1.0), (7, 0.5), (9, 1 / 6), (10, 0.0), (12, 0.0)]
    )
    def test_linear(self, step, share):
        assert rate_at(step, 10, 4, "linear") == pytest.approx(share)

    @pytest.mark.parametrize(("step", "share"), [(0, 0.5), (1, 1.0), (2, 1.0), (99, 1.0)])
    def test_constant(self, step, share):
        assert rate_at(step, 10, 2, "constant") == share

    def test_without_warm_up(self):
        assert [rate_at(step, 4, 0, "linear") for step in range(4)] == [1.0, 0.75, 0.5, 0.25]

    def test_a_warm_up_longer_than_the_run(self):
        assert [rate_at(step, 2, 4, "linear") for step in range(2)] == [0.25, 0.5]

    def test_the_loop_uses_it(self):
        rates = []
        fit = make_fit(Recorded(), epochs=1, events=lambda event: rates.append(fit.optimiser.param_groups[0]["lr"]))
        fit.run()
        assert rates[:NUM_BATCHES] == [0.05 * rate_at(step, NUM_BATCHES, 2, "linear") for step in range(NUM_BATCHES)]


@torch.no_grad()
def test_the_training_loss_is_a_weighted_mean():
    model = Recorded().model
    factors = [0.5 + number for number in range(len(ROWS))]
    weighted = [
        replace(row, target=replace(row.target, factor=factor)) for row, factor in zip(ROWS, factors, strict=True)
    ]
    losses = [float(model.loss([row])) for row in ROWS]
    expected = sum(factor * loss for factor, loss in zip(factors, losses, strict=True)) / sum(factors)
    assert float(model.loss(weighted)) / model.weight(weighted) == pytest.approx(expected, rel=1e-5)
    assert float(model.loss(ROWS)) == pytest.approx(sum(losses), rel=1e-5)


class TestAveraging:
    def test_the_mean_is_validated_and_kept_and_the_values_go_on(self):
        plain, wanted = [], []
        trainee = Recorded()
        make_fit(
            trainee, validate=lambda: (plain.append(copied(trainee.trainable())), Validation(len(plain), 1.0))[1]
        ).run()
        means, averaging = [], Averaging(peak=1 / 3, width=0.4)
        averaged = Recorded()
        validate = lambda: (means.append(copied(averaged.trainable())), Validation(len(means), 1.0))[1]  # noqa: E731
        result = make_fit(averaged, validate=validate, averaging=averaging).run()
        densities = torch.tensor([1.0, math.exp(-0.5 * (1 / 3 / 0.4) ** 2), math.exp(-0.5 * (2 / 3 / 0.4) ** 2)])
        for epoch in range(1, 4):
            weights = densities[:epoch] / densities[:epoch].sum()
            wanted.append({n: sum(w * p[n] for w, p in zip(weights, plain, strict=False)) for n in plain[0]})
        for mean, expected in zip(means, wanted, strict=True):
            torch.testing.assert_close(mean, expected)
        assert not any(torch.allclose(means[2][name], plain[2][name]) for name in plain[2])
        assert_equal(result.best, means[2])
        assert_equal(copied(averaged.trainable()), means[2])

    def test_a_mean_over_the_steps_is_validated_and_kept_and_the_values_go_on(self):
        steps, means = [], []
        trainee = Recorded()
        events = lambda event: steps.append(copied(trainee.trainable())) if isinstance(event, StepEvent) else None  # noqa: E731
        validate = lambda: (means.append(copied(trainee.trainable())), Validation(len(means), 1.0))[1]  # noqa: E731
        fit = make_fit(trainee, validate=validate, events=events, average=0.75)
        result = fit.run()
        wanted = steps[0]
        for values in steps[1:]:
            wanted = {name: 0.75 * wanted[name] + 0.25 * value for name, value in values.items()}
        torch.testing.assert_close(means[-1], wanted)
        assert_equal(result.best, means[-1])
        plain = Recorded()
        make_fit(plain, average=0.0).run()
        torch.testing.assert_close(steps[-1], copied(plain.trainable()))

    def test_epochs_far_from_the_peak_weigh_as_much_as_they_can(self):
        averaging = Averaging(peak=0.5, width=1e-4)
        assert [averaging.share(epoch, 4) for epoch in (1, 2)] == [1.0, 1.0]
        assert averaging.share(3, 4) == pytest.approx(0.0, abs=1e-200)
