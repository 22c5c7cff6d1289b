"""What a call is made of: its route, what it reads, what it answers."""

from collections.abc import Callable, Coroutine, Sequence
from typing import Annotated, Any, Final, Literal, NamedTuple, TypeVar

import msgspec
from twisted.internet.defer import Deferred
from twisted.web.iweb import IRequest

from imserver.model import SAFE_INTEGER

Value = TypeVar("Value")
Query = TypeVar("Query", bound=msgspec.Struct)

#: Digits of the largest int64.
_DIGITS: Final = 19

#: Text without control characters. To Python `$` also stands before a newline at the end, to JSON Schema it does not.
NO_CONTROLS: Final = r"^[^\x00-\x1f\x7f]*$(?!\n)"
#: Ids of apps, users and groups.
Id = Annotated[int, msgspec.Meta(ge=1, lt=SAFE_INTEGER)]
#: Whom a message comes from; 0: nobody in particular, the app itself.
Sender = Annotated[int, msgspec.Meta(ge=0, lt=SAFE_INTEGER)]
#: Whom one call may name; a larger audience takes several.
MOST_IDS: Final = 10_000
Ids = Annotated[list[Id], msgspec.Meta(max_length=MOST_IDS)]
#: What a message says.
Content = Annotated[str, msgspec.Meta(min_length=1)]
#: A name for people: it fits its column, and a line of a log or terminal.
Name = Annotated[str, msgspec.Meta(max_length=255, pattern=NO_CONTROLS)]
#: On or off; some back ends write 1 and 0.
Switch = bool | Literal[0, 1]


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

    def __init__(self, status: int, message: str, challenge: str = "Bearer") -> None:
        """
        Args:
            challenge: with status 401, what WWW-Authenticate asks for.
        """
        super().__init__(message)
        self.status = status
        self.challenge = challenge


def json(value: object) -> Reply:
    return Reply(msgspec.json.encode(value))


def data(value: object) -> Reply:
    """The answer of the two APIs (ecosystem.md, HTTP)."""
    return json({"data": value})


def body(request: IRequest, type_: type[Value]) -> Value:
    """The request's body, which has to be JSON of this type. Raises `Refused`, naming the field that is wrong."""
    return decode(request.content.read(), type_)


def decode(raw: bytes, type_: type[Value]) -> Value:
    """A body that has to be JSON of this type. Raises as `body` does."""
    try:
        return msgspec.json.decode(raw, type=type_)
    except msgspec.ValidationError as error:
        raise Refused(400, str(error)) from error
    except msgspec.DecodeError as error:
        raise Refused(400, f"the body is not JSON: {error}") from error
    except UnicodeDecodeError as error:
        raise Refused(400, "the body is not UTF-8") from error
    except RecursionError as error:  # in a field that is passed over
        raise Refused(400, "the body has too many lists and objects in each other") from error


def text(raw: bytes) -> bytes:
    """A body that is the content of a message, as it is. Raises `Refused` where it is empty, or not text in UTF-8."""
    if not raw:
        raise Refused(400, "the body is empty; it has to be the content of the message")
    try:
        raw.decode()
    except UnicodeDecodeError as error:
        raise Refused(400, "the body is not UTF-8") from error
    return raw


def query(request: IRequest, type_: type[Query]) -> Query:
    """The numbers in the request's query, by name; those that `type_` does not have are passed over. Raises `Refused`,
    naming the one that is wrong."""
    numbers = {name: _number(name, request.args.get(name.encode(), ())) for name in type_.__struct_fields__}
    try:
        return msgspec.convert({name: number for name, number in numbers.items() if number is not None}, type_)
    except msgspec.ValidationError as error:
        raise Refused(400, f"the query: {error}") from error


def _number(name: str, given: Sequence[bytes]) -> int | None:
    match given:
        case []:
            return None
        case [digits] if digits.isdigit() and len(digits) <= _DIGITS:
            return int(digits)
        case _:
            raise Refused(400, f"{name} in the query has to be one decimal number, and not negative")


def authorization(request: IRequest) -> tuple[bytes, bytes]:
    """The request's scheme of authorization, in lower case, and its credentials; empty where it has none."""
    scheme, _, credentials = (request.getHeader(b"Authorization") or b"").partition(b" ")
    return scheme.lower(), credentials


def id_in_path(name: str, text: str) -> int:
    """A number that stands in the path. Raises `Refused` where it is none."""
    number = id_from(text)
    if number is None:
        raise Refused(400, f"{name} in the path has to be a number from 1 to 2^53-1")
    return number


def id_from(text: str) -> int | None:
    """The id that is written there. None: it is none."""
    if text.isascii() and text.isdigit() and len(text) <= len(str(SAFE_INTEGER)) and 1 <= int(text) < SAFE_INTEGER:
        return int(text)
    return None
