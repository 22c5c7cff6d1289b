"""Keys in files: which are taken, and what is said of the others."""

import os
from pathlib import Path

import pytest

from imserver.errors import StartError
from imserver.keys import read_key

KEY = b"0123456789abcdef" * 2


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "http.key"


def write(file: Path, content: bytes, mode: int = 0o600) -> None:
    file.write_bytes(content)
    file.chmod(mode)


def refusal(file: Path) -> str:
    """What is said of the file, without what every refusal begins with; one line, without the key."""
    with pytest.raises(StartError) as caught:
        read_key("http.key_file", str(file))
    text = str(caught.value)
    assert text.startswith(f"http.key_file: {file}: ")
    complaint = text.removeprefix(f"http.key_file: {file}: ")
    assert "\n" not in complaint
    assert KEY[:8].decode() not in complaint.replace(str(file), "")
    return complaint


@pytest.mark.parametrize("content", [KEY, KEY + b"\n", b" \t" + KEY + b" \r\n\n", KEY + b"/+=-_~ x", KEY * 128])
@pytest.mark.parametrize("mode", [0o600, 0o400, 0o640, 0o660])
def test_key(file: Path, content: bytes, mode: int) -> None:
    """White space around it, an editor's or a shell's, is no part of it."""
    write(file, content, mode)
    assert read_key("http.key_file", str(file)) == content.strip()


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o644, 0o666, 0o777, 0o601])
def test_key_that_is_no_secret(file: Path, mode: int) -> None:
    """What everybody on the machine may open is known to everybody."""
    write(file, KEY, mode)
    assert refusal(file).startswith(f"is open to every user of this machine; `chmod o= {file}`")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "holds 0 characters"),
        (b"\n" * 100, "holds 0 characters"),
        (KEY[1:], "holds 31 characters"),
        (KEY[1:] + b"\n", "holds 31 characters"),
        (KEY * 128 + b"\n", "is longer than 4096 bytes"),
        (KEY + b"\n" + KEY, "holds more than one line"),
        (KEY + b"\0", "holds more than one line"),
        (KEY + b"\x7f", "holds more than one line"),
        (KEY + "é".encode(), "holds more than one line"),
        (KEY + b"\xff", "holds more than one line"),
    ],
)
def test_what_is_no_key(file: Path, content: bytes, complaint: str) -> None:
    """Too little, too much, or what no header could carry."""
    write(file, content)
    assert refusal(file).startswith(complaint)


def test_what_is_no_file(tmp_path: Path, file: Path) -> None:
    """Nothing, a directory, a device, and a pipe that nobody writes into: none is waited for."""
    assert refusal(file).startswith("cannot be read: No such file or directory; ")
    assert refusal(tmp_path).startswith("cannot be read: Is a directory; ")
    assert refusal(Path("/dev/zero")) == "is no regular file; name one that holds the key"
    os.mkfifo(file, 0o600)
    assert refusal(file) == "is no regular file; name one that holds the key"
