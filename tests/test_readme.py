"""The README is true: its commands print what it shows, and it lists every route, option and file."""

from __future__ import annotations

import argparse
import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
import urllib.parse
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest
from pythons import pythons
from support import ROOT, SECONDS, Client, Pair, Program, eventually, request

import exposee
import misbehaving
import receiver
import register_webhook
from messages import STATES

README = (ROOT / "README.md").read_text("utf-8")
PROGRAMS = {f"{module.__name__}.py": module.parser for module in (exposee, receiver, register_webhook)}
MODULES = sorted(ROOT.glob("*.py"))
TRACE = "One `POST /trigger`, step by step"

VARIES = {  # values that differ in each run
    r"\b(msg|dlv)_\w+": r"\1_ID",
    r"\b\d{4}-\d\d-\d\dT[\d:.]+Z": "TIME",
    r"\b\w{3}, \d\d \w{3} \d{4} [\d:]{8} GMT": "DATE",
    r"\bin [\d.,]+ m?s\b": "in N ms",
    r"^\d\d:\d\d:\d\d\b": "NOW",
    r'"duration": [\d.e-]+': '"duration": N',
}


def normal(text: str) -> str:
    for pattern, name in VARIES.items():
        text = re.sub(pattern, name, text)
    return text


def run(*command: str, cwd: Path | None = None) -> str:
    """The output of a command."""
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=SECONDS, check=True).stdout


# --- its tables are complete ------------------------------------------------------------------------------------


def section(title: str) -> str:
    """The text under a heading of the second or third level, up to the next heading."""
    return re.split(
        r"^##+ ", re.split(rf"^##+ {re.escape(title)}\n", README, flags=re.MULTILINE)[1], flags=re.MULTILINE
    )[0]


def rows(text: str) -> Iterator[list[str]]:
    """The cells of each row of the tables in `text`, without their heads."""
    for table in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        for line in table.splitlines()[2:]:
            yield [cell.strip() for cell in line.strip("|").split(" |")]


def test_the_tables_of_routes_are_those_of_the_servers(pair: Pair) -> None:
    shown = sorted(tuple(cells[0].strip("`").split(" ")) for cells in rows(section("Routes")))
    tables = (pair.exposee.routes, receiver.Receiver().routes)
    routes = [(path, methods) for table in tables for path, methods in table.items()]
    assert shown == sorted((method, path) for path, methods in routes for method in methods if methods[method])


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_table_of_options_is_that_of_the_program(program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("EXPOSEE_URL", "WEBHOOK_URL"):
        monkeypatch.delenv(name, raising=False)
    table = README.partition(f"\nOptions of `{program}`:\n\n")[2].partition("\n\n")[0]
    shown = {cells[0].strip("`"): cells[1] for cells in rows(table + "\n")}
    actions = [action for action in PROGRAMS[program]()._actions if not isinstance(action, argparse._HelpAction)]
    assert list(shown) == [action.option_strings[0] for action in actions]
    for action in actions:
        if action.default:
            assert f"`{action.default}`" in shown[action.option_strings[0]]


def files() -> dict[str, str]:
    """The modules in the table of files, in its order, each with its user: integrator, exposee, both or lesson."""
    found = {re.sub(r".*\((.*)\)", r"\1", name): user for name, user, _ in rows(section("How to read it"))}
    return {name: user for name, user in found.items() if name.endswith(".py")}


def test_every_module_is_in_the_table_of_files() -> None:
    assert sorted(files()) == [path.name for path in MODULES]


def functions(path: Path) -> set[str]:
    """The functions of a module, and its methods as Class.method."""
    found = set()
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.FunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{method.name}" for method in node.body if isinstance(method, ast.FunctionDef)}
    return found


@pytest.mark.parametrize("title, named", [(TRACE, "123456"), ("The states of a delivery", STATES)])
def test_the_functions_of_the_trace_exist_in_the_files_that_it_names(title: str, named: Iterable[str]) -> None:
    steps = {step: re.findall(r"`(\w+\.py)` `([\w.]+)`", where) for step, where, _ in rows(section(title))}
    assert ", ".join(steps) == ", ".join(named)
    assert all(steps.values())
    missing = [(f, name) for named in steps.values() for f, name in named if name not in functions(ROOT / f)]
    assert missing == []


def test_every_misbehaviour_is_in_the_table() -> None:
    shown = re.findall(r"`respond=([a-z]+)`", README)
    assert sorted(shown) == sorted(misbehaving.BEHAVIOUR)


@pytest.mark.parametrize("document", ["README.md", "SECURITY.md"])
def test_relative_links_lead_to_files(document: str) -> None:
    links = re.findall(r"\]\(([^)#\s]+)", (ROOT / document).read_text("utf-8"))
    local = [link for link in links if not urllib.parse.urlsplit(link).scheme]
    assert [link for link in local if not (ROOT / link).exists()] == []
    assert document != "README.md" or "SECURITY.md" in local


def test_ci_runs_the_command_of_the_README(tmp_path: Path) -> None:
    shown = run("bash", str(ROOT / ".ci" / "run"), "--show", cwd=tmp_path)
    commands = [line for line in "\n".join(blocks("sh")).splitlines() if "requirements-dev.txt" in line]
    assert commands == [shown.strip()]
    assert commands[0].endswith(" && .venv/bin/pytest")
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_ci_finds_the_pythons_of_this_machine_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    versions = tmp_path / ".pyenv" / "versions" / "3.9.1" / "bin"
    versions.mkdir(parents=True)
    for path, does in {
        tmp_path / "python3.14t": "echo 3.14t",
        tmp_path / "python3.14-config": "echo 3.14",
        tmp_path / "python3.15": "exit 127",
        versions / "python3.9": "echo 3.9",
    }.items():
        path.write_text(f"#!/bin/sh\n{does}\n")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert pythons.__wrapped__() == {"3.9": f"{versions}/python3.9", "3.14t": f"{tmp_path}/python3.14t"}


# --- its commands print what it shows ---------------------------------------------------------------------------


class Step(NamedTuple):
    command: str
    output: list[str]


def blocks(kind: str, text: str = README) -> list[str]:
    """The fenced blocks of a kind."""
    return re.findall(rf"^```{kind}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def steps(block: str) -> list[Step]:
    """The commands of a console block, each with the lines that follow it."""
    parts = re.split(r"^\$ ", block, flags=re.MULTILINE)
    assert parts[0] == "", "a console block begins with a command"
    return [Step(lines[0], lines[1:]) for lines in map(str.splitlines, parts[1:])]


def split(command: str) -> tuple[dict[str, str], list[str]]:
    """(environment, words) of a command line."""
    words = shlex.split(command, comments=True)
    environment = {}
    while words and re.match(r"[A-Z_]+=", words[0]):
        name, _, environment[name] = words.pop(0).partition("=")
    return environment, words


def curl(words: list[str]) -> str:
    """The output of curl; without curl, of a socket that does what the README's few options of curl do."""
    if shutil.which("curl"):
        return run("curl", "-s", *words)
    parser = argparse.ArgumentParser()
    parser.add_argument("-H", action="append", default=[])
    parser.add_argument("-d")
    parser.add_argument("url", type=urllib.parse.urlsplit)
    options = parser.parse_args(words)
    body = None if options.d is None else options.d.encode()
    with Client(options.url.port) as client:
        fields = dict(field.split(": ") for field in options.H)
        return client.ask(request("POST" if body else "GET", options.url.path, body, **fields)).body.decode()


class Walk:
    """Runs the commands of one section of the README, on free ports in place of the shown ones."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder, self._stack = folder, stack
        self._ports: dict[str, str] = {}  # shown: the free one
        self._servers: list[tuple[Step, Program]] = []

    def go(self, step: Step) -> None:
        environment, words = split(step.command)
        words = [self._with_our_ports(word) for word in words]
        if words[0] == "curl":
            assert self._as_shown(curl(words[1:]).splitlines()) == self._as_shown(step.output), step.command
            return
        assert words[0] == "python3", step.command
        if words[1] == "register_webhook.py":
            self._script(step, words[1:], environment)
        else:
            self._server(step, words[1:], environment)

    def end(self) -> None:
        """Stop the servers, and compare their output."""
        for step, server in self._servers:
            self._wait_for_output(step, server)
            lines = server.lines.copy()
            assert server.stop() == 0
            assert self._as_shown(lines) == self._as_shown(step.output), step.command

    def _wait_for_output(self, step: Step, server: Program) -> None:
        eventually(lambda: len(server.lines) >= len(step.output), f"all output of {step.command}")

    def _server(self, step: Step, words: list[str], environment: dict[str, str]) -> None:
        shown = PROGRAMS[words[0]]().parse_args(words[1:]).port
        server = Program(*words, "--port", "0", cwd=self._folder, env=environment)
        self._stack.enter_context(server)
        self._servers.append((step, server))
        self._ports[str(shown)] = str(server.port)

    def _script(self, step: Step, words: list[str], environment: dict[str, str]) -> None:
        defaults = {"EXPOSEE_URL": "http://localhost:3000", "WEBHOOK_URL": "http://localhost:8080/webhook-receiver"}
        defaults = {name: self._with_our_ports(url) for name, url in defaults.items()}
        with Program(*words, cwd=self._folder, env=defaults | environment) as script:
            assert script.wait() == 0, script.lines
            assert self._as_shown(script.lines) == self._as_shown(step.output), step.command

    def _with_our_ports(self, word: str) -> str:
        return re.sub(r"(?<=:)\d{4}\b", lambda match: self._ports.get(match[0], match[0]), word)

    def _as_shown(self, lines: list[str]) -> list[str]:
        shown = {free: port for port, free in self._ports.items()}
        return [re.sub(r"(?<=:)\d{4,5}\b", lambda m: shown.get(m[0], m[0]), normal(line)) for line in lines]


@pytest.mark.slow
def test_following_the_README_shows_what_it_shows(tmp_path: Path) -> None:
    """All sections run in one folder, in their order, so that each finds the files of the one before."""
    walked = 0
    for part in README.split("\n## "):
        console = blocks("console", part)
        with ExitStack() as stack:
            walk = Walk(tmp_path, stack)
            for step in (step for block in console for step in steps(block)):
                walk.go(step)
            walk.end()
        walked += bool(console)
    assert walked == 3


def test_the_commands_that_need_two_machines_are_well_formed() -> None:
    seen = set()
    for line in "\n".join(blocks("sh")).splitlines():
        _, words = split(line)
        if words[:1] == ["python3"] and words[1] != "-m":
            PROGRAMS[words[1]]().parse_args(words[2:])
            seen.add(words[1])
    assert seen == set(PROGRAMS)


# --- the modules' imports ---------------------------------------------------------------------------------------


def imports(module: Path) -> set[str]:
    """The modules that this one imports, by their first name."""
    names = set()
    for node in ast.walk(ast.parse(module.read_text("utf-8"), feature_version=(3, 10))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add((node.module or "").partition(".")[0])
    return names


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.stem)
def test_nothing_is_imported_but_the_standard_library_and_each_other(module: Path) -> None:
    assert imports(module) - set(sys.stdlib_module_names) - {path.stem for path in MODULES} == set()


def test_the_files_of_the_integrator_import_none_of_the_exposee() -> None:
    """Directly or through others. The table of files says to which side each belongs."""
    graph = {path.stem: imports(path) for path in MODULES}
    sides = {side: {name[:-3] for name, user in files().items() if user == side} for side in ("integrator", "exposee")}
    assert {"receiver", "register_webhook"} <= sides["integrator"]
    assert {"exposee", "delivery", "store"} <= sides["exposee"]
    reached: set[str] = set()
    left = sides["integrator"]
    while left:
        reached = reached | left
        left = {name for module in left for name in graph[module] if name in graph} - reached
    assert reached & sides["exposee"] == set()
