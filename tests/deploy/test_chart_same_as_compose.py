"""deploy/helm and docker-compose.yml run the same images by the same words, and are asked for their
health at the same addresses. There is no list of exceptions: what compose has and the chart has not
is Airflow, or answers at an address that `config` names."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from everlearn.supervise import STOP_SECONDS
from tests.deploy.chart import CHART, WITH_TASK, containers, named, pods, rendered
from tests.deploy.compose import CONFIG, ROOT, environment, images, ours, services
from tests.deploy.test_images import VERBS, missing, reached
from tests.gateway.backend import backend
from tests.gateway.door import door

LONG = ("collector", "console", "gateway", "releases", "shipper")
"""What runs all the time; anything else of the chart runs once."""
NOTES = (CHART / "templates" / "NOTES.txt").read_text()


def config() -> dict[str, Any]:
    """everlearn.yaml as the pods read it."""
    found: dict[str, Any] = yaml.safe_load(named("config")["data"]["everlearn.yaml"])
    return found


def target(container: dict[str, Any]) -> str:
    """Of deploy/Dockerfile."""
    return str(container["image"]).split(":")[0].removeprefix("everlearn-")


def test_every_service_that_compose_builds_has_its_pod_or_its_address_in_the_config() -> None:
    elsewhere = {name for name, one in ours().items() if one["build"]["target"] == "airflow"}
    served = yaml.safe_load(CONFIG.read_text())["upstreams"].values()
    elsewhere |= {name for name in ours() if any(f"//{name}:" in one["base_url"] for one in served)}
    assert containers(*WITH_TASK).keys() - {"maintain"} == ours().keys() - elsewhere
    assert containers().keys() - {"maintain"} == {*LONG}, "without a task nothing is judged"


def test_the_images_are_the_same_targets_and_the_tag_is_the_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    for name, one in containers(*WITH_TASK).items():
        built = ours()[name]["build"]["target"] if name in ours() else "collector"
        assert one["image"] == f"everlearn-{built}:{version}", name


@pytest.mark.parametrize("name", LONG)
def test_the_commands_are_the_same_words(name: str) -> None:
    assert containers()[name]["command"] == services()[name]["command"]


def test_what_runs_once_is_a_verb_of_its_image() -> None:
    found = containers(*WITH_TASK)
    for name in found.keys() - {*LONG}:
        assert found[name]["command"][0] == "everlearn"
        assert found[name]["command"][1] in VERBS[target(found[name])], name


@pytest.mark.parametrize("name", LONG)
def test_health_is_asked_where_compose_asks(name: str) -> None:
    one = containers()[name]
    port = next(each for each in one["ports"] if each["name"] != "metrics")
    asked = re.fullmatch(
        r".*http://(?:localhost|([\w-]+)):(\d+)([\w/]*)'\)",
        services()[name]["healthcheck"]["test"][-1],
    )
    assert asked is not None
    assert asked[1] in (None, name)
    assert port["containerPort"] == int(asked[2])
    # A shipper that waits for its broker takes no gateway out of service.
    probe = one["livenessProbe" if name == "shipper" else "readinessProbe"]["httpGet"]
    assert probe == {"path": asked[3] or "/", "port": port["name"]}
    for kind in ("livenessProbe", "startupProbe"):
        assert one[kind]["httpGet"]["port"] == port["name"]


@pytest.mark.anyio
async def test_a_gateway_answers_its_probes(tmp_path: Path) -> None:
    one = containers()["gateway"]
    kinds = ("readinessProbe", "livenessProbe", "startupProbe")
    async with backend() as upstream, door(tmp_path, upstream.url) as gate:
        for path in {one[kind]["httpGet"]["path"] for kind in kinds}:
            assert (await gate.client.get(path)).status_code == 200, path


@pytest.mark.parametrize("name", ["gateway", "console"])
def test_a_service_leads_to_the_port_of_its_pods(name: str) -> None:
    service = named(name, kind="Service")["spec"]
    (port,) = service["ports"]
    assert port["targetPort"] == containers()[name]["ports"][0]["name"]
    assert service["selector"].items() <= pods()[name]["metadata"]["labels"].items()
    assert services()[name]["ports"] == [f"127.0.0.1:{port['port']}:{port['port']}"]
    assert f"\nEXPOSE {port['port']}\n" in images()[name].text


def test_each_controller_selects_its_own_pods() -> None:
    found = [each for each in rendered(*WITH_TASK) if each["kind"] == "Deployment"]
    assert len(found) == 4
    for each in found:
        labels = each["spec"]["template"]["metadata"]["labels"]
        assert each["spec"]["selector"]["matchLabels"].items() <= labels.items()
        assert each["metadata"]["name"] == f"everlearn-{labels['app.kubernetes.io/component']}"


def test_the_environment_is_that_of_compose_and_its_secrets_are_asked_for() -> None:
    there = environment("collector")
    for name, one in containers(*WITH_TASK).items():
        plain = {each["name"]: each["value"] for each in one["env"]}
        assert plain.items() <= there.items(), name
        secret = there.keys() - plain.keys() - {"EVERLEARN_TASKS_DIR"}
        for said in ((CHART / "values.yaml").read_text(), NOTES):
            assert set(re.findall(r"PGPASSWORD|AWS_[A-Z_]+", said)) == secret


def test_the_notes_name_what_there_is() -> None:
    kinds = {"deploy": "Deployment", "svc": "Service", "cronjob": "CronJob"}
    there = {(each["kind"], each["metadata"]["name"]) for each in rendered(*WITH_TASK)}
    said = re.findall(r"(deploy|svc|cronjob)/\{\{ \$name \}\}-([\w-]+)", NOTES)
    assert len(said) == 4
    for kind, name in said:
        assert (kinds[kind], f"everlearn-{name}".replace("TASK", "text2sql")) in there
    assert missing(reached("everlearn.cli.keys"), images()["console"].distributions()) == set()


def test_the_files_are_where_compose_mounts_them_and_the_user_is_the_one_of_the_image() -> None:
    wanted = {"/etc/everlearn/everlearn.yaml", "/etc/everlearn/tasks", "/var/lib/everlearn", "/tmp"}
    assert config()["data_dir"] in wanted
    assert f"/etc/everlearn/{config()['tasks_dir']}" in wanted
    for name, pod in pods(*WITH_TASK).items():
        spec = pod["spec"]
        for one in (*spec.get("initContainers", ()), *spec["containers"]):
            user = re.findall(r"^USER (\d+)", images()[target(one)].text, re.M)[-1]
            assert spec["securityContext"]["runAsUser"] == int(user), name
            assert {each["mountPath"] for each in one["volumeMounts"]} >= wanted
            mounted = {each["name"] for each in one["volumeMounts"]}
            assert mounted <= {each["name"] for each in spec["volumes"]}, name


def test_the_config_is_that_of_compose_but_for_where_to_listen_and_the_local_model() -> None:
    there, here = yaml.safe_load(CONFIG.read_text()), config()
    del there["model_server"], there["upstreams"]["local"]
    there["tasks_dir"], there["default_upstream"] = "tasks", "vllm"
    there["gateway"] |= {"host": "0.0.0.0", "port": 8000, "drain_seconds": 30}
    there["console"] |= {"host": "0.0.0.0", "port": 8200}
    assert here == there


def test_pods_are_given_at_least_as_long_to_stop() -> None:
    for name, pod in pods(*WITH_TASK).items():
        assert pod["spec"]["terminationGracePeriodSeconds"] >= STOP_SECONDS, name


@pytest.mark.parametrize(
    ("name", "dag"),
    [("evaluator-text2sql", "evaluate"), ("trainer-text2sql", "retrain"), ("maintain", "maintain")],
)
def test_a_job_may_last_as_long_as_the_task_of_its_dag(name: str, dag: str) -> None:
    text = (ROOT / "dags" / f"{dag}.py").read_text()
    ((unit, number),) = re.findall(r"execution_timeout=timedelta\((\w+)=(\d+)\)", text)
    job = named(name, *WITH_TASK)["spec"]
    seconds = int(number) * {"hours": 3600, "minutes": 60}[unit]
    assert job["jobTemplate"]["spec"]["activeDeadlineSeconds"] == seconds
    assert job["concurrencyPolicy"] == "Forbid"
    assert job["suspend"] is (dag == "retrain")
