"""Tells twistd that imserver exists. Imports nothing of it: twistd reads this for every command it is given."""

from twisted.application.service import ServiceMaker

imserver = ServiceMaker(
    "imserver",
    "imserver.tap",
    "Instant-messaging server for the GoBelieve clients.",
    "imserver",
)
