"""What the server counts, as plain numbers that any room may raise; `imserver.http.metrics` shows them to Prometheus.

Raised on the reactor's thread only, so that no lock is needed. Imports nothing but the standard library.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence


class Counter:
    """Counts that only rise, one for each value of a label (``""`` where it has no label)."""

    __slots__ = ("help", "label", "name", "values")

    def __init__(self, name: str, help: str, label: str = "") -> None:
        self.name, self.help, self.label = name, help, label
        self.values: dict[str, int] = {} if label else {"": 0}

    def inc(self, value: str = "", by: int = 1) -> None:
        self.values[value] = self.values.get(value, 0) + by


class Gauge:
    """Figures of this moment: read when somebody looks. `read` gives a figure for each value of the label."""

    __slots__ = ("help", "label", "name", "read")

    def __init__(self, name: str, help: str, label: str = "") -> None:
        self.name, self.help, self.label = name, help, label
        self.read: Callable[[], dict[str, float]] = dict


class Histogram:
    """How many observations were at most each bound, and their sum."""

    __slots__ = ("bounds", "counts", "help", "name", "sum")

    def __init__(self, name: str, help: str, bounds: Sequence[float]) -> None:
        self.name, self.help, self.bounds = name, help, tuple(bounds)
        #: One count a bound, and one for what is above the last. Not cumulative.
        self.counts = [0] * (len(self.bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


class CommandCounter:
    """Frames by command number: a list, since it is raised for every frame in and out."""

    __slots__ = ("counts", "help", "name")

    def __init__(self, name: str, help: str) -> None:
        self.name, self.help = name, help
        self.counts = [0] * 256


_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class Metrics:
    """Every figure of one server. The names are those that Prometheus shows."""

    def __init__(self) -> None:
        self.connections = Gauge("imserver_connections", "Open client connections.", "transport")
        self.users_online = Gauge("imserver_users", "Users with a signed-in connection here.")
        self.rooms = Gauge("imserver_rooms", "Rooms with a connection here.")
        self.accepted = Counter("imserver_accepted_total", "Connections taken.", "transport")
        self.refused = Counter("imserver_refused_total", "Connections turned away when they came.", "reason")
        self.closed = Counter("imserver_closed_total", "Connections that the server closed.", "reason")
        self.sign_ins = Counter("imserver_sign_ins_total", "Answers to AUTH_TOKEN.", "result")
        self.frames_in = CommandCounter("imserver_frames_in_total", "Frames from clients.")
        self.frames_out = CommandCounter("imserver_frames_out_total", "Frames to clients.")
        self.protocol_errors = Counter("imserver_protocol_errors_total", "Bytes that the protocol forbids.", "kind")
        self.ignored = Counter("imserver_ignored_total", "Frames that were passed over.", "reason")
        self.refusals = Counter("imserver_refused_messages_total", "Messages that were not accepted.", "status")
        self.read_pauses = Counter("imserver_read_pauses_total", "Times that reading from a client stopped.", "reason")
        self.queue_drops = Counter("imserver_queue_drops_total", "Messages dropped from a full outgoing queue.", "kind")
        self.resends = Counter("imserver_resends_total", "Messages that had been stored before.")
        self.ack_seconds = Histogram("imserver_ack_seconds", "From a message's arrival to its ACK.", _SECONDS)
        self.sync_entries = Counter("imserver_sync_entries_total", "Entries sent in answers to SYNC.")
        self.commit_seconds = Histogram("imserver_commit_seconds", "One transaction with its fsync.", _SECONDS)
        self.batch_size = Histogram(
            "imserver_commit_batch", "Items in one transaction.", (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
        )
        self.writes_failed = Counter("imserver_writes_failed_total", "Writes that did not reach the disk.", "kind")
        self.writes_waiting = Gauge("imserver_writes_waiting", "Writes that wait for a transaction.")
        self.group_messages_waiting = Gauge("imserver_group_messages_waiting", "Group messages waiting for their turn.")
        self.reads_failed = Counter("imserver_reads_failed_total", "Reads that gave no answer.", "kind")
        self.cached_groups = Gauge("imserver_cached_groups", "Groups in memory.")
        self.cached_group_members = Gauge("imserver_cached_group_members", "Members of the groups in memory.")
        self.group_reads = Counter("imserver_group_reads_total", "Times that a group was read from the database.")
        self.word_files_refused = Counter("imserver_word_files_refused_total", "Changed word files that were no use.")
        self.http_requests = Counter("imserver_http_requests_total", "Answers to HTTP requests.", "status")
        self.offline_pushes = Counter("imserver_offline_pushes_total", "Messages for users who are not online.")
        self.push_queued = Counter("imserver_push_queued_total", "Pushes on disk for the webhook.")
        self.push_delivered = Counter("imserver_push_delivered_total", "Pushes that the webhook has taken.")
        self.push_dropped = Counter("imserver_push_dropped_total", "Pushes that the webhook never gets.", "reason")
        self.push_retries = Counter("imserver_push_retries_total", "Tries that delivered no pushes.", "reason")
        self.push_waiting = Gauge("imserver_push_waiting", "Pushes that wait for the webhook.")
        self.push_request_seconds = Histogram(
            "imserver_push_request_seconds",
            "One request to the webhook.",
            (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
        )
        self.rescued_pushes = Counter(
            "imserver_rescued_pushes_total", "Pushes that nobody answered, queued for push after all."
        )
        self.unwatched_pushes = Counter(
            "imserver_unwatched_pushes_total", "Pushes beyond what is watched for an answer."
        )
