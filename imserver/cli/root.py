"""The command itself: its options, its groups, and how a mistake is said."""

import json
import os
import sys
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import click

from imserver import __version__


class Complaint(click.ClickException):
    """What is wrong and what to do, in one line; imctl ends with exit status 1."""


class Imctl:
    """What was said before the command's name, and the ways in and out that all commands share."""

    def __init__(self, config: str | None, data: str | None, as_json: bool) -> None:
        self.config = config
        self.data = data
        self.as_json = as_json

    def data_directory(self) -> Path:
        """Where the server keeps its data. Raises `Complaint`."""
        if self.data is not None:
            return Path(os.path.abspath(self.data))
        from imserver.config import ConfigError, load

        try:
            return Path(load(self.config).data)
        except ConfigError as error:
            raise Complaint(str(error)) from None

    def say(self, text: str, answer: Any) -> None:
        """Print a result: the text for people, the answer as one line of JSON for programs."""
        click.echo(json.dumps(answer, ensure_ascii=False) if self.as_json else text)

    def wait_for(self, work: Callable[[Any], Coroutine[Any, Any, None]]) -> None:
        """Run the reactor until the work, which is called with it, is done. Raises what the work raises."""
        from twisted.internet import task
        from twisted.internet.defer import Deferred

        raised: list[BaseException] = []
        done = False

        async def until_done(reactor: Any) -> None:
            nonlocal done
            try:
                await work(reactor)
            except Exception as error:
                raised.append(error)
            done = True

        # `react` ends a program; here the exit status is yet to be chosen.
        with suppress(SystemExit):
            task.react(lambda reactor: Deferred.fromCoroutine(until_done(reactor)))
        if raised:
            raise raised[0]
        if not done:
            raise click.Abort


class Group(click.Group):
    """A group that shows its help where it is given nothing to do."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, args or ["--help"])


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--config", metavar="FILE", help="The server's configuration. Without it: the defaults.")
@click.option("--data", metavar="DIR", help="The server's data directory, instead of the configuration's.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs, one object a line.")
@click.version_option(__version__, message="imctl %(version)s")
@click.pass_context
def imctl(ctx: click.Context, config: str | None, data: str | None, as_json: bool) -> None:
    """Talk to a running imserver, and look after it.

    imctl finds the server by its data directory (./var unless you say otherwise) and must be run by a user who may
    read it.

    \b
    First steps, beside a running server:
      imctl status                      what is going on
      imctl token 7 1                   a token for user 1 of app 7, for any client
      imctl chat --uid 1 --with 2       talk; in another terminal:
      imctl chat --uid 2 --with 1

    \b
    Elsewhere than ./var:
      imctl --data /var/lib/imserver status
      imctl --config /etc/imserver.toml --json status

    Exit status: 0, or 1 with one line on standard error that says what is wrong.
    """
    if ctx.obj is None:
        ctx.obj = Imctl(config, data, as_json)


def _add_commands() -> None:
    from imserver.cli import accounts, bench, server, talk

    for command in (
        accounts.token,
        accounts.app,
        accounts.user,
        talk.send,
        talk.listen,
        talk.chat,
        server.status,
        server.check,
        bench.bench,
    ):
        imctl.add_command(command)


def run(arguments: list[str] | None = None) -> NoReturn:
    """Carry out a command line and end the process."""
    try:
        status = imctl.main(arguments, prog_name="imctl", standalone_mode=False)
    except click.ClickException as error:
        click.echo(f"imctl: {_one_line(error)}", err=True)
        sys.exit(1)
    except click.Abort:
        click.echo("imctl: interrupted", err=True)
        sys.exit(1)
    except BrokenPipeError:
        # Whoever read our output has gone. Python would complain once more when it flushes at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    sys.exit(status if isinstance(status, int) else 0)


_GLOBAL_OPTIONS = ("--config", "--data", "--json")


def _one_line(error: click.ClickException) -> str:
    text = " ".join(error.format_message().split())
    if not isinstance(error, click.UsageError):
        return text
    text = text.rstrip(".")
    if isinstance(error, click.NoSuchOption) and error.option_name in _GLOBAL_OPTIONS:
        return f"{text}: {', '.join(_GLOBAL_OPTIONS)} stand before the command's name"
    return f"{text}; see {error.ctx.command_path.strip() if error.ctx else 'imctl'} --help"


_add_commands()
