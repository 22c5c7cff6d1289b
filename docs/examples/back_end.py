"""An app's back end, whole: it makes an app, users and a group, posts a message, and takes the push for who is offline.

    python3 back_end.py --server http://127.0.0.1:6666 --operator-key var/operator.key --push-key push.key --port 8000

The server's configuration has, for the last part:

    [push]
    kind = "webhook"
    url = "http://127.0.0.1:8000/push"
    key_file = "push.key"

It ends when the push has come.
"""

import argparse
import base64
import hashlib
import hmac
import json
import re
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar


def call(method: str, url: str, authorization: str, body: object = None) -> Any:
    """What the server answers. Raises urllib.error.HTTPError, whose body says what is wrong."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Authorization": authorization}, method=method)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.loads(answer.read() or b"{}")


class App:
    """The application API, with the app's credentials."""

    def __init__(self, server: str, appid: int, secret: str) -> None:
        password = hashlib.md5(secret.encode()).hexdigest()
        self.server, self.basic = server, "Basic " + base64.b64encode(f"{appid}:{password}".encode()).decode()

    def post(self, path: str, body: object) -> Any:
        return call("POST", self.server + path, self.basic, body).get("data")


class Webhook(BaseHTTPRequestHandler):
    """Takes pushes. A real one keeps them, answers, and then calls APNs or FCM."""

    key = b""
    pushes: ClassVar[list[Any]] = []

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        genuine = is_genuine(self.key, self.headers.get("X-Imserver-Signature", ""), body)
        if genuine:
            self.pushes.extend(json.loads(body)["pushes"])
        self.send_response(204 if genuine else 401)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_words: object) -> None:
        """Nothing on the terminal but what `main` prints."""


def is_genuine(key: bytes, signature: str, body: bytes) -> bool:
    """Was it signed with the key, within the last five minutes? (docs/push.md)"""
    found = re.fullmatch(r"t=([0-9]{1,12}),v1=([0-9a-f]{64})", signature)
    if found is None or abs(time.time() - int(found[1])) > 300:
        return False
    expected = hmac.new(key, found[1].encode() + b"." + body, hashlib.sha256).hexdigest()
    return hmac.compare_digest(expected, found[2])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", default="http://127.0.0.1:6666")
    parser.add_argument("--operator-key", type=Path, required=True)
    parser.add_argument("--push-key", type=Path, required=True)
    parser.add_argument("--port", type=int, default=8000)
    options = parser.parse_args()
    Webhook.key = options.push_key.read_bytes().strip()
    webhook = HTTPServer(("127.0.0.1", options.port), Webhook)

    operator = "Bearer " + options.operator_key.read_text().strip()
    made = call("POST", options.server + "/admin/apps", operator, {"name": "chess club"})
    app = App(options.server, made["appid"], made["secret"])
    tokens = {uid: app.post("/auth/grant", {"uid": uid, "user_name": f"player {uid}"})["token"] for uid in (1, 2)}
    group = app.post("/groups", {"master": 1, "name": "Openings", "members": list(tokens)})["group_id"]
    content = json.dumps({"text": "e4 or d4?"})
    app.post("/messages/groups", {"sender": 1, "receiver": group, "content": content})
    history = call("GET", options.server + "/messages", "Bearer " + tokens[2])["data"]
    while not Webhook.pushes:
        webhook.handle_request()
    print(json.dumps({"appid": made["appid"], "group_id": group, "history": history, "push": Webhook.pushes[0]}))


if __name__ == "__main__":
    main()
