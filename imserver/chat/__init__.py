"""The domain: what is said, whether it may be said, and what follows from it.

A module a family of commands (``auth``, ``keepalive``, ``peer``, ``group``, ``room``, ``customer``, ``sync``), each
with a class whose methods carry out one command; ``table`` says which command is whose. ``posts`` and ``changes`` are
the same for back ends. ``policy`` decides whether a sender may send, ``compose`` where a message stands, ``delivery``
how it reaches those it is for: one way for clients and for HTTP alike. ``backlog`` keeps large groups out of the way of
everybody else.

May not live here: sockets, SQL, a reactor. Everything comes in through `imserver.interfaces`.

A command's method takes (connection, frame, message) and returns None when the command is carried out, or a Deferred
that fires when it is. Messages that are refused are answered, or ignored and counted, here; an exception that leaves a
method is a bug, and costs the client its connection.
"""
