"""What a peer's bytes can do wrong."""


class ProtocolError(Exception):
    """The peer sent bytes that the protocol does not allow; its connection is to be closed.

    ``kind`` is one word out of a fixed few (it labels a metric), ``text`` is for people. Neither holds bytes of
    the peer.
    """

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind
        self.text = text
