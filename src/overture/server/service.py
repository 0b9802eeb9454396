"""From a client's request to the engine's events and back: rows for prompts, typed answers, typed decisions."""

import asyncio
import json
from collections.abc import AsyncIterator, Coroutine, Iterable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, TypeVar

from pydantic import JsonValue
from starlette.requests import Request as HttpRequest

from overture.core.records.serving import AnswersEvent, DoneEvent, ErrorEvent, Event, Request, Usage
from overture.server.answers import typed_answer
from overture.server.engine import Engine
from overture.server.errors import Refused
from overture.server.registry import Registry, Served
from overture.server.schema import (
    ChoiceDecision,
    NoulDecision,
    Predicted,
    PredictReply,
    PredictRequest,
    Question,
    ScoreDecision,
    SystemOneReply,
    SystemOneRequest,
    SystemOneUsage,
)
from overture.server.security import Visit

T = TypeVar("T")
Row = str | dict[str, JsonValue]
"""The input of a request: a text, or the fields of the prompts' templates."""
_YES = ("yes", "true", "1")


async def all_of(works: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """The results in order; when one fails the others are cancelled."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()


async def while_connected(http: HttpRequest, work: Coroutine[Any, Any, T]) -> T:
    """The work's result; it is cancelled when the client goes away.

    Raises:
        Refused: 499, which nobody reads.
    """

    async def gone() -> None:
        while (await http.receive())["type"] != "http.disconnect":
            pass

    task, watcher = asyncio.ensure_future(work), asyncio.ensure_future(gone())
    try:
        await asyncio.wait({task, watcher}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise Refused(499, "client_closed_request", "the client went away")
        return task.result()
    finally:
        for running in (task, watcher):
            running.cancel()
        await asyncio.gather(task, watcher, return_exceptions=True)


def row_of(value: Row, prompts: Sequence[Served], where: str) -> dict[str, JsonValue]:
    """A row that every prompt can show: a text fills the one field of each template.

    Raises:
        Refused: a field is missing, or a text is given to a template of several fields.
    """
    columns = dict.fromkeys(column for prompt in prompts for column in prompt.columns)
    if isinstance(value, dict):
        missing_columns = [column for column in columns if column not in value]
        if missing_columns:
            what = f"a field is missing: {', '.join(missing_columns)}"
            got, wanted = f"fields {', '.join(value)}", f"fields {', '.join(columns)}"
            raise Refused.invalid(what, where=where, got=got, wanted=wanted)
        return value
    for prompt in prompts:
        if len(prompt.columns) != 1:
            what = f"{prompt.ref} shows several fields, so a row is an object"
            raise Refused.invalid(what, where=where, got="a text", wanted=", ".join(prompt.columns))
    return {name: [{"role": "user", "content": value}] if name == "messages" else value for name in columns}


class Service:
    """Answers requests by an engine.

    Args:
        engine: the model.
        registry: its prompts.
    """

    def __init__(self, engine: Engine, registry: Registry) -> None:
        self.engine, self.registry = engine, registry

    async def events(self, request: Request, where: str = "") -> AsyncIterator[Event]:
        """The engine's events of a request, up to done; leaving the loop cancels it.

        Raises:
            Refused: the engine's error.
        """
        async with aclosing(self.engine.submit(request)) as events:  # type: ignore[type-var]
            async for event in events:
                if isinstance(event, ErrorEvent):
                    # Not where the server keeps its prompts.
                    text = event.message.replace(f"{self.registry.store.root}/", "")
                    raise Refused.of_event(event.model_copy(update={"message": text}), where)
                yield event

    async def answered(self, request: Request, visit: Visit, where: str) -> tuple[dict[str, dict[str, Any]], Usage]:
        """The shown answers by prompt, and the tokens."""
        answers: dict[str, dict[str, Any]] = {}
        usage = Usage()
        async for event in self.events(request, where):
            if isinstance(event, AnswersEvent):
                answers = dict(event.answers)
            elif isinstance(event, DoneEvent):
                usage = event.usage
        visit.count(usage)
        return answers, usage

    def typed(self, names: Mapping[str, str], visit: Visit) -> dict[str, Served]:
        """The prompts by these names; each name is looked up once, for an alias may move meanwhile.

        Args:
            names: each with the field that it stands in.
            visit: the request.

        Raises:
            Refused: an unknown one, or the model alone, which answers nothing but text.
        """
        prompts = {name: self.registry.served(name, visit.key, where) for name, where in names.items()}
        visit.prompts = tuple(dict.fromkeys(prompt.ref for prompt in prompts.values()))
        if "" in visit.prompts:
            what = "the model without a prompt has no typed answers"
            raise Refused.invalid(what, where="prompt", wanted="prompts", fix="ask it by /v1/completions")
        return prompts

    async def predict(self, body: PredictRequest, visit: Visit) -> PredictReply:
        """Typed answers for rows under one prompt or several."""
        names = [body.prompt] if isinstance(body.prompt, str) else body.prompt
        prompts = list(self.typed(dict.fromkeys(names, "prompt"), visit).values())
        rows = [row_of(value, prompts, f"inputs.{number}") for number, value in enumerate(body.inputs)]
        requests = [
            visit.request(
                number,
                prompts=visit.prompts,
                row=row,
                is_calibrated=body.calibrated,
                coverage=body.coverage,
                abstain=body.abstain,
            )
            for number, row in enumerate(rows)
        ]
        replies = await all_of(
            self.answered(request, visit, f"inputs.{number}") for number, request in enumerate(requests)
        )
        results = []
        for row, (answers, _) in zip(rows, replies, strict=True):
            values = {prompt.ref: row[prompt.columns[0]] if len(prompt.columns) == 1 else None for prompt in prompts}
            typed = {ref: typed_answer(fields, body.top, values[ref]) for ref, fields in answers.items()}
            results.append(Predicted(answers=typed))
        names_of_counts = Usage.model_fields
        return PredictReply(
            results=results,
            usage=Usage(**{name: sum(getattr(use, name) for _, use in replies) for name in names_of_counts}),
        )

    async def decide(self, body: SystemOneRequest, visit: Visit) -> SystemOneReply:
        """System One: each question is a tuned prompt, and the state is read once for all of them.

        The model alone, where it is served, answers what no prompt answers: the baseline beside the prompts.
        """
        served = {name: self._answering(name, question, visit) for name, question in body.questions.items()}
        tuned = list({prompt.ref: prompt for prompt in served.values() if prompt.ref}.values())
        visit.prompts = tuple(dict.fromkeys(prompt.ref or self.registry.base for prompt in served.values()))
        alone = [name for name, prompt in served.items() if not prompt.ref]
        requests = [(_bare(name, body, visit), f"questions.{name}") for name in alone]
        if tuned:
            row = row_of(body.state, tuned, "state")
            refs = tuple(prompt.ref for prompt in tuned)
            requests.append((visit.request("state", prompts=refs, row=row), "state"))
        replies = await all_of(self.answered(request, visit, where) for request, where in requests)
        answer_fields = {name: answers[""] for name, (answers, _) in zip(alone, replies, strict=False)}
        answer_fields |= {name: replies[-1][0][prompt.ref] for name, prompt in served.items() if prompt.ref}
        return SystemOneReply(
            model=", ".join(visit.prompts),
            answers={
                name: _decision(name, question, served[name], answer_fields[name])
                for name, question in body.questions.items()
            },
            usage=SystemOneUsage(
                input_tokens=sum(usage.input_tokens for _, usage in replies),
                output_tokens=sum(usage.output_tokens for _, usage in replies),
            ),
        )

    def _answering(self, name: str, question: Question, visit: Visit) -> Served:
        """The prompt that answers a question, or the model alone.

        Raises:
            Refused: there is no such prompt.
        """
        try:
            return self.registry.served(question.prompt or name, visit.key, f"questions.{name}.prompt")
        except Refused as refused:
            is_meant = question.prompt is None and question.instructions is not None
            if refused.status != 404 or not is_meant or not self.registry.serves_base:
                raise
            return Served("")


def _bare(name: str, body: SystemOneRequest, visit: Visit) -> Request:
    """A question to the model alone: the state, the instructions and the labels in words."""
    question = body.questions[name]
    labels = [*map(str, question.criteria or ())] or (["yes", "no"] if question.type == "noul" else [])
    if not 2 <= len(set(labels)) == len(labels):
        what = "the model alone needs labels to choose from"
        got, wanted = ", ".join(labels) or "none", "two or more, each once"
        raise Refused.invalid(what, where=f"questions.{name}.criteria", got=got, wanted=wanted)
    described = question.criteria if isinstance(question.criteria, dict) else {}
    instructions = question.instructions or name.replace("_", " ")
    lines = [instructions if isinstance(instructions, str) else json.dumps(instructions, ensure_ascii=False)]
    lines += [f"{label}: {text}" for label, text in described.items() if text]
    lines.append(f"Answer with one of: {', '.join(labels)}")
    state = body.state if isinstance(body.state, str) else json.dumps(body.state, ensure_ascii=False)
    row = {"state": state, "question": "\n".join(lines)}
    return visit.request(name, prompts=("",), row=row, labels=tuple(labels))


def _decision(
    name: str, question: Question, prompt: Served, fields: dict[str, Any]
) -> ChoiceDecision | ScoreDecision | NoulDecision:
    shares = fields.get("probabilities")
    labels = list(shares or {})
    expected_labels = [] if question.criteria is None else [str(label) for label in question.criteria]
    where = f"questions.{name}"
    if not shares:
        what = f"{prompt.ref} gives no probabilities"
        raise Refused.invalid(what, where=where, got=prompt.kind, wanted="a prompt of labels")
    if question.type != "noul" and expected_labels and (set(expected_labels) != set(labels)):
        what = f"{prompt.ref} was tuned for other labels"
        raise Refused.invalid(what, where=f"{where}.criteria", got=", ".join(expected_labels), wanted=", ".join(labels))
    rounded = {label: round(share, 4) for label, share in shares.items()}
    best = max(shares, key=lambda label: shares[label])
    if question.type == "choice":
        return ChoiceDecision(choice=best, confidence=rounded[best], probabilities=rounded)
    if question.type == "score":
        steps = expected_labels or labels
        mean = sum(number * shares[label] for number, label in enumerate(steps))
        return ScoreDecision(
            score=round(mean, 4),
            legend={str(number): label for number, label in enumerate(steps)},
            probabilities={str(number): rounded[label] for number, label in enumerate(steps)},
            confidence=rounded[best],
        )
    yes = next((label for label in labels if label.lower() in _YES), None)
    if yes is None or len(labels) != 2:
        what = f"{prompt.ref} does not answer yes or no"
        raise Refused.invalid(what, where=where, got=", ".join(labels), wanted="labels yes and no")
    return NoulDecision(noul=rounded[yes])
