"""The plan of a run: its steps and about how long each takes, from a pass over a few rows."""

import time
from collections.abc import Sequence

import torch
from pydantic import TypeAdapter

from overture.core.contracts import Losses
from overture.core.files import cache_dir, write_json
from overture.core.records.events import PlanEvent, PlanStep
from overture.core.rows import Encoded, OneOf
from overture.engine.beginnings import runs_once
from overture.engine.prompted import PromptedModel
from overture.jobs.run.work import SPLITS, Work

_DAY_S = 86_400.0
_Paces = TypeAdapter(dict[str, tuple[float, float]])
"""Seconds of a token, and when they were measured, by model, precision, device, prompt and threads."""
_TIMED_TOKENS, _TIMED_PASSES = 1024, 2
"""About a pass of a run: in one of 256 tokens a token takes up to twice as long, on a busy machine above all."""
_TRAINING = 3.0
"""A step runs forwards and backwards: about three times a forward pass."""
_BEHIND_EXAMPLES = 1.5
"""A token behind a long memory takes longer."""


def plan_of(work: Work, model: PromptedModel, is_measured: bool) -> PlanEvent:
    """The steps that are left of a run.

    Args:
        work: the run.
        model: under the prompt that is tuned, before training.
        is_measured: whether the controls are measured already, or are not wanted.
    """
    config, rows = work.config, work.rows
    seconds = _pace(work, model)
    scored = [row for name in SPLITS for row in rows[name]]
    (injection,) = model.injections(rows["train"][:1])
    is_kept = injection is not None and injection.leaves_input and work.backbone.family.kind != "encoder"
    num_vectors = injection.vectors.length if injection and injection.vectors else 0
    if runs_once(work.backbone, injection):
        num_vectors = 0
    answer_tokens = config.task.max_new_tokens // 2 if not config.task.labels else 0

    def tokens(rows: Sequence[Encoded]) -> float:
        """Tokens that one pass runs for the rows: where inputs are kept only those behind them."""
        return sum((len(row.anchor_elements) if is_kept else row.num_tokens) + num_vectors for row in rows)

    inputs = model.answerer.inputs
    reading = sum(inputs.num_unread([row.input_elements for row in part]) for part in rows.values()) if is_kept else 0
    passes = config.train.num_epochs * config.train.num_passes
    training = _TRAINING * passes * tokens(rows["train"]) + config.train.num_epochs * tokens(rows["validation"])
    training += tokens(scored) + answer_tokens * len(scored)
    epochs = "1 epoch" if config.train.num_epochs == 1 else f"{config.train.num_epochs} epochs"
    seeds = f", {config.seeds} seeds" if config.seeds > 1 else ""
    training_text = f"train on {len(rows['train'])} rows, at most {epochs}{seeds}{_weighted(rows['train'])}"
    steps = [PlanStep(what=training_text, seconds=seconds * (reading + config.seeds * training))]
    if not is_measured:
        alone = seconds * (tokens(scored) + answer_tokens * len(scored))
        steps.append(PlanStep(what="measure the model without a prompt", seconds=alone))
        if compares_examples(work):
            examples = _BEHIND_EXAMPLES * seconds * sum(row.num_tokens + answer_tokens for row in scored)
            steps.append(PlanStep(what=f"measure it with {config.shots} examples", seconds=examples))
    return PlanEvent(steps=steps)


def compares_examples(work: Work) -> bool:
    """Whether the model is measured with examples too: they are wanted, it keeps them, and the rows can be shown."""
    return bool(work.config.shots) and work.backbone.family.kind == "decoder" and work.task.has_shots


def _weighted(rows: Sequence[Encoded]) -> str:
    """The least and the largest weight of a label, for a plan; empty where all rows count the same."""
    weights = sorted({row.target.weight for row in rows if isinstance(row.target, OneOf)})
    return f", rows weighted from {weights[0]:.2g} to {weights[-1]:.2g} by label" if len(weights) > 1 else ""


def _pace(work: Work, model: PromptedModel) -> float:
    """Seconds of a token: where inputs are kept from run to run, so is this, for a day; else it is measured."""
    if work.cache.files is None:
        return _seconds_per_token(work, model)
    info, prompt = work.backbone.info, work.config.prompt
    facts = (info.weights_sha256[:16], info.dtype, work.backbone.device, prompt.method, prompt.place)
    key, memo = " ".join(map(str, (*facts, torch.get_num_threads()))), cache_dir() / "paces.json"
    try:
        stored_paces = _Paces.validate_json(memo.read_bytes())
        paces = {name: (pace, when) for name, (pace, when) in stored_paces.items() if 0 <= time.time() - when < _DAY_S}
    except (OSError, ValueError):
        paces = {}
    if key not in paces:
        paces[key] = (_seconds_per_token(work, model), time.time())
        write_json(memo, paces)
    return paces[key][0]


def _seconds_per_token(work: Work, model: PromptedModel) -> float:
    """Seconds that a token takes in a forward pass; nothing is kept of the pass."""
    rows: list[Encoded] = []
    for row in work.rows["train"]:
        rows.append(row)
        if sum(row.num_tokens for row in rows) >= _TIMED_TOKENS:
            break
    model_alone = PromptedModel(work.backbone, model.prompt)
    seconds = []
    with torch.no_grad():
        for _ in range(_TIMED_PASSES):
            start = time.perf_counter()
            model_alone.ask(rows, Losses(with_vector_targets=False))
            seconds.append(time.perf_counter() - start)
    return min(seconds) / sum(row.num_tokens for row in rows)
