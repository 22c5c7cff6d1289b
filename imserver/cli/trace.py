"""What became of a message."""

import time
from collections.abc import Iterable, Mapping
from typing import Any, Final

import click

from imserver.cli.accounts import UID
from imserver.cli.common import Imctl
from imserver.protocol.commands import NOT_PUSHED, Command

_Shown = Mapping[str, Any]


@click.command(short_help="Tell what became of a message, or of a user's.")
@click.argument("which", nargs=-1, type=UID, metavar="MESSAGE | APPID UID")
@click.option(
    "--last",
    metavar="N",
    type=click.IntRange(1, 100),
    default=10,
    show_default=True,
    help="So many of the user's newest messages.",
)
@click.pass_obj
def trace(obj: Imctl, which: tuple[int, ...], last: int) -> None:
    """Tell what became of a message: when it came and from where, in which timelines it was stored, to whom it was
    pushed and who acknowledged it, and whose phone is told of it, or why not.

    MESSAGE is the server's number of it. Given a user instead, it tells of the user's newest messages, sent, received
    and refused, each with its number; messages to groups of more than 20 members are found by their sender only. The
    server remembers the newest messages since it started ([trace] messages in its configuration).

    \b
    Examples:
      imctl trace 7 1             the newest messages of user 1 of app 7
      imctl trace 12345           this message
      imctl --json trace 7 1 --last 1 | jq .messages[0].events
    """
    match which:
        case (message,):
            path = f"/admin/trace?message={message}"
        case (appid, uid):
            path = f"/admin/trace?appid={appid}&uid={uid}&last={last}"
        case _:
            raise click.UsageError("give one number, MESSAGE, or two, APPID UID")

    async def show(reactor: Any) -> None:
        answer = await obj.operator(reactor).get(path)
        if len(which) == 1:
            obj.say(_describe(answer), answer)
        else:
            nothing = f"no message of user {which[1]} of app {which[0]} is remembered"
            obj.say("\n\n".join(map(_describe, answer["messages"])) or nothing, answer)

    obj.wait_for(show)


def _describe(message: _Shown) -> str:
    from imserver.cli.show import text_of

    lines = [_title(message)]
    if message["content"] is not None:
        lines.append(f"  {'content':23}  {text_of(message['content'].encode())}")
    for event in message["events"]:
        seconds = event["at"]
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds)) + f".{int(seconds * 1000) % 1000:03}"
        lines.append(f"  {when}  {_SAID[event['event']](event, message)}")
    if message["acknowledgements"] is None and message["pushes"]:
        lines.append("  later ACKs have taken the place of those of that time: there may have been more")
    return "\n".join(lines)


def _title(message: _Shown) -> str:
    number = "a message that was refused" if message["message"] is None else f"message {message['message']}"
    command = f": {message['command']}" if message["command"] else ","
    sender = message["sender"]
    by = "the server itself" if sender is None else f"user {sender['uid']} of app {sender['appid']}"
    return f"{number}{command} from {by}" + (f" to group {message['group']}" if message["group"] else "")


def _who(user: _Shown, message: _Shown) -> str:
    """A user, with the app where it is not the sender's."""
    sender = message["sender"]
    elsewhere = sender is None or sender["appid"] != user["appid"]
    return f"user {user['uid']}" + (f" of app {user['appid']}" if elsewhere else "")


def _origin(event: _Shown) -> str:
    if event["connection"] is None:
        return "over HTTP"
    return f"on connection {event['connection']}" + (f", device {event['device']}" if event["device"] else "")


def _accepted(event: _Shown, message: _Shown) -> str:
    return f"accepted {_origin(event)}"


def _refused(event: _Shown, message: _Shown) -> str:
    reason = _REFUSALS.get(event["reason"], event["reason"])
    return f"refused {_origin(event)}: {reason} (ACK status {event['status']}, frame {event['seq']})"


def _stored(event: _Shown, message: _Shown) -> str:
    places = [
        f"entry {one['key']} of " + (f"group {one['owner']}" if one["kind"] == "group" else _who_owns(one, message))
        for one in event["timelines"]
    ]
    return "stored: " + (", ".join(places) or f"in {event['entries']:,} timelines")


def _who_owns(timeline: _Shown, message: _Shown) -> str:
    return _who({"appid": timeline["appid"], "uid": timeline["owner"]}, message)


def _pushed(event: _Shown, message: _Shown) -> str:
    if not event["count"]:
        return "pushed to nobody: no other connection was there"
    did = "told to sync:" if Command[message["command"]] in NOT_PUSHED else "pushed to"
    connections = [f"connection {one['number']} ({_who(one, message)})" for one in event["connections"]]
    return f"{did} {_all(connections, event)}"


def _queued(event: _Shown, message: _Shown) -> str:
    return f"to the push queue, which leaves out who is not to be disturbed: {_users(event, message)}"


def _not_queued(event: _Shown, message: _Shown) -> str:
    match event["reason"]:
        case "online":
            [pushed] = [one for one in message["events"] if one["event"] == "pushed"]
            return f"no offline push: online is {_all([_where(one, pushed, message) for one in event['users']], event)}"
        case "silent":
            return f"no offline push: phones do not ring for {message['command']}; offline is {_users(event, message)}"
        case _:
            return f'no offline push: [push] kind is "none"; offline is {_users(event, message)}'


def _where(user: _Shown, pushed: _Shown, message: _Shown) -> str:
    """A user who is online, and where, as far as that is known."""
    own = [one["number"] for one in pushed["connections"] if (one["appid"], one["uid"]) == (user["appid"], user["uid"])]
    if own:
        return f"{_who(user, message)} on connection {', '.join(map(str, own))}"
    if pushed["count"] == len(pushed["connections"]):
        return f"{_who(user, message)} on another node"
    return _who(user, message)


def _acknowledged(event: _Shown, message: _Shown) -> str:
    return f"acknowledged by connection {event['connection']} ({_who(event, message)})"


def _resent(event: _Shown, message: _Shown) -> str:
    return f"came again {_origin(event)}, and was recognised: nothing was stored or pushed a second time"


def _rescued(event: _Shown, message: _Shown) -> str:
    return f"no answer for {event['seconds']:.0f} s: to the push queue after all: {_users(event, message)}"


def _users(event: _Shown, message: _Shown) -> str:
    return _all([_who(one, message) for one in event["users"]], event)


def _all(listed: Iterable[str], event: _Shown) -> str:
    listed = list(listed)
    more = event["count"] - len(listed)
    return ", ".join(listed) + (f", and {more:,} more" if more else "")


#: By the name of the ACK's status.
_REFUSALS: Final = {
    "not_my_friend": "the receiver is no friend of the sender",
    "not_your_friend": "the sender is no friend of the receiver",
    "in_your_blacklist": "the receiver has blocked the sender",
    "not_group_member": "the sender is no member of the group",
    "group_nonexistent": "there is no such group",
    "muted": "the sender is muted, or forbidden to speak",
    "rate_limit": "too many at once",
    "not_stored": "it could not be stored",
}

_SAID: Final = {
    "accepted": _accepted,
    "refused": _refused,
    "stored": _stored,
    "pushed": _pushed,
    "queued": _queued,
    "not_queued": _not_queued,
    "acknowledged": _acknowledged,
    "resent": _resent,
    "rescued": _rescued,
}
