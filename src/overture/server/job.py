"""Turns a request into questions to the model: encodes its rows, applies its options, counts its tokens."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from overture.core.contracts import Answers, Features, Question, RowMethod, TokenShares
from overture.core.decoding import GREEDY, Decoding
from overture.core.errors import DataError
from overture.core.injection import Injection
from overture.core.records.serving import Request, Usage
from overture.core.rows import Answer, Encoded
from overture.data.task import Task
from overture.engine.answerer import LocalAnswerer
from overture.engine.generate import is_stopped
from overture.engine.inputs import Inputs
from overture.engine.lines import Line, chance_of
from overture.engine.passes import kept_input
from overture.engine.schema import OfSchema
from overture.evaluate.doubt import Certainty
from overture.evaluate.host import Ask, Handle, Host
from overture.evaluate.inquiry import EncodedAsk, Inquiry, Item

BareQuestion = Literal["text", "messages", "labels"]
"""A request to the model without a prompt: continue a text, reply to messages, or choose a label."""


@dataclass(eq=False, slots=True)
class Job:
    """A request on its way.

    Args:
        request: the request.
        inquiry: its questions; of one that is echoed the answer's first, then the one about its own tokens.
        usage: what it reads.
        num_before: tokens in front of an echoed text that are not the client's.
        is_read_ahead: a text of it was read piece by piece.
        certainties: of each prompt, where a request wants answers that are sure.
    """

    request: Request
    inquiry: Inquiry
    usage: Usage
    num_before: int = 0
    is_read_ahead: bool = False
    certainties: Sequence[Certainty | None] = ()
    answers: dict[int, Any] = field(default_factory=dict)
    sent_text: str = ""
    num_sent: int = 0
    num_written: int = 0
    is_cut: bool = False

    @property
    def is_streamed(self) -> bool:
        """Whether its text is sent while it is written."""
        handle, num_written = self.inquiry.encoded[0].handle, len(self.inquiry.items) - self.request.is_echoed
        return self.request.want == "write" and handle.task.spec.is_shown_as_written and num_written == 1


def job_of(request: Request, host: Host, handle_of: Callable[[str], Handle]) -> Job:
    """A request's questions.

    Args:
        request: the request.
        host: encodes its rows.
        handle_of: opens a prompt by its name.

    Raises:
        UserError: what is asked cannot be answered.
    """
    if request.want != "answer" and len(request.prompts) != 1:
        what = "a written answer or an embedding needs exactly one prompt"
        raise DataError(what, got=f"{len(request.prompts)} prompts", wanted="one prompt")
    handles = [handle_of(prompt) for prompt in request.prompts]
    if request.want == "embed":
        return _embedding(request, host, handles[0])
    num_before = 0
    if request.ids or request.is_echoed:
        row, num_before = _plain_row(handles[0], request)
        encoded = [EncodedAsk(handles[0], (row,))]
    else:
        encoded = host.encoded([Ask(handle, _fields(handle, request), source="row") for handle in handles])
    if request.json_schema is not None:
        encoded = [_within_schema(ask, request.json_schema) for ask in encoded]
    inquiry = Inquiry(encoded, request.tenant, lambda question: _with_options_of(question, request))
    if request.is_echoed:
        whole = Encoded.of_ids(0, (), (*row.input_ids, *row.anchor_ids))
        handles[0].model().check([whole], TokenShares())
        inquiry.items.append(Item(handles[0], whole, TokenShares(request.top_logprobs or 0), request.tenant))
        return Job(request, inquiry, Usage(input_tokens=whole.num_text - num_before), num_before)
    certainties = [handle.certainty(request.coverage, request.abstain) for handle in handles]
    return Job(request, inquiry, _usage(inquiry, host), certainties=certainties)


def task_alone(question: BareQuestion, request: Request, has_chat: bool) -> Task:
    """The task of the model without a prompt.

    Args:
        question: the kind of request.
        request: of a choice the labels.
        has_chat: the model has a chat template.
    """
    shape: dict[str, Any] = {"template": "{text}", "answer_field": "answer"}
    if question == "messages":
        shape = {"kind": "chat", "template": "{messages}"}
    elif question == "labels":
        template_text = "{state}\n\n{question}"
        template = [{"role": "user", "content": template_text}] if has_chat else f"{template_text}\nAnswer:"
        space = "" if has_chat else " "
        shape = {"template": template, "labels": {label: f"{space}{label}" for label in request.labels}}
    return Task.model_validate({"name": "base", "data": {"path": "rows.jsonl"}, "stop": [], **shape})


def inputs_of(item: Item, host: Host) -> Inputs:
    """Kept texts, but where a text would run apart for it alone: without a prompt, with an answer behind it."""
    if item.handle.prompt is None and isinstance(item.question, Answers):
        return LocalAnswerer(item.handle.adapted).inputs
    return host.answerer_of(item).inputs


def line_of(item: Item, request: Request, is_kept: bool = False) -> Line:
    """An item's answer before it is written; its columns are kept when it is done, if wanted."""
    question, backbone = item.question, item.handle.adapted
    assert isinstance(question, Answers)
    return Line(
        item.row,
        backbone.info.eos_id,
        most_written(item),
        lambda ids: is_stopped(backbone, ids, question.stop),
        chance_of(item.row, question.decoding),
        request.top_logprobs or 0,
        is_kept,
    )


def most_written(item: Item) -> int:
    """Tokens of an answer: as many as are asked for and as the model can hold behind the row."""
    room = item.handle.adapted.info.max_length - item.row.num_text - item.handle.manifest.length
    assert isinstance(item.question, Answers)
    return max(1, min(item.question.max_new_tokens, room))


def _fields(handle: Handle, request: Request) -> Any:
    """The row as the prompt's template wants it: a text or a single message fits a template of one field.

    Raises:
        DataError: a conversation for a prompt that reads one text.
    """
    row, columns = request.row, handle.task.columns
    if len(columns) != 1 or columns[0] in row:
        return row
    if set(row) == {"text"}:
        return {columns[0]: row["text"]}
    messages = row.get("messages")
    if set(row) == {"messages"} and isinstance(messages, list):
        if len(messages) == 1 and isinstance(messages[0], dict) and messages[0].get("role") == "user":
            return {columns[0]: messages[0].get("content")}
        raise DataError(
            "this prompt reads one text, not a conversation",
            where=handle.manifest.ref,
            got=f"{len(messages)} messages",
            wanted="one message of the user",
            fix="send its text alone, or use a prompt of kind chat",
        )
    return row


def _plain_row(handle: Handle, request: Request) -> tuple[Encoded, int]:
    """A row of tokens or of a text without any template, and how many tokens in front of it are not the client's.

    Raises:
        DataError: there is no token, one is unknown, or the prompt does not stand in front of a text.
    """
    prompt, text = handle.prompt, handle.adapted.text.tokenizer
    is_in_front = isinstance(prompt, Injection) and prompt.places <= {"before", "memory"}
    if prompt is not None and not is_in_front:
        raise DataError(
            "echo and inputs of tokens need a prompt in front of the text",
            where=handle.manifest.ref,
            got=f"place {handle.manifest.place}",
            wanted="before or memory",
            fix="send a text without echo",
        )
    if request.ids:
        ids, num_before = list(request.ids), 0
        if (largest := max(ids)) >= handle.adapted.info.vocab_size:
            wanted = f"0 to {handle.adapted.info.vocab_size - 1}"
            raise DataError("the model has no such token", where="prompt", got=str(largest), wanted=wanted)
    else:
        front = text.bos_ids
        ids, num_before = [*front, *text.encode_plain(str(request.row["text"]))], len(front)
    if len(ids) == num_before:
        raise DataError("the text has no token", where="prompt", wanted="at least one")
    return Encoded.of_ids(0, ids[:-1], ids[-1:]), num_before


def _embedding(request: Request, host: Host, handle: Handle) -> Job:
    """One question: the state that a label would be read from, or the mean over the row's tokens.

    Raises:
        DataError: the row does not fit in one part, or no token of it sees the prompt.
    """
    is_mean, text = request.pooling == "mean", handle.adapted.text.tokenizer
    if handle.prompt is not None:
        if is_mean and handle.manifest.place == "after":
            what = "a prompt behind the text does not change the states of the text"
            raise DataError(what, where=handle.manifest.ref, got="pooling mean", wanted="pooling last")
        encoded = host.encoded([Ask(handle, _fields(handle, request), source="row")])
    else:
        ids = request.ids or (*text.bos_ids, *text.encode_plain(str(request.row["text"])), *text.end_ids)
        encoded = [EncodedAsk(handle, (Encoded.of_ids(0, (), ids or (0,)),))]
    if len(encoded[0].parts) > 1:
        raise DataError("the text is too long for one embedding", wanted=f"{handle.adapted.info.max_length} tokens")
    inquiry = Inquiry(encoded, request.tenant, instead=Features(is_mean))
    return Job(request, inquiry, Usage(input_tokens=sum(item.row.num_text for item in inquiry.items)))


def _within_schema(ask: EncodedAsk, schema: dict[str, Any]) -> EncodedAsk:
    backbone, parts = ask.handle.adapted, []
    for part in ask.parts:
        if not isinstance(part.target, Answer) or part.target.allowed is not None:
            what = "this prompt has an answer format of its own"
            raise DataError(what, where="response_format", got=ask.handle.task.kind, wanted="a prompt of free text")
        rule = OfSchema(schema, backbone.text.tokenizer, backbone.info.vocab_size)
        parts.append(replace(part, target=Answer(allowed=rule)))
    return replace(ask, parts=tuple(parts))


def _with_options_of(question: Question[Any], request: Request) -> Question[Any]:
    """A task's question with what the request wants otherwise."""
    if not isinstance(question, Answers):
        return question
    decoding = question.decoding
    if request.temperature is not None:
        is_drawn = request.temperature > 0
        options = {"temperature": request.temperature, "top_p": request.top_p, "seed": request.seed}
        decoding = Decoding(**options) if is_drawn else GREEDY
    most = question.max_new_tokens if request.max_new_tokens is None else request.max_new_tokens
    return replace(question, max_new_tokens=most, stop=(*question.stop, *request.stop), decoding=decoding)


def _usage(inquiry: Inquiry, host: Host) -> Usage:
    num_cached = num_shared = 0
    texts: set[tuple[object, ...]] = set()
    for item in inquiry.items:
        if isinstance(item.handle.prompt, RowMethod):
            continue
        inputs = inputs_of(item, host)
        text = kept_input(item.row, item.handle.prompt, inputs)
        if text is None:
            continue
        if text in texts:
            num_shared += len(text)
        elif inputs.cache is not None and inputs.cache.get(text) is not None:
            num_cached += len(text)
        texts.add(text)
    num_input = sum(item.row.num_text for item in inquiry.items)
    return Usage(input_tokens=num_input, cached_tokens=num_cached, shared_tokens=num_shared)
