"""Label words that the frozen model itself would write for each label's rows.

Shape letters: N rows, V vocabulary, C labels, K words of a label, D width.

Source: Gao et al. 2021 (LM-BFF), section 5.1: a label's pool are the words of highest mean log-likelihood over its
training rows, and one word for each label is chosen by training accuracy, then on validation rows. Deviations: within
the pool words are ranked by how much likelier they are for the label's rows than for those of the others, as by the
likelihood ratio of Schick et al. 2020 (PETAL), since the likeliest words are much the same for all labels; assignments
are climbed, one label at a time, where LM-BFF tries all of them; and validation judges the model without training.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from overture.core.config import validated
from overture.core.contracts import Readouts
from overture.core.errors import BackboneError, ConfigError, DataError
from overture.core.meter import Meter
from overture.core.rows import Encoded
from overture.data.batches import scoring_batches
from overture.data.encode import Encoder
from overture.data.rows import Row, gold_of
from overture.data.splits import load_splits
from overture.data.task import Task
from overture.engine.backbone import Backbone
from overture.engine.cache import InputCache
from overture.engine.load import load_backbone
from overture.engine.prompted import PromptedModel
from overture.evaluate.scoring import score
from overture.jobs.search.options import WordsConfig

Progress = Callable[[str, int, int], None]
_ROWS_AT_ONCE = 64
_MAX_TOKENS = 4096
_OWN = "task file"


@dataclass(frozen=True, slots=True)
class LabelWord:
    """A word that may stand for a label.

    Args:
        text: as the task file has it, with its leading space.
        token: its one token.
        log_likelihood: mean over the label's training rows.
        ratio: how much higher that is than the mean over the other labels' rows.
    """

    text: str
    token: int
    log_likelihood: float
    ratio: float

    def shown(self) -> dict[str, Any]:
        """For people and machines."""
        return {"word": self.text, "log_likelihood": round(self.log_likelihood, 4), "ratio": round(self.ratio, 4)}


def words(
    task: Task,
    config: WordsConfig | None = None,
    *,
    backbone: Backbone | None = None,
    progress: Progress = lambda what, done, total: None,
    notify: Callable[[str], None] = lambda message: None,
) -> dict[str, Any]:
    """Propose label words for a task, and measure them on validation rows without any training.

    Args:
        task: the task; its own words say whether words begin with a space, and are measured beside the others.
        config: how words are looked for.
        backbone: a loaded model; loaded by the task's name when None.
        progress: called with (what, done, all).
        notify: told of work that takes long.

    Returns:
        What ``overture words --json`` prints: `labels` with their words, best first; `wordings`, the best on validation
        rows first. Test rows are not looked at.

    Raises:
        ConfigError: the task's rows have not one label each.
        DataError: the rows cannot be used, or a label has no training rows.
        BackboneError: the model predicts no words.
    """
    config = config or WordsConfig()
    if not task.labels:
        raise ConfigError("label words are for tasks with labels", where="kind", got=task.kind, wanted="classification")
    splits = load_splits(task)
    if not splits.validation:
        raise DataError("words are measured on validation rows", where="data.validation_share", wanted="above 0")
    backbone = backbone or load_backbone(task.backbone, notify=notify)
    encoder = Encoder(task, backbone.tokenizer)
    rows = encoder.encode(splits.train)
    _check(task, backbone, rows)
    meter = Meter(backbone.device.type)
    cache = InputCache()
    model = PromptedModel(backbone, None, cache)
    hidden_ND = _hidden(model, rows, lambda done, total: progress("reading training rows", done, total))
    labels_N = torch.tensor([row.label or 0 for row in rows], device=hidden_ND.device)
    found = _proposed(backbone, task, hidden_ND, labels_N, config)
    chosen = _chosen(backbone, found, hidden_ND, labels_N, config.rounds)
    notices = [] if chosen else ["labels share too few words to have one each; ask for more words of each pool"]
    measured = [
        _measured(name, _with_words(task, chosen.get(name)), backbone, splits.validation, cache, progress)
        for name in (_OWN, *chosen)
    ]
    return {
        "task": task.name,
        "backbone": task.backbone,
        "metric": task.metric,
        "rows": {"train": len(splits.train), "validation": len(splits.validation)},
        "labels": {label: [word.shown() for word in own] for label, own in zip(task.words, found, strict=True)},
        # Ties go to what stands first, the task file's own words.
        "wordings": sorted(measured, key=lambda one: -one["metrics"][task.metric]["value"]),
        "seconds": meter.seconds,
        "notices": notices,
    }


def _check(task: Task, backbone: Backbone, rows: Sequence[Encoded]) -> None:
    if any(row.label is None for row in rows):
        raise ConfigError("label words need one label for each row", where="kind", got=task.kind)
    if not backbone.has_head or (backbone.tokenizer.is_encoder and not task.has_mask):
        raise BackboneError(
            "the model predicts no words here, and labels get vectors",
            where="template" if backbone.has_head else "backbone",
            fix="write {mask} where the word belongs" if backbone.has_head else "choose a model with a head",
        )
    missing = [name for number, name in enumerate(task.words) if all(row.label != number for row in rows)]
    if missing:
        raise DataError("labels without training rows have no words", where="data.train", got=", ".join(missing))


@torch.no_grad()
def _hidden(model: PromptedModel, rows: Sequence[Encoded], progress: Callable[[int, int], None]) -> Tensor:
    """What the head would make the label's word of, [N, D]."""
    found: dict[int, Tensor] = {}
    for batch in scoring_batches(rows, _MAX_TOKENS):
        readouts = model.ask(batch, Readouts())
        found |= {row.row: readout.hidden[0] for row, readout in zip(batch, readouts, strict=True)}
        progress(len(found), len(rows))
    return torch.stack([found[row.row] for row in rows])


@torch.no_grad()
def _likelihoods(backbone: Backbone, hidden_ND: Tensor) -> Tensor:
    """Log-probabilities over the whole vocabulary, [N, V]."""
    return backbone.head(hidden_ND).float().log_softmax(-1)


def _means(backbone: Backbone, hidden_ND: Tensor, labels_N: Tensor, num_labels: int) -> Tensor:
    """Each label's mean log-likelihood of every word, [C, V]."""
    sums_CV: Tensor | None = None
    for start in range(0, len(hidden_ND), _ROWS_AT_ONCE):
        part = slice(start, start + _ROWS_AT_ONCE)
        own_NV = _likelihoods(backbone, hidden_ND[part]).double()
        if sums_CV is None:
            sums_CV = own_NV.new_zeros(num_labels, own_NV.shape[1])
        sums_CV.index_add_(0, labels_N[part], own_NV)
    assert sums_CV is not None
    return sums_CV / labels_N.bincount(minlength=num_labels)[:, None]


def _proposed(
    backbone: Backbone, task: Task, hidden_ND: Tensor, labels_N: Tensor, config: WordsConfig
) -> list[list[LabelWord]]:
    """Each label's words, those first that tell it best from the others."""
    means_CV = _means(backbone, hidden_ND, labels_N, len(task.words))
    others_CV = (means_CV.sum(0) - means_CV) / (len(means_CV) - 1)
    # As the task file's own words are written: a word behind a space is another token.
    lead = " " if next(iter(task.words.values()))[0].startswith(" ") else ""
    found = []
    for label, own_V, other_V in zip(task.words, means_CV, others_CV, strict=True):
        pool: list[LabelWord] = []
        for token in own_V.argsort(descending=True).tolist():
            text = _word(backbone, token, lead)
            if text and all(text.casefold() != word.text.casefold() for word in pool):
                pool.append(LabelWord(text, token, float(own_V[token]), float(own_V[token] - other_V[token])))
            if len(pool) == config.pool:
                break
        if not pool:
            raise BackboneError("the vocabulary has no words of one token", got=task.backbone, where=f"labels.{label}")
        found.append(sorted(pool, key=lambda word: -word.ratio)[: config.words])
    return found


def _word(backbone: Backbone, token: int, lead: str) -> str | None:
    """A token as a label word; None where it is none: a piece of a word, a mark, a special token."""
    tokenizer = backbone.tokenizer
    core = tokenizer.decode([token]).strip()
    if not core.isalpha() or (len(core) < 2 and core.isascii()):
        return None
    return lead + core if tokenizer.encode_plain(lead + core) == [token] else None


def _chosen(
    backbone: Backbone,
    found: Sequence[Sequence[LabelWord]],
    hidden_ND: Tensor,
    labels_N: Tensor,
    rounds: int,
) -> dict[str, tuple[str, ...]]:
    """Assignments of one word to each label, no word twice: by the ratio alone, and climbed from there."""
    tokens = list(dict.fromkeys(word.token for own in found for word in own))
    texts = {word.token: word.text for own in found for word in own}
    chunks = torch.split(hidden_ND, _ROWS_AT_ONCE)
    scores_NT = torch.cat([_likelihoods(backbone, part)[:, tokens] for part in chunks])
    at = {token: number for number, token in enumerate(tokens)}
    choices = [[at[word.token] for word in own] for own in found]
    spelt = {number: texts[token].casefold() for number, token in enumerate(tokens)}
    start = _apart(choices, spelt)
    if start is None:
        return {}
    climbed = _climbed(start, choices, spelt, scores_NT, labels_N, rounds)
    each = {"ratio": start, "climbed": climbed}
    return {name: tuple(texts[tokens[number]] for number in own) for name, own in each.items()}


def _apart(choices: Sequence[Sequence[int]], spelt: dict[int, str]) -> list[int] | None:
    """Each label's first word that no label has yet; None where one has none left."""
    used: set[str] = set()
    found = []
    for own in choices:
        free = next((number for number in own if spelt[number] not in used), None)
        if free is None:
            return None
        used.add(spelt[free])
        found.append(free)
    return found


def _climbed(
    start: Sequence[int],
    choices: Sequence[Sequence[int]],
    spelt: dict[int, str],
    scores_NT: Tensor,
    labels_N: Tensor,
    rounds: int,
) -> list[int]:
    """The words after changing one label's at a time while training rows get better."""

    def worth(words: Sequence[int]) -> tuple[float, float]:
        own_NC = scores_NT[:, list(words)].log_softmax(1)
        right = (own_NC.argmax(1) == labels_N).float().mean()
        return float(right), -float(torch.nn.functional.nll_loss(own_NC, labels_N))

    found, best = list(start), worth(start)
    for _ in range(rounds):
        before = list(found)
        for label, own in enumerate(choices):
            others = {spelt[word] for number, word in enumerate(found) if number != label}
            for word in own:
                changed = [*found[:label], word, *found[label + 1 :]]
                if spelt[word] not in others and (now := worth(changed)) > best:
                    found, best = changed, now
        if found == before:
            break
    return found


def _with_words(task: Task, chosen: Sequence[str] | None) -> Task:
    if chosen is None:
        return task
    labels = dict(zip(task.words, chosen, strict=True))
    return validated(Task, {**task.dump(), "labels": labels}, "words")


def _measured(
    name: str, task: Task, backbone: Backbone, rows: Sequence[Row], cache: InputCache, progress: Progress
) -> dict[str, Any]:
    """One wording on validation rows, the model as it is."""
    encoded = Encoder(task, backbone.tokenizer).encode(rows)
    model = PromptedModel(backbone, None, cache)
    what = f"scoring the words: {name}"
    found = score(model, encoded, task, gold_of(task, rows), progress=lambda done, all_: progress(what, done, all_))
    metrics = {key: value.model_dump() for key, value in found.metrics(task).items()}
    return {"name": name, "labels": task.dump()["labels"], "metrics": metrics, "loss": found.loss}
