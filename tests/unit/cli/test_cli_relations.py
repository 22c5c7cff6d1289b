"""Friends and blacklists: what is asked of the server, and what is printed."""

import json
from collections.abc import Callable

import pytest
from click.testing import Result

from tests.fakes.admin import Asked, FakeAdmin

Call = Callable[..., Result]


@pytest.mark.parametrize(
    ("words", "path", "on", "said"),
    [
        (("friend", "add"), "friends", True, "users 1 and 2 of app 7 are friends"),
        (("friend", "remove"), "friends", False, "users 1 and 2 of app 7 are not friends"),
        (("block", "add"), "blocked", True, "user 1 of app 7 has blocked user 2"),
        (("block", "remove"), "blocked", False, "user 1 of app 7 has not blocked user 2"),
    ],
)
def test_change(call: Call, admin: FakeAdmin, words: tuple[str, ...], path: str, on: bool, said: str) -> None:
    """One call, one line, or the answer as JSON."""
    answer = {"appid": 7, "uid": 1, "on": on}
    admin.answers["POST", f"/admin/users/7/1/{path}"] = (200, answer)
    result = call(*words, "7", "1", "2")
    assert (result.exit_code, result.stdout, result.stderr) == (0, f"{said}\n", "")
    assert json.loads(call(*words, "7", "1", "2", as_json=True).stdout) == answer
    assert admin.asked == [Asked("POST", f"/admin/users/7/1/{path}", {"uid": 2, "on": on})] * 2


@pytest.mark.parametrize(
    ("word", "path", "nobody"),
    [
        ("friend", "friends", "user 1 of app 7 has no friends"),
        ("block", "blocked", "user 1 of app 7 has blocked nobody"),
    ],
)
def test_list(call: Call, admin: FakeAdmin, word: str, path: str, nobody: str) -> None:
    """A uid a line, for other programs; a sentence where there is none."""
    admin.answers["GET", f"/admin/users/7/1/{path}"] = (200, {path: [2, 30]})
    assert call(word, "list", "7", "1").stdout == "2\n30\n"
    assert json.loads(call(word, "list", "7", "1", as_json=True).stdout) == {path: [2, 30]}
    admin.answers["GET", f"/admin/users/7/1/{path}"] = (200, {path: []})
    assert call(word, "list", "7", "1").stdout == f"{nobody}\n"


@pytest.mark.parametrize("word", ["friend", "block"])
def test_refused(call: Call, admin: FakeAdmin, word: str) -> None:
    """What the server says against it, and exit status 1."""
    path = "/admin/users/7/1/" + {"friend": "friends", "block": "blocked"}[word]
    admin.answers["POST", path] = (400, "name two users")
    result = call(word, "add", "7", "1", "1")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "name two users" in result.stderr
    result = call(word, "list", "8", "1")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "there is no such thing" in result.stderr


@pytest.mark.parametrize("word", ["friend", "block"])
@pytest.mark.parametrize(
    "words",
    [("add", "7", "1"), ("add", "7", "1", "x"), ("remove", "0", "1", "2"), ("remove", "7", "1-2", "3"), ("list", "7")],
)
def test_mistakes(call: Call, admin: FakeAdmin, word: str, words: tuple[str, ...]) -> None:
    """What is no relation of two users is refused before anything is asked."""
    assert call(word, *words).exit_code != 0
    assert admin.asked == []


@pytest.mark.parametrize("word", ["friend", "block"])
def test_help(call: Call, word: str) -> None:
    """It says which option of the configuration makes it matter, and has examples."""
    text = call(word, "--help").stdout
    assert "[policy]" in text
    assert f"imctl {word} add 7 1 2" in text
