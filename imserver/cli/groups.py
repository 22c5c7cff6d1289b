"""Groups and their members."""

import json
from collections.abc import Callable, Iterable
from typing import Any, Final

import click

from imserver.cli.accounts import APPID, GID, UID, UIDS
from imserver.cli.common import Group, Imctl

#: Seconds for a change: what it tells the members is stored for each of them.
_SECONDS: Final = 120.0
#: Ranges, members or names that a line has at most.
_MOST_SHOWN: Final = 20


@click.group(cls=Group, short_help="Make groups, and change who is in them.")
def group() -> None:
    """Make groups, look at them, and change them.

    The members are sent the notification of each change, but of a mute, and it is in force for the next message.

    \b
    Examples:
      imctl group create --app 7 --master 1 --member 1-5 --member 9 "Tea"
      imctl group show 7 20        who is in it, and who is muted
      imctl group add 7 20 10 30-39
      imctl group mute 7 20 9      user 9 may not speak there any more …
      imctl group unmute 7 20 9    … and may again
      imctl group disband 7 20
    """


@group.command("create")
@click.option(
    "--app", "appid", type=APPID, metavar="N", default=7, show_default=True, help="The app whose users they are."
)
@click.option("--master", type=UID, metavar="UID", required=True, help="Whose group it is; a member, too.")
@click.option(
    "--member",
    "members",
    type=UIDS,
    metavar="UID[-UID]",
    multiple=True,
    help="A member, or a range of them. To be given as often as you like; 10,000 members at most.",
)
@click.option("--super", "is_super", is_flag=True, help="A super group: one timeline for all, for large groups.")
@click.option("--id", "gid", type=GID, metavar="GID", help="The group's number. Without it: a free one.")
@click.argument("name")
@click.pass_obj
def _create(
    obj: Imctl,
    appid: int,
    master: int,
    members: tuple[tuple[int, int], ...],
    is_super: bool,
    gid: int | None,
    name: str,
) -> None:
    """Make a group, and print it as JSON: `group_id` is its number.

    Name all the members here rather than adding them later: then there is one notification for all of them.

    \b
    Examples:
      imctl group create --app 7 --master 1 --member 1-5 --member 9 "Tea"
      imctl group create --app 7 --master 1 --member 1-10000 --super --id 100 "All of us"
    """

    async def create(reactor: Any) -> None:
        body: dict[str, Any] = {"appid": appid, "master": master, "name": name, "members": members, "super": is_super}
        if gid is not None:
            body["group_id"] = gid
        click.echo(json.dumps(await obj.operator(reactor).post("/admin/groups", body, _SECONDS)))

    obj.wait_for(create)


@group.command("show")
@click.argument("appid", type=APPID)
@click.argument("gid", type=GID)
@click.pass_obj
def _show(obj: Imctl, appid: int, gid: int) -> None:
    """Show a group and its members. With --json also when each of them joined."""

    async def show(reactor: Any) -> None:
        answer = await obj.operator(reactor).get(f"/admin/groups/{appid}/{gid}")
        obj.say(_describe(answer), answer)

    obj.wait_for(show)


@group.command("add")
@click.argument("appid", type=APPID)
@click.argument("gid", type=GID)
@click.argument("uids", type=UIDS, metavar="UID[-UID]...", nargs=-1, required=True)
@click.pass_obj
def _add(obj: Imctl, appid: int, gid: int, uids: tuple[tuple[int, int], ...]) -> None:
    """Take users into a group. Those who are in it stay as they are.

    Every member is sent a notification for each who joins, so that many who join a large group are a lot of work.

    \b
    Example:
      imctl group add 7 20 10 30-39
    """
    _change(obj, appid, gid, "add", {"members": uids}, _size)


@group.command("remove")
@click.argument("appid", type=APPID)
@click.argument("gid", type=GID)
@click.argument("uids", type=UIDS, metavar="UID[-UID]...", nargs=-1, required=True)
@click.pass_obj
def _remove(obj: Imctl, appid: int, gid: int, uids: tuple[tuple[int, int], ...]) -> None:
    """Take users out of a group. Those who are not in it are passed over.

    Every member is sent a notification for each who leaves.

    \b
    Example:
      imctl group remove 7 20 9 30-39
    """
    _change(obj, appid, gid, "remove", {"members": uids}, _size)


@group.command("mute")
@click.argument("appid", type=APPID)
@click.argument("gid", type=GID)
@click.argument("uid", type=UID)
@click.pass_obj
def _mute(obj: Imctl, appid: int, gid: int, uid: int) -> None:
    """Forbid a member to speak in this group. `imctl group unmute` takes it back."""
    said = f"user {uid} may not speak in group {gid} of app {appid} any more"
    _change(obj, appid, gid, "mute", {"uid": uid, "on": True}, lambda _answer: said)


@group.command("unmute")
@click.argument("appid", type=APPID)
@click.argument("gid", type=GID)
@click.argument("uid", type=UID)
@click.pass_obj
def _unmute(obj: Imctl, appid: int, gid: int, uid: int) -> None:
    """Let a member speak again whom `imctl group mute` has forbidden to."""
    said = f"user {uid} may speak in group {gid} of app {appid}"
    _change(obj, appid, gid, "mute", {"uid": uid, "on": False}, lambda _answer: said)


@group.command("rename")
@click.argument("appid", type=APPID)
@click.argument("gid", type=GID)
@click.argument("name")
@click.pass_obj
def _rename(obj: Imctl, appid: int, gid: int, name: str) -> None:
    """Give a group another name.

    \b
    Example:
      imctl group rename 7 20 "Tea and biscuits"
    """
    _change(obj, appid, gid, "rename", {"name": name}, _title)


@group.command("upgrade")
@click.argument("appid", type=APPID)
@click.argument("gid", type=GID)
@click.pass_obj
def _upgrade(obj: Imctl, appid: int, gid: int) -> None:
    """Make a group a super group: one timeline for all of its members, from now on. There is no way back."""
    _change(obj, appid, gid, "upgrade", {}, lambda _answer: f"group {gid} of app {appid} is a super group")


@group.command("disband")
@click.argument("appid", type=APPID)
@click.argument("gid", type=GID)
@click.pass_obj
def _disband(obj: Imctl, appid: int, gid: int) -> None:
    """End a group. There is no way back, and its number is not given again; what was said in it stays."""

    def said(answer: dict[str, Any]) -> str:
        return f"group {gid} of app {appid} is no more; it had {_count(answer['size'], 'member')}"

    _change(obj, appid, gid, "disband", {}, said)


def _change(
    obj: Imctl, appid: int, gid: int, what: str, body: dict[str, Any], said: Callable[[dict[str, Any]], str]
) -> None:
    async def change(reactor: Any) -> None:
        answer = await obj.operator(reactor).post(f"/admin/groups/{appid}/{gid}/{what}", body, _SECONDS)
        obj.say(said(answer), answer)

    obj.wait_for(change)


def _size(answer: dict[str, Any]) -> str:
    return f"group {answer['group_id']} of app {answer['appid']} has {_count(answer['size'], 'member')} now"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _title(answer: dict[str, Any]) -> str:
    from imserver.cli.show import printable

    return f"group {answer['group_id']} of app {answer['appid']}" + (
        f": {printable(answer['name'])}" if answer["name"] else ""
    )


def _describe(answer: dict[str, Any]) -> str:
    from imserver.cli.show import printable

    members = answer["members"]
    kind = f"super, newest entry {answer['head']}" if answer["super"] else "normal"
    lines = [
        _title(answer),
        f"  kind       {kind}",
        f"  master     {answer['master']}",
        f"  members    {answer['size']:,}: {_shown(_ranges([one['uid'] for one in members]))}",
    ]
    for label, values in (
        ("muted", _ranges([one["uid"] for one in members if one["muted"]])),
        ("nicknames", [f"{one['uid']} {printable(one['nickname'])}" for one in members if one["nickname"]]),
        ("notice", [printable(answer["notice"])] if answer["notice"] else []),
    ):
        if values:
            lines.append(f"  {label:9}  {_shown(values)}")
    return "\n".join(lines)


def _ranges(uids: Iterable[int]) -> list[str]:
    """Rising uids as one types them: 1-5, 9."""
    ranges: list[list[int]] = []
    for uid in uids:
        if ranges and uid == ranges[-1][1] + 1:
            ranges[-1][1] = uid
        else:
            ranges.append([uid, uid])
    return [str(first) if first == last else f"{first}-{last}" for first, last in ranges]


def _shown(values: list[str]) -> str:
    more = len(values) - _MOST_SHOWN
    return ", ".join(values[:_MOST_SHOWN]) + (f" … ({more:,} more; --json has all)" if more > 0 else "")
