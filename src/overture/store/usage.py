"""How a stored prompt is asked: the input that its task wants, as a made-up row."""

import json
import shlex
from collections.abc import Mapping
from typing import Any

from overture.core.config import validated
from overture.core.errors import OvertureError
from overture.data.kind import SAMPLE_FILES
from overture.data.task import Task

PLAIN = "some text"
_MEDIA_TYPES = {"image": "image/png", "audio": "audio/wav"}


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


def curl_command(head: str, body: str) -> str:
    """The command that sends JSON to a server.

    A server reads no file by its name, so files of a made-up row are sent as data URIs. They go through a pipe, since
    a file soon is longer than one argument of a command may be.

    Args:
        head: ``curl`` with its address and headers.
        body: the JSON.
    """
    for modality, name in SAMPLE_FILES.items():
        file = json.dumps(name)
        if file in body:
            escaped = body.replace("\\", "\\\\").replace("%", "%%")
            template = escaped.replace(file, f'"data:{_MEDIA_TYPES[modality]};base64,%s"')
            contents = f""" "$(base64 < {name} | tr -d '\\n')\"""" * body.count(file)
            return f"printf {shlex.quote(template)}{contents} | {head} -d @-"
    return f"{head} -d {shlex.quote(body)}"


def predict_command(ref: str, task: Mapping[str, Any], flag: str = "") -> str:
    """The command that asks a stored prompt."""
    sample = sample_input(task)
    return f"overture predict {ref}{flag} " + (f'"{sample}"' if sample == PLAIN else shlex.quote(sample))
