"""A prompt that is trained again whenever more labels are known; the texts of all rows run through the model once."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch

from overture.core.contracts import Features
from overture.core.errors import ConfigError
from overture.core.rows import Encoded, Prediction
from overture.data.batches import scoring_batches
from overture.data.encode import Encoder
from overture.data.row import Row
from overture.data.task import Task
from overture.engine.backbone import Backbone
from overture.engine.cache import InputCache
from overture.engine.prompted import OnePrompt, PromptedModel
from overture.evaluate.scoring import predict
from overture.evaluate.source import prompt_source
from overture.jobs.label.choose import diverse
from overture.prompt.build import build_prompt
from overture.prompt.config import PromptConfig
from overture.prompt.registry import own_rate
from overture.store.store import Store
from overture.train.fit import Fit, Validation
from overture.train.options import TrainConfig

Progress = Callable[[int, int], None]
_BATCH, _FEWEST_STEPS, _MOST_STEPS = 8, 64, 96


class Learner:
    """Learns a task's labels from few rows.

    Args:
        backbone: the frozen model.
        task: labels and template.
        rows: all rows; they are named by their index.
        prompt: the prompt that is trained.
        store: has the prompt that training starts from, where `prompt` names one.
        cache: keeps the texts; in memory when None.
    """

    def __init__(
        self,
        backbone: Backbone,
        task: Task,
        rows: Sequence[Row],
        prompt: PromptConfig,
        store: Store | None = None,
        cache: InputCache | None = None,
    ) -> None:
        self.backbone, self.task, self.rows, self.prompt, self.store = backbone, task, rows, prompt, store
        self.encoder = Encoder(task, backbone.text.tokenizer, reserve=prompt.length)
        self.encoded = self.encoder.encode(rows, with_answer=False)
        self.cache = cache or InputCache()

    def warm(self, progress: Progress = lambda done, total: None) -> None:
        """Read all texts, as far as the prompt leaves them alone."""
        self.model(self._built(0)).warm(self.encoded, progress)

    def model(self, prompt: OnePrompt | None) -> PromptedModel:
        """The model under a prompt."""
        return PromptedModel(self.backbone, prompt, self.cache)

    def _built(self, seed: int) -> OnePrompt:
        return build_prompt(self.prompt, prompt_source(self.backbone, self.encoder, self.encoded, self.store), seed)

    def learnt(self, labels: Mapping[int, str], seed: int = 0) -> PromptedModel:
        """The model under a prompt that has learnt from labels.

        There are too few rows to choose an epoch by: the last one counts, after a number of steps that grows slowly.

        Args:
            labels: row -> label.
            seed: of the start and of the batches.

        Raises:
            ConfigError: fewer than two rows.
        """
        if len(labels) < 2:
            raise ConfigError("there are too few labels to learn from", got=str(len(labels)), wanted="at least 2")
        rows = [
            Row({**self.rows[index].fields, self.task.label_field: label}, index + 1, "labels")
            for index, label in labels.items()
        ]
        num_batches = math.ceil(len(rows) / _BATCH)
        steps = min(_MOST_STEPS, max(_FEWEST_STEPS, 2 * num_batches))
        config = TrainConfig(
            epochs=math.ceil(steps / num_batches),
            batch_size=_BATCH,
            lr=own_rate(self.prompt),
            warmup_steps=4,
        )
        model = self.model(self._built(seed))
        epochs = iter(range(1 << 30))
        Fit(model, self.encoder.encode(rows), lambda: Validation(float(next(epochs)), 0.0), config, seed).run()
        return model

    def predictions(
        self, model: PromptedModel, indices: Sequence[int], progress: Progress = lambda done, total: None
    ) -> list[Prediction]:
        """The model's predictions for rows."""
        return predict(model, [self.encoded[index] for index in indices], self.task, progress=progress)

    def teaching(self, model: PromptedModel, indices: Sequence[int], count: int, seed: int) -> list[int]:
        """The rows among some that would teach most, the first one most surely.

        Args:
            model: the model under the prompt as it is.
            indices: rows to choose from.
            count: how many.
            seed: of the draws.
        """
        ranking = teaching(model, [self.encoded[index] for index in indices], self.task, count, seed)
        return [indices[number] for number, _ in ranking]


def teaching(
    model: PromptedModel,
    rows: Sequence[Encoded],
    task: Task,
    count: int,
    seed: int,
    progress: Progress = lambda done, total: None,
) -> list[tuple[int, Prediction]]:
    """The rows that would teach most: their indices, and the model's predictions for them.

    Args:
        model: the model under the prompt as it is.
        rows: rows to choose from, each in one part.
        task: of the prompt; its rows have one of its labels.
        count: how many.
        seed: of the draws.
        progress: called with (done, all).
    """
    if not rows:
        return []
    predictions = predict(model, rows, task, progress=progress)
    shares = torch.tensor([prediction.shares for prediction in predictions])
    return [(index, predictions[index]) for index in diverse(shares, features_under(model, rows), count, seed)]


def features_under(model: PromptedModel, rows: Sequence[Encoded], max_tokens: int = 4096) -> torch.Tensor:
    """Hidden states that the labels of rows are read from, under a prompt, [N, D]."""
    numbered_rows = [replace(row, row=index) for index, row in enumerate(rows)]
    features = torch.empty(len(rows), model.backbone.info.hidden_size)
    with torch.no_grad():
        for batch in scoring_batches(numbered_rows, max_tokens):
            features[[row.row for row in batch]] = torch.stack(model.ask(batch, Features())).float().cpu()
    return features
