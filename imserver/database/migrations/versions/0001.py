"""The first tables."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0001"
down_revision = None


def upgrade() -> None:
    number = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    digest = sa.LargeBinary(32).with_variant(mysql.BINARY(32), "mysql", "mariadb")
    resend = sa.LargeBinary(24).with_variant(mysql.BINARY(24), "mysql", "mariadb")
    op.create_table(
        "message",
        sa.Column("id", number, primary_key=True, autoincrement=True),
        sa.Column("command", sa.SmallInteger, nullable=False),
        sa.Column("flag", sa.SmallInteger, nullable=False),
        sa.Column("created", sa.BigInteger, nullable=False, comment="seconds since 1970"),
        sa.Column("body", sa.LargeBinary, nullable=False, comment="layout of protocol version 2"),
        sa.Column("resend", resend, comment="by what it is recognised when it comes again"),
        sa.Column("resend_key", sa.BigInteger, comment="then its sync key in the timeline whose key the ACK carries"),
        sa.Column("resend_expires", sa.BigInteger, comment="and until when, in seconds since 1970"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "entry",
        sa.Column("appid", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("kind", sa.SmallInteger, primary_key=True, autoincrement=False, comment="0 user, 1 super group"),
        sa.Column("owner", sa.BigInteger, primary_key=True, autoincrement=False, comment="uid or group id"),
        sa.Column("sync_key", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("message", sa.BigInteger, nullable=False),
        sa.Column("device", sa.BigInteger, nullable=False, comment="the owner's device that sent it, or 0"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "resend",
        sa.Column(
            "digest",
            resend,
            primary_key=True,
            comment="the sender's uid, then the message's digest",
        ),
        sa.Column("message", sa.BigInteger, nullable=False),
        sa.Column("sync_key", sa.BigInteger, nullable=False, comment="in the timeline whose key the ACK carries"),
        sa.Column("expires", sa.BigInteger, nullable=False, comment="seconds since 1970"),
        sqlite_with_rowid=False,
    )
    op.create_table("resend_moved", sa.Column("message", number, primary_key=True, autoincrement=False))
    op.create_table(
        "saved_key",
        sa.Column("appid", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("uid", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column(
            "group_id", sa.BigInteger, primary_key=True, autoincrement=False, comment="0: the user's own timeline"
        ),
        sa.Column("sync_key", sa.BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "app",
        sa.Column("appid", number, primary_key=True, autoincrement=True),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("secret_sha256", digest, nullable=False),
        sa.Column("created", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "token",
        sa.Column("sha256", digest, primary_key=True),
        sa.Column("appid", sa.BigInteger, nullable=False),
        sa.Column("uid", sa.BigInteger, nullable=False),
        sa.Column("created", sa.BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_index("token_user", "token", ["appid", "uid"])
    op.create_table(
        "user",
        sa.Column("appid", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("uid", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("name", sa.String(255), nullable=False, server_default=""),
        sa.Column("forbidden", sa.SmallInteger, nullable=False, server_default="0"),
        sa.Column("notification_on", sa.SmallInteger, nullable=False, server_default="0"),
        sa.Column("unread", sa.Integer, nullable=False, server_default="0"),
        sa.Column("mute", sa.SmallInteger, nullable=False, server_default="0"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "do_not_disturb",
        sa.Column("appid", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("is_group", sa.SmallInteger, primary_key=True, autoincrement=False),
        sa.Column("other", sa.BigInteger, primary_key=True, autoincrement=False, comment="uid or group id"),
        sa.Column("uid", sa.BigInteger, primary_key=True, autoincrement=False, comment="who is not to be disturbed"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "push_token",
        sa.Column("appid", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("uid", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("kind", sa.String(16), primary_key=True, comment="apns, gcm, ... as in POST /device/bind"),
        sa.Column("token", sa.String(4096), nullable=False),
        sa.Column("sha256", digest, nullable=False),
        sa.Column("timestamp", sa.BigInteger, nullable=False, comment="when it was bound, seconds since 1970"),
        sqlite_with_rowid=False,
    )
    op.create_index("push_token_holder", "push_token", ["appid", "kind", "sha256"], unique=True)
    op.create_table(
        "device",
        sa.Column("number", number, primary_key=True, autoincrement=True),
        sa.Column(
            "device",
            sa.LargeBinary(255).with_variant(mysql.VARBINARY(255), "mysql", "mariadb"),
            nullable=False,
        ),
        sa.Column("platform", sa.SmallInteger, nullable=False),
    )
    op.create_index("device_pair", "device", ["device", "platform"], unique=True)
    op.create_table(
        "push",
        sa.Column("id", number, primary_key=True, autoincrement=True),
        sa.Column("queue", sa.String(32), nullable=False, comment="as in ecosystem.md, Redis"),
        sa.Column("created", sa.BigInteger, nullable=False, comment="of the message, seconds since 1970"),
        sa.Column(
            "payload",
            sa.LargeBinary().with_variant(mysql.MEDIUMBLOB(), "mysql", "mariadb"),
            nullable=False,
            comment="JSON, as push workers get it",
        ),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "group",
        sa.Column("id", number, primary_key=True, autoincrement=True),
        sa.Column("appid", sa.BigInteger, nullable=False),
        sa.Column("master", sa.BigInteger),
        sa.Column("super", sa.SmallInteger, server_default="0"),
        sa.Column("name", sa.String(255), server_default=""),
        sa.Column("notice", sa.String(255), server_default=""),
        sa.Column("deleted", sa.SmallInteger, server_default="0"),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "group_member",
        sa.Column("group_id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("uid", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("timestamp", sa.BigInteger, comment="when they joined, seconds since 1970"),
        sa.Column("nickname", sa.String(255), server_default=""),
        sa.Column("mute", sa.SmallInteger, server_default="0"),
        sa.Column("deleted", sa.SmallInteger, server_default="0"),
        sqlite_with_rowid=False,
    )
    for name in ("friend", "blacklist"):
        op.create_table(
            name,
            sa.Column("appid", sa.BigInteger, primary_key=True, autoincrement=False),
            sa.Column("uid", sa.BigInteger, primary_key=True, autoincrement=False),
            sa.Column("friend_uid", sa.BigInteger, primary_key=True, autoincrement=False),
            sa.Column("timestamp", sa.BigInteger),
            sqlite_with_rowid=False,
        )
