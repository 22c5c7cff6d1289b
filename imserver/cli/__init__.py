"""imctl: what an operator types.

Lives here: the commands, what they print, and how they find the server: by DATA/listening.json, with the key in
DATA/operator.key. May import protocol, model, config and client; never the server's rooms.

* ``root`` is the command itself, ``common`` what all commands share; ``accounts``, ``groups``, ``relations``,
  ``server``, ``trace``, ``talk`` and ``bench`` are the commands, and import nothing slow. Twisted comes with the first
  wait, Autobahn with the first WebSocket.
* ``found`` finds the server, ``operator`` calls it, ``tokens`` keeps those that imctl itself signs in with,
  ``conversation`` and ``load`` do the work of ``talk`` and ``bench``, ``show`` turns messages into lines.
"""


def main() -> None:
    """The command. Ends with exit status 0, or with 1 and one line on standard error."""
    from imserver.cli.root import run

    run()
