"""What `twistd imserver` takes on its command line, and the service that it runs."""

import sys
from typing import ClassVar

from twisted.application.service import IService
from twisted.python import usage

from imserver import __version__
from imserver.config import ConfigError, load


class Options(usage.Options):
    """The options; `load` checks their values."""

    synopsis = "[--config FILE] [--data DIR]"
    longdesc = (
        "An instant-messaging server for the GoBelieve clients. Without options it keeps everything in ./var and "
        "listens on loopback: TCP on port 23000, WebSocket on 13891, HTTP for operators on 6666. "
        "In the foreground: `twistd --nodaemon --pidfile= imserver`. "
        "As a daemon: `twistd --pidfile=FILE --logfile=FILE imserver --config FILE`; SIGTERM ends it in good order. "
        "A mistake in the configuration is said in one line, with exit status 1, before anything is opened; "
        "etc/imserver.toml has every option. To talk to the running server: `imctl --help`."
    )
    optParameters: ClassVar = [
        ["config", "c", None, "The configuration, a TOML file. Without it: the defaults.", str],
        ["data", "d", None, "The directory of database and keys, instead of the configuration's `data`.", str],
    ]

    def opt_version(self) -> None:
        """Print the version of imserver and exit."""
        sys.stdout.write(f"imserver {__version__}\n")
        raise SystemExit(0)


def makeService(options: Options) -> IService:
    """The service for twistd.

    Raises:
        SystemExit: with one line for standard error. twistd calls this before it becomes a daemon and before it logs.
    """
    try:
        config = load(options["config"], options["data"])
    except ConfigError as error:
        raise SystemExit(f"imserver: {error}") from None
    # Here, and not above: some of what wiring imports installs the default reactor, and twistd may want another.
    from twisted.internet import reactor  # noqa: TID251 - twistd hands over none

    from imserver.wiring import StartError, build

    try:
        return build(config, reactor)
    except StartError as error:
        raise SystemExit(f"imserver: {error}") from None
