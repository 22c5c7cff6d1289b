"""The application API: what each call does, and what it says to mistakes."""

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import pytest

from imserver.model import Conversation, Group, NewMember, NewMessage, UserKey, UserSettings, user_timeline
from imserver.protocol.commands import NEWEST_VERSION
from imserver.protocol.messages import IM
from tests.http.server import Answer, Server, result_of
from tests.http.test_access import basic, secret_of
from tests.leaks import FlushLoggedErrors

USER = UserKey(7, 1)
TEXT = '{"text": "hé\n€😀"}'
CONTENT = TEXT.encode()
KINDS = ["apns", "pushkit", "ng", "xg", "xm", "hw", "gcm", "jp"]


class App:
    """The back end of app 7, whose group 5 has the members 1, 2 and 3. User 1 has the token "mine"."""

    def __init__(self) -> None:
        self.server = Server()
        self.server.accounts.add_user("mine", USER)
        self.server.groups.add_group(7, 5, [1, 2, 3])
        self._authorization = basic(7, secret_of(self.server, 7))

    def call(self, method: str, path: str, body: object = None, **headers: str) -> Answer:
        return self.server.call(method, path, body, authorization=self._authorization, **headers)

    def call_as_user(self, method: str, path: str, body: object = None) -> Answer:
        return self.server.call(method, path, body, authorization="Bearer mine")

    def ask(self, method: str, path: str, body: object = None) -> list[Answer]:
        """The answer, once there is one."""
        answers: list[Answer] = []
        self.server.ask(method, path, body, authorization=self._authorization).addCallback(answers.append)
        return answers

    @property
    def settings(self) -> UserSettings:
        return result_of(self.server.accounts.settings(USER))

    def is_silent(self, other: int, is_group: bool) -> bool:
        asked = self.server.accounts.not_to_disturb([USER, UserKey(7, 2)], Conversation(is_group, other))
        return result_of(asked) == {USER}

    @property
    def phone(self) -> dict[str, str]:
        return dict(result_of(self.server.accounts.bound_devices([USER])).get(USER, {}))

    @property
    def group(self) -> Group:
        group = self.server.groups.group(7, 5)
        assert isinstance(group, Group)
        return group

    @property
    def changed(self) -> list[tuple[Any, ...]]:
        return self.server.group_changes.changed

    @property
    def is_untouched(self) -> bool:
        return (
            self.server.posts.posted == []
            and self.changed == []
            and self.settings == UserSettings(USER, tokens=1)
            and not self.is_silent(2, False)
            and not self.is_silent(5, True)
            and self.phone == {}
        )


@pytest.fixture
def app() -> App:
    return App()


def is_done(answer: Answer) -> bool:
    return (answer.status, answer.json) == (200, {"data": {}})


# Users.


def test_grant(app: App) -> None:
    """A new token, which is the user's; the earlier one stays good."""
    answer = app.call("POST", "/auth/grant", {"uid": 1, "platform_id": 2, "device_id": "phone"})
    assert (answer.status, list(answer.json), list(answer.json["data"])) == (200, ["data"], ["token"])
    token = answer.json["data"]["token"]
    assert result_of(app.server.accounts.user_of_token(token.encode())) == USER
    assert result_of(app.server.accounts.user_of_token(b"mine")) == USER
    assert (app.settings.tokens, app.settings.name) == (2, "")
    assert app.call("POST", "/auth/grant", {"uid": 1}).json["data"]["token"] != token


@pytest.mark.parametrize(("given", "name"), [("Ann É", "Ann É"), ("", ""), (None, "before")])
def test_grant_with_a_name(app: App, given: str | None, name: str) -> None:
    """The name is kept, where there is one."""
    app.call("PATCH", "/users/1", {"name": "before"})
    assert app.call("POST", "/auth/grant", {"uid": 1, "user_name": given}).status == 200
    assert app.settings.name == name


@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_name(app: App, method: str) -> None:
    """A name is changed, and nothing else."""
    assert is_done(app.call(method, "/users/1", {"name": "Ann"}))
    assert app.settings == UserSettings(USER, name="Ann", tokens=1)


@pytest.mark.parametrize("method", ["POST", "PATCH"])
@pytest.mark.parametrize(("on", "off"), [(True, False), (1, 0)])
def test_forbidden_at_once(app: App, method: str, on: object, off: object) -> None:
    """It is in force on the user's open connections when the answer comes, and on nobody else's."""
    mine = [app.server.client(USER, notification_on=True), app.server.client(USER, notification_on=True)]
    others = [app.server.client(UserKey(7, 2)), app.server.client(UserKey(8, 1))]
    app.server.accounts.change_settings(USER, notification_on=True)
    for value, forbidden in ((on, True), (off, False)):
        assert is_done(app.call(method, "/users/1", {"forbidden": value}))
        assert app.settings == UserSettings(USER, forbidden=forbidden, notification_on=True, tokens=1)
        assert all(client.forbidden is forbidden for client in mine)
        assert [client.forbidden for client in others] == [False] * 2
        assert [client.notification_on for client in mine] == [True] * 2


@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_mute(app: App, method: str) -> None:
    """No sounds, and sounds again."""
    for value, mute in ((True, True), (False, False), (1, True), (0, False)):
        assert is_done(app.call(method, "/users/1", {"mute": value}))
        assert app.settings == UserSettings(USER, mute=mute, tokens=1)


@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_do_not_disturb(app: App, method: str) -> None:
    """No pushes from one peer, and pushes again; a group of the same number is something else."""
    for value, silent in ((True, True), (False, False), (1, True), (0, False)):
        assert is_done(app.call(method, "/users/1", {"do_not_disturb": {"peer_uid": 5, "on": value}}))
        assert (app.is_silent(5, False), app.is_silent(5, True)) == (silent, False)


@pytest.mark.parametrize("kind", KINDS)
def test_bind_and_unbind(app: App, kind: str) -> None:
    """A phone's token is kept by its kind until it is unbound."""
    done = {"data": {"success": True}}
    answer = app.call_as_user("POST", "/device/bind", {f"{kind}_device_token": "t1", "version": 3})
    assert (answer.status, answer.json, app.phone) == (200, done, {kind: "t1"})
    answer = app.call_as_user("POST", "/device/unbind", {f"{kind}_device_token": "other"})
    assert (answer.status, answer.json, app.phone) == (200, done, {kind: "t1"})
    answer = app.call_as_user("POST", "/device/unbind", {f"{kind}_device_token": "t1"})
    assert (answer.status, answer.json, app.phone) == (200, done, {})


def test_bind_all(app: App) -> None:
    """Several kinds in one call; a phone that changes hands is its new owner's."""
    tokens = {f"{kind}_device_token": f"token of {kind}" for kind in KINDS}
    assert app.call_as_user("POST", "/device/bind", tokens).status == 200
    assert app.phone == {kind: f"token of {kind}" for kind in KINDS}
    app.server.accounts.add_user("other's", UserKey(7, 2))
    app.server.call("POST", "/device/bind", {"gcm_device_token": "token of gcm"}, authorization="Bearer other's")
    assert "gcm" not in app.phone


# Groups.


@pytest.mark.parametrize(
    ("body", "change"),
    [
        (
            {"master": 1, "name": "Ünion", "members": [2, 3]},
            ("create", 7, 1, "Ünion", [NewMember(2), NewMember(3)], False, None),
        ),
        (
            {"master": 1, "name": "", "members": [{"uid": 2, "name": "Bo", "avatar": "http://a/b"}, {"uid": 3}, 4]},
            ("create", 7, 1, "", [NewMember(2, "Bo", "http://a/b"), NewMember(3), NewMember(4)], False, None),
        ),
        (
            {"master": 1, "name": "n", "members": [], "super": True, "group_id": 99, "notice": "x"},
            ("create", 7, 1, "n", [], True, 99),
        ),
        (
            {"master": 1, "name": "n", "members": [{"uid": 2, "name": None}], "super": 0, "group_id": None},
            ("create", 7, 1, "n", [NewMember(2)], False, None),
        ),
    ],
)
def test_create(app: App, body: dict[str, Any], change: tuple[Any, ...]) -> None:
    """The domain gets all that is said, and the answer is the group's id."""
    answer = app.call("POST", "/groups", body)
    assert app.changed == [change]
    assert (answer.status, answer.json) == (200, {"data": {"group_id": body.get("group_id") or 6}})
    group = app.server.groups.group(7, answer.json["data"]["group_id"])
    assert isinstance(group, Group)
    assert type(group.is_super) is bool


def test_create_what_exists(app: App) -> None:
    """An id that is taken is a mistake."""
    answer = app.call("POST", "/groups", {"master": 1, "name": "n", "members": [], "group_id": 5})
    assert answer.is_error(400, "5")
    assert app.is_untouched


def test_rename(app: App) -> None:
    assert is_done(app.call("PATCH", "/groups/5", {"name": "new"}))
    assert (app.changed, app.group.name) == ([("rename", 7, 5, "new")], "new")


def test_disband(app: App) -> None:
    """A disbanded group does not exist for the next call."""
    assert is_done(app.call("DELETE", "/groups/5"))
    assert app.changed == [("disband", 7, 5)]
    assert app.call("DELETE", "/groups/5").is_error(400, "5")


def test_upgrade(app: App) -> None:
    assert is_done(app.call("POST", "/groups/5/upgrade"))
    assert (app.changed, app.group.is_super) == ([("upgrade", 7, 5)], True)


@pytest.mark.parametrize(
    ("body", "members", "inviter"),
    [
        ([8, {"uid": 9, "name": "Io", "avatar": "a"}], [NewMember(8), NewMember(9, "Io", "a")], None),
        ({"members": [8]}, [NewMember(8)], None),
        ({"members": [8], "inviter": None}, [NewMember(8)], None),
        ({"members": [8], "inviter": 1}, [NewMember(8)], {"uid": 1}),
        ({"members": [8], "inviter": {"uid": 1, "name": "Ann"}}, [NewMember(8)], {"uid": 1, "name": "Ann"}),
        (
            {"members": [8], "inviter": {"uid": 1, "name": "Ann", "avatar": "a", "x": 1}},
            [NewMember(8)],
            {"uid": 1, "name": "Ann", "avatar": "a"},
        ),
    ],
)
def test_add(app: App, body: Any, members: Sequence[NewMember], inviter: dict[str, Any] | None) -> None:
    """Either form; who invited them goes along."""
    assert is_done(app.call("POST", "/groups/5/members", body))
    assert app.changed == [("add", 7, 5, members, inviter)]
    assert 8 in app.group.members


def test_remove(app: App) -> None:
    """Some by a body, one by the path."""
    assert is_done(app.call("DELETE", "/groups/5/members", [1, {"uid": 2, "name": "x"}]))
    assert (app.changed, list(app.group.members)) == ([("remove", 7, 5, [1, 2])], [3])
    assert is_done(app.call("DELETE", "/groups/5/members/3"))
    assert (app.changed[1:], list(app.group.members)) == ([("remove", 7, 5, [3])], [])


def test_nickname(app: App) -> None:
    assert is_done(app.call("PATCH", "/groups/5/members/1", {"nickname": "Änn"}))
    assert (app.changed, app.group.members[1].nickname) == ([("set_nickname", 7, 5, 1, "Änn")], "Änn")


@pytest.mark.parametrize(("value", "on"), [(True, True), (False, False), (1, True), (0, False)])
def test_mute_of_a_member(app: App, value: object, on: bool) -> None:
    assert is_done(app.call("PATCH", "/groups/5/members/1", {"mute": value}))
    assert app.changed == [("set_mute", 7, 5, 1, on)]
    assert app.changed[0][4] is on
    assert not app.settings.mute


def test_do_not_disturb_of_a_member(app: App) -> None:
    """No pushes to this member from this group, and pushes again. The group is not changed by that."""
    for value, silent in ((True, True), (False, False), (1, True), (0, False)):
        assert is_done(app.call("PATCH", "/groups/5/members/1", {"do_not_disturb": value}))
        assert (app.is_silent(5, True), app.is_silent(5, False)) == (silent, False)
    assert app.changed == []


@pytest.mark.parametrize("change", [{"do_not_disturb": True}, {"nickname": "n"}, {"mute": True}])
def test_who_is_no_member(app: App, change: dict[str, Any]) -> None:
    """Nothing can be changed about who is not in the group."""
    assert app.call("PATCH", "/groups/5/members/4", change).is_error(400, "4", "5")
    assert app.is_untouched


def test_group_that_has_to_be_loaded(app: App) -> None:
    """Whether somebody is a member is waited for where it is not known here yet."""
    app.server.groups.hold()
    answers = app.ask("PATCH", "/groups/5/members/1", {"do_not_disturb": True})
    assert (answers, app.is_silent(5, True)) == ([], False)
    app.server.groups.release()
    app.server.flush()
    assert is_done(*answers)
    assert app.is_silent(5, True)


# Messages.


@pytest.mark.parametrize(
    ("path", "body", "posted"),
    [
        ("peers", {"sender": 1, "receiver": 2}, ("peer", 7, 1, 2, CONTENT)),
        ("peers", {"sender": 0, "receiver": 2, "msgid": 5}, ("peer", 7, 0, 2, CONTENT)),
        ("groups", {"sender": 1, "receiver": 5}, ("group", 7, 1, 5, CONTENT)),
        ("groups", {"sender": 0, "receiver": 5}, ("group", 7, 0, 5, CONTENT)),
        ("systems", {"receiver": 2}, ("system", 7, (2,), CONTENT)),
        ("notifications", {"receiver": 2}, ("notification", 7, 2, CONTENT)),
        ("rooms", {"sender": 1, "receiver": 9}, ("room", 7, 1, 9, CONTENT)),
        ("rooms", {"sender": 0, "receiver": 9}, ("room", 7, 0, 9, CONTENT)),
        ("groups/notifications", {"group_id": 5}, ("group_notification", 7, 5, CONTENT, ())),
    ],
)
def test_messages(app: App, path: str, body: dict[str, Any], posted: tuple[Any, ...]) -> None:
    """The domain gets all that is said."""
    assert is_done(app.call("POST", f"/messages/{path}", {**body, "content": TEXT}))
    assert app.server.posts.posted == [posted]


def test_message_to_another_apps_group(app: App) -> None:
    """It does not exist."""
    app.server.groups.add_group(8, 6, [1])
    assert app.call("POST", "/messages/groups", {"sender": 1, "receiver": 6, "content": "x"}).is_error(400, "6")
    assert app.call("POST", "/messages/groups/notifications", {"group_id": 6, "content": "x"}).is_error(400, "nobody")
    assert app.is_untouched


def put(app: App, *texts: str) -> None:
    """Store IMs for the user."""
    for text in texts:
        body = IM(2, 1, 1000, 0, text.encode()).encode(NEWEST_VERSION)
        message = NewMessage(IM.command, 0, body, 1000, (user_timeline(USER),))
        app.server.timelines.store(message, lambda _: None)


def test_newest_messages(app: App) -> None:
    """The 1024 newest of the token's own user."""
    assert app.call_as_user("GET", "/messages").json == {"data": []}
    put(app, *map(str, range(1030)))
    messages = app.call_as_user("GET", "/messages").json["data"]
    assert [message["content"] for message in messages] == [str(number) for number in range(6, 1030)]
    message = {"id": 1031, "command": 4, "sender": 2, "receiver": 1, "timestamp": 1000, "content": "1029"}
    assert messages[-1] == message


def test_offline(app: App) -> None:
    """How many entries follow the key that the user saved, for the back end and the user alike."""

    def counted() -> list[Any]:
        answers = (app.call("GET", "/messages/offline?uid=1"), app.call_as_user("GET", "/messages/offline"))
        return [(answer.status, answer.json) for answer in answers]

    assert counted() == [(200, {"data": {"count": 0, "new": 0}})] * 2
    put(app, "one", "two", "three")
    assert counted() == [(200, {"data": {"count": 3, "new": 1}})] * 2
    app.server.sync_keys.save_key(USER, 3)
    assert counted() == [(200, {"data": {"count": 1, "new": 1}})] * 2
    app.server.sync_keys.save_key(USER, 4)
    assert counted() == [(200, {"data": {"count": 0, "new": 0}})] * 2
    put(app, "four")
    assert app.call("GET", "/messages/offline?uid=2").json == {"data": {"count": 0, "new": 0}}


def test_offline_of_whom(app: App) -> None:
    """A back end has to say of whom."""
    for query in ("", "?uid=", "?uid=0", "?uid=x", f"?uid={2**53}", "?uid=1&uid=1", "?user=1"):
        assert app.call("GET", f"/messages/offline{query}").is_error(400, "uid"), query


# Mistakes.

UIDS: list[Any] = [0, -1, 2**53, 10**30, 1.0, "1", True, None, [1], {}]
NAMES: list[Any] = [1, None, ["x"], "n" * 256, "two\nlines", "a line\n", "\x1b[31m", "\x00"]
TEXTS: list[Any] = ["", 1, None, ["x"], {"text": "x"}]
SWITCHES: list[Any] = [2, -1, 1.0, "true", "on", None, [], {}]
PEOPLE: list[Any] = [
    None,
    1,
    "1",
    {"1": 1},
    *([uid] for uid in UIDS),
    [{"uid": 0}],
    [{"name": "x"}],
    [{"uid": 1, "name": 5}],
    [{"uid": 1, "avatar": 5}],
    [1] * 10_001,
]


def without(values: list[Any], *taken: Any) -> list[Any]:
    return [value for value in values if not any(value is none or value == none for none in taken)]


@pytest.mark.parametrize(
    ("method", "path", "body", "wrong", "optional"),
    [
        (
            "POST",
            "/auth/grant",
            {"uid": 1, "user_name": "x"},
            {"uid": UIDS, "user_name": without(NAMES, None)},
            ["user_name"],
        ),
        (
            "POST",
            "/groups",
            {"master": 1, "name": "x", "members": [], "super": True, "group_id": 9},
            {
                "master": UIDS,
                "name": NAMES,
                "members": PEOPLE,
                "super": SWITCHES,
                "group_id": without(UIDS, None),
            },
            ["super", "group_id"],
        ),
        ("PATCH", "/groups/5", {"name": "x"}, {"name": NAMES}, []),
        (
            "POST",
            "/groups/5/members",
            {"members": [8], "inviter": 1},
            {
                "members": [[], *PEOPLE],
                "inviter": [0, "1", 1.5, [1], {}, {"name": "x"}, {"uid": 0}, {"uid": 1, "name": 1}],
            },
            ["inviter"],
        ),
        ("POST", "/messages/peers", {"sender": 1, "receiver": 2, "content": "x"}, {}, []),
        ("POST", "/messages/groups", {"sender": 1, "receiver": 5, "content": "x"}, {}, []),
        ("POST", "/messages/rooms", {"sender": 1, "receiver": 5, "content": "x"}, {}, []),
        ("POST", "/messages/systems", {"receiver": 5, "content": "x"}, {}, []),
        ("POST", "/messages/notifications", {"receiver": 5, "content": "x"}, {}, []),
        ("POST", "/messages/groups/notifications", {"group_id": 5, "content": "x"}, {}, []),
    ],
)
def test_wrong_fields(
    app: App, method: str, path: str, body: dict[str, Any], wrong: dict[str, list[Any]], optional: list[str]
) -> None:
    """A field that is missing, of another type or out of range is named, and nothing is done."""
    wrong = {"sender": without(UIDS, 0), "receiver": UIDS, "group_id": UIDS, "content": TEXTS, **wrong}
    for name in body:
        rest = {other: value for other, value in body.items() if other != name}
        if name not in optional:
            assert app.call(method, path, rest).is_error(400, name)
        for value in wrong[name]:
            assert app.call(method, path, {**rest, name: value}).is_error(400, name), value
    assert app.is_untouched


@pytest.mark.parametrize("path", ["/groups/5/members"])
@pytest.mark.parametrize("method", ["POST", "DELETE"])
def test_wrong_lists_of_people(app: App, method: str, path: str) -> None:
    """A plain list may be wrong too."""
    for value in [[], *PEOPLE]:
        assert app.call(method, path, value).is_error(400), value
    assert app.is_untouched


CHANGES: list[tuple[str, str, dict[str, Any], dict[str, list[Any]]]] = [
    (
        method,
        "/users/1",
        {"name": "x", "forbidden": True, "do_not_disturb": {"peer_uid": 2, "on": True}, "mute": True},
        {
            "name": NAMES,
            "forbidden": SWITCHES,
            "mute": SWITCHES,
            "do_not_disturb": [
                True,
                None,
                2,
                [],
                {},
                {"peer_uid": 2},
                {"on": True},
                *({"peer_uid": uid, "on": True} for uid in UIDS),
                *({"peer_uid": 2, "on": on} for on in SWITCHES),
            ],
        },
    )
    for method in ("POST", "PATCH")
]
CHANGES.append(
    (
        "PATCH",
        "/groups/5/members/1",
        {"do_not_disturb": True, "nickname": "x", "mute": True},
        {"do_not_disturb": SWITCHES, "nickname": NAMES, "mute": SWITCHES},
    )
)


@pytest.mark.parametrize(("method", "path", "changes", "wrong"), CHANGES)
def test_one_change_at_a_time(
    app: App, method: str, path: str, changes: dict[str, Any], wrong: dict[str, list[Any]]
) -> None:
    """None, or two that could not be made together, are a mistake, and so is one of the wrong type."""
    assert app.call(method, path, {}).is_error(400, "exactly one", *changes)
    assert app.call(method, path, {"unknown": 1}).is_error(400, "exactly one")
    for two in combinations(changes.items(), 2):
        assert app.call(method, path, dict(two)).is_error(400, "exactly one")
    for name, values in wrong.items():
        for value in values:
            assert app.call(method, path, {name: value}).is_error(400, name), value
    assert app.is_untouched
    for name, value in changes.items():
        assert is_done(app.call(method, path, {name: value, "unknown": 1}))


@pytest.mark.parametrize("path", ["/device/bind", "/device/unbind"])
def test_wrong_phones(app: App, path: str) -> None:
    """One token or more, of kinds that there are."""
    assert app.call_as_user("POST", path, {}).is_error(400, "one or more", *KINDS)
    assert app.call_as_user("POST", path, {"zz_device_token": "t"}).is_error(400, "one or more")
    for kind in KINDS:
        for value in ("", 1, None, ["t"], "t" * 4097, "t\n", "\x00"):
            assert app.call_as_user("POST", path, {f"{kind}_device_token": value}).is_error(400, kind), value
    assert app.is_untouched


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/users/{}", {"name": "x"}),
        ("PATCH", "/users/{}", {"name": "x"}),
        ("PATCH", "/groups/{}", {"name": "x"}),
        ("DELETE", "/groups/{}", None),
        ("POST", "/groups/{}/upgrade", None),
        ("POST", "/groups/{}/members", [1]),
        ("DELETE", "/groups/{}/members", [1]),
        ("DELETE", "/groups/{}/members/1", None),
        ("DELETE", "/groups/5/members/{}", None),
        ("PATCH", "/groups/{}/members/1", {"mute": True}),
        ("PATCH", "/groups/5/members/{}", {"mute": True}),
    ],
)
def test_wrong_paths(app: App, method: str, path: str, body: object) -> None:
    """Ids in a path are numbers from 1 to 2^53-1."""
    for wrong in ("0", "-1", "x", "1.0", "%31x", "%d9%a1", "+1", str(2**53), "9" * 400):
        assert app.call(method, path.format(wrong), body).is_error(400, "uid" if "5" in path else "id"), wrong
    assert app.is_untouched


BODIES: list[tuple[str, str]] = [
    ("POST", "/auth/grant"),
    ("POST", "/users/1"),
    ("PATCH", "/users/1"),
    ("POST", "/groups"),
    ("PATCH", "/groups/5"),
    ("POST", "/groups/5/members"),
    ("DELETE", "/groups/5/members"),
    ("PATCH", "/groups/5/members/1"),
    ("POST", "/messages/peers"),
    ("POST", "/messages/groups"),
    ("POST", "/messages/systems"),
    ("POST", "/messages/notifications"),
    ("POST", "/messages/rooms"),
    ("POST", "/messages/groups/notifications"),
    ("POST", "/device/bind"),
    ("POST", "/device/unbind"),
]


@pytest.mark.parametrize(("method", "path"), BODIES)
def test_what_is_no_json(app: App, method: str, path: str) -> None:
    """A body that is no JSON, or of no use, is a mistake, however odd; one over 1 MiB is refused before it is read."""
    call = app.call_as_user if path.startswith("/device") else app.call
    for sent in (
        None,
        b"",
        b"{",
        b"\xff\xfe",
        b"null",
        b'"text"',
        b"{} {}",
        b"uid=1&name=x",
        b'{"name": "\xff"}',
        b'{"name": "\\ud800"}',
        b'{"x":' + b"[" * 100_000,
        b"[" * 100_000,
        b'{"' + b"x" * 100_000 + b'": 1',
    ):
        assert call(method, path, sent).is_error(400), sent
    assert call(method, path, b" " * (2**20 + 1)).is_error(413)
    assert app.is_untouched


# The server's own failures.


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/groups", {"master": 1, "name": "x", "members": []}),
        ("PATCH", "/groups/5", {"name": "x"}),
        ("DELETE", "/groups/5", None),
        ("POST", "/groups/5/upgrade", None),
        ("POST", "/groups/5/members", [1]),
        ("DELETE", "/groups/5/members", [1]),
        ("DELETE", "/groups/5/members/1", None),
        ("PATCH", "/groups/5/members/1", {"mute": True}),
        ("PATCH", "/groups/5/members/1", {"nickname": "x"}),
        ("PATCH", "/groups/5/members/1", {"do_not_disturb": True}),
    ],
)
def test_groups_that_are_unavailable(app: App, method: str, path: str, body: object) -> None:
    """Where the database does not answer nobody hears of success, nor that there is no such group."""
    app.server.groups.unavailable = True
    assert app.call(method, path, body).is_error(500)
    app.server.groups.unavailable = False
    assert app.is_untouched


MESSAGES: list[tuple[str, dict[str, Any]]] = [
    ("peers", {"sender": 1, "receiver": 2, "content": "x"}),
    ("groups", {"sender": 1, "receiver": 5, "content": "x"}),
    ("systems", {"receiver": 2, "content": "x"}),
    ("groups/notifications", {"group_id": 5, "content": "x"}),
    ("rooms", {"sender": 1, "receiver": 2, "content": "x"}),
    ("notifications", {"receiver": 2, "content": "x"}),
]


@pytest.mark.parametrize(("path", "body"), MESSAGES[:4])
def test_success_comes_after_the_commit(app: App, path: str, body: dict[str, Any]) -> None:
    """There is no answer while the message may still be lost, and no success where it is."""
    app.server.posts.hold()
    answers = app.ask("POST", f"/messages/{path}", body)
    assert (answers, app.server.posts.posted) == ([], [])
    app.server.posts.release()
    app.server.flush()
    assert is_done(*answers)
    app.server.posts.unavailable = True
    assert app.call("POST", f"/messages/{path}", body).is_error(500)


@pytest.mark.parametrize(("path", "body"), MESSAGES)
def test_content_that_is_too_long(app: App, path: str, body: dict[str, Any]) -> None:
    """Content that no frame holds is refused by the domain."""
    assert app.call("POST", f"/messages/{path}", {**body, "content": "é" * 16_384}).is_error(400, "too long")
    assert app.server.posts.posted == []


@pytest.mark.parametrize(("path", "body"), MESSAGES)
def test_bug(app: App, path: str, body: dict[str, Any], flush_logged_errors: FlushLoggedErrors) -> None:
    """What breaks is told to the log, and to nobody else."""
    app.server.posts.bug = ZeroDivisionError("a secret of the house")
    answer = app.call("POST", f"/messages/{path}", body)
    assert answer.is_error(500, "log")
    assert b"secret" not in answer.content
    assert len(flush_logged_errors(ZeroDivisionError)) == 1


@pytest.mark.parametrize("path", ["/messages", "/messages/offline"])
def test_timelines_that_are_unavailable(app: App, path: str) -> None:
    """No empty list, and no count of 0."""
    app.server.timelines.broken = True
    assert app.call_as_user("GET", path).is_error(500)
