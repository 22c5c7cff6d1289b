"""A small load test."""

import sys
from typing import Any

import click

from imserver.cli.accounts import APPID, UID
from imserver.cli.common import Imctl
from imserver.cli.complaint import Complaint


@click.command(short_help="Load the server a little, and measure.")
@click.option(
    "--pairs",
    metavar="N",
    type=click.IntRange(1, 1000),
    default=50,
    show_default=True,
    help="Users who send, each to one other.",
)
@click.option(
    "--window",
    metavar="N",
    type=click.IntRange(1, 64),
    default=8,
    show_default=True,
    help="Messages of a sender without ACK.",
)
@click.option(
    "--duration",
    metavar="S",
    type=click.FloatRange(0.1, 3600),
    default=10.0,
    show_default=True,
    help="Seconds of sending.",
)
@click.option(
    "--size",
    metavar="BYTES",
    type=click.IntRange(100, 32_000),
    default=100,
    show_default=True,
    help="Bytes of a message's content.",
)
@click.option("--ws", "websocket", is_flag=True, help="Over WebSocket, not TCP.")
@click.option("--app", "appid", type=APPID, metavar="N", default=7, show_default=True, help="The app of the users.")
@click.option(
    "--first-uid",
    type=UID,
    metavar="UID",
    default=1_000_000_001,
    show_default=True,
    help="The first of the users; the others follow. They are made for this: their messages stay in the database.",
)
@click.option("--server", metavar="ADDRESS", help="Another server: tcp:HOST:PORT, ws://HOST:PORT/ws …; needs --tokens.")
@click.option(
    "--tokens",
    type=click.File(),
    metavar="FILE",
    help='The users, as `imctl token` prints them: "uid token" a line, two lines for each pair.',
)
@click.option("--yes-i-own-this-server", is_flag=True, help="Load a server that is not on this machine.")
@click.pass_obj
def bench(
    obj: Imctl,
    pairs: int,
    window: int,
    duration: float,
    size: int,
    websocket: bool,
    appid: int,
    first_uid: int,
    server: str | None,
    tokens: Any,
    yes_i_own_this_server: bool,
) -> None:
    """Load the server, and look whether every message arrives once and in order.

    Each sender keeps a window of messages without ACK; both ends are full clients, in this one process. So it shows
    whether a server is well and what its users feel, not the most that it can do: it says so where imctl itself was the
    limit. Ctrl-C ends it early. The exit status is 1 where a message was missing, came twice or out of order, or was
    refused.

    \b
    Examples:
      imctl bench
      imctl bench --ws --pairs 10 --window 1
      imctl --json bench --duration 60 > result.json
    """

    async def work(reactor: Any) -> None:
        from imserver.cli.found import find_server
        from imserver.cli.interrupt import stopped_by_signal
        from imserver.cli.load import Load, describe, is_loopback
        from imserver.cli.operator import operator_of
        from imserver.client import parse_address

        if server is not None and websocket:
            raise Complaint("give either --ws or --server: an address says how to connect")
        if server is not None and tokens is None:
            raise Complaint(
                "a server that is given with --server needs --tokens FILE: imctl token APPID UID-UID > FILE"
            )
        found = None if server is not None and tokens is not None else find_server(obj.data_directory())
        try:
            address = parse_address(server or (found.client_address(websocket) if found else ""))
        except ValueError as error:
            raise Complaint(str(error)) from None
        if not is_loopback(address.host) and not yes_i_own_this_server:
            raise Complaint(f"{address} is not on this machine; if you may load it, say --yes-i-own-this-server")
        if tokens is not None:
            users = _read_tokens(tokens)
        elif found is not None:
            users = await operator_of(reactor, found).tokens(appid, first_uid, first_uid + 2 * pairs - 1)
        if len(users) < 2 * pairs:
            raise Complaint(
                f"{pairs} pairs need {2 * pairs} users, but there are {len(users)}: give more, or fewer --pairs"
            )
        load = Load(reactor, address, users[: 2 * pairs], window, size)
        steps = int(duration * 10)
        label = f"{pairs} pairs on {address}"
        with click.progressbar(length=steps, label=label, file=sys.stderr) as bar:

            def progress(share: float) -> None:
                bar.update(int(share * steps) - bar.pos)

            with stopped_by_signal(reactor, load.stop):
                result = await load.run(duration, progress)
        obj.say(describe(result), result)
        if not result["well"]:
            raise Complaint("not every message was stored and arrived once and in order")

    obj.wait_for(work)


def _read_tokens(file: Any) -> list[tuple[int, str]]:
    users = []
    for number, line in enumerate(file, 1):
        words = line.split()
        if len(words) != 2 or not words[0].isdecimal():
            raise Complaint(f'line {number} of {file.name} is not "uid token"; make it with: imctl token APPID UID-UID')
        users.append((int(words[0]), words[1]))
    return users
