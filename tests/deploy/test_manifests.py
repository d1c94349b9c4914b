"""Manifests, unit, compose and image against the program: its ports, paths, times and variables."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from config.settings import VARIABLES, from_environment
from config.starter import ENVIRONMENT
from config.version import VERSION
from control.api.health import get_live, get_ready
from control.cli import main
from control.http.shutdown import LAST_SECONDS
from control.http.worker_processes import KILL_SECONDS
from relay.telemetry.metrics import METRICS
from tests.deploy.production import CONTAINERFILE, environment, instructions

DEPLOY = CONTAINERFILE.parent
OVERLAY = DEPLOY / "kubernetes/overlays/example"
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8"))
UNIT = (DEPLOY / "systemd/voice-relay@.service").read_text("utf-8")
OF_OTHERS = {"HTTPRoute", "ScaledObject"}  # nothing here knows their shapes
KNOWN = {variable.name for variable in VARIABLES}
PORT = next(variable.default for variable in VARIABLES if variable.field == "port")
SECRETS = {"database-url": "postgresql://voice@db/voice", "deepgram-api-key": "key"}
USER = int(instructions("USER")[-1].split(":")[0])
MARGIN = 5.0  # seconds that whoever stops us waits beyond our own last resort


def render(folder):
    """What `kubectl apply --kustomize` would send, by kind and name."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("there is no kubectl: the manifests of Kubernetes are NOT tested")
    done = subprocess.run(
        [kubectl, "kustomize", str(folder)], capture_output=True, text=True, timeout=50
    )
    assert done.returncode == 0, done.stderr
    documents = list(yaml.safe_load_all(done.stdout))
    return {(one["kind"], one["metadata"]["name"]): one for one in documents}


@pytest.fixture(scope="module")
def rendered():
    return render(OVERLAY)


@pytest.fixture(scope="module")
def job():
    return render(OVERLAY / "migrate")["Job", "voice-relay-migrate"]


@pytest.fixture(scope="module")
def pod(rendered):
    return rendered["StatefulSet", "voice-relay"]["spec"]["template"]["spec"]


@pytest.fixture(scope="module")
def container(pod):
    (container,) = pod["containers"]
    return container


def environment_of(rendered, container):
    """What the container starts with, stand-ins for the secrets included."""
    found = dict(environment())
    for source in container.get("envFrom", ()):
        name = source["configMapRef"]["name"]
        found |= rendered["ConfigMap", name]["data"]
    for one in container["env"]:
        found[one["name"]] = SECRETS.get(one["valueFrom"]["secretKeyRef"]["key"], "x" * 32)
    return found


# --- Kubernetes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", [OVERLAY, OVERLAY / "migrate"], ids=lambda path: path.name)
def test_the_api_of_kubernetes_takes_them(folder):
    for (kind, name), document in render(folder).items():
        if kind not in OF_OTHERS:
            version = kubernetes_validate.latest_version()
            kubernetes_validate.validate(document, version, strict=True)
        assert document["metadata"].get("namespace", name) == "voice"


@pytest.mark.parametrize("component", ["keda", "gateway"])
def test_the_other_way_to_scale_and_to_be_reached_fits_too(component, tmp_path):
    example = (OVERLAY / "kustomization.yaml").read_text("utf-8")
    replaced = {"keda": "hpa", "gateway": "ingress-nginx"}[component]
    shutil.copytree(DEPLOY / "kubernetes", tmp_path / "kubernetes")
    place = tmp_path / "kubernetes/overlays/example/kustomization.yaml"
    place.write_text(example.replace(f"components/{replaced}", f"components/{component}"))
    found = render(place.parent)

    if component == "keda":
        query = found["ScaledObject", "voice-relay"]["spec"]["triggers"][0]["metadata"]["query"]
        assert metrics_in(query) == {"relay_sessions_live"}
        assert not any(kind == "HorizontalPodAutoscaler" for kind, _ in found)
    else:
        (rule,) = found["HTTPRoute", "voice-relay"]["spec"]["rules"]
        (backend,) = rule["backendRefs"]
        service = found["Service", backend["name"]]["spec"]
        assert [port["port"] for port in service["ports"]] == [backend["port"]]


def metrics_in(text):
    return set(re.findall(r"\brelay_\w+", text)) & {row.name for row in METRICS}


def test_who_is_chosen_by_labels_is_there(rendered):
    stateful = rendered["StatefulSet", "voice-relay"]["spec"]
    labels = stateful["template"]["metadata"]["labels"].items()
    selectors = [
        rendered["Service", "voice-relay"]["spec"]["selector"],
        rendered["Service", stateful["serviceName"]]["spec"]["selector"],
        stateful["selector"]["matchLabels"],
        rendered["PodDisruptionBudget", "voice-relay"]["spec"]["selector"]["matchLabels"],
        rendered["NetworkPolicy", "voice-relay"]["spec"]["podSelector"]["matchLabels"],
        *(
            one["labelSelector"]["matchLabels"]
            for one in stateful["template"]["spec"]["topologySpreadConstraints"]
        ),
    ]
    assert all(selector and selector.items() <= labels for selector in selectors)


def test_its_environment_is_one_that_the_program_starts_with(rendered, pod, container):
    given = environment_of(rendered, container)
    ours = {name: value for name, value in given.items() if name in KNOWN}
    assert {name for name in given if name.startswith(("RELAY_", "DEEPGRAM_"))} <= ours.keys()

    # The file of the key is there: its folder is that of a volume, with the secret's key in it.
    folder, _, name = ours.pop("DEEPGRAM_API_KEY_FILE").rpartition("/")
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert [item["path"] for item in volumes[mounts[folder]]["secret"]["items"]] == [name]
    settings = from_environment(ours | {"DEEPGRAM_API_KEY": "key"})

    assert settings.auth == "jwt"
    assert settings.dial_ahead > 0
    assert settings.host == "0.0.0.0"
    assert mounts[str(settings.data_dir)] == "journal"
    policies = [one for (kind, _), one in rendered.items() if kind == "NetworkPolicy"]
    leaving = {
        port["port"] for one in policies for rule in one["spec"]["egress"] for port in rule["ports"]
    }
    orchestrator = int(settings.orchestrator_url.rpartition(":")[2])
    assert leaving == {53, 443, 5432, orchestrator}


def test_ports_and_paths_are_those_of_the_program(rendered, container):
    port, metrics = container["ports"]
    assert str(port["containerPort"]) == PORT == instructions("EXPOSE")[-1]
    given = environment_of(rendered, container)
    assert (metrics["name"], str(metrics["containerPort"])) == (
        "metrics",
        given["RELAY_METRICS_PORT"],
    )
    policy = rendered["NetworkPolicy", "voice-relay"]["spec"]["ingress"]
    assert [rule["ports"][0]["port"] for rule in policy] == ["http", "metrics"]
    for name, handler in (
        ("readinessProbe", get_live),
        ("livenessProbe", get_live),
        ("startupProbe", get_live),
    ):
        probe = container[name]["httpGet"]
        assert ({probe["path"]}, probe["port"]) == (handler.paths, port["name"])
    # One way in: a cookie counts for the POST of a session and for its WebSocket.
    (ingress,) = (one for (kind, _), one in rendered.items() if kind == "Ingress")
    (path,) = ingress["spec"]["rules"][0]["http"]["paths"]
    assert (path["path"], path["pathType"]) == ("/", "Prefix")
    annotations = ingress["metadata"]["annotations"]
    assert annotations["nginx.ingress.kubernetes.io/affinity"] == "cookie"
    assert annotations["nginx.ingress.kubernetes.io/session-cookie-path"] == "/"


def test_there_is_time_to_drain(pod, container):
    _, seconds = container["lifecycle"]["preStop"]["exec"]["command"]

    assert pod["terminationGracePeriodSeconds"] >= float(seconds) + KILL_SECONDS + MARGIN
    timeout = (
        container["livenessProbe"]["periodSeconds"]
        * (container["livenessProbe"]["failureThreshold"])
    )
    assert timeout > LAST_SECONDS  # a slow moment is no reason to kill


def test_it_may_do_as_little_as_possible(pod, container, job):
    made = job["spec"]["template"]["spec"]
    (migrate,) = made["containers"]
    for spec, one in ((pod, container), (made, migrate)):
        account = spec["securityContext"]
        assert account["runAsNonRoot"] is True
        assert account["runAsUser"] == account["runAsGroup"] == USER
        assert account["seccompProfile"] == {"type": "RuntimeDefault"}
        assert one["securityContext"]["readOnlyRootFilesystem"] is True
        assert one["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert one["resources"].keys() == {"requests", "limits"}
        assert spec["automountServiceAccountToken"] is False
        assert spec["enableServiceLinks"] is False
        assert one["args"][0] in main.commands
        assert one["image"].endswith(f"/voice-relay:{VERSION}")


def test_it_scales_by_a_metric_that_there_is(rendered):
    scaler = rendered["HorizontalPodAutoscaler", "voice-relay"]["spec"]
    (metric,) = scaler["metrics"]
    target = scaler["scaleTargetRef"]

    assert metrics_in(metric["pods"]["metric"]["name"])
    assert (target["kind"], target["name"]) in rendered


def test_the_migration_has_another_account_than_the_relays(container, job):
    (migrate,) = job["spec"]["template"]["spec"]["containers"]
    (database,) = [one for one in container["env"] if one["name"] == "DATABASE_URL"]
    (owner,) = migrate["env"]

    assert owner["name"] == "DATABASE_URL"
    assert owner["valueFrom"] != database["valueFrom"]


# --- systemd -------------------------------------------------------------------------------------


def of_unit(name):
    return re.findall(rf"^{name}=(.*)$", UNIT, re.MULTILINE)


def test_the_unit_has_times_paths_and_variables_of_the_program():
    (stop,) = of_unit("TimeoutStopSec")
    (watchdog,) = of_unit("WatchdogSec")
    (command,) = of_unit("ExecStart")
    (given,) = of_unit("Environment")
    pairs = dict(pair.split("=", 1) for pair in given.split())

    assert float(stop) >= KILL_SECONDS + MARGIN
    assert float(watchdog) > LAST_SECONDS
    assert of_unit("Type") == ["notify"]
    assert command.split()[-1] in main.commands
    assert pairs.keys() <= KNOWN
    assert pairs["RELAY_DATA_DIR"] == f"%S/{of_unit('StateDirectory')[0]}"
    assert of_unit("EnvironmentFile") == [f"{pairs['RELAY_CONFIG_DIR']}/{ENVIRONMENT}"]
    assert of_unit("ExecReload") == ["/bin/kill -HUP $MAINPID"]


def test_the_unit_is_hardened(tmp_path):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("there is no systemd-analyze")
    unit = tmp_path / "voice-relay@8080.service"
    unit.write_text(UNIT)
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", str(unit)],
        capture_output=True,
        text=True,
        timeout=50,
    )
    found = re.search(r"exposure level for \S+: ([\d.]+)", done.stdout)

    assert found is not None, done.stdout + done.stderr
    assert float(found[1]) <= 2.0, done.stdout  # of 10; what is left is the network


# --- compose and image ---------------------------------------------------------------------------


def filled(text):
    """With the defaults of `${NAME:-default}`, and a word where there has to be a value."""
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)
    return re.sub(r"\$\{\w+:\?[^}]*\}", "value", text)


@pytest.mark.parametrize("name", ["relay-1", "relay-2"])
def test_compose_starts_a_relay_that_the_program_takes(name):
    service = COMPOSE["services"][name]
    given = environment() | {key: filled(text) for key, text in service["environment"].items()}
    (volume,) = service["volumes"]

    settings = from_environment({key: text for key, text in given.items() if key in KNOWN})
    assert service["environment"].keys() <= KNOWN
    assert volume.endswith(f":{settings.data_dir}")
    assert settings.trusted_proxies == (
        COMPOSE["services"]["haproxy"]["networks"]["voice"]["ipv4_address"],
    )
    assert float(service["stop_grace_period"].removesuffix("s")) >= KILL_SECONDS + MARGIN
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert f"{service['networks']['voice']['ipv4_address']}:{PORT}" in (
        COMPOSE["services"]["haproxy"]["environment"].values()
    )


def test_what_compose_publishes_is_for_this_machine_alone():
    ports = [port for one in COMPOSE["services"].values() for port in one.get("ports", ())]

    assert len(ports) == 3
    assert all(port.startswith("127.0.0.1:") for port in ports)
    for one in COMPOSE["services"].values():
        command = one.get("command", ["serve"])
        assert "build" not in one or command[0] in main.commands


def test_the_balancer_goes_where_compose_says():
    named = set(re.findall(r"\$\{(\w+)-", (DEPLOY / "haproxy.cfg").read_text("utf-8")))

    assert COMPOSE["services"]["haproxy"]["environment"].keys() == named


def test_the_image_has_no_bad_habits():
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, str(CONTAINERFILE)], capture_output=True, text=True)

    assert done.returncode == 0, done.stdout + done.stderr


def test_the_image_is_asked_as_often_as_it_can_answer():
    (line,) = instructions("HEALTHCHECK")
    assert get_ready.paths == {"/health/ready"}
    seconds = float(re.search(r"--timeout=(\d+)s", line)[1])

    assert seconds > 4.0  # control/health_check.py gives up then
    assert environment().keys() - {"PATH", "PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED"} <= KNOWN
