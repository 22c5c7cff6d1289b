"""How the log is written: as lines for people, or as one JSON object a line."""

import json
from datetime import UTC, datetime
from typing import IO, Any, Final

from twisted.logger import (
    FileLogObserver,
    FilteringLogObserver,
    ILogObserver,
    LogEvent,
    LogLevel,
    LogLevelFilterPredicate,
    formatEvent,
    formatEventAsClassicLogText,
)

#: Namespaces that tell of what strangers do, line for line: what is worth counting of it is counted.
_QUIET: Final = ("autobahn", "twisted.web.http")
#: Values of these types stand in a JSON line as they are; of others, their text.
_PLAIN: Final = (str, int, float, bool, type(None))


def log_observer(stream: IO[str], format: str, level: str) -> ILogObserver:
    """An observer that writes events of at least `level` to `stream`.

    Args:
        stream: text, written line by line.
        format: "text" or "json".
        level: "debug" to "critical".
    """
    as_text = _json_line if format == "json" else formatEventAsClassicLogText
    wanted = LogLevelFilterPredicate(LogLevel.levelWithName(level))
    for namespace in _QUIET:
        wanted.setLogLevelForNamespace(namespace, LogLevel.error)
    return FilteringLogObserver(FileLogObserver(stream, as_text), [wanted])


def _json_line(event: LogEvent) -> str:
    line: dict[str, Any] = {
        "time": datetime.fromtimestamp(event["log_time"], UTC).isoformat(timespec="milliseconds"),
        "level": event["log_level"].name,
        "from": event["log_namespace"],
        "text": formatEvent(event),
    }
    failure = event.get("log_failure")
    if failure is not None:
        line["traceback"] = failure.getTraceback()
    for name, value in event.items():
        if not name.startswith("log_") and name not in _CLASSIC and name not in line:
            line[name] = value if isinstance(value, _PLAIN) else str(value)
    return json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n"


#: What Twisted adds for the logging module of old.
_CLASSIC: Final = frozenset(("time", "isError", "message", "system", "format", "failure", "why", "logLevel"))
