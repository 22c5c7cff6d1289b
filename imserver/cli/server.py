"""What goes on in the running server, and whether it would start."""

import os
from pathlib import Path
from typing import Any

import click

from imserver.cli.common import Imctl
from imserver.cli.complaint import Complaint


@click.command()
@click.pass_obj
def status(obj: Imctl) -> None:
    """Show what goes on in the running server.

    Ends with exit status 1 where there is no server, or where it is not ready to serve.

    \b
    Examples:
      imctl status
      imctl --json status | jq .connections
      watch imctl status
    """
    ready: list[bool] = []

    async def show(reactor: Any) -> None:
        answer = await obj.operator(reactor).get("/admin/status")
        obj.say(_describe(answer), answer)
        ready.append(answer["ready"])

    obj.wait_for(show)
    if not all(ready):
        raise Complaint("the server is not ready; its checks say what is missing, its log says why")


def _describe(answer: dict[str, Any]) -> str:
    connections = answer["connections"]
    lines = [
        f"imserver {answer['version']}, {'ready' if answer['ready'] else 'NOT READY'}",
        f"process {answer['pid']}, up {_duration(answer['uptime'])}",
        "",
        f"{'':12}{'connections':>12}  listens on",
    ]
    for name, addresses in answer["listen"].items():
        lines.append(f"{name:12}{connections.get(name, ''):>12}  {', '.join(addresses) or 'nothing'}")
    lines += [
        "",
        *(
            f"{label:24}{answer[name]:>14,}"
            for label, name in (
                ("users online", "users"),
                ("rooms", "rooms"),
                ("frames from clients", "frames_in"),
                ("frames to clients", "frames_out"),
                ("writes waiting", "writes_waiting"),
            )
        ),
        "",
        *(f"{'check: ' + name:24}{'ok' if well else 'FAILED':>14}" for name, well in answer["checks"].items()),
    ]
    return "\n".join(line.rstrip() for line in lines)


def _duration(seconds: float) -> str:
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days} d {hour} h"
    if hour:
        return f"{hour} h {minute} min"
    return f"{minute} min {second} s" if minute else f"{second} s"


@click.command(short_help="Check configuration and data directory.")
@click.pass_obj
def check(obj: Imctl) -> None:
    """Check the configuration and the data directory, without starting anything.

    Says what the server would say when it starts: the first thing that is wrong, in one line, and exit status 1; or
    where it would listen.

    \b
    Examples:
      imctl check                               the defaults
      imctl --config /etc/imserver.toml check
    """
    from imserver.config import ConfigError, load

    try:
        config = load(obj.config, obj.data)
    except ConfigError as error:
        raise Complaint(str(error)) from None
    data = Path(config.data)
    _check_data(data)
    listen = {name: list(getattr(config.listen, name)) for name in config.listen.__struct_fields__}
    lines = [
        f"configuration  {obj.config or 'the defaults'}: good",
        f"data           {data}{'' if data.exists() else ' (will be made)'}",
        *(f"{name:15}{', '.join(endpoints) or 'off'}" for name, endpoints in listen.items()),
    ]
    obj.say("\n".join(lines), {"config": obj.config, "data": str(data), "listen": listen})


def _check_data(data: Path) -> None:
    existing = next(path for path in (data, *data.parents) if path.exists())
    if not existing.is_dir():
        raise Complaint(f"{existing} is no directory; name another with --data, or `data` in the configuration")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise Complaint(
            f"{existing} is not writable for this user; change its owner, or name another directory with --data"
        )
