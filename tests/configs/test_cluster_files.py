"""The schedulers' files hold what their programs accept, and commands that run as they stand."""

import configparser
import copy
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from kubernetes_schemas import SCHEMAS

import pipeline
from pipeline.nightly.settings import PARTS, SubmitSettings
from pipeline.runtime.settings import parse

ROOT = Path(pipeline.__file__).parents[1]
FOLDER = ROOT / "configs" / "cluster"
KUBERNETES = ("raycluster.yaml", "rayjob.yaml", "cronjob.yaml")
HOME = "/opt/maskformer"
COMMAND = ["jobs/label_nightly.py", "--config", "configs/nightly/s3.yaml"]


def loaded(name: str) -> dict[str, Any]:
    return yaml.safe_load((FOLDER / name).read_text())


def containers(value: Any) -> Iterator[dict[str, Any]]:
    """All containers of a document, wherever they stand."""
    if isinstance(value, dict):
        yield from value.get("containers", ())
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from containers(each)


def cron_command() -> list[str]:
    (container,) = containers(loaded("cronjob.yaml"))
    (script,) = container["args"]
    return shlex.split(script.replace("$(date -u +%Y-%m-%d)", "2026-01-20"))


def systemd_unit(name: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=True, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string((FOLDER / name).read_text())
    return parser


def crontab_line() -> re.Match[str]:
    lines = [
        line
        for line in (FOLDER / "crontab").read_text().splitlines()
        if line and not line.startswith("#") and not re.match(r"^[A-Z_]+=", line)
    ]
    (line,) = lines
    found = re.fullmatch(
        r"(?P<minute>\S+) (?P<hour>\S+) (?P<day>\S+) (?P<month>\S+) (?P<weekday>\S+) "
        r"(?P<user>[a-z]+) (?P<command>.*)",
        line,
    )
    assert found is not None
    return found


def commands() -> dict[str, list[str]]:
    """The labelling command in each file."""
    submitted = cron_command()
    shell = shlex.split(crontab_line()["command"])
    job = shell.index("jobs/label_nightly.py")
    service = shlex.split(systemd_unit("label-nightly.service")["Service"]["ExecStart"])
    assert service[0] == f"{HOME}/.venv/bin/python"
    return {
        "cronjob.yaml": submitted[submitted.index("--") + 1 :],
        "rayjob.yaml": shlex.split(loaded("rayjob.yaml")["spec"]["entrypoint"]),
        "crontab": shell[job : shell.index(">>")],
        "label-nightly.service": service[1:],
    }


@pytest.mark.parametrize("name", KUBERNETES)
def test_kubernetes_and_kuberay_know_all_fields(name):
    document = loaded(name)
    jsonschema.validate(document, SCHEMAS[document["kind"]])


@pytest.mark.parametrize(
    ("name", "path", "value"),
    [
        ("raycluster.yaml", ("spec", "workerGroupSpecs", 0, "maxReplica"), 3),
        ("raycluster.yaml", ("spec", "workerGroupSpecs", 1, "groupName"), "GPU_group"),
        ("raycluster.yaml", ("spec", "headGroupSpec", "rayStartParams", "num-cpus"), 0),
        ("raycluster.yaml", ("spec", "headGroupSpec", "containers"), []),
        ("rayjob.yaml", ("spec", "entryPoint"), "x"),
        ("rayjob.yaml", ("spec", "rayClusterSpec", "replicas"), 1),
        ("cronjob.yaml", ("spec", "schedule"), "0 2 * *"),
        ("cronjob.yaml", ("spec", "jobTemplate", "spec", "restartPolicy"), "Never"),
        ("cronjob.yaml", ("spec", "concurrencyPolicy"), "forbid"),
    ],
)
def test_the_schemas_see_what_is_wrong(name, path, value):
    document = copy.deepcopy(loaded(name))
    place: Any = document
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, SCHEMAS[document["kind"]])


@pytest.mark.parametrize("name", ["raycluster.yaml", "rayjob.yaml"])
def test_kuberays_own_rules_hold(name):
    """Checks what the operator checks beyond the fields (`ValidateRayClusterSpec`)."""
    spec = loaded(name)["spec"]
    cluster = spec.get("rayClusterSpec", spec)
    assert cluster["enableInTreeAutoscaling"] is True
    pods = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for pod in pods:
        # The second autoscaler replaces pods itself.
        assert pod["template"]["spec"]["restartPolicy"] == "Never"
        (container,) = pod["template"]["spec"]["containers"]
        assert {"name": "metrics", "containerPort": 8080} in container["ports"]
        requests, limits = container["resources"]["requests"], container["resources"]["limits"]
        assert requests == limits, "Ray tells its nodes' sizes by the limits"
    names = [group["groupName"] for group in cluster["workerGroupSpecs"]]
    assert names == ["decode", "gpu"]
    for group in cluster["workerGroupSpecs"]:
        assert group["minReplicas"] <= group["maxReplicas"]
        has_gpu = "nvidia.com/gpu" in yaml.safe_dump(group["template"]["spec"]["containers"])
        assert has_gpu == (group["groupName"] == "gpu")
    major, minor, _ = map(int, cluster["rayVersion"].split("."))
    assert (major, minor) >= (2, 52), "tokens"


def test_the_cluster_runs_the_ray_of_the_packages():
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    (bounds,) = [re.findall(r"\d+\.\d+", each) for each in wanted if each.startswith("ray[")]
    assert loaded("raycluster.yaml")["spec"]["rayVersion"].startswith(f"{bounds[0]}.")
    pinned = re.search(r"(?m)^ray==(.*)$", (ROOT / "constraints.txt").read_text())
    if pinned:
        assert loaded("raycluster.yaml")["spec"]["rayVersion"] == pinned[1].strip()


def test_a_run_by_hand_has_the_machines_of_the_cluster():
    def without_images(spec: dict[str, Any]) -> dict[str, Any]:
        for container in containers(spec):
            container.pop("image")
        return spec

    by_hand = loaded("rayjob.yaml")["spec"]["rayClusterSpec"]
    assert without_images(by_hand) == without_images(loaded("raycluster.yaml")["spec"])


def test_placeholders_stand_in_one_place_and_are_filled_in_from_there():
    for name in ("raycluster.yaml", "cronjob.yaml"):
        assert "PLACEHOLDER" not in (FOLDER / name).read_text()
        assert {each["image"] for each in containers(loaded(name))} == {"maskformer"}
    kustomization = loaded("kustomization.yaml")
    assert kustomization["resources"] == ["raycluster.yaml", "cronjob.yaml"]
    assert kustomization["images"][0]["name"] == "maskformer"
    assert (FOLDER / "rayjob.yaml").read_text().count("PLACEHOLDER-") == 4


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="there is no kubectl")
def test_kustomize_puts_namespace_and_image_everywhere(tmp_path):
    shutil.copytree(FOLDER, tmp_path / "cluster")
    file = tmp_path / "cluster" / "kustomization.yaml"
    filled = file.read_text().replace("PLACEHOLDER.example.com", "registry.here")
    filled = filled.replace("PLACEHOLDER-namespace", "night").replace("PLACEHOLDER-tag", "v1")
    assert "PLACEHOLDER" not in filled
    file.write_text(filled)
    built = subprocess.run(
        ["kubectl", "kustomize", str(file.parent)], check=True, capture_output=True, text=True
    ).stdout
    documents = list(yaml.safe_load_all(built))
    assert {document["kind"] for document in documents} == {"RayCluster", "CronJob"}
    for document in documents:
        jsonschema.validate(document, SCHEMAS[document["kind"]])
        assert document["metadata"]["namespace"] == "night"
        images = {container["image"] for container in containers(document)}
        assert images == {"registry.here/maskformer:v1"}


def test_the_night_is_submitted_once_and_tried_again_as_it_ended():
    spec = loaded("cronjob.yaml")["spec"]
    job = spec["jobTemplate"]["spec"]
    assert spec["concurrencyPolicy"] == "Forbid"
    assert job["template"]["spec"]["restartPolicy"] == "Never", "as the failure policy asks"
    # Every attempt has to begin on the date that is in its id.
    minute, hour = map(int, spec["schedule"].split()[:2])
    late = spec["startingDeadlineSeconds"]
    assert hour * 3600 + minute * 60 + late + job["activeDeadlineSeconds"] < 24 * 3600
    (container,) = job["template"]["spec"]["containers"]
    rules = job["podFailurePolicy"]["rules"]
    for rule in rules:
        if "onExitCodes" in rule:
            assert rule["onExitCodes"]["containerName"] == container["name"]

    def action(code: int) -> str:
        for rule in rules:
            if code in rule.get("onExitCodes", {}).get("values", ()):
                return rule["action"]
        return "Count"

    assert [action(code) for code in (2, 4, 143)] == ["FailJob"] * 3
    assert [action(code) for code in (1, 75, 137)] == ["Count"] * 3
    assert 1 <= job["backoffLimit"] <= 6


def test_the_submitter_reaches_the_head_with_the_clusters_token():
    (container,) = containers(loaded("cronjob.yaml"))
    cluster = loaded("raycluster.yaml")["metadata"]["name"]
    environment = {each["name"]: each for each in container["env"]}
    assert environment["RAY_API_SERVER_ADDRESS"]["value"] == f"http://{cluster}-head-svc:8265"
    assert environment["RAY_AUTH_MODE"]["value"] == "token"
    token = environment["RAY_AUTH_TOKEN"]["valueFrom"]["secretKeyRef"]
    assert token == {"name": cluster, "key": "auth_token"}
    words = cron_command()
    assert words[:2] == ["exec", "jobs/submit.py"]
    settings = parse([SubmitSettings], arguments=words[2 : words.index("--")])
    assert settings.of(SubmitSettings).submission_id == "label-nightly-2026-01-20"


@pytest.mark.parametrize("name", [*KUBERNETES, "kustomization.yaml", "Dockerfile"])
def test_no_secret_is_written_down(name):
    text = (FOLDER / name).read_text()
    assert not re.search(
        r"AKIA|hooks\.|(?i:secret_access_key|password|token)\s*[:=]\s*\S{12,}", text
    )


@pytest.mark.parametrize(
    "name", ["cronjob.yaml", "rayjob.yaml", "crontab", "label-nightly.service"]
)
def test_the_command_is_the_readmes(name):
    words = commands()[name]
    assert words[:3] == COMMAND
    # Where nodes come and go, the number of actors cannot be told by the nodes that are there.
    expected = ["--num_actors", "4", "--actor_gpus", "1"] if name.endswith(".yaml") else []
    assert words[3:] == expected
    assert (ROOT / words[0]).stat().st_mode & 0o111
    assert (ROOT / words[2]).is_file()


def test_the_actors_have_a_gpu_each():
    words = commands()["cronjob.yaml"]
    num_actors = int(words[words.index("--num_actors") + 1])
    (gpus,) = [
        group["maxReplicas"]
        for group in loaded("raycluster.yaml")["spec"]["workerGroupSpecs"]
        if group["groupName"] == "gpu"
    ]
    assert num_actors == gpus


@pytest.mark.parametrize(
    "name", ["cronjob.yaml", "rayjob.yaml", "crontab", "label-nightly.service"]
)
def test_the_command_is_understood_as_it_stands(name):
    """All its settings are known and of their types; the files' placeholders are places."""
    settings = parse(PARTS, arguments=commands()[name][1:])
    assert len(settings.parts) == len(PARTS)


def test_the_command_runs_as_it_stands():
    words = commands()["label-nightly.service"]
    ended = subprocess.run(
        [sys.executable, *words, "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "--webhook_variable" in ended.stdout
    assert "--num_actors" in ended.stdout


def test_cron_starts_it_from_the_checkout_with_its_environment():
    line = crontab_line()
    fields = [line[name] for name in ("minute", "hour", "day", "month", "weekday")]
    assert fields == ["0", "2-5", "*", "*", "*"]
    assert "%" not in line["command"], "cron would make a new line of it"
    assert line["command"].startswith(
        f"cd {HOME} && set -a && . /etc/maskformer/nightly.env && jobs/label_nightly.py "
    )
    assert line["command"].endswith(">> /var/log/maskformer/nightly.log 2>&1")
    assert f"PATH={HOME}/.venv/bin:" in (FOLDER / "crontab").read_text()
    assert (FOLDER / "crontab").read_text().endswith("\n"), "cron leaves out a line without an end"


def test_cron_passes_the_environment_on(tmp_path):
    """The line itself, with a job in its place that shows what it was given."""
    home, variables, log = tmp_path / "home", tmp_path / "nightly.env", tmp_path / "log"
    (home / "jobs").mkdir(parents=True)
    job = home / "jobs" / "label_nightly.py"
    job.write_text('#!/bin/sh\necho "$LABELLING_WEBHOOK $*"; echo fault >&2; exit 75\n')
    job.chmod(0o755)
    variables.write_text("LABELLING_WEBHOOK=https://hooks.example.com/a\n")
    command = crontab_line()["command"].replace(HOME, str(home))
    command = command.replace("/etc/maskformer/nightly.env", str(variables))
    command = command.replace("/var/log/maskformer/nightly.log", str(log))
    assert subprocess.run(["/bin/bash", "-c", command], check=False).returncode == 75
    assert log.read_text().splitlines() == [
        "https://hooks.example.com/a --config configs/nightly/s3.yaml", "fault",
    ]  # fmt: skip


def test_systemd_tries_again_what_is_worth_it():
    service = systemd_unit("label-nightly.service")["Service"]
    assert service["Type"] == "oneshot"
    assert service["SuccessExitStatus"] == "3"
    assert service["Restart"] == "on-failure"
    assert service["RestartPreventExitStatus"].split() == ["2", "4"]
    assert service["KillMode"] == "mixed", "the job is told, and not its workers"
    assert int(systemd_unit("label-nightly.service")["Unit"]["StartLimitBurst"]) <= 6
    timer = systemd_unit("label-nightly.timer")["Timer"]
    assert timer["OnCalendar"] == "*-*-* 02:00:00"
    assert timer["Persistent"] == "true"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd")
def test_systemd_finds_no_fault_in_its_files(tmp_path):
    for name in ("label-nightly.service", "label-nightly.timer"):
        text = (FOLDER / name).read_text()
        text = text.replace(f"{HOME}/.venv/bin/python", "/bin/true").replace(HOME, "/tmp")
        (tmp_path / name).write_text(text)
    ended = subprocess.run(
        ["systemd-analyze", "verify", *map(str, sorted(tmp_path.iterdir()))],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert "label-nightly" not in ended.stderr
    (tmp_path / "label-nightly.service").write_text(
        (tmp_path / "label-nightly.service").read_text() + "RestartPreventExitState=2\n"
    )
    ended = subprocess.run(
        ["systemd-analyze", "verify", str(tmp_path / "label-nightly.service")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "RestartPreventExitState" in ended.stderr, "the check sees what is wrong"


def test_the_image_holds_what_the_command_needs():
    text = (FOLDER / "Dockerfile").read_text()
    lines = [
        line.split()
        for line in text.replace("\\\n", " ").splitlines()
        if line and not line.startswith("#")
    ]
    known = {"FROM", "RUN", "ENV", "WORKDIR", "ARG", "COPY", "USER", "CMD"}
    assert {line[0] for line in lines} == known
    copied = [source for line in lines if line[0] == "COPY" for source in line[1:-1]]
    assert set(copied) >= {"maskformer", "pipeline", "jobs", "configs", "constraints.txt"}
    assert all((ROOT / source).exists() for source in copied)
    assert [line[1] for line in lines if line[0] == "WORKDIR"] == [HOME]
    assert [line[1] for line in lines if line[0] == "USER"][-1] != "root"
    python = re.search(r"FROM python:(\d+\.\d+)", text)
    assert python is not None
    assert python[1] == f"{sys.version_info.major}.{sys.version_info.minor}"
    assert "wget" in text, "KubeRay's probes"


def test_the_image_installs_the_packages_of_the_project():
    script = re.search(
        r'python -c "(import tomllib; .*?)" > /tmp/packages', (FOLDER / "Dockerfile").read_text()
    )
    assert script is not None
    printed = subprocess.run(
        [sys.executable, "-c", script[1]], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert printed.splitlines() == wanted


@pytest.mark.parametrize(
    "path", sorted(set(FOLDER.iterdir()) - {FOLDER / "README.md"}), ids=lambda path: path.name
)
def test_a_file_opens_with_purpose_command_machines_and_result(path):
    head = path.read_text().splitlines()[:4]
    assert all(line.startswith("# ") for line in head)
