"""Errors of the server, as HTTP answers in the shape that OpenAI's clients read."""

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi.responses import JSONResponse
from pydantic import Field

from overture.core.config import in_words
from overture.core.errors import ArtifactError, BackboneError, DiskFull, OvertureError, StoreError, UserError
from overture.core.records.base import Record

_STATUS = {StoreError: 404, ArtifactError: 409, BackboneError: 503, DiskFull: 507, UserError: 400}
"""HTTP status of an error that a room below raises; the first class that fits decides."""
_MAX_SHOWN = 200


class ErrorBody(Record):
    """What is wrong with a request."""

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
    def of(cls, error: OvertureError) -> "Refused":
        """The refusal for an error of a room below."""
        if isinstance(error, Refused):
            return error
        status = next((status for kind, status in _STATUS.items() if isinstance(error, kind)), 500)
        code = {404: "model_not_found", 409: "prompt_does_not_fit", 503: "not_ready"}.get(status, "invalid_request")
        # Clients learn which file is wrong, and not where the server keeps it.
        where = error.where.rpartition("/")[2] if error.where.startswith("/") else error.where
        details: dict[str, Any] = {"where": where, "got": error.got, "wanted": error.wanted, "fix": error.fix}
        return cls(status, code, error.what, problems=error.problems, **details)

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


def invalid_body(errors: Sequence[Mapping[str, Any]]) -> Refused:
    """The refusal of a request that is not of its schema, from pydantic's errors."""
    first = errors[0]
    where = ".".join(str(part) for part in first["loc"] if part != "body")
    value = first.get("input")
    got = "" if first["type"] == "missing" or isinstance(value, dict | bytes) else repr(value)
    wanted = {"extra_forbidden": "no such field", "json_invalid": "JSON"}.get(first["type"], in_words(first))
    more = f"; {len(errors) - 1} more fields are wrong" if len(errors) > 1 else ""
    what = f"{where or 'the body'}: {wanted}{more}"
    return Refused(400, "invalid_request", what, where=where or "body", got=got, wanted=wanted)
