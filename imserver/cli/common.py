"""What all commands share: how they are called, and how they wait."""

import json
import os
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from imserver.cli.complaint import Complaint

if TYPE_CHECKING:
    from imserver.cli.operator import Operator


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

    def operator(self, reactor: Any) -> "Operator":
        """Who makes the operator's calls to the running server. Raises `Complaint`."""
        from imserver.cli.found import find_server
        from imserver.cli.operator import operator_of

        return operator_of(reactor, find_server(self.data_directory()))

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
