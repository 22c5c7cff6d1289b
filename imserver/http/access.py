"""Who may make a call: which credentials it wants, and what they say about the caller.

Where a browser sends the credentials by itself, or none are wanted, any page that somebody looks at can have their
browser make the call. Such calls are refused where they come from a page. Guessing is not slowed down: keys and secrets
have 128 bits and more. Failed credentials are counted, as answers with status 401.
"""

import binascii
import re
from base64 import b64decode
from collections.abc import Callable, Coroutine, Mapping
from hmac import compare_digest
from ipaddress import ip_address
from typing import Any, Final, NamedTuple

from twisted.internet.defer import Deferred
from twisted.web.iweb import IRequest

from imserver.http.calls import Refused, authorization, id_from
from imserver.interfaces import IAccounts
from imserver.model import UserKey

_LEAST_KEY: Final = 32
_MOST_TOKEN: Final = 255
_PAGES: Final = {403: "The call comes from a web page."}


class Access(NamedTuple):
    #: The credentials, by their names in `openapi.SCHEMES`; any one of them will do. Empty: none are wanted.
    schemes: tuple[str, ...]
    #: What those who may not make the call are answered, by status, and why.
    refusals: Mapping[int, str]
    #: Gives what is known about the caller, as arguments for the call. Raises `Refused`, or `Unavailable`.
    admit: Callable[[IRequest], Coroutine[Deferred[Any], Any, Mapping[str, Any]]]


def of_back_ends(key: bytes | None) -> Access:
    """For the back ends around the server. Says nothing about the caller.

    Args:
        key: what they have to know. Raises ValueError where it is too short to be one. None: there is none; then the
            listener must be out of the network's reach, and every program that reaches it may make the calls, but no
            web page.
    """
    if key is None:
        return Access((), _PAGES, _admit_programs)
    if len(key) < _LEAST_KEY:
        raise ValueError(f"the key of the back-end API has fewer than {_LEAST_KEY} characters")

    async def admit(request: IRequest) -> Mapping[str, Any]:
        scheme, given = authorization(request)
        if scheme != b"bearer" or not compare_digest(given, key):
            raise Refused(
                401, "this needs the header Authorization: Bearer KEY, with the content of the file in [http] key_file"
            )
        return {}

    return Access(("key",), {401: "The key is missing or wrong."}, admit)


async def _admit_programs(request: IRequest) -> Mapping[str, Any]:
    _refuse_pages(request)
    # A page may make its own host's name stand for a loopback address: then this is its own host to the browser.
    if not _names_an_address(request.getHeader(b"Host") or b""):
        raise Refused(
            403, "without [http] key_file, calls have to be made to localhost or an IP address, not to a name"
        )
    return {}


def of_apps(accounts: IAccounts) -> Access:
    """For the back end of an app. Says which, as `appid`."""

    async def admit(request: IRequest) -> Mapping[str, Any]:
        _refuse_pages(request)
        scheme, credentials = authorization(request)
        appid, password = _name_and_password(credentials) if scheme == b"basic" else (None, b"")
        if appid is None or not await accounts.check_app(appid, password):
            raise Refused(
                401,
                "this needs the header Authorization: Basic base64(appid:md5hex(secret)), with the secret of an app",
                'Basic realm="imserver"',
            )
        return {"appid": appid}

    return Access(("app",), {401: "The app or its secret is wrong.", **_PAGES}, admit)


def of_users(accounts: IAccounts) -> Access:
    """For a user. Says who it is, as `user`."""

    async def admit(request: IRequest) -> Mapping[str, Any]:
        scheme, token = authorization(request)
        user: UserKey | None = None
        if scheme == b"bearer" and 0 < len(token) <= _MOST_TOKEN:
            user = await accounts.user_of_token(token)
        if user is None:
            raise Refused(401, "this needs the header Authorization: Bearer TOKEN, with the token of a user")
        return {"user": user}

    return Access(("user",), {401: "The token is missing, or not in force."}, admit)


def of_apps_and_users(accounts: IAccounts) -> Access:
    """For both. Says `appid` or `user`."""
    apps, users = of_apps(accounts), of_users(accounts)

    async def admit(request: IRequest) -> Mapping[str, Any]:
        scheme, _ = authorization(request)
        return await (users if scheme == b"bearer" else apps).admit(request)

    refusals = {401: "The app or its secret is wrong, or the token is not in force.", **_PAGES}
    return Access((*apps.schemes, *users.schemes), refusals, admit)


def _name_and_password(credentials: bytes) -> tuple[int | None, bytes]:
    """What stands in the credentials of Basic: an appid, None where it is none, and md5hex(secret)."""
    try:
        name, _, password = b64decode(credentials, validate=True).partition(b":")
    except binascii.Error:
        return None, b""
    return id_from(name.decode("latin-1")), password


def _refuse_pages(request: IRequest) -> None:
    """Browsers name the page that makes a call; what people type, and what programs send, comes from none."""
    if request.getHeader(b"Origin") is not None or request.getHeader(b"Sec-Fetch-Site") not in (None, b"none"):
        raise Refused(403, "calls from web pages are refused here; make them from a program, without the header Origin")


def _names_an_address(host: bytes) -> bool:
    """Is it localhost or an IP address, with or without a port?"""
    split = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([^:\[\]]+))(?::\d*)?", host.decode("latin-1"))
    if split is None:
        return False
    name: str = split[1] or split[2]
    try:
        ip_address(name)
    except ValueError:
        return name.lower() == "localhost"
    return True
