"""What ends a start."""


class StartError(Exception):
    """The server cannot start. Its text is one line: what is wrong, and what to do."""
