"""What connections hand their frames to: a domain that finishes a command when the test says so."""

from collections.abc import Callable

from twisted.internet.defer import Deferred
from zope.interface import implementer

from imserver.interfaces import IChat, IConnection
from imserver.protocol.commands import Command
from imserver.protocol.frame import Frame

Handle = Callable[[IConnection, Frame], Deferred[None] | None]


@implementer(IChat)
class FakeChat:
    """IM stores; IM, SYNC and AUTH_TOKEN take until the test calls `finish`; all else is done at once.

    A test may say otherwise for a command in `handlers`.
    """

    def __init__(self) -> None:
        #: Every frame that came, in order.
        self.begun: list[Frame] = []
        #: The commands under way, in the order in which they began.
        self.under_way: list[Deferred[None]] = []
        #: The connections that were said to be gone.
        self.gone: list[IConnection] = []
        self.handlers: dict[int, Handle] = {}

    def is_pipelined(self, command: int) -> bool:
        return command == Command.IM

    def handle(self, connection: IConnection, frame: Frame) -> Deferred[None] | None:
        self.begun.append(frame)
        handle = self.handlers.get(frame.command)
        if handle is None and frame.command in (Command.IM, Command.SYNC, Command.AUTH_TOKEN):
            handle = self.wait
        under_way = handle(connection, frame) if handle is not None else None
        if under_way is not None and self.is_pipelined(frame.command):
            connection.command_began()
            under_way.addCallback(lambda _: connection.command_ended())
            return None
        return under_way

    def lost(self, connection: IConnection) -> None:
        self.gone.append(connection)

    # For tests.

    def wait(self, _connection: IConnection, _frame: Frame) -> Deferred[None]:
        """A command that is under way until `finish`."""
        done: Deferred[None] = Deferred()
        self.under_way.append(done)
        return done

    def finish(self, index: int = 0) -> None:
        """One of the commands under way is done: the oldest, unless told otherwise."""
        self.under_way.pop(index).callback(None)

    @property
    def seqs(self) -> list[int]:
        """The seq of every frame that came."""
        return [frame.seq for frame in self.begun]
