"""The linear probe beside a prompt, for models without words: its start, its control, and what is kept on a tie.

The probe is chosen on validation rows: a layer, what is read there, a penalty. A prompt is kept only where a paired
test on the validation rows shows that it is better; else the probe is, as a prompt of length 0. Both were chosen on
these rows, the prompt by its epoch and seed and the probe by its layer; the test rows choose nothing.
"""

from collections.abc import Mapping, Sequence

from overture.core.errors import ConfigError
from overture.core.records.scores import Comparison, Paired
from overture.core.records.tune import Controls, Kept, ProbeFacts, SeedResult
from overture.core.rows import Candidates, Encoded, OneOf
from overture.engine.backbone import Backbone
from overture.engine.cache import InputCache
from overture.engine.inputs import Inputs
from overture.evaluate.intervals import paired_test
from overture.evaluate.probe import PENALTIES, Probe, all_readings, best_probe, readings
from overture.jobs.run.work import Work
from overture.prompt.config import PromptConfig
from overture.prompt.labels import LabelVectors, with_labels
from overture.prompt.registry import method_of

PROBE = "probe.safetensors"
"""The probe's values, in the run's folder."""
_SURE = 0.05
_MAX_TOKENS = 4096
_WORDS = {"read": "the state that labels are read from", "mean": "the mean of all states", "read+mean": "both states"}


def has_ladder(work: Work) -> bool:
    """Whether a run's prompts are measured against a probe: the model has no words, and each row has one label.

    Prompts among the labels' words are measured against captions written by hand.
    """
    return (
        not method_of(work.config.prompt).in_captions
        and not work.backbone.family.has_words
        and can_probe(work.backbone, work.rows)
    )


def can_probe(backbone: Backbone, rows: Mapping[str, Sequence[Encoded]]) -> bool:
    """Whether a layer can be chosen by a probe: of an encoder, by rows that have one label each."""
    probe_rows = [*rows["train"], *rows["validation"]]
    is_known = all(isinstance(row.target, OneOf) and row.target.label is not None for row in probe_rows)
    is_enough = len({row.label for row in rows["train"]}) > 1 and len(rows["validation"]) > 0
    return backbone.family.kind == "encoder" and is_known and is_enough


def chosen_probe(
    backbone: Backbone, cache: InputCache, rows: Mapping[str, Sequence[Encoded]], num_labels: int
) -> Probe:
    """The probe that is best on validation rows; what it reads is kept, so that it is read once."""
    read_ats = all_readings(backbone.info.num_layers, lowest=1)
    candidates = readings(Inputs(backbone, cache, _MAX_TOKENS), rows, read_ats)
    return best_probe(candidates, rows, num_labels, PENALTIES)


def with_read_layer(
    prompt: PromptConfig,
    backbone: Backbone,
    cache: InputCache,
    rows: Mapping[str, Sequence[Encoded]],
    candidates: Candidates | None,
) -> PromptConfig:
    """The prompt's config with the layer that is to be searched for.

    Raises:
        ConfigError: rows or model have none to search.
    """
    if prompt.read_layer != "search":
        return prompt
    if candidates is None or not can_probe(backbone, rows):
        raise ConfigError(
            "there is no layer to search for",
            where="prompt.read_layer",
            got="search",
            wanted="an encoder, and training and validation rows with one label each",
            fix="leave it out",
        )
    probe = chosen_probe(backbone, cache, rows, len(candidates.labels))
    return config_of_probe(prompt, facts_of(probe, backbone.info.num_layers))


def prompt_of(probe: Probe) -> LabelVectors:
    """The probe as a prompt of length 0."""
    prompt = with_labels(None, probe.weight, bias=probe.bias, read_at=probe.read_at)
    assert isinstance(prompt, LabelVectors)
    return prompt


def facts_of(probe: Probe, num_layers: int) -> ProbeFacts:
    """The facts about its probe that a run records."""
    layer, features = probe.read_at.layer, probe.read_at.features
    assert layer is not None
    assert features is not None
    return ProbeFacts(layer=layer, num_layers=num_layers, features=features, penalty=probe.penalty)


def config_of_probe(prompt: PromptConfig, facts: ProbeFacts) -> PromptConfig:
    """The prompt's config, reading where the probe reads."""
    return prompt.model_copy(update={"read_layer": facts.layer, "read_features": facts.features})


def kept_of(work: Work, controls: Controls, best: SeedResult) -> Kept | None:
    """Which of the best prompt and the probe is kept, and why; None where no probe was measured."""
    probe, no_prompt = controls.probe, controls.no_prompt
    if probe is None or no_prompt is None or work.config.keep == "prompt":
        return None
    assert best.predicted is not None
    assert no_prompt.predicted is not None
    answers = best.predicted["validation"], no_prompt.predicted["validation"]
    test = paired_test(work.answers("validation"), *answers, work.task.metric)
    what = "prompt" if test.p_value < _SURE and test.difference.value > 0 else "probe"
    comparison = Comparison(split="validation", **test.model_dump())
    return Kept(what=what, why=_why(what, test, probe), probe=probe, compared=comparison)


def _why(what: str, test: Paired, probe: ProbeFacts) -> str:
    gap = test.difference
    figures = (
        f"{100 * gap.value:+.1f} points, 95% interval {100 * gap.low:.1f} to {100 * gap.high:.1f}, "
        f"p = {test.p_value:.2g}"
    )
    place = f"layer {probe.layer} of {probe.num_layers}, {_WORDS[probe.features]}"
    if what == "prompt":
        return f"the prompt is kept: on {gap.n} validation rows it is better than a linear probe ({place}): {figures}"
    return (
        f"a linear probe is kept ({place}): on {gap.n} validation rows the prompt was not shown to be better: "
        f"{figures}; --set keep=prompt keeps it all the same"
    )
