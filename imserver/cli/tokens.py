"""The tokens that imctl itself signs in with.

They lie in DATA/imctl, beside the operator's key and as secret as that: with a new one for every call, the user's own
would soon be pushed out of the 20 that stay in force.
"""

import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from imserver.cli.complaint import Complaint
from imserver.cli.operator import Operator
from imserver.client.errors import SignInRefused

T = TypeVar("T")


async def with_token(data: Path, operator: Operator, appid: int, uid: int, use: Callable[[str], Awaitable[T]]) -> T:
    """Call `use` with a token of this user; once more with a new one where the old is refused. Raises `Complaint`."""
    path = data / "imctl" / f"{appid}-{uid}.token"
    try:
        token = path.read_text().strip()
    except FileNotFoundError:
        token = ""
    except (OSError, UnicodeDecodeError) as error:
        raise Complaint(f"cannot read the token in {path}: {error}; remove the file") from None
    if token:
        try:
            return await use(token)
        except SignInRefused:
            pass  # it was revoked, or the database is another one
    [(_uid, token)] = await operator.tokens(appid, uid, uid)
    _keep(path, token)
    return await use(token)


def _keep(path: Path, token: str) -> None:
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        new = path.with_suffix(".new")
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(token + "\n")
        new.replace(path)
    except OSError as error:
        raise Complaint(f"cannot keep the token in {path}: {error.strerror}") from None
