"""What `twistd imserver` takes on its command line, and the service that it runs."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from twisted.application.service import IService, MultiService
from twisted.logger import ILogObserver
from twisted.python import usage
from twisted.python.components import Componentized
from twisted.python.logfile import LogFile

from imserver import __version__
from imserver.config import ConfigError, Log, load
from imserver.errors import StartError
from imserver.logs import log_observer


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


class _AsConfigured(MultiService):
    """The server, logging as its configuration says, and ending in one line where it cannot start."""

    def __init__(self, server: IService, observer: ILogObserver | None, twistd: Mapping[str, Any]) -> None:
        MultiService.__init__(self)
        self._observer = observer
        self._twistd = twistd
        server.setServiceParent(self)

    def setServiceParent(self, parent: Any) -> None:
        """twistd's application takes us in: it logs with the observer that it finds there."""
        if self._observer is not None and isinstance(parent, Componentized):
            parent.setComponent(ILogObserver, self._observer)
        MultiService.setServiceParent(self, parent)

    def privilegedStartService(self) -> None:
        try:
            MultiService.privilegedStartService(self)
        except StartError as error:
            if not self._twistd.get("nodaemon", True):
                raise  # the process that started the daemon is told, tells it, and exits with 1
            # twistd forgets its pid file when it is left this way, and what is written to sys.stderr goes to the log.
            if self._twistd.get("pidfile"):
                Path(self._twistd["pidfile"]).unlink(missing_ok=True)
            print(f"imserver: {error}", file=sys.__stderr__)
            raise SystemExit(1) from None


def makeService(options: Options) -> IService:
    """The service for twistd.

    Raises:
        SystemExit: with one line for standard error. twistd calls this before it becomes a daemon and before it logs.
    """
    try:
        config = load(options["config"], options["data"])
        # Here, and not above: some of what wiring imports installs the default reactor, and twistd may want another.
        from twisted.internet import reactor  # noqa: TID251 - twistd hands over none

        from imserver.wiring import build

        server = build(config, reactor)
    except (ConfigError, StartError) as error:
        raise SystemExit(f"imserver: {error}") from None
    twistd: Mapping[str, Any] = options.parent or {}
    return _AsConfigured(server, _observer(twistd, config.log), twistd)


def _observer(twistd: Mapping[str, Any], log: Log) -> ILogObserver | None:
    """The log as the configuration wants it, where twistd's own options say that it goes; None: that is twistd's."""
    if twistd.get("logger") or twistd.get("syslog"):
        return None
    name = twistd.get("logfile")
    if name == "-" or (not name and twistd.get("nodaemon", True)):
        return log_observer(sys.stdout, log.format, log.level)
    return log_observer(LogFile.fromFullPath(name or "twistd.log"), log.format, log.level)
