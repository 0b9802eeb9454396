"""Several runs at one pace: each is as if alone, stops on its own, and resumes bit-equal."""

import pytest
import torch
from tiny import CASE, ROWS, assert_equal, config, copied

from fakes import Case, backbone_of, make_prompt
from overture.core.errors import ArtifactError
from overture.core.records.events import DivergedEvent, StepEvent
from overture.engine.cache import InputCache
from overture.engine.cohort import Cohort
from overture.engine.prompted import PromptedModel
from overture.evaluate.scoring import mean_loss
from overture.train.fit import Fit, FitTogether, Validation

CASES = [CASE, Case("vectors", "after"), Case("prefix", "after", {"reparameterise": "mlp", "mlp_width": 6})]


def models_of(cases=CASES, dtype=torch.float64):
    backbone = backbone_of("llama", dtype)
    cache = InputCache(1 << 24)
    found = [PromptedModel(backbone, make_prompt(case, backbone, seed=n), cache) for n, case in enumerate(cases)]
    found[0].warm(ROWS)
    return found


def validation_of(model) -> Validation:
    loss = mean_loss(model, ROWS)
    return Validation(-loss, loss)


def fits_of(models, **changes):
    """A fit for each model, with seeds, rates, batches and rows of its own."""
    own = [{"lr": 0.05}, {"lr": 0.02, "batch_size": 3}, {"lr": 0.03, "epochs": 2}]
    return [
        Fit(
            model,
            ROWS[: len(ROWS) - n],
            lambda model=model: validation_of(model),
            config(**{**own[n % 3], **changes}),
            seed=n % 2,
            key=f"m{n}",
        )
        for n, model in enumerate(models)
    ]


def together(models, fits=None, checkpoint=None, is_stop_asked=lambda: False, decide=None, validate=None, **changes):
    fits = fits or fits_of(models, **changes)
    validate = validate or (lambda which: [validation_of(models[number]) for number in which])
    return FitTogether(fits, Cohort(models), validate, checkpoint, is_stop_asked, decide)


@pytest.mark.parametrize("shared_tokens", [1, 60, 10_000])
def test_a_cohort_trains_as_its_members_alone(shared_tokens):
    alone = [fit.run() for fit in fits_of(models_of())]
    found = together(models_of(), shared_tokens=shared_tokens).run()
    for one, other in zip(found, alone, strict=True):
        assert (one.status, one.progress.step, one.progress.best_epoch) == (
            other.status,
            other.progress.step,
            other.progress.best_epoch,
        )
        torch.testing.assert_close(one.best, other.best, rtol=1e-9, atol=1e-9)
        for entry, wanted in zip(one.progress.history, other.progress.history, strict=True):
            assert entry.train_loss == pytest.approx(wanted.train_loss, rel=1e-9)


def test_each_stops_on_its_own():
    scores = {0: [0.5, 0.4, 0.3, 0.2], 1: [0.1, 0.2, 0.3, 0.4], 2: [0.5, 0.6, 0.4, 0.4]}
    asked = []

    def validate(which):
        asked.append(list(which))
        return [Validation(scores[number].pop(0), 1.0) for number in which]

    models = models_of()
    found = together(models, fits_of(models, epochs=4, patience=2), validate=validate).run()
    assert [each.status for each in found] == ["stopped early", "finished", "finished"]
    assert [each.progress.epoch for each in found] == [3, 4, 4]
    assert asked == [[0, 1, 2], [0, 1, 2], [0, 1, 2], [1, 2]]


def test_one_that_diverges_stops_alone(tmp_path):
    wanted = [fit.run() for fit in fits_of(models_of())]
    models = models_of()
    fits = fits_of(models)
    events = []

    def breaking(event):
        events.append(event)
        if isinstance(event, StepEvent) and event.step == 6:
            for value in models[1].trainable().values():
                value.data.fill_(torch.nan)

    fits[1].events = breaking
    found = together(models, fits, tmp_path / "run").run()
    assert [each.status for each in found] == ["finished", "diverged", "finished"]
    assert isinstance(events[-1], DivergedEvent)
    assert (events[-1].epoch, events[-1].step) == (1, 6)
    assert found[1].progress.best_epoch == 0
    assert_equal(copied(models[1].trainable()), found[1].best)
    for number in (0, 2):
        torch.testing.assert_close(found[number].best, wanted[number].best, rtol=1e-9, atol=1e-9)
        assert all(value.isfinite().all() for value in found[number].best.values())


@pytest.mark.parametrize("stops", [[1] * 20, [3, 5, 2], [7]])
def test_stopped_and_resumed_is_bit_equal(tmp_path, stops):
    models = models_of(dtype=torch.float32)
    wanted = together(models, checkpoint_seconds=0.0).run()
    values = [copied(model.trainable()) for model in models]
    left = list(stops)
    while True:
        chances = left.pop(0) if left else 10_000
        asked = iter(range(10_000))
        models = models_of(dtype=torch.float32)
        stop = lambda asked=asked, chances=chances: next(asked) + 1 >= chances  # noqa: E731
        found = together(models, None, tmp_path / "run", stop).run()
        if all(each.status != "interrupted" for each in found):
            break
    for number, (one, other) in enumerate(zip(found, wanted, strict=True)):
        assert one.status == other.status
        assert_equal(one.best, other.best)
        assert_equal(copied(models[number].trainable()), values[number])


def test_some_are_dropped_after_an_epoch():
    seen = []

    def halve(epoch, histories):
        seen.append((epoch, sorted(histories)))
        assert all(len(history) == epoch + 1 for history in histories.values())
        return sorted(histories)[1:] if epoch == 0 else histories

    models = models_of()
    found = together(models, fits_of(models, epochs=3), decide=halve).run()
    assert [(each.status, each.progress.epoch) for each in found] == [("dropped", 1), ("finished", 3), ("finished", 3)]
    assert seen == [(0, ["m0", "m1", "m2"]), (1, ["m1", "m2"])]
    assert_equal(copied(models[0].trainable()), found[0].best)


def test_a_part_of_a_cohort_takes_up_its_checkpoint(tmp_path):
    found = together(models_of(), None, tmp_path / "run").run()
    models = models_of()
    again = together(models[1:], fits_of(models)[1:], tmp_path / "run", validate=lambda which: []).run()
    for one, other in zip(again, found[1:], strict=True):
        assert_equal(one.best, other.best)


def test_a_checkpoint_of_others_is_refused(tmp_path):
    together(models_of()[:1], None, tmp_path / "run").run()
    with pytest.raises(ArtifactError, match="other members"):
        together(models_of(), None, tmp_path / "run").run()
