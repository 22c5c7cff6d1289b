"""What an app's back end says, over HTTP: the same messages that clients send, by the same way.

Each method checks what it is given, and raises `Invalid` where that can never be a message; its Deferred fires with
None once the message is on disk and on its way, and fails with `Unavailable` where it was not stored.
"""
