"""One SQL database: its engine, its one writer, its readers, its schema and migrations.

Lives here: what storage and directory share, because they share a database. On SQLite two writers would wait for each
other by polling; so all writes of a process go through one `WriteLane`, and a second process on the same file is
refused.
May not live here: what the tables mean (storage, directory).

* ``database`` is all of it together, for wiring: prepare, start, close.
* ``engine`` opens a URL and knows what differs between databases when they are opened.
* ``lanes`` runs transactions off the reactor's thread: writes in group commits, reads beside them.
* ``schema`` has the tables; ``migrations`` how an older database becomes today's, which ``upgrade`` sees to at start.
* ``lock`` keeps a second process away; ``errors`` says why a database cannot be used.
"""
