"""The model as it is: the task's template alone, or with a text written by hand in front of it."""

from overture.baseline.base import Built, Request
from overture.baseline.options import PlainOptions, TextOptions
from overture.core.config import validated
from overture.data.encode import Encoder
from overture.data.task import Task
from overture.engine.prompted import PromptedModel
from overture.evaluate.scoring import check_answerable


def build(request: Request) -> Built:
    """The model under the task's template, unchanged.

    Raises:
        BackboneError: the model predicts no label words.
    """
    options: PlainOptions = request.options
    request = request.calibrated() if options.calibrated else request
    model = PromptedModel(request.backbone, None, request.cache)
    check_answerable(model, request.rows["train"], request.task)
    return Built(model, request.rows)


def build_text(request: Request) -> Built:
    """The model under the template with the text in front; both are tokenised together, so rows are encoded anew.

    Raises:
        BackboneError: the model predicts no label words.
        DataError: a row has no room left.
    """
    options: TextOptions = request.options
    request = request.calibrated() if options.calibrated else request
    task = with_text(request.task, options.text)
    encoder = Encoder(task, request.backbone.text.tokenizer)
    rows = {name: encoder.encode(split) for name, split in request.splits.items()}
    model = PromptedModel(request.backbone)
    check_answerable(model, rows["train"], task)
    return Built(model, rows, stored_bytes=len(options.text.encode()))


def with_text(task: Task, text: str) -> Task:
    """The task with a text in front of its template, or of the first message of a chat."""
    values = task.dump()
    template = values["template"]
    if isinstance(template, str):
        template = text + template
    else:
        template = [{**template[0], "content": text + template[0]["content"]}, *template[1:]]
    return validated(Task, {**values, "template": template}, "text")
