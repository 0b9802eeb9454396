"""From a task file to batches of tokens: task, rows, splits, template, encoding, batches."""

from overture.data.batches import epoch_batches
from overture.data.encode import Encoder
from overture.data.init_task import starting_task
from overture.data.splits import Splits, load_splits
from overture.data.task import Task

__all__ = ["Encoder", "Splits", "Task", "epoch_batches", "load_splits", "starting_task"]
