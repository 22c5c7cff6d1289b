"""docs/http.md: its examples work as they stand there, and it leaves no call out."""

import re
import shlex
from argparse import ArgumentParser
from pathlib import Path

import msgspec

from imserver.model import UserKey
from tests.http.server import Answer, Server
from tests.http.test_access import basic, secret_of

DOCUMENT = (Path(__file__).parents[2] / "docs" / "http.md").read_text()
HOST = "http://127.0.0.1:6666"

curl = ArgumentParser("curl", add_help=False)
curl.add_argument("url")
curl.add_argument("-X", dest="method")
curl.add_argument("-d", dest="data")
curl.add_argument("-u", dest="user")
curl.add_argument("-H", dest="header", default="Authorization: ")


def commands() -> list[str]:
    """The lines of the document's shell scripts, in order."""
    scripts = re.findall(r"^```sh\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)
    return "".join(scripts).replace("\\\n", "").splitlines()


class Shell:
    """Carries out what the document has: curl, and aliases for it."""

    def __init__(self) -> None:
        self.server = Server()
        self.server.accounts.add_user("token", UserKey(7, 1))
        self.server.groups.add_group(7, 999, [1])
        self.server.groups.add_group(7, 1000, [1, 2, 3])
        self.variables = {"KEY": "k" * 32, "APPID": "7", "PASSWORD": secret_of(self.server, 7), "TOKEN": "token"}
        self.aliases: dict[str, str] = {}
        #: The calls that were made: method and path.
        self.called: list[tuple[str, str]] = []

    def run(self, command: str) -> Answer | None:
        alias = re.fullmatch(r"alias (\w+)='(.*)'", command)
        if alias is not None:
            self.aliases[alias[1]] = alias[2]
            return None
        name, space, rest = command.partition(" ")
        words = shlex.split(self.aliases.get(name, name) + space + rest)
        words = [re.sub(r"\$(\w+)", lambda found: self.variables[found[1]], word) for word in words]
        assert words.pop(0) == "curl"
        asked = curl.parse_args(words)
        method = asked.method or ("GET" if asked.data is None else "POST")
        authorization = (
            asked.header.removeprefix("Authorization: ") if asked.user is None else basic(*asked.user.split(":"))
        )
        path = asked.url.removeprefix(HOST)
        self.called.append((method, path.partition("?")[0]))
        return self.server.call(method, path, asked.data and asked.data.encode(), authorization=authorization or None)


def test_examples() -> None:
    """Each is answered with success, one after the other."""
    shell = Shell()
    for command in commands():
        answer = shell.run(command)
        assert answer is None or answer.status == 200, (command, answer)


def test_every_call_is_there() -> None:
    """Every call of the two APIs is tried in an example, or at least named."""
    shell = Shell()
    for command in commands():
        shell.run(command)
    tried = {(method, re.sub(r"/\d+", "/{}", path)) for method, path in shell.called}
    paths = shell.server.call("GET", "/openapi.json").json["paths"]
    described = {(method.upper(), re.sub(r"{\w+}", "{}", path)) for path in paths for method in paths[path]}
    assert described - tried == {("POST", "/users/{}")}  # the same as PATCH
    assert tried <= described


def test_form_of_a_mistake() -> None:
    """What is shown as an error is one."""
    (shown,) = re.findall(r"```json\n(.*?)```", DOCUMENT, re.DOTALL)
    answer = Shell().server.call("POST", "/post_peer_message?sender=1&receiver=2", b"hi")
    assert answer.json == msgspec.json.decode(shown.strip())
