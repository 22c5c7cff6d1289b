"""Friends and blacklists."""

from typing import Any

import click

from imserver.cli.accounts import APPID, UID
from imserver.cli.common import Group, Imctl


@click.group(cls=Group)
def friend() -> None:
    """Make users each other's friends.

    Who may send to whom depends on it where the configuration has [policy] friends = true.

    \b
    Examples:
      imctl friend add 7 1 2      users 1 and 2 of app 7 are friends …
      imctl friend remove 7 1 2   … and no longer
      imctl friend list 7 1       whose friend user 1 is, a uid a line
    """


@friend.command("add")
@click.argument("appid", type=APPID)
@click.argument("uid", type=UID)
@click.argument("other", type=UID)
@click.pass_obj
def _add_friend(obj: Imctl, appid: int, uid: int, other: int) -> None:
    """Make two users each other's friends."""
    said = f"users {uid} and {other} of app {appid} are friends"
    _set(obj, appid, uid, "friends", other, True, said)


@friend.command("remove")
@click.argument("appid", type=APPID)
@click.argument("uid", type=UID)
@click.argument("other", type=UID)
@click.pass_obj
def _remove_friend(obj: Imctl, appid: int, uid: int, other: int) -> None:
    """Let two users be friends no longer, neither of the other."""
    said = f"users {uid} and {other} of app {appid} are not friends"
    _set(obj, appid, uid, "friends", other, False, said)


@friend.command("list")
@click.argument("appid", type=APPID)
@click.argument("uid", type=UID)
@click.pass_obj
def _list_friends(obj: Imctl, appid: int, uid: int) -> None:
    """List a user's friends, a uid a line; the first 10,000."""
    _list(obj, appid, uid, "friends", f"user {uid} of app {appid} has no friends")


@click.group(cls=Group)
def block() -> None:
    """Put users on other users' blacklists.

    Those who are on it cannot send to its owner where the configuration has [policy] blacklist = true.

    \b
    Examples:
      imctl block add 7 1 2       user 1 of app 7 has blocked user 2 …
      imctl block remove 7 1 2    … and no longer
      imctl block list 7 1        whom user 1 has blocked, a uid a line
    """


@block.command("add")
@click.argument("appid", type=APPID)
@click.argument("uid", type=UID)
@click.argument("other", type=UID)
@click.pass_obj
def _block(obj: Imctl, appid: int, uid: int, other: int) -> None:
    """Put OTHER on the blacklist of UID: user OTHER cannot send to user UID."""
    _set(obj, appid, uid, "blocked", other, True, f"user {uid} of app {appid} has blocked user {other}")


@block.command("remove")
@click.argument("appid", type=APPID)
@click.argument("uid", type=UID)
@click.argument("other", type=UID)
@click.pass_obj
def _unblock(obj: Imctl, appid: int, uid: int, other: int) -> None:
    """Take OTHER off the blacklist of UID."""
    _set(obj, appid, uid, "blocked", other, False, f"user {uid} of app {appid} has not blocked user {other}")


@block.command("list")
@click.argument("appid", type=APPID)
@click.argument("uid", type=UID)
@click.pass_obj
def _list_blocked(obj: Imctl, appid: int, uid: int) -> None:
    """List whom a user has blocked, a uid a line; the first 10,000."""
    _list(obj, appid, uid, "blocked", f"user {uid} of app {appid} has blocked nobody")


def _set(obj: Imctl, appid: int, uid: int, what: str, other: int, on: bool, said: str) -> None:
    async def change(reactor: Any) -> None:
        answer = await obj.operator(reactor).post(f"/admin/users/{appid}/{uid}/{what}", {"uid": other, "on": on})
        obj.say(said, answer)

    obj.wait_for(change)


def _list(obj: Imctl, appid: int, uid: int, what: str, nobody: str) -> None:
    async def show(reactor: Any) -> None:
        answer = await obj.operator(reactor).get(f"/admin/users/{appid}/{uid}/{what}")
        obj.say("\n".join(map(str, answer[what])) or nobody, answer)

    obj.wait_for(show)
