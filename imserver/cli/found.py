"""How imctl finds the running server: by what it wrote into its data directory."""

import json
from pathlib import Path
from typing import NamedTuple

from imserver.cli.complaint import Complaint


class FoundServer(NamedTuple):
    """A server's DATA/listening.json."""

    data: Path
    pid: int
    version: str
    #: Addresses as HOST:PORT, [HOST]:PORT or unix:PATH.
    tcp: list[str]
    websocket: list[str]
    http: list[str]

    def client_address(self, websocket: bool, path: str = "/ws") -> str:
        """Where clients connect, as `imserver.client.connect` takes it. Raises `Complaint`."""
        name = "websocket" if websocket else "tcp"
        for address in self.websocket if websocket else self.tcp:
            if not address.startswith("unix:"):
                return f"ws://{_reachable(address)}{path}" if websocket else f"tcp:{_reachable(address)}"
        raise Complaint(f"the server listens on no {name} port: add one to [listen] {name}, or give --server ADDRESS")

    def http_address(self) -> str:
        """HOST:PORT, or unix:PATH. Raises `Complaint`."""
        for address in self.http:
            return _reachable(address)
        raise Complaint("the server does not listen for HTTP, which imctl needs: add a port to [listen] http")


def find_server(data: Path) -> FoundServer:
    """The server that runs with this data directory. Raises `Complaint`."""
    text = _read(data / "listening.json")
    if text is None:
        raise Complaint(
            f"no server runs with its data in {data}: start it (make run, or twistd -n imserver --data {data}), "
            "or say where its data is: imctl --data DIR"
        )
    try:
        said = json.loads(text)
        return FoundServer(data, **{name: said[name] for name in FoundServer._fields if name != "data"})
    except (ValueError, KeyError, TypeError):
        raise Complaint(
            f"{data / 'listening.json'} is not what a server writes; stop the server and start it again"
        ) from None


def operator_key(data: Path) -> str:
    """What the operator's calls are made with. Raises `Complaint`."""
    key = _read(data / "operator.key")
    if not key:
        raise Complaint(f"there is no key in {data / 'operator.key'}: the server makes one when it starts")
    return key.strip()


def _read(path: Path) -> str | None:
    try:
        return path.read_text("utf-8", "replace")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Complaint(f"cannot read {path}: {error.strerror}; run imctl as the user that runs the server") from None


def _reachable(address: str) -> str:
    """Who listens on all addresses is reached on loopback."""
    if address.startswith("0.0.0.0:"):
        return address.replace("0.0.0.0", "127.0.0.1", 1)
    if address.startswith("[::]:"):
        return address.replace("[::]", "[::1]", 1)
    return address
