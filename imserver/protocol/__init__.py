"""The wire protocol as pure functions and values: bytes in, values out, and back.

Lives here: commands, frames, messages, and the one error that a peer's bytes can raise.
May not live here: anything that waits, knows the time, keeps a connection or logs. Imports the standard
library and msgspec only, so that fuzzers, clients and bus envelopes use the same code as the server.

Order of reading: ``commands`` (the words), ``frame`` (bytes <-> frames), ``messages`` (bodies <-> values).
"""
