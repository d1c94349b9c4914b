"""docs/operate.md can be pasted: its commands exist and parse, and unit, wrapper, balancer and
Prometheus are where it says. That it works on a bare machine with systemd is tried by hand."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import click
import pytest
import yaml

from config.settings import VARIABLES, from_environment
from config.starter import ENVIRONMENT
from control.cli import main
from tests.deploy.production import CONTAINERFILE, ROOT

DEPLOY = CONTAINERFILE.parent
DOCS = ROOT / "docs"
PAGES = ("operate.md", "runbook.md", "administration.md", "deploy.md", "reliability.md")
OPERATE = (DOCS / "operate.md").read_text("utf-8")
UNIT = (DEPLOY / "systemd/voice-relay@.service").read_text("utf-8")
WRAPPER = DEPLOY / "systemd/voice-relay"
BALANCER = (DEPLOY / "haproxy.cfg").read_text("utf-8")
KNOWN = {variable.name for variable in VARIABLES}


def blocks(text):
    """What can be pasted, in order; lines that go on are one."""
    found = re.findall(r"^```(?:console)?\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [block.replace("\\\n", " ") for block in found]


SYSTEMD = "\n".join(blocks(OPERATE.split("\n## 3. ")[0]))


def commands(text):
    """The words behind each `voice-relay` that begins a code span, and of each in a block."""
    spans = re.findall(
        r"`(voice-relay [^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    )
    for span in spans + [line.partition("#")[0] for line in "\n".join(blocks(text)).splitlines()]:
        for words in re.findall(r"(?:^|^\$ |/bin/|; )voice-relay ([a-z-][^|;&>)]*)", span):
            yield words.split()


def mistakes(words):
    """What of a command line does not exist."""
    command, known = main, {"--help", "--version"}
    for word in words:
        if word.startswith("--"):
            known |= {name for one in command.params for name in (*one.opts, *one.secondary_opts)}
            if word not in known:
                yield word
        elif isinstance(command, click.Group):
            if word not in command.commands:
                yield word
                return
            command = command.commands[word]


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_the_page_exists(page):
    found = list(commands((DOCS / page).read_text("utf-8")))

    assert found
    assert [(words, wrong) for words in found if (wrong := [*mistakes(words)])] == []


def test_a_command_that_does_not_exist_is_found():
    (words, more) = commands("`voice-relay admin --json erase x --now` and `voice-relay serf`")

    assert [*mistakes(words)] == ["--now"]
    assert [*mistakes(more)] == ["serf"]


def test_every_block_is_a_shell_script():
    scripts = [*blocks(OPERATE), WRAPPER.read_text("utf-8")]
    assert len(scripts) > 10
    for script in scripts:
        done = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, ""), script


def test_the_files_that_are_copied_are_there():
    files = set(re.findall(r"(?<![\w/])deploy/[\w./@-]+", "\n".join(blocks(OPERATE))))

    assert len(files) > 4
    assert [name for name in files if not (ROOT / name).exists()] == []


def test_unit_and_wrapper_have_the_paths_of_the_page():
    (program,) = re.findall(r"^ExecStart=(\S+)", UNIT, re.MULTILINE)
    (environment,) = re.findall(r"^EnvironmentFile=(\S+)", UNIT, re.MULTILINE)
    (account,) = re.findall(r"^User=(\S+)", UNIT, re.MULTILINE)
    (state,) = re.findall(r"^StateDirectory=(\S+)", UNIT, re.MULTILINE)
    wrapper = WRAPPER.read_text("utf-8")

    assert f"ln -sfn voice-relay-$version {Path(program).parents[1]}\n" in SYSTEMD
    assert f"voice-relay init {Path(environment).parent}\n" in SYSTEMD
    assert f"cat >>{environment} <<END" in SYSTEMD
    assert f"-o {account} -g {account} /var/lib/{state}\n" in SYSTEMD
    assert f"RELAY_DATA_DIR=/var/lib/{state}\n" in wrapper
    assert f"done <{environment} " in wrapper
    assert f"--reuid={account} --regid={account} " in wrapper
    assert wrapper.count(f"{program} ") == 2
    assert ENVIRONMENT in environment


def test_balancer_prometheus_and_wrapper_find_the_relays_that_the_page_starts():
    (started,) = re.findall(r"^systemctl enable --now (.*)$", SYSTEMD, re.MULTILINE)
    ports = [unit.removeprefix("voice-relay@") for unit in started.split()]
    (metrics,) = re.findall(r"RELAY_METRICS_PORT=(\S+)", UNIT)
    metrics = [metrics.replace("%i", port) for port in ports]
    targets = (DEPLOY / "prometheus/prometheus.yaml").read_text("utf-8")
    for old, new in re.findall(r"s/(relay[^/]+)/([^/]+)/", SYSTEMD):
        assert targets.count(old) == 1
        targets = targets.replace(old, new)
    (job,) = yaml.safe_load(targets)["scrape_configs"]

    assert (
        re.findall(r"RELAY_\d-([\d.:]+)", BALANCER) == [f"127.0.0.1:{port}" for port in ports] * 3
    )
    assert job["static_configs"][0]["targets"] == [f"127.0.0.1:{port}" for port in metrics]
    assert f"RELAY_METRICS_PORT={metrics[0]} " in WRAPPER.read_text("utf-8")
    assert f"for port in {' '.join(ports)}; do" in OPERATE


def test_what_the_page_sets_is_what_the_program_takes():
    # `sed '/^defaults/,$d'` takes away what was there, and ours begins with it.
    assert len(re.findall(r"^defaults", BALANCER, re.MULTILINE)) == 1
    assert not re.search(r"^global", BALANCER, re.MULTILINE)
    lines = re.findall(r"^(\w+)=(.+)$", SYSTEMD, re.MULTILINE)
    given = {name: re.sub(r"\$\(.*|\$\w+", "k" * 32, value) for name, value in lines}
    given = {name: value for name, value in given.items() if name.isupper()}

    assert given.keys() <= KNOWN
    more = {"DEEPGRAM_API_KEY": "any", "DEEPGRAM_API_KEY_FILE": "", "RELAY_METRICS_PORT": "18081"}
    settings = from_environment(given | more)
    assert settings.auth == "jwt"
    assert settings.dial_ahead > 0
    assert settings.admin_key is not None


def test_the_wrapper_gives_each_value_as_it_stands(tmp_path):
    url = "postgresql://a:b c@h/n?sslmode=require&x='$HOME'"
    environment = tmp_path / ENVIRONMENT
    environment.write_text(f"# A=1\n\nDATABASE_URL={url}\n#RELAY_PORT=80\nRELAY_AUTH=mock\n")
    program = tmp_path / "program"
    program.write_text('#!/bin/sh\necho "$*"\nexec env -0\n')
    program.chmod(0o755)
    text = WRAPPER.read_text("utf-8")
    for old, new in [
        (f"/etc/voice-relay/{ENVIRONMENT}", environment),
        ("/opt/voice-relay/bin/voice-relay", program),
    ]:
        assert old in text
        text = text.replace(old, str(new))
    wrapper = tmp_path / "voice-relay"
    wrapper.write_text(text)
    done = subprocess.run(
        ["sh", wrapper, "admin", "nodes"],
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=50,
    )

    said, _, rest = done.stdout.partition("\n")
    given = dict(pair.split("=", 1) for pair in rest.split("\0") if pair)
    assert said == "admin nodes", done.stderr
    assert given["DATABASE_URL"] == url
    assert given["RELAY_AUTH"] == "mock"
    assert given["RELAY_METRICS_PORT"] == "18081"
    assert not given.keys() & {"A", "# A", "RELAY_PORT"}
