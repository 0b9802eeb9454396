"""``overture words``: label words from training rows, measured on validation rows without training.

How words are found: `overture.hard.label_words`.
"""

from collections.abc import Callable, Sequence
from functools import partial

from overture.core.config import validated
from overture.core.errors import BackboneError, ConfigError, DataError
from overture.core.meter import Meter
from overture.core.records.search import LabelWord, WordingScore, WordsResult
from overture.core.rows import Encoded
from overture.data.encode import Encoder
from overture.data.rows import gold_of
from overture.data.task import Task
from overture.engine.backbone import Backbone
from overture.engine.cache import InputCache
from overture.engine.load import load_backbone
from overture.engine.prompted import PromptedModel
from overture.evaluate.scoring import score
from overture.hard.label_words import assignments, label_candidates, label_states
from overture.jobs.run.early import splits_of
from overture.jobs.search.options import WordsConfig

Progress = Callable[[str, int, int], None]
_OWN = "task file"


def words(
    task: Task,
    config: WordsConfig | None = None,
    *,
    backbone: Backbone | None = None,
    progress: Progress = lambda what, done, total: None,
    notify: Callable[[str], None] = lambda message: None,
) -> WordsResult:
    """Propose label words for a task, and measure them on validation rows without any training.

    Args:
        task: the task; its own words say whether words begin with a space, and are measured beside the others.
        config: how words are looked for.
        backbone: a loaded model; loaded by the task's name when None.
        progress: called with (what, done, all).
        notify: called with a sentence before work that takes long.

    Returns:
        Words of each label, best first, and choices of them, the best on validation rows first; test rows are not read.

    Raises:
        ConfigError: the task's rows do not have one label each.
        DataError: the rows cannot be used, or a label has no training rows.
        BackboneError: the model predicts no words.
    """
    config = config or WordsConfig()
    if not task.labels:
        raise ConfigError("label words are for tasks with labels", where="kind", got=task.kind, wanted="classification")
    splits = splits_of(task)
    if not splits.validation:
        raise DataError("words are measured on validation rows", where="data.validation_share", wanted="above 0")
    backbone = backbone or load_backbone(task.backbone, notify=notify)
    rows = Encoder(task, backbone.text.tokenizer).encode(splits.train)
    _check(task, backbone, rows)
    meter = Meter(backbone.device.type)
    cache = InputCache()

    hidden_ND, labels_N = label_states(
        PromptedModel(backbone, None, cache), rows, lambda done, total: progress("reading training rows", done, total)
    )
    candidates = label_candidates(backbone, task, hidden_ND, labels_N, config.pool, config.words)
    choices = assignments(backbone, candidates, hidden_ND, labels_N, config.rounds)
    notices = [] if choices else ["labels share too few words to have one each; ask for more words of each pool"]

    scores = []
    gold = gold_of(task, splits.validation)
    for name in (_OWN, *choices):
        worded_task = task
        if name in choices:
            labels = dict(zip(task.words, choices[name], strict=True))
            worded_task = validated(Task, {**task.dump(), "labels": labels}, "words")
        encoded = Encoder(worded_task, backbone.text.tokenizer).encode(splits.validation)
        report = partial(progress, f"scoring the words: {name}")
        scored = score(PromptedModel(backbone, None, cache), encoded, worded_task, gold, progress=report)
        labels, metrics = worded_task.dump()["labels"], scored.metrics(worded_task)
        scores.append(WordingScore(name=name, labels=labels, metrics=metrics, loss=scored.loss))
    return WordsResult(
        task=task.name,
        backbone=task.backbone,
        metric=task.metric,
        rows={"train": len(splits.train), "validation": len(splits.validation)},
        labels={
            label: [
                LabelWord(word=word.text, log_likelihood=round(word.log_likelihood, 4), ratio=round(word.ratio, 4))
                for word in of_label
            ]
            for label, of_label in zip(task.words, candidates, strict=True)
        },
        # Of equal scores the first stays first: the task file's own words.
        wordings=sorted(scores, key=lambda wording: -wording.metrics[task.metric].value),
        seconds=meter.seconds,
        notices=notices,
    )


def _check(task: Task, backbone: Backbone, rows: Sequence[Encoded]) -> None:
    if any(row.label is None for row in rows):
        raise ConfigError("label words need one label for each row", where="kind", got=task.kind)
    if not backbone.has_head or (backbone.text.tokenizer.is_encoder and not task.has_mask):
        raise BackboneError(
            "the model predicts no words here, and labels get vectors",
            where="template" if backbone.has_head else "backbone",
            fix="write {mask} where the word belongs" if backbone.has_head else "choose a model with a head",
        )
    missing = [name for number, name in enumerate(task.words) if all(row.label != number for row in rows)]
    if missing:
        raise DataError("labels without training rows have no words", where="data.train", got=", ".join(missing))
