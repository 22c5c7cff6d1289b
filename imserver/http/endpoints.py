"""A call of the two APIs: one table entry says how it is carried out, and how /openapi.json describes it."""

from collections.abc import Callable, Coroutine
from typing import Any, Final, NamedTuple

import msgspec
from twisted.internet.defer import Deferred
from twisted.web.iweb import IRequest

from imserver.http.access import Access
from imserver.http.calls import Refused, Reply, Route, data, decode, id_in_path, query, text
from imserver.interfaces import AlreadyExists, NotFound, Unavailable


class Json(NamedTuple):
    """A body in JSON. The call gets it as `body`, a value of this type."""

    type: Any


class PlainText(NamedTuple):
    """A body that is the content of a message, in UTF-8. The call gets it as `body`, bytes."""


class JsonOrPlainText(NamedTuple):
    """A body that the call looks at itself, as it depends on the query which of the two it is. It gets the bytes."""

    type: Any


class Bare(NamedTuple):
    """An answer that does not stand under `data`, as the others do."""

    type: Any


class Nothing(msgspec.Struct, frozen=True):
    """There is no more to say."""


#: The answer of a call that has nothing to tell but that it is done.
DONE: Final = data(Nothing())


class Endpoint(NamedTuple):
    method: str
    #: As Werkzeug writes it; all that varies in it are ids. The call gets each by its name.
    path: str
    #: What it does, in a few words.
    summary: str
    access: Access
    #: Gets keyword arguments only: what `access` knows about the caller, and what is said here.
    call: Callable[..., Coroutine[Deferred[Any], Any, Reply]]
    body: Json | PlainText | JsonOrPlainText | None = None
    #: A struct of numbers. The call gets one as `query`.
    query: type[msgspec.Struct] | None = None
    #: The type of what a success is answered with, under `data`; or a `Bare` one.
    answer: Any = Nothing


def route(endpoint: Endpoint) -> Route:
    """As it is carried out. A mistake is answered with 400, the server's own failure with 500 (ecosystem.md, HTTP: the
    back-end API)."""

    async def carry_out(request: IRequest, **ids: str) -> Reply:
        try:
            arguments = dict(await endpoint.access.admit(request))
            for name, digits in ids.items():
                arguments[name] = id_in_path(name, digits)
            if endpoint.query is not None:
                arguments["query"] = query(request, endpoint.query)
            if endpoint.body is not None:
                arguments["body"] = _read(request.content.read(), endpoint.body)
            return await endpoint.call(**arguments)
        except (AlreadyExists, NotFound) as error:
            raise Refused(400, str(error)) from error
        except Unavailable as error:
            raise Refused(500, str(error)) from error

    return Route(endpoint.method, endpoint.path, carry_out)


def _read(raw: bytes, kind: Json | PlainText | JsonOrPlainText) -> Any:
    match kind:
        case Json():
            return decode(raw, kind.type)
        case PlainText():
            return text(raw)
        case JsonOrPlainText():
            return raw
