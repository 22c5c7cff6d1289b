"""The configuration: what it accepts, what it refuses, and in which words."""

import re
from pathlib import Path

import msgspec
import pytest
from sqlalchemy.engine import make_url
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import IStreamServerEndpoint
from twisted.internet.testing import MemoryReactor

from imserver.config import Config, ConfigError, Database, Policy, Push, load
from imserver.model import Limits

SHIPPED = Path(__file__).parents[2] / "etc" / "imserver.toml"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "imserver.toml"


def refusal(file: Path, text: str) -> str:
    """What `load` says about a file with `text`, without the file's name; one line, always."""
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(str(file))
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith(str(file))
    return line.removeprefix(str(file))


def uncommented(text: str) -> str:
    """The shipped file with every option in force: those are the lines that begin with # and a word."""
    return re.sub(r"^#(?=\w)", "", text, flags=re.MULTILINE)


def sections_of(config: Config) -> dict[str, set[str]]:
    """Each key of the configuration, by section; "" is the top."""
    sections: dict[str, set[str]] = {"": set()}
    for name in config.__struct_fields__:
        value = getattr(config, name)
        if isinstance(value, msgspec.Struct):
            sections[name] = set(value.__struct_fields__)
        else:
            sections[""].add(name)
    return sections


# The shipped file.


def test_shipped_file_changes_nothing() -> None:
    """As shipped, every option is commented out."""
    assert load(str(SHIPPED)) == load()


def test_shipped_file_shows_exactly_the_defaults() -> None:
    """With every option uncommented it says what the code says without a file."""
    text = uncommented(SHIPPED.read_text())
    assert msgspec.toml.decode(text.encode(), type=Config) == Config()


def test_shipped_file_has_every_option() -> None:
    """No option of the code is missing there, and none is there that the code does not have."""
    tables = msgspec.toml.decode(uncommented(SHIPPED.read_text()).encode())
    shown: dict[str, set[str]] = {"": set()}
    for name, value in tables.items():
        if isinstance(value, dict):
            shown[name] = set(value)
        else:
            shown[""].add(name)
    assert shown == sections_of(Config())


@pytest.mark.parametrize("name", Limits.__struct_fields__)
def test_every_limit_has_a_range(file: Path, name: str) -> None:
    """A new limit cannot be left without one."""
    assert f"limits.{name}: must be at least" in refusal(file, f"[limits]\n{name} = -1")


# What is accepted.


def test_defaults_without_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything is on loopback, below ./var, in SQLite."""
    monkeypatch.chdir(tmp_path)
    config = load()
    assert config.data == str(tmp_path / "var")
    assert config.listen.tcp == ("tcp:23000:interface=127.0.0.1",)
    assert config.listen.websocket == ("tcp:13891:interface=127.0.0.1",)
    assert config.listen.http == ("tcp:6666:interface=127.0.0.1",)
    assert config.database_url == f"sqlite:///{tmp_path}/var/imserver.db"
    assert config.limits == Limits()


def test_file_is_read(file: Path) -> None:
    """Values of a file reach their fields; whole numbers will do for seconds."""
    file.write_text(
        """
        data = "/srv/im"
        [listen]
        tcp = ["tcp:1", 'tcp6:2:interface=\\:\\:1', "unix:/run/im.sock:mode=660", "systemd:domain=INET:name=im"]
        websocket = []
        [push]
        kind = "log"
        [limits]
        connections = 0
        idle_seconds = 60
        [websocket]
        origins = ["*", "null", "https://*.example.com", "capacitor://localhost"]
        trust_forwarded_for = true
        [log]
        format = "json"
        level = "debug"
        [shutdown]
        drain_seconds = 0
        """
    )
    config = load(str(file))
    assert config.data == "/srv/im"
    assert config.listen.tcp[1:3] == (r"tcp6:2:interface=\:\:1", "unix:/run/im.sock:mode=660")
    assert config.listen.websocket == ()
    assert config.push.kind == "log"
    assert (config.limits.connections, config.limits.idle_seconds) == (0, 60.0)
    assert config.websocket.origins == ("*", "null", "https://*.example.com", "capacitor://localhost")
    assert config.websocket.trust_forwarded_for
    assert (config.log.format, config.log.level) == ("json", "debug")
    assert config.shutdown.drain_seconds == 0.0


def test_policy(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it; the word file's path becomes absolute, as twistd changes its directory."""
    monkeypatch.chdir(tmp_path)
    file.write_text('[policy]\nfriends = true\nblacklist = true\nword_file = "words.txt"')
    assert load(str(file)).policy == Policy(friends=True, blacklist=True, word_file=str(tmp_path / "words.txt"))
    file.write_text("[policy]\nblacklist = true")
    assert load(str(file)).policy == Policy(friends=False, blacklist=True, word_file="")


def test_data_argument_goes_before_the_file(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--data wins, and the database follows it."""
    monkeypatch.chdir(tmp_path)
    file.write_text('data = "/elsewhere"')
    config = load(str(file), "here")
    assert config.data == str(tmp_path / "here")
    assert config.database_url == f"sqlite:///{tmp_path}/here/imserver.db"


def test_database_file_may_have_any_name(tmp_path: Path) -> None:
    """A directory name that means something in a URL still names that directory."""
    config = load(None, str(tmp_path / "100% ü?x#y"))
    assert make_url(config.database_url).database == str(tmp_path / "100% ü?x#y" / "imserver.db")


def test_relative_database_becomes_absolute(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """twistd changes its directory after the configuration is read; the database must not move with it."""
    monkeypatch.chdir(tmp_path)
    file.write_text('[database]\nurl = "sqlite:///im.db"')
    assert load(str(file)).database_url == f"sqlite:///{tmp_path}/im.db"


# What is refused.


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("lissen = 3", ", line 1: lissen: no such key; did you mean listen?"),
        ("[limitz]", ", line 1: limitz: no such key; did you mean limits?"),
        ("\n[limits]\n\nconections = 3", ", line 4: limits.conections: no such key; did you mean limits.connections?"),
        ('tcp = ["tcp:1"]', ", line 1: tcp: no such key; did you mean listen.tcp?"),
        ('[log]\ndata = "x"', ", line 2: log.data: no such key; did you mean data?"),
        ("[http]\nzzz = 1", ", line 2: http.zzz: no such key; known are key_file"),
        ("limits = 3", ", line 1: limits: must be a [section], not a whole number"),
        ("[[limits]]", ", line 1: limits: must be a [section], not a list in brackets"),
        ("data = 3", ", line 1: data: must be text in quotes, not a whole number"),
        ('data = ""', ", line 1: data: must name a directory"),
        ("[limits]\nconnections = 1.5", ", line 2: limits.connections: must be a whole number, not a number"),
        ('[limits]\nidle_seconds = "6m"', ", line 2: limits.idle_seconds: must be a number, not text in quotes"),
        ("[limits]\nconnections = true", ", line 2: limits.connections: must be a whole number, not true or false"),
        ('[listen]\ntcp = "tcp:1"', ", line 2: listen.tcp: must be a list in brackets, not text in quotes"),
        ("[listen]\ntcp = [1]", ", line 2: listen.tcp[0]: must be text in quotes, not a whole number"),
        ("[http]\nkey_file = 1", ", line 2: http.key_file: must be text in quotes, not a whole number"),
        ('[http]\nkey_file = "a\\u0000b"', ", line 2: http.key_file: must name a file"),
        ('[push]\nkind = "redis"', ', line 2: push.kind: must be one of "none", "log", "webhook"'),
        ("[log]\nlevel = 3", ', line 2: log.level: must be one of "debug", "info", "warn", "error", "critical"'),
        ("[limits]\nconnections = -1", ", line 2: limits.connections: must be at least 1, or 0 for no limit, not -1"),
        ("[limits]\nqueue_bytes = 0", ", line 2: limits.queue_bytes: must be at least 65536, not 0"),
        ("[limits]\nidle_seconds = 0", ", line 2: limits.idle_seconds: must be at least 0.1, not 0.0"),
        ("[limits]\nidle_seconds = nan", ", line 2: limits.idle_seconds: must be a finite number, not nan"),
        ("[limits]\nidle_seconds = inf", ", line 2: limits.idle_seconds: must be a finite number, not inf"),
        (
            "[limits]\nread_seconds = 5",
            ", line 2: limits.read_seconds: must be at most 4 (a SYNC is answered within 4 s), not 5.0",
        ),
        ("[database]\nreaders = 0", ", line 2: database.readers: must be at least 1, not 0"),
        (
            "[shutdown]\ndrain_seconds = -1",
            ", line 2: shutdown.drain_seconds: must be at least 0, not -1.0",
        ),
        ("[trace]\nmessages = -1", ", line 2: trace.messages: must be at least 0, not -1"),
        (
            "[trace]\nmessages = 200000",
            ", line 2: trace.messages: must be at most 100000 (each question looks at all of them), not 200000",
        ),
        ("[policy]\nfriends = 1", ", line 2: policy.friends: must be true or false, not a whole number"),
        ('[policy]\nword_file = "a\\u0000b"', ", line 2: policy.word_file: must name a file"),
        ('[websocket]\npath = "ws"', ', line 2: websocket.path: must be a path like "/ws", without query'),
        # A key in quotes may hold anything; what is said stays on one line.
        (
            '"a\\nb" = 1',
            ": a b: no such key; known are " + ", ".join(Config.__struct_fields__),
        ),
    ],
)
def test_refusal_names_line_key_and_remedy(file: Path, text: str, line: str) -> None:
    """Each mistake is one line that says where it is and what to do."""
    assert refusal(file, text) == line


def test_not_toml(file: Path) -> None:
    """A syntax error is told with its line."""
    assert re.fullmatch(r": not TOML: .*line 2.*", refusal(file, "data = 'x'\n= 3\n"))


def test_file_that_cannot_be_read(tmp_path: Path) -> None:
    """A file that is missing, or is a directory."""
    for path, reason in ((tmp_path / "none.toml", "No such file or directory"), (tmp_path, "Is a directory")):
        with pytest.raises(ConfigError) as caught:
            load(str(path))
        assert str(caught.value) == f"{path}: cannot be read: {reason}; name an existing, readable file"


def test_file_that_is_not_text(file: Path) -> None:
    """Bytes that are not UTF-8."""
    file.write_bytes(b'data = "\xff"')
    with pytest.raises(ConfigError, match=r"not UTF-8 \(byte 8\)"):
        load(str(file))


def test_empty_data_argument() -> None:
    """An empty --data (an unset variable of a script) does not mean the working directory."""
    with pytest.raises(ConfigError, match="--data: must name a directory"):
        load(None, "")


# Endpoint strings.


@pytest.mark.parametrize(
    "endpoint",
    [
        "tcp:0",
        "tcp:65535:interface=127.0.0.1:backlog=100",
        "tcp:interface=127.0.0.1:23000",
        r"tcp6:23000:interface=\:\:1",
        r"unix:/run/a\:b.sock:mode=660:lockfile=0",
        "tcp:23000:127.0.0.1:100",
        "haproxy:tcp:23000",
    ],
)
def test_endpoint_accepted(file: Path, endpoint: str) -> None:
    """Twisted's ways to write an endpoint: what is accepted here, Twisted understands."""
    file.write_text(f"[listen]\ntcp = ['{endpoint}']")
    assert load(str(file)).listen.tcp == (endpoint,)
    assert IStreamServerEndpoint.providedBy(serverFromString(MemoryReactor(), endpoint))


@pytest.mark.parametrize(
    "endpoint",
    ["systemd:domain=INET:index=0", "systemd:domain=INET6:name=im", f"ssl:1:privateKey={SHIPPED}:certKey={SHIPPED}"],
)
def test_endpoint_that_needs_its_surroundings(file: Path, endpoint: str) -> None:
    """Sockets of systemd and the contents of key files are looked at when the server starts, not here."""
    file.write_text(f"[listen]\ntcp = ['{endpoint}']")
    assert load(str(file)).listen.tcp == (endpoint,)


@pytest.mark.parametrize(
    ("endpoint", "complaint"),
    [
        ("", 'no kind of endpoint ""'),
        ("TCP:1", 'no kind of endpoint "TCP"'),
        ("23000", 'no kind of endpoint "23000"'),
        ("stdio:", 'no kind of endpoint "stdio"'),
        ("tcp", "port is missing"),
        ("tcp:", "port is missing"),
        ("tcp:interface=127.0.0.1", "port is missing"),
        ("tcp:http", 'port "http" is not a number from 0 to 65535'),
        ("tcp:65536", 'port "65536" is not a number from 0 to 65535'),
        ("tcp:-1", 'port "-1" is not a number from 0 to 65535'),
        ("tcp:1:backlog=x", 'backlog "x" is not a number'),
        ("tcp:1:interfac=x", "tcp has no interfac, only port, interface, backlog"),
        ("tcp:1:port=2", "port is there twice"),
        ("tcp:1:127.0.0.1:50:x", '"x" is one word too many'),
        ("unix:/run/x:mode=999", 'mode "999" is not octal'),
        ("systemd:domain=INET", "give either index or name"),
        ("ssl:1:privateKey=/none/key.pem", "privateKey /none/key.pem cannot be read"),
    ],
)
def test_endpoint_refused(file: Path, endpoint: str, complaint: str) -> None:
    """A string that Twisted would choke on is refused with the reason and an example, and nothing was opened."""
    line = refusal(file, f"[listen]\nwebsocket = ['{endpoint}']")
    assert line.startswith(f', line 2: listen.websocket: "{endpoint}": {complaint}')
    assert line.endswith('; write it like "tcp:23000:interface=127.0.0.1"')


@pytest.mark.parametrize(
    "endpoint",
    [
        "tcp:6666",
        "tcp:6666:interface=0.0.0.0",
        "tcp:6666:interface=10.0.0.1",
        "tcp:6666:interface=127.0.0.1.example.com",
        "tcp6:6666",
        "systemd:domain=INET:name=http",
        "haproxy:tcp:6666:interface=127.0.0.1",
    ],
)
def test_http_on_the_network_needs_a_key(file: Path, endpoint: str) -> None:
    """The back-end API sends as anybody: who can reach it from elsewhere has to know a key."""
    text = f"[listen]\nhttp = ['{endpoint}']\n"
    line = refusal(file, text)
    assert line.startswith(f', line 2: listen.http: "{endpoint}" may be reached from the network')
    assert "http.key_file" in line
    file.write_text(text + '[http]\nkey_file = "http.key"')
    assert load(str(file)).listen.http == (endpoint,)


def test_http_key(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its path becomes absolute, as twistd changes its directory; an empty one stays none."""
    monkeypatch.chdir(tmp_path)
    assert load().http.key_file == ""
    file.write_text('[http]\nkey_file = "http.key"')
    assert load(str(file)).http.key_file == str(tmp_path / "http.key")


@pytest.mark.parametrize(
    "endpoint",
    ["tcp:0:interface=127.0.0.1", "tcp:0:127.8.9.1", "tcp:0:interface=localhost", r"tcp6:0:interface=\:\:1", "unix:/x"],
)
def test_http_on_the_machine_needs_none(file: Path, endpoint: str) -> None:
    """Loopback and Unix sockets are as they should be."""
    file.write_text(f"[listen]\nhttp = ['{endpoint}']")
    assert load(str(file)).listen.http == (endpoint,)


# Origins and databases.


@pytest.mark.parametrize("origin", ["example.com", "https://", "https://example.com/", "https://example.com/app", ""])
def test_origin_refused(file: Path, origin: str) -> None:
    """What a browser never sends as Origin would never match."""
    assert f'websocket.origins: "{origin}" is no origin' in refusal(file, f'[websocket]\norigins = ["{origin}"]')


@pytest.mark.parametrize(
    "url",
    ["sqlite://", "sqlite:///:memory:", "sqlite://host/x", "sqlite:///x?mode=ro", "nonsense", "sqlite+aiosqlite:///x"],
)
def test_database_refused(file: Path, url: str) -> None:
    """Only a file of SQLite holds what was acknowledged, in this release."""
    assert ", line 2: database.url: " in refusal(file, f'[database]\nurl = "{url}"')


@pytest.mark.parametrize("password", ["hunter2", "hun/ter2", "hun:ter@2"])
def test_password_is_never_shown(file: Path, password: str) -> None:
    """Neither a refusal nor a repr gives away the password of a database."""
    url = f"postgresql://im:{password}@db.example.com/im"
    line = refusal(file, f'[database]\nurl = "{url}"')
    assert "postgresql://im:***@db.example.com/im: this release stores in SQLite only" in line
    shown = repr(Config(database=Database(url=url)))
    assert "postgresql://im:***@db.example.com/im" in shown
    assert password not in line + shown


# The webhook for pushes.

WEBHOOK = '[push]\nkind = "webhook"\nkey_file = "push.key"\n'


def test_webhook(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it; the key's path becomes absolute, as twistd changes its directory."""
    monkeypatch.chdir(tmp_path)
    file.write_text(
        WEBHOOK + 'url = "https://app.example.com/push"\nbatch = 20\ntimeout_seconds = 3\nmax_age_seconds = 60\n'
        "most_waiting = 500\nrescue_seconds = 0"
    )
    assert load(str(file)).push == Push(
        kind="webhook",
        url="https://app.example.com/push",
        key_file=str(tmp_path / "push.key"),
        batch=20,
        timeout_seconds=3.0,
        max_age_seconds=60.0,
        most_waiting=500,
        rescue_seconds=0.0,
    )


@pytest.mark.parametrize("kind", ["none", "log"])
def test_only_the_webhook_needs_url_and_key(file: Path, kind: str) -> None:
    """Without them the other kinds work, and no path is made of an empty one."""
    file.write_text(f'[push]\nkind = "{kind}"')
    assert load(str(file)).push == msgspec.structs.replace(Push(), kind=kind)


def test_webhook_without_url_or_key(file: Path) -> None:
    """Either is asked for, with what to write."""
    assert refusal(file, WEBHOOK) == (
        ', line 1: push.url: kind = "webhook" needs it; write it like "https://app.example.com/push"'
    )
    line = refusal(file, '[push]\nkind = "webhook"\nurl = "http://127.0.0.1:8000"')
    assert line.startswith(', line 1: push.key_file: kind = "webhook" needs it, the file with the key')


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost",
        "https://app.example.com:8443/push?app=7&x=%20",
        "http://[::1]:65535/",
        "http://10.0.0.1/a/b;c",
    ],
)
def test_webhook_url_accepted(file: Path, url: str) -> None:
    """Hosts by name and by address, with or without port, path and query."""
    file.write_text(WEBHOOK + f"url = '{url}'")
    assert load(str(file)).push.url == url


@pytest.mark.parametrize(
    "url",
    [
        "ftp://app.example.com/s3cret",
        "HTTPS://app.example.com/s3cret",
        "app.example.com/s3cret",
        "file:///s3cret",
        "https://user:s3cret@app.example.com/",
        "https://app.example.com@evil.example.com/s3cret",
        "https:///s3cret",
        "https://app.example.com/#s3cret",
        "https://app.example.com?s3cret",
        "https://app.example.com/s3cret ",
        "https://app.example.com/s3cret\\nX-Evil: 1",
        "https://app.example.com/s3cret-ü",
        "https://bücher.example/s3cret",
        "http://app.example.com:0/s3cret",
        "http://app.example.com:65536/s3cret",
        "http://app.example.com:/s3cret",
        "http://app.example.com:٣/s3cret",
        "http://-x/s3cret",
    ],
)
@pytest.mark.parametrize("kind", ["none", "webhook"])
def test_webhook_url_refused(file: Path, url: str, kind: str) -> None:
    """Anything but a plain http or https URL, also before it is used; what it holds is not repeated."""
    line = refusal(file, f'[push]\nurl = "{url}"\nkind = "{kind}"\nkey_file = "push.key"')
    assert line == (
        ", line 2: push.url: must be an http or https URL without user, password or fragment; "
        'write it like "https://app.example.com/push"'
    )


@pytest.mark.parametrize(
    ("option", "complaint"),
    [
        ("batch = 0", "batch: must be at least 1, not 0"),
        ("batch = 1001", "batch: must be at most 1000 (they are one request, and sent again together), not 1001"),
        ("timeout_seconds = 0", "timeout_seconds: must be at least 0.1, not 0.0"),
        ("timeout_seconds = 301", "timeout_seconds: must be at most 300 (the pushes behind it wait), not 301.0"),
        ("max_age_seconds = 0", "max_age_seconds: must be at least 1, not 0.0"),
        ("max_age_seconds = 86401", "max_age_seconds: must be at most 86400 (a day), not 86401.0"),
        ("most_waiting = 0", "most_waiting: must be at least 1, not 0"),
        ("rescue_seconds = -1", "rescue_seconds: must be at least 0, not -1.0"),
        ("rescue_seconds = 86401", "rescue_seconds: must be at most 86400 (a day), not 86401.0"),
    ],
)
def test_push_numbers_have_ranges(file: Path, option: str, complaint: str) -> None:
    """Each of them, at both ends where there are two."""
    assert refusal(file, f"[push]\n{option}") == f", line 2: push.{complaint}"


def test_push_key_that_is_no_path(file: Path) -> None:
    """What no file can be called is refused here, and not when it is opened."""
    assert refusal(file, '[push]\nkey_file = "a\\u0000b"') == ", line 2: push.key_file: must name a file"


@pytest.mark.parametrize("url", ["https://app.example.com/s3cret?s3cret=s3cret", "https://app.example.com:8443/s3cret"])
def test_webhook_path_is_not_shown(url: str) -> None:
    """Whoever knows the path of a webhook can often use it."""
    shown = repr(Config(push=Push(kind="webhook", url=url, batch=9)))
    assert "s3cret" not in shown
    assert f"url='{url[: url.index('/s3')]}/***'" in shown
    assert "kind='webhook'" in shown
    assert "batch=9" in shown
