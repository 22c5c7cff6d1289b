"""How an older database becomes today's: an Alembic environment, run at every start by `imserver.database.upgrade`.

A fresh database is built by the same steps. To change the schema, change `imserver.database.schema` and add the next
file to ``versions``: named by its number, ``down_revision`` the one before it, written out in full (what it imported
from the server might change later), with no way back (that is the copy that is kept before a migration). On SQLite a
column is changed by ``op.batch_alter_table``. A test compares what the steps build with the schema.
"""
