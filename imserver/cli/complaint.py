"""How commands complain."""

import click


class Complaint(click.ClickException):
    """What is wrong and what to do, in one line; imctl ends with exit status 1."""
