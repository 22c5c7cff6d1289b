"""Where a server listens, as people write it: ``tcp:HOST:PORT``, ``tls:HOST:PORT``, ``ws://HOST:PORT/PATH``, ``wss://…``."""

from typing import Final, NamedTuple
from urllib.parse import urlsplit

#: Ports that the server listens on unless it is configured otherwise (TLS has none: it is always configured).
DEFAULT_PORTS: Final = {"tcp": 23000, "ws": 13891, "wss": 443}
WEBSOCKET_PATH: Final = "/ws"


class Address(NamedTuple):
    #: ``tcp``, ``tls``, ``ws`` or ``wss``.
    scheme: str
    #: Without brackets where it is an IPv6 address.
    host: str
    port: int
    #: Of the WebSocket; ``""`` for the other two.
    path: str = ""

    @property
    def secure(self) -> bool:
        return self.scheme in {"tls", "wss"}

    @property
    def websocket(self) -> bool:
        return self.scheme in {"ws", "wss"}

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        if self.websocket:
            return f"{self.scheme}://{host}:{self.port}{self.path}"
        return f"{self.scheme}:{host}:{self.port}"


def parse_address(text: str) -> Address:
    """Raises `ValueError` with one line that says what an address looks like."""
    scheme, separator, rest = text.partition(":")
    if not separator or scheme not in {"tcp", "tls", "ws", "wss"}:
        raise ValueError(f"{text!r} is no address: write tcp:HOST:PORT, tls:HOST:PORT, ws://HOST:PORT/ws or wss://…")
    websocket = scheme in {"ws", "wss"}
    if websocket != rest.startswith("//"):
        raise ValueError(f"{text!r} is no address: write {scheme}:{'//HOST:PORT/ws' if websocket else 'HOST:PORT'}")
    try:
        parts = urlsplit(f"//{rest.removeprefix('//')}")
        port = parts.port or DEFAULT_PORTS.get(scheme)
    except ValueError:
        raise ValueError(f"{text!r} is no address: its port is no number from 1 to 65535") from None
    if not parts.hostname or port is None:
        raise ValueError(f"{text!r} is no address: it lacks a {'port' if parts.hostname else 'host'}")
    if not websocket and parts.path:
        raise ValueError(f"{text!r} is no address: nothing comes after the port")
    path = f"{parts.path or WEBSOCKET_PATH}{'?' + parts.query if parts.query else ''}" if websocket else ""
    return Address(scheme, parts.hostname, port, path)
