"""The command itself: its options, its commands, and how a mistake is said."""

import os
import sys
from typing import NoReturn

import click

from imserver import __version__
from imserver.cli import accounts, bench, groups, relations, server, talk, trace
from imserver.cli.common import Group, Imctl


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
      imctl trace 7 1                   what became of the messages of user 1

    \b
    Elsewhere than ./var:
      imctl --data /var/lib/imserver status
      imctl --config /etc/imserver.toml --json status

    Exit status: 0, or 1 with one line on standard error that says what is wrong.
    """
    if ctx.obj is None:
        ctx.obj = Imctl(config, data, as_json)


for _command in (
    accounts.token,
    accounts.app,
    accounts.user,
    groups.group,
    relations.friend,
    relations.block,
    talk.send,
    talk.listen,
    talk.chat,
    server.status,
    server.check,
    trace.trace,
    bench.bench,
):
    imctl.add_command(_command)


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
