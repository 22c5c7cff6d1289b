"""Messages on disk, their places in timelines, and how far each user has read. Implements `ITimelines` and `ISyncKeys`.

Lives here: what the tables `message`, `entry`, `timeline`, `resend_recent`, `resend` and `saved_key` mean, and what is
said to them.
May not live here: threads, connections, the schema (database); who is told of a message (chat).

* ``timelines``: storing in group commits, reading by the page.
* ``resends``: by what messages are recognised when they come again.
* ``sync_keys``: what each user has said to have.
* ``sqlite``: the statements of the hot path, as one database takes them. Another database gets a module beside it.

What holds: a message stands in all of its timelines or in none. Keys are dense in each timeline, and whoever sees key k
sees k-1. A message's id is never given twice.
"""
