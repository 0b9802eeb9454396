"""How a stored prompt is asked: the input that its task wants, as a made-up row."""

import json
import shlex
from collections.abc import Mapping
from typing import Any

from overture.core.config import validated
from overture.core.errors import OvertureError
from overture.data.task import Task

PLAIN = "some text"


def sample_input(task: Mapping[str, Any]) -> str:
    """A row for ``predict``: a plain text where that is enough, else a JSON object.

    Args:
        task: as a manifest records it; a prompt from elsewhere may have none, or one that is not for us.
    """
    try:
        valid_task = validated(Task, dict(task), "task")
        row = valid_task.spec.sample(valid_task)
    except OvertureError:
        return PLAIN
    return PLAIN if [*row.values()] == [PLAIN] else json.dumps(row)


def predict_command(ref: str, task: Mapping[str, Any], flag: str = "") -> str:
    """The command that asks a stored prompt."""
    sample = sample_input(task)
    return f"overture predict {ref}{flag} " + (f'"{sample}"' if sample == PLAIN else shlex.quote(sample))
