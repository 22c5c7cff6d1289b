"""Addresses as people write them."""

import pytest

from imserver.client.address import Address, parse_address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("tcp:127.0.0.1:23000", Address("tcp", "127.0.0.1", 23000)),
        ("tcp:im.example.com", Address("tcp", "im.example.com", 23000)),
        ("tls:im.example.com:24430", Address("tls", "im.example.com", 24430)),
        ("tcp:[::1]:23000", Address("tcp", "::1", 23000)),
        ("ws://127.0.0.1:13891/ws", Address("ws", "127.0.0.1", 13891, "/ws")),
        ("ws://127.0.0.1", Address("ws", "127.0.0.1", 13891, "/ws")),
        ("wss://im.example.com/chat?v=2", Address("wss", "im.example.com", 443, "/chat?v=2")),
    ],
)
def test_understood(text: str, address: Address) -> None:
    """Each form is taken apart, with the default port and path where it names none."""
    assert parse_address(text) == address
    assert parse_address(str(address)) == address


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("127.0.0.1:23000", "write tcp:HOST:PORT"),
        ("im.example.com", "write tcp:HOST:PORT"),
        ("http://127.0.0.1/ws", "write tcp:HOST:PORT"),
        ("tcp://127.0.0.1:23000", "write tcp:HOST:PORT"),
        ("ws:127.0.0.1:13891", "write ws://HOST:PORT/ws"),
        ("tls:im.example.com", "lacks a port"),
        ("tcp::23000", "lacks a host"),
        ("tcp:h:99999", "no number from 1 to 65535"),
        ("tcp:h:1/x", "nothing comes after the port"),
    ],
)
def test_refused(text: str, complaint: str) -> None:
    """What is no address is refused with a line that says what one looks like."""
    with pytest.raises(ValueError, match="is no address") as caught:
        parse_address(text)
    assert complaint in str(caught.value)
