"""Keys that an operator puts into a file."""

import os
import stat
from typing import Final

from imserver.errors import StartError

#: Characters: 128 bits in hexadecimal take as many.
_SHORTEST: Final = 32
#: What is longer is not the file that was meant.
_LONGEST: Final = 4096


def read_key(option: str, path: str) -> bytes:
    """The key in a file, without white space at both ends.

    Args:
        option: where the path was configured, as in ``http.key_file``.

    Raises:
        StartError: it cannot be read, is no good key, or everybody may read it.
    """
    try:
        # Not to wait for whoever writes into a pipe.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read(_LONGEST + 1) if stat.S_ISREG(mode) else b""
    except OSError as failed:
        complaint = f"cannot be read: {failed.strerror}; name a file that the server may read"
    else:
        key = content.strip()
        complaint = _complaint(path, mode, content, key)
        if not complaint:
            return key
    raise StartError(f"{option}: {path}: {complaint}")


def _complaint(path: str, mode: int, content: bytes, key: bytes) -> str:
    if not stat.S_ISREG(mode):
        return "is no regular file; name one that holds the key"
    if mode & stat.S_IRWXO:
        return f"is open to every user of this machine; `chmod o= {path}`, and perhaps make a new key"
    if len(content) > _LONGEST:
        return f"is longer than {_LONGEST} bytes; name the file that holds the key and nothing else"
    if len(key) < _SHORTEST:
        return f"holds {len(key)} characters, and a key has at least {_SHORTEST}; make one: `openssl rand -hex 32`"
    if not (key.isascii() and key.decode().isprintable()):
        return "holds more than one line of plain text; make a key: `openssl rand -hex 32`"
    return ""
