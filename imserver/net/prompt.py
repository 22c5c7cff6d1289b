"""Sockets that are written to at once.

A Twisted transport that is given bytes asks the reactor to tell when there is room, and writes them then: two calls of
epoll, a turn of the reactor and a log context for each write, which together cost more than the write. A socket nearly
always has room, so here it is tried first; only what it does not take waits for the reactor.
"""

from twisted.internet.abstract import FileDescriptor
from twisted.internet.interfaces import IListeningPort
from twisted.internet.tcp import Port, Server


class PromptWriter(FileDescriptor):
    """What a transport needs to know for that: whether the reactor really watches it while `write_now` goes on."""

    _holding = False
    _wanted = False
    _watched = False

    def write_now(self, data: bytes) -> None:
        """As `write`. An error shows again when the reactor tries, and is handled there."""
        self._holding = True
        self.write(data)
        if FileDescriptor.doWrite(self) is not None:
            self._wanted = True
        self._holding = False
        self._tell_reactor()

    def startWriting(self) -> None:
        self._wanted = True
        self._tell_reactor()

    def stopWriting(self) -> None:
        self._wanted = False
        self._tell_reactor()

    def _tell_reactor(self) -> None:
        if self._holding or self._wanted == self._watched:
            return
        self._watched = self._wanted
        if self._wanted:
            FileDescriptor.startWriting(self)
        else:
            FileDescriptor.stopWriting(self)


class SocketTransport(PromptWriter, Server):
    """A TCP connection."""


def write_promptly(port: IListeningPort) -> None:
    """Let the connections of this port be written to at once, where it is one of TCP."""
    if isinstance(port, Port) and port.transport is Server:  # a port on a path is a `Port` too
        port.transport = SocketTransport
