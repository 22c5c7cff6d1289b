"""Talking as a user: one message, all that comes, or both ways."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from imserver.cli.accounts import APPID, UID
from imserver.cli.common import Imctl
from imserver.cli.complaint import Complaint

F = TypeVar("F", bound=Callable[..., Any])


def _who_and_where(command: F) -> F:
    """The options of every command that signs in as a user."""
    for option in (
        click.option("--ws", "websocket", is_flag=True, help="Over WebSocket, not TCP."),
        click.option(
            "--server",
            metavar="ADDRESS",
            help="Another server than the data directory's: tcp:HOST:PORT, tls:HOST:PORT, ws://HOST:PORT/ws or wss://…",
        ),
        click.option("--token", metavar="TOKEN", help="Sign in with this token, not with one of imctl's own."),
        click.option(
            "--app", "appid", type=APPID, metavar="N", default=7, show_default=True, help="The app of the users."
        ),
    ):
        command = option(command)
    return command


@click.command()
@click.option("--from", "sender", type=UID, metavar="UID", required=True, help="Who sends it.")
@click.option("--to", "receiver", type=UID, metavar="UID", required=True, help="Who is to get it.")
@_who_and_where
@click.argument("text")
@click.pass_obj
def send(
    obj: Imctl,
    sender: int,
    receiver: int,
    appid: int,
    token: str | None,
    server: str | None,
    websocket: bool,
    text: str,
) -> None:
    """Send one message from one user to another.

    Ends with exit status 0 once the message is on the server's disk.

    \b
    Examples:
      imctl send --from 1 --to 2 "hello"
      imctl send --from 1 --to 2 --token TOKEN --server tls:im.example.com:24430 "hello"
    """

    async def work(reactor: Any) -> None:
        from imserver.cli.conversation import Account, send_one

        account = Account(obj, reactor, appid, sender, token, server, websocket)
        sent = await account.use(lambda address, token: send_one(reactor, address, sender, token, receiver, text))
        obj.say(
            f"stored; it is entry {sent.key} of user {sender}'s timeline",
            {"key": sent.key, "uuid": sent.uuid},
        )

    obj.wait_for(work)


@click.command()
@click.option("--uid", type=UID, metavar="UID", required=True, help="Whose messages.")
@_who_and_where
@click.pass_obj
def listen(obj: Imctl, uid: int, appid: int, token: str | None, server: str | None, websocket: bool) -> None:
    """Print a user's messages as they come, one a line, until Ctrl-C.

    It begins after the sync key that the server has saved for the user, and saves it again: what was printed once is
    not printed the next time. It reconnects by itself; standard error says when. With --json each line is an object
    with command, key, pushed, self, and the message's fields.

    \b
    Examples:
      imctl listen --uid 2
      imctl --json listen --uid 2 | jq -r .content
    """

    async def work(reactor: Any) -> None:
        from imserver.cli.conversation import Account, print_messages

        account = Account(obj, reactor, appid, uid, token, server, websocket)
        await account.use(lambda address, token: print_messages(reactor, address, uid, token, obj.as_json))

    obj.wait_for(work)


@click.command()
@click.option("--uid", type=UID, metavar="UID", required=True, help="Who you are.")
@click.option("--with", "peer", type=UID, metavar="UID", required=True, help="Who you talk to.")
@_who_and_where
@click.pass_obj
def chat(obj: Imctl, uid: int, peer: int, appid: int, token: str | None, server: str | None, websocket: bool) -> None:
    """Talk to a user, a line a message, until Ctrl-D.

    After each of your lines you see whether it was stored. A line that is typed while there is no connection is sent
    when there is one again. It ends with exit status 1 where a line was not stored.

    \b
    Examples, in two terminals:
      imctl chat --uid 1 --with 2
      imctl chat --uid 2 --with 1
    """
    if obj.as_json:
        raise Complaint("chat is for people; programs use `imctl send` and `imctl --json listen`")

    async def work(reactor: Any) -> None:
        from imserver.cli.conversation import Account, talk_on_terminal

        account = Account(obj, reactor, appid, uid, token, server, websocket)
        await account.use(lambda address, token: talk_on_terminal(reactor, address, uid, token, peer))

    obj.wait_for(work)
