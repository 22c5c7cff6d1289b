"""The repository itself: documents name what exists, the plugin loads nothing, no module installs a reactor."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest

from imserver.config import load

ROOT = Path(__file__).parents[2]


def tracked() -> list[Path]:
    """The files of the repository, new ones too; without git (an unpacked release) there is nothing to check."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [path for name in sorted(set(listed.stdout.split("\0"))) if name and (path := ROOT / name).is_file()]


DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "etc" / "imserver.toml",
    *sorted((ROOT / "docs").glob("*.md")),
]
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = set(re.findall(r"^([a-z-]+):.*## ", MAKEFILE, re.MULTILINE))
PACKAGES = sorted(path.parent.name for path in (ROOT / "imserver").glob("*/__init__.py"))
MODULES = sorted(path.name for path in (ROOT / "imserver").glob("[a-z]*.py"))


@pytest.fixture(params=DOCUMENTS, ids=lambda path: path.name)
def document(request: pytest.FixtureRequest) -> str:
    text: str = request.param.read_text()
    return text


# What the documents name.


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    """Every link inside the repository ends at a file, and at a heading of it where it names one."""
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = path.parent / name if name else path
        assert file.exists(), f"{path.name} links to {target}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)
            anchors = [re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings]
            assert anchor in anchors, f"{path.name} links to {target}; there are {anchors}"


def test_files_exist(document: str) -> None:
    """A path in the text is a path of the repository, from its root or from imserver/."""
    paths = re.findall(
        r"(?<![\w./:-])((?:\.ci|bench|docs|etc|imserver|newsfragments|tests|twisted|[a-z]+)/[\w./+-]*\w\.(?:py|md|toml))\b",
        document,
    )
    for path in paths:
        assert (ROOT / path).exists() or (ROOT / "imserver" / path).exists(), path


def test_make_targets_exist(document: str) -> None:
    """`make something` is a target, and all targets say in `make help` what they do."""
    for target in re.findall(r"(?:`|^ {4})make ([a-z-]+)", document, re.MULTILINE):
        assert target in TARGETS, target


def test_twistd_options_exist(document: str) -> None:
    """Options after `twistd … imserver` are ours."""
    for words in re.findall(r"twistd\b[^`\n]*? imserver ([^`\n]*)", document):
        for option in re.findall(r"--\w+", words):
            assert option in ("--config", "--data", "--version", "--help"), words


def test_imctl_commands_exist(document: str) -> None:
    """`imctl something` is a command, as far as the words before the first argument go."""
    from imserver.cli.root import imctl

    used = re.findall(r"(?:`|bin/)imctl((?: --(?:config|data) \S+| --json)*)((?: [a-z]+)+)", document)
    for _, words in used:
        known = imctl.commands
        for word in words.split():
            assert word in known, f"imctl{words}"
            command = known[word]
            if not isinstance(command, click.Group):
                break
            known = command.commands


def test_readme_tells_the_ports() -> None:
    """The ports of the README are the defaults."""
    readme = (ROOT / "README.md").read_text()
    listen = load().listen
    for endpoint in (*listen.tcp, *listen.websocket, *listen.http):
        assert endpoint.split(":")[1] in readme, endpoint


@pytest.mark.parametrize("room", PACKAGES + MODULES)
def test_architecture_names_every_room(room: str) -> None:
    """Whoever reads docs/architecture.md has heard of every package and module at the top."""
    if room == "__init__.py":
        return
    text = (ROOT / "docs" / "architecture.md").read_text()
    name = room.removesuffix(".py")
    assert re.search(rf"`(imserver/)?{name}(/|\.py)?`", text), room


# Makefile and CI.


def test_scripts_exist() -> None:
    """What the Makefile and .ci/run call exists, can be executed, and is a target."""
    for script in re.findall(r"(?<![\w/])((?:\.ci|bench|tests)/[\w./-]+)", MAKEFILE):
        assert (ROOT / script).exists(), script
    for script in (".ci/run", ".ci/release-check"):
        assert os.access(ROOT / script, os.X_OK), script
    called = re.findall(r"^make ([a-z-]+)$", (ROOT / ".ci" / "run").read_text(), re.MULTILINE)
    assert called == ["venv", "lint", "type", "test", "soak", "release-check"]
    assert set(called) <= TARGETS


def test_ci_runs_the_tests_of_the_readme() -> None:
    """The README's command for the tests is the one that CI runs."""
    assert "make test" in (ROOT / "README.md").read_text()


def test_newsfragments_are_well_named() -> None:
    """towncrier passes over a file that it does not understand; so nothing but its own kinds may be there."""
    with open(ROOT / "pyproject.toml", "rb") as file:
        kinds = [kind["directory"] for kind in tomllib.load(file)["tool"]["towncrier"]["type"]]
    for path in (ROOT / "newsfragments").iterdir():
        assert re.fullmatch(rf"\+[a-z0-9-]+\.({'|'.join(kinds)})\.md", path.name), path.name
        text = path.read_text()
        assert text.strip(), path.name
        assert "\n" not in text.strip(), f"{path.name}: one paragraph on one line"
        assert text.strip().endswith((".", "`")), f"{path.name}: a sentence ends with a full stop"


# What must not stand in the text.


def test_no_path_of_a_machine() -> None:
    """No file speaks of the place where it was written, or of work that is elsewhere."""
    places = "|".join(("/" + "work/", "/" + "root/", "/" + r"home/\w+/", r"\.\./" + "shared"))
    others = "|".join(("TO" + "DO", "FIX" + "ME", r"[Ii]ssue #?\d", r"(?<![\w&])#\d+\b"))
    for path in tracked():
        if path.suffix in (".py", ".md", ".toml", ".cfg", ".in") or path.parent.name == ".ci" or not path.suffix:
            for number, line in enumerate(path.read_text().splitlines(), 1):
                found = re.findall(rf"{places}|{others}", line)
                assert not found, f"{path.relative_to(ROOT)}:{number}: {found}"


def test_no_leftovers_are_tracked() -> None:
    """What tools leave behind is not part of the repository."""
    for path in tracked():
        assert path.name != "dropin.cache"
        assert path.suffix not in (".pyc", ".orig", ".rej", ".db", ".pid", ".log"), path


# Plugin and reactor.


def python(program: str) -> str:
    """What a program prints that has only the checkout on its path."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    ended = subprocess.run(
        [sys.executable, "-c", program],
        check=False,
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_plugin_is_found_and_imports_nothing() -> None:
    """twistd finds the plugin, and neither imserver nor a reactor is loaded by that."""
    found = python(
        "import sys\n"
        "from twisted.application.service import IServiceMaker\n"
        "from twisted.plugin import getPlugins\n"
        "print([plugin.tapname for plugin in getPlugins(IServiceMaker) if plugin.module == 'imserver.tap'])\n"
        "print([name for name in sys.modules if name.startswith('imserver') or name == 'twisted.internet.reactor'])"
    )
    assert found == "['imserver']\n[]\n"


def test_plugin_directory_is_no_package() -> None:
    """An __init__.py there would hide the plugin from twistd, or all of Twisted from Python."""
    assert not list((ROOT / "twisted").rglob("__init__.py"))


def modules() -> list[str]:
    """Every module of imserver but the scripts that Alembic runs."""
    names = []
    for path in sorted((ROOT / "imserver").rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        if ".migrations." not in name and not name.endswith("__main__"):
            names.append(name)
    return names


_IMPORT_EACH = """
import importlib, os, sys
import autobahn, sqlalchemy, treq  # once, for speed; none of them installs a reactor, or every module would be named
for name in {names}:
    child = os.fork()
    if not child:
        try:
            importlib.import_module(name)
            complaint = "installs a reactor" if "twisted.internet.reactor" in sys.modules else ""
        except BaseException as error:
            complaint = repr(error)
        if complaint:
            print(name, complaint, flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""


def test_no_module_installs_a_reactor() -> None:
    """twistd installs the reactor that the operator chose; no import may come before. Each in its own process."""
    assert python(_IMPORT_EACH.format(names=modules())) == ""
