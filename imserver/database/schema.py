"""The tables. What stands here and what the migrations build is kept equal by a test.

`message`, `entry`, `resend`, `resend_moved` and `saved_key` are storage's; `push` is the push queue's; the others are
the directory's. `group`, `group_member`, `friend` and `blacklist` may be shared with a back end, which knows them by
these columns (ecosystem.md, SQL: groups and relations) and leaves empty what it does not use.
"""

from sqlalchemy import BigInteger, Column, Index, Integer, LargeBinary, MetaData, SmallInteger, String, Table
from sqlalchemy.dialects import mysql

metadata = MetaData()

#: SQLite numbers rows by themselves only in a column of exactly this type.
_RowNumber = BigInteger().with_variant(Integer(), "sqlite")
#: MySQL takes a binary column into a key only if its length is known.
_Resend = LargeBinary(24).with_variant(mysql.BINARY(24), "mysql", "mariadb")
_Digest32 = LargeBinary(32).with_variant(mysql.BINARY(32), "mysql", "mariadb")
#: MySQL's BLOB ends at 64 KiB: a content that is escaped twice is longer.
_Payload = LargeBinary().with_variant(mysql.MEDIUMBLOB(), "mysql", "mariadb")
_Device = LargeBinary(255).with_variant(mysql.VARBINARY(255), "mysql", "mariadb")

#: Each message once, however many timelines it stands in. An id is never given twice, not even after the newest message
#: was deleted: an entry that is left over must not show somebody else's message.
message = Table(
    "message",
    metadata,
    Column("id", _RowNumber, primary_key=True, autoincrement=True),
    Column("command", SmallInteger, nullable=False),
    Column("flag", SmallInteger, nullable=False),
    Column("created", BigInteger, nullable=False, comment="seconds since 1970"),
    Column("body", LargeBinary, nullable=False, comment="layout of protocol version 2"),
    Column("resend", _Resend, comment="by what it is recognised when it comes again"),
    Column("resend_key", BigInteger, comment="then its sync key in the timeline whose key the ACK carries"),
    Column("resend_expires", BigInteger, comment="and until when, in seconds since 1970"),
    sqlite_autoincrement=True,
)

#: A message's place in a timeline. The newest entry of a timeline says where it ends: it is never deleted.
entry = Table(
    "entry",
    metadata,
    Column("appid", BigInteger, primary_key=True, autoincrement=False),
    Column("kind", SmallInteger, primary_key=True, autoincrement=False, comment="0 user, 1 super group"),
    Column("owner", BigInteger, primary_key=True, autoincrement=False, comment="uid or group id"),
    Column("sync_key", BigInteger, primary_key=True, autoincrement=False),
    Column("message", BigInteger, nullable=False),
    Column("device", BigInteger, nullable=False, comment="the owner's device that sent it, or 0"),
    sqlite_with_rowid=False,
)

#: By what older messages are recognised when they come again, ordered. There is no index on `expires`: it would cost
#: every message more than the sweep that looks at all rows in turn.
resend = Table(
    "resend",
    metadata,
    Column("digest", _Resend, primary_key=True, comment="the sender's uid, then the message's digest"),
    Column("message", BigInteger, nullable=False),
    Column("sync_key", BigInteger, nullable=False, comment="in the timeline whose key the ACK carries"),
    Column("expires", BigInteger, nullable=False, comment="seconds since 1970"),
    sqlite_with_rowid=False,
)

#: Up to which message the resends stand in `resend`. No row: none does.
resend_moved = Table("resend_moved", metadata, Column("message", _RowNumber, primary_key=True, autoincrement=False))

#: What a user has said to have.
saved_key = Table(
    "saved_key",
    metadata,
    Column("appid", BigInteger, primary_key=True, autoincrement=False),
    Column("uid", BigInteger, primary_key=True, autoincrement=False),
    Column("group_id", BigInteger, primary_key=True, autoincrement=False, comment="0: the user's own timeline"),
    Column("sync_key", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

app = Table(
    "app",
    metadata,
    Column("appid", _RowNumber, primary_key=True, autoincrement=True),
    Column("name", String(255), nullable=False),
    Column("secret_sha256", _Digest32, nullable=False),
    Column("created", BigInteger, nullable=False),
)

token = Table(
    "token",
    metadata,
    Column("sha256", _Digest32, primary_key=True),
    Column("appid", BigInteger, nullable=False),
    Column("uid", BigInteger, nullable=False),
    Column("created", BigInteger, nullable=False),
    Index("token_user", "appid", "uid"),
    sqlite_with_rowid=False,
)

#: Users of whom something is known. A user without a row has the defaults.
user = Table(
    "user",
    metadata,
    Column("appid", BigInteger, primary_key=True, autoincrement=False),
    Column("uid", BigInteger, primary_key=True, autoincrement=False),
    Column("name", String(255), nullable=False, server_default=""),
    Column("forbidden", SmallInteger, nullable=False, server_default="0"),
    Column("notification_on", SmallInteger, nullable=False, server_default="0"),
    Column("unread", Integer, nullable=False, server_default="0"),
    Column("mute", SmallInteger, nullable=False, server_default="0"),
    sqlite_with_rowid=False,
)

#: From what no offline pushes are wanted. By the conversation first: it is asked about for all members of a group.
do_not_disturb = Table(
    "do_not_disturb",
    metadata,
    Column("appid", BigInteger, primary_key=True, autoincrement=False),
    Column("is_group", SmallInteger, primary_key=True, autoincrement=False),
    Column("other", BigInteger, primary_key=True, autoincrement=False, comment="uid or group id"),
    Column("uid", BigInteger, primary_key=True, autoincrement=False, comment="who is not to be disturbed"),
    sqlite_with_rowid=False,
)

#: Push tokens of phones: of a user one of each kind. Found by their hash, which any database takes into a key, and
#: compares byte by byte.
push_token = Table(
    "push_token",
    metadata,
    Column("appid", BigInteger, primary_key=True, autoincrement=False),
    Column("uid", BigInteger, primary_key=True, autoincrement=False),
    Column("kind", String(16), primary_key=True, comment="apns, gcm, ... as in POST /device/bind"),
    Column("token", String(4096), nullable=False),
    Column("sha256", _Digest32, nullable=False),
    Column("timestamp", BigInteger, nullable=False, comment="when it was bound, seconds since 1970"),
    Index("push_token_holder", "appid", "kind", "sha256", unique=True),
    sqlite_with_rowid=False,
)

#: protocol.md, Who a connection is: the n-th distinct (device string, platform) pair gets n.
device = Table(
    "device",
    metadata,
    Column("number", _RowNumber, primary_key=True, autoincrement=True),
    Column("device", _Device, nullable=False),
    Column("platform", SmallInteger, nullable=False),
    Index("device_pair", "device", "platform", unique=True),
)

#: Pushes for the webhook that wait to be delivered. An id is never given twice: by it receivers recognise a repetition.
push = Table(
    "push",
    metadata,
    Column("id", _RowNumber, primary_key=True, autoincrement=True),
    Column("queue", String(32), nullable=False, comment="as in ecosystem.md, Redis"),
    Column("created", BigInteger, nullable=False, comment="of the message, seconds since 1970"),
    Column("payload", _Payload, nullable=False, comment="JSON, as push workers get it"),
    sqlite_autoincrement=True,
)

#: Ids are never given twice: the timeline of a group that is gone would be that of the next.
group = Table(
    "group",
    metadata,
    Column("id", _RowNumber, primary_key=True, autoincrement=True),
    Column("appid", BigInteger, nullable=False),
    Column("master", BigInteger),
    Column("super", SmallInteger, server_default="0"),
    Column("name", String(255), server_default=""),
    Column("notice", String(255), server_default=""),
    Column("deleted", SmallInteger, server_default="0"),
    sqlite_autoincrement=True,
)

group_member = Table(
    "group_member",
    metadata,
    Column("group_id", BigInteger, primary_key=True, autoincrement=False),
    Column("uid", BigInteger, primary_key=True, autoincrement=False),
    Column("timestamp", BigInteger, comment="when they joined, seconds since 1970"),
    Column("nickname", String(255), server_default=""),
    Column("mute", SmallInteger, server_default="0"),
    Column("deleted", SmallInteger, server_default="0"),
    sqlite_with_rowid=False,
)

#: `friend_uid` is a friend of `uid`.
friend = Table(
    "friend",
    metadata,
    Column("appid", BigInteger, primary_key=True, autoincrement=False),
    Column("uid", BigInteger, primary_key=True, autoincrement=False),
    Column("friend_uid", BigInteger, primary_key=True, autoincrement=False),
    Column("timestamp", BigInteger),
    sqlite_with_rowid=False,
)

#: `friend_uid` may not write to `uid`.
blacklist = Table(
    "blacklist",
    metadata,
    Column("appid", BigInteger, primary_key=True, autoincrement=False),
    Column("uid", BigInteger, primary_key=True, autoincrement=False),
    Column("friend_uid", BigInteger, primary_key=True, autoincrement=False),
    Column("timestamp", BigInteger),
    sqlite_with_rowid=False,
)
