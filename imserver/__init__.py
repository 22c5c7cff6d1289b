"""imserver: a self-hosted instant-messaging server on Twisted. docs/architecture.md shows the way through the house."""

__version__ = "0.1.0.dev0"
