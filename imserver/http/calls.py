"""What a call is made of: its route, what it reads, what it answers."""

from collections.abc import Callable, Coroutine
from typing import Annotated, Any, NamedTuple, TypeVar

import msgspec
from twisted.internet.defer import Deferred
from twisted.web.iweb import IRequest

from imserver.model import SAFE_INTEGER

Value = TypeVar("Value")

#: Ids of apps, users and groups.
Id = Annotated[int, msgspec.Meta(ge=1, lt=SAFE_INTEGER)]
#: A name for people: it fits its column, and a line of a log or terminal.
Name = Annotated[str, msgspec.Meta(max_length=255, pattern=r"^[^\x00-\x1f\x7f]*$")]


class Reply(NamedTuple):
    body: bytes
    status: int = 200
    content_type: str = "application/json"
    #: Headers besides those that every reply has.
    headers: tuple[tuple[str, str], ...] = ()


#: Gets the request and the values in its path, by name. What it raises is answered as `errors` says.
Call = Callable[..., Coroutine[Deferred[Any], Any, Reply]]


class Route(NamedTuple):
    method: str
    #: As Werkzeug writes it: ``/users/<uid>``.
    path: str
    call: Call


class Refused(Exception):
    """The caller's mistake, and what to do about it."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def json(value: object) -> Reply:
    return Reply(msgspec.json.encode(value))


def body(request: IRequest, type_: type[Value]) -> Value:
    """The request's body, which has to be JSON of this type. Raises `Refused`, naming the field that is wrong."""
    try:
        return msgspec.json.decode(request.content.read(), type=type_)
    except msgspec.ValidationError as error:
        raise Refused(400, str(error)) from error
    except msgspec.DecodeError as error:
        raise Refused(400, f"the body is not JSON: {error}") from error
    except UnicodeDecodeError as error:
        raise Refused(400, "the body is not UTF-8") from error


def id_in_path(name: str, text: str) -> int:
    """A number that stands in the path. Raises `Refused` where it is none."""
    if text.isascii() and text.isdigit() and len(text) <= len(str(SAFE_INTEGER)) and 1 <= int(text) < SAFE_INTEGER:
        return int(text)
    raise Refused(400, f"{name} in the path has to be a number from 1 to 2^53-1")
