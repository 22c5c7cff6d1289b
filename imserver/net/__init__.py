"""Client connections: what arrives, in which turn, within which limits, and how it leaves.

Lives here: transports (TCP, WebSocket), the one `Connection` they share, its outgoing queue, who is connected, and the
limits on all of it. May not live here: what a command means (chat), and anything that knows a database.

Invariants:
* The commands of a connection take effect in the order in which they came; only commands that store overlap.
* Nothing that a client does or leaves undone makes a buffer grow beyond its cap: reading stops, or pushes are dropped.
* METADATA and its message leave together, with consecutive seq.
"""
