"""Put before other paths, this makes every commit of a server process take as long as on a slow disk.

On a fast one a commit is over before an ACK that was sent too early could reach its client.
"""

import time

from sqlalchemy import Connection, Engine, event

_SECONDS = 0.02


@event.listens_for(Engine, "commit")
def _wait(_connection: Connection) -> None:
    time.sleep(_SECONDS)
