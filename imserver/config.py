"""The typed configuration: what an operator may set, its defaults, and what is wrong with it in one line.

`load` is all that others need. Every key of a section is a field here; etc/imserver.toml documents each.
"""

import difflib
import math
import os
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple, get_args

import msgspec

from imserver.model import SAFE_INTEGER, Limits

_LogFormat = Literal["text", "json"]
_LogLevel = Literal["debug", "info", "warn", "error", "critical"]
_PushKind = Literal["none", "log", "webhook"]


class ConfigError(Exception):
    """The configuration cannot be used. Its text is one line: where, which key, what to do."""

    def __init__(self, text: str) -> None:
        super().__init__(re.sub(r"[\r\n]+", " ", text))


class Listen(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Twisted's endpoint strings. An empty list: do not listen for this."""

    tcp: tuple[str, ...] = ("tcp:23000:interface=127.0.0.1",)
    websocket: tuple[str, ...] = ("tcp:13891:interface=127.0.0.1",)
    http: tuple[str, ...] = ("tcp:6666:interface=127.0.0.1",)


class Database(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    #: SQLAlchemy's. "": SQLite, the file imserver.db in `data`; use `Config.database_url`.
    url: str = ""
    #: Threads that read, each with a connection of its own.
    readers: int = 2

    def __repr__(self) -> str:
        return f"Database(url={_without_password(self.url)!r}, readers={self.readers!r})"


class Customer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    #: The app whose users are customer service; 0: there is none.
    kefu_appid: int = 0


class Policy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    #: Users send to friends only.
    friends: bool = False
    #: Users do not send to those who have blocked them.
    blacklist: bool = False
    #: The file of words that are masked; "": none are. Absolute, once loaded.
    word_file: str = ""


class Push(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    kind: _PushKind = "none"
    #: Where the webhook is. Not to be shown: path and query may be secret.
    url: str = ""
    #: The file with the key that signs requests. Absolute, once loaded.
    key_file: str = ""
    #: Pushes in one request.
    batch: int = 100
    #: Seconds that a request may take.
    timeout_seconds: float = 10.0
    #: Seconds after which a push is of no use any more.
    max_age_seconds: float = 3600.0
    #: Pushes that may wait for the webhook.
    most_waiting: int = 100_000
    #: Seconds in which a client has to show that it lives after a message was pushed to it; 0: it is not watched.
    rescue_seconds: float = 20.0

    def __repr__(self) -> str:
        fields = msgspec.structs.asdict(self) | {"url": re.sub(r"(?<=[^:/])/.*", "/***", self.url)}
        return f"Push({', '.join(f'{name}={value!r}' for name, value in fields.items())})"


class WebSocket(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    path: str = "/ws"
    #: "*", or patterns of origins ("https://*.example.com"). Empty: pages of the same host, and clients without Origin.
    origins: tuple[str, ...] = ()
    #: Take the client's address from X-Forwarded-For.
    trust_forwarded_for: bool = False


class Http(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    #: The file with the key that calls of the back-end API need; "": none do. Absolute, once loaded.
    key_file: str = ""


class Log(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: _LogFormat = "text"
    level: _LogLevel = "info"


class Trace(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    #: Messages that are remembered for `imctl trace`; 0: nothing is.
    messages: int = 10_000
    #: And the beginning of what they say.
    content: bool = False


class Shutdown(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    #: Seconds that clients get to take what is queued for them.
    drain_seconds: float = 10.0


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    #: The directory of database and keys. Absolute, once loaded.
    data: str = "var"
    listen: Listen = Listen()
    database: Database = Database()
    customer: Customer = Customer()
    policy: Policy = Policy()
    push: Push = Push()
    limits: Limits = Limits()
    websocket: WebSocket = WebSocket()
    http: Http = Http()
    log: Log = Log()
    trace: Trace = Trace()
    shutdown: Shutdown = Shutdown()

    @property
    def database_url(self) -> str:
        """The URL to open, with its password if it has one."""
        if self.database.url:
            return self.database.url
        # SQLAlchemy takes a third of a second to import, which imctl need not wait for.
        from sqlalchemy import URL

        path = os.path.join(self.data, "imserver.db")
        return URL.create("sqlite", database=path).render_as_string(hide_password=False)


def load(path: str | None = None, data: str | None = None) -> Config:
    """Read and check a configuration; relative paths in it count from the working directory and become absolute.

    Args:
        path: a TOML file; None: the defaults.
        data: where not None, used instead of the file's `data`.

    Raises:
        ConfigError
    """
    if data is not None and not data.strip():
        raise ConfigError("--data: must name a directory")
    source = _Source("the defaults", "") if path is None else _Source(path, _read(path))
    try:
        tables = tomllib.loads(source.text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{source.name}: not TOML: {error}") from None
    source.refuse_unknown_keys(tables)
    try:
        config = msgspec.convert(tables, Config)
    except msgspec.ValidationError as error:
        raise source.wrong_type(error) from None
    if data is not None:
        config = msgspec.structs.replace(config, data=data)
    for key, complaint in _complaints(config):
        raise source.error(key, complaint)
    return _with_absolute_paths(config)


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}; name an existing, readable file") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 (byte {error.start}); save it as UTF-8 text") from None


class _Source:
    """The file, to say where in it something is wrong."""

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.text = text

    def error(self, key: str, complaint: str) -> ConfigError:
        line = self._line_of(key)
        where = f"{self.name}, line {line}" if line else self.name
        return ConfigError(f"{where}: {key}: {complaint}")

    def refuse_unknown_keys(self, tables: Mapping[str, Any]) -> None:
        self._refuse_unknown(tables, _keys_of(Config), "")
        for section, table in tables.items():
            if isinstance(table, dict) and section in _SECTIONS:
                self._refuse_unknown(table, _keys_of(_SECTIONS[section]), f"{section}.")

    def _refuse_unknown(self, table: Mapping[str, Any], known: Sequence[str], prefix: str) -> None:
        for name in table:
            if name not in known:
                raise self.error(prefix + name, f"no such key; {_suggestion(name, prefix, known)}")

    def wrong_type(self, error: msgspec.ValidationError) -> ConfigError:
        """msgspec says: Expected `int`, got `str` - at `$.limits.connections`."""
        text, _, at = str(error).partition(" - at ")
        key = at.strip("`").removeprefix("$").lstrip(".")
        choices = _CHOICES.get(key)
        if choices:
            return self.error(key, "must be one of " + ", ".join(f'"{choice}"' for choice in choices))
        words = re.fullmatch(r"Expected `(.*)`, got `(.*)`", text)
        if words is None:
            return self.error(key, text)
        wanted, got = (_IN_WORDS.get(word, word) for word in words.groups())
        return self.error(key, f"must be {wanted}, not {got}")

    def _line_of(self, key: str) -> int:
        """The line, from 1, where a key (or its section) stands; 0 where that is not plain to see."""
        section, _, name = key.partition("[")[0].rpartition(".")
        current, section_line = "", 0
        for number, line in enumerate(self.text.splitlines(), 1):
            header = re.match(r"\s*\[+\s*([^\[\]]+?)\s*\]", line)
            if header:
                current = header[1]
                if current in (key, section):
                    section_line = number
            elif current == section and re.match(rf"\s*[\"']?{re.escape(name)}[\"']?\s*=", line):
                return number
        return section_line


_IN_WORDS: Final = {
    "int": "a whole number",
    "float": "a number",
    "str": "text in quotes",
    "bool": "true or false",
    "array": "a list in brackets",
    "object": "a [section]",
}

_SECTIONS: Final[Mapping[str, type[msgspec.Struct]]] = {
    "listen": Listen,
    "database": Database,
    "customer": Customer,
    "policy": Policy,
    "push": Push,
    "limits": Limits,
    "websocket": WebSocket,
    "http": Http,
    "log": Log,
    "trace": Trace,
    "shutdown": Shutdown,
}

_CHOICES: Final[Mapping[str, tuple[str, ...]]] = {
    "push.kind": get_args(_PushKind),
    "log.format": get_args(_LogFormat),
    "log.level": get_args(_LogLevel),
}


def _keys_of(struct: type[msgspec.Struct]) -> tuple[str, ...]:
    return struct.__struct_fields__


def _suggestion(name: str, prefix: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, 1)
    if near:
        return f"did you mean {prefix}{near[0]}?"
    # A key that stands above or below the wrong [section] is the usual case.
    elsewhere = [f"{section}.{name}" for section, struct in _SECTIONS.items() if name in _keys_of(struct)]
    elsewhere += [name] if prefix and name in _keys_of(Config) else []
    if elsewhere:
        return f"did you mean {elsewhere[0]}?"
    return f"known are {', '.join(known)}"


# What msgspec's types do not say. Each check yields (key, complaint); the first one is reported.

_Complaints = Iterable[tuple[str, str]]


def _complaints(config: Config) -> _Complaints:
    if not config.data.strip() or "\0" in config.data:
        yield "data", "must name a directory"
    if "\0" in config.http.key_file:
        yield "http.key_file", "must name a file"
    if "\0" in config.policy.word_file:
        yield "policy.word_file", "must name a file"
    for check in (_listen, _database, _push, _websocket, _numbers):
        yield from check(config)


#: The least value of each number, in the unit of its key, and whether 0 is allowed below that: "no limit".
_LEAST: Final[Mapping[str, tuple[float, bool]]] = {
    "database.readers": (1, False),
    "customer.kefu_appid": (0, False),
    "push.batch": (1, False),
    "push.timeout_seconds": (0.1, False),
    "push.max_age_seconds": (1, False),
    "push.most_waiting": (1, False),
    "push.rescue_seconds": (0, False),
    "trace.messages": (0, False),
    "shutdown.drain_seconds": (0, False),
    "limits.connections": (1, True),
    "limits.connections_per_address": (1, True),
    "limits.sign_in_seconds": (0.1, False),
    "limits.failed_sign_ins_per_address": (1, True),
    "limits.refused_hold_seconds": (0, False),
    "limits.idle_seconds": (0.1, False),
    "limits.unfinished_commands": (1, False),
    "limits.messages_per_second": (1, True),
    "limits.bytes_per_second": (1024, True),
    "limits.queue_messages": (1, False),
    # The largest message, with its METADATA and SYNC_NOTIFY, must fit into each of these.
    "limits.queue_bytes": (64 * 1024, False),
    "limits.reply_bytes": (64 * 1024, False),
    "limits.stalled_seconds": (0.1, False),
    "limits.websocket_handshake_seconds": (0.1, False),
    "limits.storage_messages": (1, False),
    "limits.storage_bytes": (64 * 1024, False),
    "limits.storage_seconds": (0.1, False),
    "limits.read_seconds": (0.1, False),
    "limits.page_bytes": (1024, False),
    "limits.cached_group_members": (1000, False),
}

#: The most, where more would break a promise of the protocol or the machine. Seconds of a day for other waits.
_MOST: Final[Mapping[str, tuple[float, str]]] = {
    "database.readers": (64, "each is a thread"),
    "customer.kefu_appid": (SAFE_INTEGER - 1, "JavaScript clients read ids as doubles"),
    "push.batch": (1000, "they are one request, and sent again together"),
    "push.timeout_seconds": (300, "the pushes behind it wait"),
    "trace.messages": (100_000, "each question looks at all of them"),
    "limits.storage_seconds": (5, "clients wait 5 s for an ACK"),
    "limits.read_seconds": (4, "a SYNC is answered within 4 s"),
    "limits.page_bytes": (16 * 1024 * 1024, "a page is held in memory"),
}
_DAY: Final = 86_400


def _numbers(config: Config) -> _Complaints:
    for key, (least, zero) in _LEAST.items():
        section, _, name = key.partition(".")
        value = getattr(getattr(config, section), name)
        most, reason = _MOST.get(key, (_DAY, "a day") if name.endswith("_seconds") else (math.inf, ""))
        if not math.isfinite(value):
            yield key, f"must be a finite number, not {value}"
        elif value < least and not (zero and value == 0):
            yield key, f"must be at least {least:g}" + (", or 0 for no limit" if zero else "") + f", not {value}"
        elif value > most:
            yield key, f"must be at most {most:g} ({reason}), not {value}"


def _database(config: Config) -> _Complaints:
    text = config.database.url
    if not text:
        return
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    example = 'write it like "sqlite:////var/lib/imserver/imserver.db", or leave it empty for a file in `data`'
    try:
        url = make_url(text)
    except (ArgumentError, ValueError):
        yield "database.url", f"not a database URL; {example}"
        return
    if url.drivername not in ("sqlite", "sqlite+pysqlite"):
        yield "database.url", f"{_without_password(text)}: this release stores in SQLite only; {example}"
    elif url.database in (None, "", ":memory:") or url.host or url.username or url.query:
        # A database in memory is one for each connection, and nothing that was acknowledged would be on disk.
        yield "database.url", f"{_without_password(text)}: must name a file and nothing else; {example}"


def _without_password(url: str) -> str:
    return re.sub(r"(://[^@]*?:).*@", r"\1***@", url)


#: No user, password or fragment; printable ASCII, as it goes over the wire.
_WEBHOOK: Final = re.compile(
    r'https?://(?:\[[0-9a-fA-F:.]+\]|[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?)(?::(?P<port>[0-9]{1,5}))?(?:/[!"$-~]*)?'
)


def _push(config: Config) -> _Complaints:
    push = config.push
    example = 'write it like "https://app.example.com/push"'
    if push.url:
        # What was written is not repeated: it may hold a secret.
        url = _WEBHOOK.fullmatch(push.url)
        if url is None or not 0 < int(url["port"] or 80) < 65536:
            yield "push.url", f"must be an http or https URL without user, password or fragment; {example}"
    elif push.kind == "webhook":
        yield "push.url", f'kind = "webhook" needs it; {example}'
    if "\0" in push.key_file:
        yield "push.key_file", "must name a file"
    if push.kind == "webhook" and not push.key_file:
        how = "make one with `(umask 077; openssl rand -hex 32 > FILE)`"
        yield "push.key_file", f'kind = "webhook" needs it, the file with the key that signs requests; {how}'


def _websocket(config: Config) -> _Complaints:
    if not re.fullmatch(r"/[^?#\s]*", config.websocket.path):
        yield "websocket.path", 'must be a path like "/ws", without query'
    for origin in config.websocket.origins:
        if not re.fullmatch(r"\*|null|[a-z][a-z0-9+.-]*://[^/\s]+", origin):
            examples = '"https://app.example.com", "https://*.example.com" for subdomains, or "*" for any'
            yield "websocket.origins", f'"{origin}" is no origin; write {examples}: no path, no final slash'


class _Endpoint(NamedTuple):
    """An endpoint string taken apart."""

    kind: str
    #: By the names of `_ENDPOINTS`; empty for kinds that plugins bring.
    arguments: Mapping[str, str]


#: Twisted's endpoint kinds for servers, with their arguments in the order in which they may stand without a name.
_ENDPOINTS: Final[Mapping[str, tuple[str, ...]]] = {
    "tcp": ("port", "interface", "backlog"),
    "tcp6": ("port", "backlog", "interface"),
    "ssl": (
        "port",
        "privateKey",
        "certKey",
        "sslmethod",
        "interface",
        "backlog",
        "extraCertChain",
        "dhParameters",
    ),
    "unix": ("address", "mode", "backlog", "lockfile"),
    "systemd": ("domain", "index", "name"),
}
_ENDPOINT_FILES: Final = ("privateKey", "certKey", "extraCertChain", "dhParameters")
_TOO_OPEN: Final = (
    "may be reached from the network, where whoever comes could send messages as anybody; listen on 127.0.0.1, or set "
    "http.key_file to a file with a key that callers need (umask 077; openssl rand -hex 32 > FILE)"
)
_LOOPBACK: Final = re.compile(r"127\.\d+\.\d+\.\d+|localhost|::1")


def _listen(config: Config) -> _Complaints:
    for name in _keys_of(Listen):
        for description in getattr(config.listen, name):
            key = f"listen.{name}"
            try:
                endpoint = _parse_endpoint(description)
            except ValueError as error:
                yield key, f'"{description}": {error}; write it like "tcp:23000:interface=127.0.0.1"'
                continue
            if name == "http" and not config.http.key_file and not _is_local(endpoint):
                yield key, f'"{description}" {_TOO_OPEN}'


def _parse_endpoint(description: str) -> _Endpoint:
    """Take apart an endpoint string, opening nothing.

    Raises:
        ValueError: says what is wrong with it.
    """
    kind, *words = re.split(r"(?<!\\):", description)
    names = _ENDPOINTS.get(kind)
    if names is None:
        kinds = (*_ENDPOINTS, *_plugin_endpoints())
        if kind not in kinds:
            raise ValueError(f'no kind of endpoint "{kind}", only {", ".join(kinds)}')
        return _Endpoint(kind, {})
    arguments: dict[str, str] = {}
    places = iter(names)
    for word in words:
        *named, value = re.split(r"(?<!\\)=", word, maxsplit=1)
        name = named[0] if named else next(places, "")
        if not name:
            raise ValueError(f'"{word}" is one word too many')
        if name not in names:
            raise ValueError(f"{kind} has no {name}, only {', '.join(names)}")
        if name in arguments:
            raise ValueError(f"{name} is there twice")
        arguments[name] = re.sub(r"\\(.)", r"\1", value)
    _check_arguments(kind, arguments)
    return _Endpoint(kind, arguments)


def _check_arguments(kind: str, arguments: Mapping[str, str]) -> None:
    first = _ENDPOINTS[kind][0]
    if not arguments.get(first):
        raise ValueError(f"{first} is missing")
    port = arguments.get("port", "0")
    if not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError(f'port "{port}" is not a number from 0 to 65535')
    backlog = arguments.get("backlog", "50")
    if not backlog.isascii() or not backlog.isdigit():
        raise ValueError(f'backlog "{backlog}" is not a number')
    if not re.fullmatch("[0-7]{3,4}", arguments.get("mode", "666")):
        raise ValueError(f'mode "{arguments["mode"]}" is not octal, like 660')
    if kind == "systemd" and ("index" in arguments) == ("name" in arguments):
        raise ValueError("give either index or name of the socket")
    for name in _ENDPOINT_FILES:
        if name in arguments and not os.access(arguments[name], os.R_OK):
            raise ValueError(f"{name} {arguments[name]} cannot be read")


def _plugin_endpoints() -> list[str]:
    """The kinds that Twisted's and other packages' plugins bring: tls, haproxy …"""
    from twisted.internet.interfaces import IStreamServerEndpointStringParser
    from twisted.plugin import getPlugins

    prefixes = {plugin.prefix for plugin in getPlugins(IStreamServerEndpointStringParser)}
    # A server that talks to its terminal listens to nobody.
    return sorted(prefixes - _ENDPOINTS.keys() - {"stdio"})


def _is_local(endpoint: _Endpoint) -> bool:
    return endpoint.kind == "unix" or _LOOPBACK.fullmatch(endpoint.arguments.get("interface", "")) is not None


def _with_absolute_paths(config: Config) -> Config:
    database = config.database
    if database.url:
        from sqlalchemy.engine import make_url

        url = make_url(database.url)
        url = url.set(database=os.path.abspath(url.database or ""))
        database = msgspec.structs.replace(database, url=url.render_as_string(hide_password=False))
    push = config.push
    if push.key_file:
        push = msgspec.structs.replace(push, key_file=os.path.abspath(push.key_file))
    policy = config.policy
    if policy.word_file:
        policy = msgspec.structs.replace(policy, word_file=os.path.abspath(policy.word_file))
    http = config.http
    if http.key_file:
        http = msgspec.structs.replace(http, key_file=os.path.abspath(http.key_file))
    data = os.path.abspath(config.data)
    return msgspec.structs.replace(config, data=data, database=database, policy=policy, push=push, http=http)
