"""Errors of the server, as HTTP answers in the shape that OpenAI's clients read."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field
from starlette.responses import JSONResponse

from overture.core import errors
from overture.core.config import in_words
from overture.core.errors import (
    ArtifactError,
    DiskFull,
    NotReady,
    OvertureError,
    StoreError,
    StoreLocked,
    StoreReadOnly,
    UnknownPrompt,
    WrongName,
)
from overture.core.records.base import Record
from overture.core.records.serving import ErrorEvent

_CODES = {
    UnknownPrompt: "model_not_found",
    StoreLocked: "store_locked",
    StoreReadOnly: "store_unavailable",
    WrongName: "invalid_name",
    StoreError: "store_damaged",
    ArtifactError: "prompt_does_not_fit",
    NotReady: "not_ready",
    DiskFull: "disk_full",
}
"""A short name for an error that a room below raises; the first class that fits decides."""
_RETRY_LOCKED_S = 1.0
_MAX_SHOWN = 200
_MAX_PROBLEMS = 3


class ErrorBody(Record):
    """An error of a request."""

    message: str = Field(description="one sentence, and what to do")
    type: str = Field(description="the class of the error, such as invalid_request_error")
    code: str = Field(description="a short name of the reason, such as model_not_found")
    param: str | None = Field(None, description="the field that is wrong")
    got: str | None = Field(None, description="what stands there")
    wanted: str | None = Field(None, description="what should stand there")


class ErrorReply(Record):
    """The body of every answer with a status from 400."""

    error: ErrorBody = Field(description="the error")


class Refused(OvertureError):
    """A request that is answered with an error.

    Args:
        status: of the HTTP answer.
        code: a short name of the reason, for programs.
        what: one sentence.
        retry_after_s: seconds after which the same request may succeed.
        details: where, got, wanted and fix, as every error has them.
    """

    def __init__(
        self, status: int, code: str, what: str, *, retry_after_s: float | None = None, **details: Any
    ) -> None:
        super().__init__(what, **details)
        self.status, self.code, self.retry_after_s = status, code, retry_after_s

    @classmethod
    def invalid(cls, what: str, **details: Any) -> "Refused":
        """The refusal of a request that is wrong by itself."""
        return cls(400, "invalid_request", what, **details)

    @classmethod
    def of(cls, error: OvertureError) -> "Refused":
        """The refusal for an error of a room below."""
        if isinstance(error, Refused):
            return error
        status = error.http_status
        code = _code_of(type(error), status)
        # Clients learn which file is wrong, and not where the server keeps it.
        where = error.where.rpartition("/")[2] if error.where.startswith("/") else error.where
        details: dict[str, Any] = {"where": where, "got": error.got, "wanted": error.wanted, "fix": error.fix}
        retry_after_s = _RETRY_LOCKED_S if isinstance(error, StoreLocked) else None
        return cls(status, code, error.what, retry_after_s=retry_after_s, problems=error.problems, **details)

    @classmethod
    def of_event(cls, event: ErrorEvent, where: str) -> "Refused":
        """The refusal for a request that the engine did not answer.

        Args:
            event: says why.
            where: the field that holds what was asked.
        """
        code = {"Overloaded": "overloaded", "Unavailable": "not_ready", "DeadlineExceeded": "timeout"}.get(event.error)
        code = code or _code_of(getattr(errors, event.error, OvertureError), event.status)
        return cls(event.status, code, event.message, where=where, retry_after_s=event.retry_after_s)

    @classmethod
    def of_system(cls, error: OSError) -> "Refused":
        """The refusal for a store that the system cannot read or write."""
        what = "the store cannot be read or written"
        return cls(503, "store_unavailable", what, got=error.strerror or type(error).__name__, retry_after_s=5.0)

    def response(self) -> JSONResponse:
        """The HTTP answer."""
        kinds = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
        kind = kinds.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        text = "; ".join(filter(None, [self.what, *map(str, self.problems), self.fix]))
        text = " ".join(text.split())
        body = ErrorBody(
            message=text,
            type=kind,
            code=self.code,
            param=self.where or None,
            got=self.got[:_MAX_SHOWN] or None,
            wanted=self.wanted or None,
        )
        headers = {} if self.retry_after_s is None else {"retry-after": str(max(1, round(self.retry_after_s + 0.5)))}
        if self.status == 401:
            headers["www-authenticate"] = "Bearer"
        return JSONResponse(ErrorReply(error=body).dump(), self.status, headers)


def _code_of(kind: type, status: int) -> str:
    default = "invalid_request" if status == 400 else "internal_error"
    return next((code for error_class, code in _CODES.items() if issubclass(kind, error_class)), default)


def invalid_body(problems: Sequence[Mapping[str, Any]]) -> Refused:
    """The refusal of a request that is not of its schema, from pydantic's errors."""
    first = problems[0]
    if first["type"] == "json_invalid":
        reason = first.get("ctx", {}).get("error", "")
        return Refused.invalid(f"the body is not JSON: {reason}", where="body", wanted="JSON")
    # A place that may hold this or that has a problem for each.
    wanted_at: dict[str, list[str]] = {}
    for problem in problems:
        expectation = "no such field" if problem["type"] == "extra_forbidden" else in_words(problem)
        wanted_at.setdefault(_place(problem["loc"]), []).append(expectation)
    texts = [
        f"{where or 'the body'}: {', or '.join(dict.fromkeys(expectation))}" for where, expectation in wanted_at.items()
    ]
    more = [f"{len(texts) - _MAX_PROBLEMS} more fields are wrong"] if len(texts) > _MAX_PROBLEMS else []
    where, wanted_there = next(iter(wanted_at.items()))
    value = first.get("input")
    got = "" if first["type"] == "missing" or isinstance(value, dict | bytes) else repr(value)
    what = "; ".join(texts[:_MAX_PROBLEMS] + more)
    return Refused.invalid(what, where=where or "body", got=got, wanted=", or ".join(dict.fromkeys(wanted_there)))


def _place(parts: Sequence[str | int]) -> str:
    """The path of a field, without the types of which pydantic tried each, such as function-after[plain(), str]."""
    return ".".join(str(part) for part in parts if part != "body" and "[" not in str(part))
