"""The operator's calls about friends and blacklists."""

import pytest

from imserver.model import UserKey
from tests.http.server import Server


@pytest.fixture
def server() -> Server:
    """App 7 with three users."""
    server = Server()
    for uid in (1, 2, 3):
        server.accounts.add_user(f"token {uid}", UserKey(7, uid))
    return server


def test_friends(server: Server) -> None:
    """Each of two is the other's friend, until one asks for it no more."""
    answer = server.call("POST", "/admin/users/7/1/friends", {"uid": 3, "on": True})
    assert answer.json == {"appid": 7, "uid": 1, "friend": 3, "on": True}
    server.call("POST", "/admin/users/7/1/friends", {"uid": 2, "on": True})
    assert server.call("GET", "/admin/users/7/1/friends").json == {"friends": [2, 3]}
    assert server.call("GET", "/admin/users/7/3/friends").json == {"friends": [1]}
    answer = server.call("POST", "/admin/users/7/3/friends", {"uid": 1, "on": False})
    assert answer.json == {"appid": 7, "uid": 3, "friend": 1, "on": False}
    assert server.call("GET", "/admin/users/7/1/friends").json == {"friends": [2]}
    assert server.relations.blacklist == set()


def test_blacklist(server: Server) -> None:
    """One has blocked the other, and not the other way round."""
    answer = server.call("POST", "/admin/users/7/1/blocked", {"uid": 2, "on": True})
    assert answer.json == {"appid": 7, "uid": 1, "blocked": 2, "on": True}
    assert server.call("GET", "/admin/users/7/1/blocked").json == {"blocked": [2]}
    assert server.call("GET", "/admin/users/7/2/blocked").json == {"blocked": []}
    answer = server.call("POST", "/admin/users/7/1/blocked", {"uid": 2, "on": False})
    assert answer.json == {"appid": 7, "uid": 1, "blocked": 2, "on": False}
    assert server.call("GET", "/admin/users/7/1/blocked").json == {"blocked": []}
    assert server.relations.friends == set()


@pytest.mark.parametrize("what", ["friends", "blocked"])
@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({}, "uid"),
        ({"uid": 2}, "on"),
        ({"on": True}, "uid"),
        ({"uid": 0, "on": True}, "uid"),
        ({"uid": 2**53, "on": True}, "uid"),
        ({"uid": "2", "on": True}, "uid"),
        ({"uid": 2, "on": 1}, "on"),
        ({"uid": 2, "on": True, "appid": 8}, "appid"),
        ({"uid": 1, "on": True}, "two users"),
    ],
)
def test_wrong_fields(server: Server, what: str, body: object, word: str) -> None:
    """A field that is missing or wrong is named, nobody is related to themselves, and nothing is done."""
    assert server.call("POST", f"/admin/users/7/1/{what}", body).is_error(400, word)
    assert server.relations.friends == server.relations.blacklist == set()


@pytest.mark.parametrize("what", ["friends", "blocked"])
def test_relations_that_do_not_answer(server: Server, what: str) -> None:
    """No answer of the database is not the same as no relation."""
    server.relations.unavailable = True
    assert server.call("GET", f"/admin/users/7/1/{what}").is_error(503)
    assert server.call("POST", f"/admin/users/7/1/{what}", {"uid": 2, "on": True}).is_error(503)
