"""Apps, users and their tokens."""

import json
import time
from typing import Any, Final

import click

from imserver.cli.common import Group, Imctl
from imserver.model import SAFE_INTEGER

#: Tokens that the server makes in one call.
_AT_ONCE: Final = 100_000
_LARGEST: Final = SAFE_INTEGER - 1


class _Id(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.3 on only
    """The number of a user, an app or a group."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        text = str(value)
        if not (text.isdecimal() and 1 <= int(text) <= _LARGEST):
            self.fail(f"{text!r} is no number from 1 to {_LARGEST}", param, ctx)
        return int(text)


class _Uids(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.3 on only
    """One uid, or a range of them."""

    name = "uids"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        first, dash, last = str(value).partition("-")
        if not (first.isdecimal() and (last.isdecimal() if dash else True)):
            self.fail(f"{value!r} is no uid and no range of uids: write 5, or 1-10000", param, ctx)
        start, end = int(first), int(last or first)
        if not 1 <= start <= end <= _LARGEST:
            self.fail(f"{value!r}: uids go from 1 to {_LARGEST}, and a range goes up", param, ctx)
        return start, end


UID: Final = _Id()
APPID: Final = _Id()
GID: Final = _Id()
UIDS: Final = _Uids()


class _TokenGroup(Group):
    """`token APPID UID` issues; where the first word is the name of a subcommand, that is meant."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] in self.commands:
            return super().resolve_command(ctx, args)
        return "", _issue, args

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write_usage(ctx.command_path, "APPID UID[-UID]")
        formatter.write_usage(ctx.command_path, "revoke TOKEN | APPID UID", prefix="       ")


@click.group(cls=_TokenGroup)
def token() -> None:
    """Issue tokens for users, or revoke them.

    Prints one line for each user: the uid, a space, the token. The server keeps no token in clear: this is the only
    time that you see it. Of a user's tokens the 20 newest stay in force.

    \b
    Examples:
      imctl token 7 1                     a token for user 1 of app 7
      imctl token 7 1-10000 > tokens.txt  for ten thousand users
      imctl token revoke 7 1              all tokens of user 1
      imctl token revoke TOKEN            this one
    """


class _NamelessCommand(click.Command):
    """What a group does by itself."""

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.write_usage(ctx.command_path.strip(), " ".join(self.collect_usage_pieces(ctx)))


@click.command(cls=_NamelessCommand)
@click.argument("appid", type=APPID)
@click.argument("uids", type=UIDS, metavar="UID[-UID]")
@click.pass_obj
def _issue(obj: Imctl, appid: int, uids: tuple[int, int]) -> None:
    """Issue a token for each of these users of an app."""
    first, last = uids

    async def issue(reactor: Any) -> None:
        operator = obj.operator(reactor)
        for start in range(first, last + 1, _AT_ONCE):
            tokens = await operator.tokens(appid, start, min(last, start + _AT_ONCE - 1))
            if obj.as_json:
                lines = [json.dumps({"appid": appid, "uid": uid, "token": token}) for uid, token in tokens]
            else:
                lines = [f"{uid} {token}" for uid, token in tokens]
            click.echo("\n".join(lines))

    obj.wait_for(issue)


# A token may begin with "-", and with "-h" too.
@token.command("revoke", context_settings={"ignore_unknown_options": True, "help_option_names": ["--help"]})
@click.argument("which", nargs=-1, required=True, metavar="TOKEN | APPID UID")
@click.pass_obj
def _revoke(obj: Imctl, which: tuple[str, ...]) -> None:
    """Revoke one token, or all tokens of a user.

    The user's connections are closed at once; those with another token that is in force may sign in again.
    """
    if len(which) == 1:
        body: dict[str, Any] = {"token": which[0]}
    elif len(which) == 2 and all(word.isdecimal() for word in which):
        body = {"appid": int(which[0]), "uid": int(which[1])}
    else:
        raise click.UsageError("give one TOKEN, or the two numbers APPID UID")

    async def revoke(reactor: Any) -> None:
        answer = await obj.operator(reactor).post("/admin/tokens/revoke", body)
        count = answer["revoked"]
        obj.say(f"revoked {count} token{'' if count == 1 else 's'}", answer)

    obj.wait_for(revoke)


@click.group(cls=Group)
def app() -> None:
    """Make and list apps, whose users are apart from each other.

    A fresh server has one app, number 7.

    \b
    Examples:
      imctl app list
      imctl app create "My shop"
      imctl app rotate 8
    """


@app.command("create")
@click.option("--id", "appid", type=APPID, metavar="N", help="The app's number. Without it: the next free one.")
@click.argument("name", default="")
@click.pass_obj
def _create(obj: Imctl, appid: int | None, name: str) -> None:
    """Make an app, and print its number and its secret as JSON.

    The secret is what the app's back end authorizes itself with. The server keeps it as a hash only: this is the only
    time that you see it.

    \b
    Examples:
      imctl app create "My shop"
      imctl app create --id 12 "Customer service"
    """

    async def create(reactor: Any) -> None:
        operator = obj.operator(reactor)
        body = {"name": name} if appid is None else {"name": name, "appid": appid}
        click.echo(json.dumps(await operator.post("/admin/apps", body)))

    obj.wait_for(create)


@app.command("list")
@click.pass_obj
def _list(obj: Imctl) -> None:
    """List the apps: number and name."""

    async def list_apps(reactor: Any) -> None:
        answer = await obj.operator(reactor).get("/admin/apps")
        lines = [f"{one['appid']:>6}  {_printable(one['name'])}".rstrip() for one in answer["apps"]]
        obj.say("\n".join(lines) or "there are no apps; make one: imctl app create NAME", answer)

    obj.wait_for(list_apps)


@app.command("rotate")
@click.argument("appid", type=APPID)
@click.pass_obj
def _rotate(obj: Imctl, appid: int) -> None:
    """Give an app a new secret, and print its number and the secret as JSON.

    The old secret is void at once: the app's back end is refused until it has the new one. The server keeps the secret
    as a hash only: this is the only time that you see it. Users stay signed in.

    \b
    Example:
      imctl app rotate 7
    """

    async def rotate(reactor: Any) -> None:
        click.echo(json.dumps(await obj.operator(reactor).post(f"/admin/apps/{appid}/rotate", {})))

    obj.wait_for(rotate)


@click.group(cls=Group, short_help="Look at a user, kick, forbid to speak.")
def user() -> None:
    """Look at a user, close the user's connections, or take the word away.

    \b
    Examples:
      imctl user show 7 1     what the server knows, and the connections
      imctl user forbid 7 1   may not speak any more …
      imctl user allow 7 1    … and may again
      imctl user kick 7 1     close the connections; clients come back by themselves
    """


@user.command("show")
@click.argument("appid", type=APPID)
@click.argument("uid", type=UID)
@click.pass_obj
def _show(obj: Imctl, appid: int, uid: int) -> None:
    """Show what the server knows about a user, and the user's connections."""

    async def show(reactor: Any) -> None:
        answer = await obj.operator(reactor).get(f"/admin/users/{appid}/{uid}")
        obj.say(_describe_user(answer), answer)

    obj.wait_for(show)


def _set_forbidden(obj: Imctl, appid: int, uid: int, forbidden: bool) -> None:
    async def change(reactor: Any) -> None:
        answer = await obj.operator(reactor).post(f"/admin/users/{appid}/{uid}/settings", {"forbidden": forbidden})
        obj.say(f"user {uid} of app {appid} {'may not speak any more' if forbidden else 'may speak'}", answer)

    obj.wait_for(change)


@user.command("forbid")
@click.argument("appid", type=APPID)
@click.argument("uid", type=UID)
@click.pass_obj
def _forbid(obj: Imctl, appid: int, uid: int) -> None:
    """Forbid a user to send messages. In force at once; `imctl user allow` takes it back."""
    _set_forbidden(obj, appid, uid, True)


@user.command("allow")
@click.argument("appid", type=APPID)
@click.argument("uid", type=UID)
@click.pass_obj
def _allow(obj: Imctl, appid: int, uid: int) -> None:
    """Let a user speak again whom `imctl user forbid` has forbidden to."""
    _set_forbidden(obj, appid, uid, False)


@user.command("kick")
@click.argument("appid", type=APPID)
@click.argument("uid", type=UID)
@click.pass_obj
def _kick(obj: Imctl, appid: int, uid: int) -> None:
    """Close a user's connections.

    Clients come back by themselves: to keep a user out, revoke the tokens (`imctl token revoke APPID UID`).
    """

    async def kick(reactor: Any) -> None:
        answer = await obj.operator(reactor).post(f"/admin/users/{appid}/{uid}/kick", {})
        count = answer["kicked"]
        obj.say(f"closed {count} connection{'' if count == 1 else 's'} of user {uid} of app {appid}", answer)

    obj.wait_for(kick)


def _printable(text: str) -> str:
    from imserver.cli.show import printable

    return printable(text)


_PLATFORMS: Final = {1: "iOS", 2: "Android", 3: "web", 4: "Windows", 5: "macOS"}


def _describe_user(answer: dict[str, Any]) -> str:
    yes_no = {True: "yes", False: "no"}
    lines = [
        f"user {answer['uid']} of app {answer['appid']}"
        + (f": {_printable(answer['name'])}" if answer["name"] else ""),
        f"  may not speak      {yes_no[answer['forbidden']]}",
        f"  notify phones too  {yes_no[answer['notification_on']]}",
        f"  tokens in force    {answer['tokens']}",
        f"  unread             {answer['unread']}",
        f"  timeline           newest entry {answer['head']}, saved sync key {answer['saved_key']}",
    ]
    connections = answer["connections"]
    lines.append(f"  connections        {len(connections) or 'none'}")
    for one in connections:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(one["signed_in_at"]))
        device = f"device {one['device']} ({_printable(one['device_id'])})" if one["device_id"] else "no device"
        platform = _PLATFORMS.get(one["platform"], f"platform {one['platform']}")
        room = f", in room {one['room']}" if one["room"] else ""
        lines.append(
            f"    {one['number']:<5}  {one['transport']} from {_printable(one['address'])}, {platform}, {device}, "
            f"version {one['version']}, since {since}{room}"
        )
    return "\n".join(lines)
