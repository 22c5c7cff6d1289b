"""GET /openapi.json: the two APIs, described by the table and the types by which they are carried out."""

import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Final

import msgspec
from twisted.web.iweb import IRequest

from imserver import __version__
from imserver.http.calls import Id, Reply, Route, json
from imserver.http.endpoints import Bare, Endpoint, Json, JsonOrPlainText, Nothing, PlainText
from imserver.http.errors import Error

#: What an `Access` may want.
SCHEMES: Final = {
    "key": {"type": "http", "scheme": "bearer", "description": "The content of the file that `[http] key_file` names."},
    "app": {"type": "http", "scheme": "basic", "description": "The appid, and md5hex of the app's secret."},
    "user": {"type": "http", "scheme": "bearer", "description": "A token of the user."},
}
_REF: Final = "#/components/schemas/{name}"

_Object = dict[str, Any]


def routes(endpoints: Sequence[Endpoint]) -> Sequence[Route]:
    @cache
    def description() -> Reply:
        return json(describe(endpoints))

    async def show(request: IRequest) -> Reply:
        return description()

    return (Route("GET", "/openapi.json", show),)


def describe(endpoints: Sequence[Endpoint]) -> _Object:
    """An OpenAPI 3.1 description."""
    types = [type_ for endpoint in endpoints for type_ in (_json_body(endpoint), _answer(endpoint))]
    (error, *schemas), components = msgspec.json.schema_components([Error, *types], ref_template=_REF)
    paths: dict[str, _Object] = {}
    for endpoint, body, answer in zip(endpoints, schemas[::2], schemas[1::2], strict=True):
        whole = answer if isinstance(endpoint.answer, Bare) else _under_data(answer)
        responses = {"200": _in_json("It is done.", whole)}
        responses |= {str(status): _in_json(reason, error) for status, reason in sorted(_failures(endpoint).items())}
        operation = {
            "operationId": "_".join(re.findall(r"\w+", f"{endpoint.method.lower()} {endpoint.path}")),
            "summary": endpoint.summary,
            "security": [{scheme: []} for scheme in endpoint.access.schemes],
            "parameters": [*_path_parameters(endpoint.path), *_query_parameters(endpoint.query)],
            "responses": responses,
        }
        if endpoint.body is not None:
            operation["requestBody"] = {"required": True, "content": _content(endpoint.body, body)}
        path = re.sub(r"<(\w+)>", r"{\1}", endpoint.path)
        paths.setdefault(path, {})[endpoint.method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": "imserver", "version": __version__},
        "paths": paths,
        "components": {"schemas": components, "securitySchemes": SCHEMES},
    }


def _json_body(endpoint: Endpoint) -> Any:
    return endpoint.body.type if isinstance(endpoint.body, Json | JsonOrPlainText) else Nothing


def _answer(endpoint: Endpoint) -> Any:
    return endpoint.answer.type if isinstance(endpoint.answer, Bare) else endpoint.answer


def _under_data(schema: _Object) -> _Object:
    return {"type": "object", "properties": {"data": schema}, "required": ["data"]}


def _content(body: Json | PlainText | JsonOrPlainText, json_schema: _Object) -> _Object:
    in_json = {"application/json": {"schema": json_schema}}
    in_text = {"text/plain": {"schema": {"type": "string", "minLength": 1}}}
    match body:
        case Json():
            return in_json
        case PlainText():
            return in_text
        case JsonOrPlainText():
            return in_json | in_text


def _in_json(description: str, schema: _Object) -> _Object:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _failures(endpoint: Endpoint) -> Mapping[int, str]:
    """What it may answer but 200, and when."""
    failures = {**endpoint.access.refusals, 500: "The server failed. Nothing is known to have been done."}
    if endpoint.body is not None or endpoint.query is not None or "<" in endpoint.path:
        failures[400] = "The request is wrong; nothing was done."
    if endpoint.body is not None:
        failures[413] = "The body is too long; nothing was done."
    return failures


def _path_parameters(path: str) -> Sequence[_Object]:
    schema = msgspec.json.schema(Id)
    return [{"name": name, "in": "path", "required": True, "schema": schema} for name in re.findall(r"<(\w+)>", path)]


def _query_parameters(query: type[msgspec.Struct] | None) -> Sequence[_Object]:
    if query is None:
        return ()
    _, components = msgspec.json.schema_components([query])
    (struct,) = components.values()
    return [
        {"name": name, "in": "query", "required": name in struct.get("required", ()), "schema": schema}
        for name, schema in struct["properties"].items()
    ]
