"""The way to users who are not online.

Lives here: what push workers get to read (payload), and the ways to them. ``log`` says who would be told, or nothing.
``webhook`` sends to an application's HTTP server: ``stored`` keeps what waits, ``request`` makes one request.
May not live here: who is online and who is to be told (chat.delivery).
"""
