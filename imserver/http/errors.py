"""From exceptions to replies (ecosystem.md, HTTP: the back-end API)."""

from http import HTTPStatus

import msgspec
from twisted.logger import Logger
from twisted.python.failure import Failure
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from imserver.http.calls import Refused, Reply
from imserver.interfaces import AlreadyExists, Invalid, NotFound, Unavailable

_log = Logger()


class Meta(msgspec.Struct, frozen=True):
    #: The status.
    code: int
    #: What is wrong, and what to do about it.
    message: str


class Error(msgspec.Struct, frozen=True):
    meta: Meta


def error_reply(status: int, message: str, headers: tuple[tuple[str, str], ...] = ()) -> Reply:
    return Reply(msgspec.json.encode(Error(Meta(status, message))), status, headers=headers)


def reply_to(failure: Failure) -> Reply:
    """What the caller gets where a call failed. What is a bug is logged, and told to nobody else."""
    error = failure.value
    match error:
        case Refused():
            challenge = (("WWW-Authenticate", error.challenge),) if error.status == 401 else ()
            return error_reply(error.status, str(error), challenge)
        case Invalid():
            return error_reply(400, str(error))
        case NotFound():
            return error_reply(404, str(error))
        case AlreadyExists():
            return error_reply(409, str(error))
        case Unavailable():
            return error_reply(503, str(error))
        case MethodNotAllowed():
            allowed = ", ".join(sorted(error.valid_methods or ()))
            return error_reply(405, f"this path answers to {allowed}", (("Allow", allowed),))
        case HTTPException(code=int(code)) if 400 <= code < 500:
            return error_reply(code, "there is no such call" if code == 404 else HTTPStatus(code).phrase)
        case _:
            _log.failure("a call over HTTP failed", failure=failure)
            return error_reply(500, "the server failed; its log says why")
