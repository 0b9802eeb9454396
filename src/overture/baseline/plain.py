"""The model as it is: the task's template alone, or with a text written by hand in front of it."""

from overture.baseline.base import Built, Request
from overture.baseline.options import PlainOptions, TextOptions
from overture.core.config import validated
from overture.core.errors import ConfigError
from overture.data.encode import Encoder
from overture.data.task import Task
from overture.engine.prompted import PromptedModel
from overture.evaluate.scoring import check_answerable
from overture.evaluate.source import prompt_source
from overture.prompt.caption_options import CAPTION
from overture.prompt.captions import zero_shot


def build(request: Request) -> Built:
    """The model under the task's template, unchanged; one that compares images with texts, with plain captions.

    Raises:
        BackboneError: the model predicts no label words.
    """
    options: PlainOptions = request.options
    if request.backbone.captions:
        return _with_captions(request, CAPTION)
    request = request.calibrated() if options.calibrated else request
    model = PromptedModel(request.backbone, None, request.cache)
    check_answerable(model, request.rows["train"], request.task)
    return Built(model, request.rows)


def build_text(request: Request) -> Built:
    """The model under the template with the text in front; both are tokenised together, so rows are encoded anew.

    For a model that compares images with texts, the text is their caption, with {} for a label's words.

    Raises:
        BackboneError: the model predicts no label words.
        ConfigError: the caption has no place for the label's words.
        DataError: a row has no room left.
    """
    options: TextOptions = request.options
    if request.backbone.captions:
        return _with_captions(request, options.text)
    request = request.calibrated() if options.calibrated else request
    task = with_text(request.task, options.text)
    encoder = Encoder(task, request.backbone.text.tokenizer)
    rows = {name: encoder.encode(split) for name, split in request.splits.items()}
    model = PromptedModel(request.backbone)
    check_answerable(model, rows["train"], task)
    return Built(model, rows, stored_bytes=len(options.text.encode()))


def _with_captions(request: Request, caption: str) -> Built:
    if caption.count("{}") != 1:
        raise ConfigError(
            "a caption has one place for a label's words",
            where="options.text",
            got=caption,
            fix=f"write it like {CAPTION!r}",
        )
    request.need_labels("an image's caption")
    injection = zero_shot(prompt_source(request.backbone, request.encoder), caption)
    model = PromptedModel(request.backbone, injection, request.cache)
    check_answerable(model, request.rows["train"], request.task)
    return Built(model, request.rows, stored_bytes=len(caption.encode()))


def with_text(task: Task, text: str) -> Task:
    """The task with a text in front of its template, or of the first message of a chat."""
    values = task.dump()
    template = values["template"]
    if isinstance(template, str):
        template = text + template
    else:
        template = [{**template[0], "content": text + template[0]["content"]}, *template[1:]]
    return validated(Task, {**values, "template": template}, "text")
