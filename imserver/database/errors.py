"""What can be wrong with a database before it serves."""


class CannotOpen(Exception):
    """The database cannot be used. The text is one line for people: which one, what is wrong, and what to do."""
