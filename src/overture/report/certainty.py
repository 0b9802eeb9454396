"""How far a prompt that may say that it is not sure keeps what it promises, in sentences."""

from collections.abc import Iterator

from overture.core.records.tune import Evaluation


def certainty_lines(result: Evaluation) -> Iterator[str]:
    """How far sets of labels and withheld answers keep what they promise."""
    certainty = result.certainty
    if certainty and (sets := certainty.sets):
        yield (
            f"Sets of labels: {sets.covered.value:.1%} hold the right one (95% interval {sets.covered.low:.1%} to "
            f"{sets.covered.high:.1%}, {sets.covered.n} rows; wanted {sets.wanted:g}); {sets.mean_size:.2f} labels on "
            f"average, {sets.single.value:.0%} of the sets have one."
        )
    if certainty and (abstaining := certainty.abstaining):
        share, precision = abstaining.answered, abstaining.precision
        rights = (
            f"{precision.value:.1%} of them right (95% interval {precision.low:.1%} to {precision.high:.1%}, "
            f"{precision.n} rows; wanted {abstaining.wanted:g})"
            if precision
            else "so none can be wrong"
        )
        yield (
            f"Answers only where sure (confidence above {abstaining.above:.4g}): {share.value:.1%} of the rows are "
            f"answered, {rights}."
        )
