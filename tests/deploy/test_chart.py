"""deploy/helm: Helm takes it, Kubernetes' schemas take what comes of it, mistakes are named."""

import json
import os
import re
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from everlearn.config import load
from everlearn.task import load_tasks
from tests.deploy.chart import CHART, TASK, WITH_TASK, helm, named, pods, rendered, validate
from tests.deploy.compose import of_everlearn

SWITCHES: dict[str, tuple[str, ...]] = {
    "defaults": (),
    "a task": WITH_TASK,
    "two tasks": (*WITH_TASK, "--set", "tasks.other_one=task: other_one"),
    "no autoscaling": ("--set", "gateway.autoscaling.enabled=false,gateway.replicas=3"),
    "a log that outlives pods": ("--set", "gateway.log.size=10Gi,gateway.log.storageClassName=ssd"),
    "only the door": (
        "--set",
        "collector.enabled=false,releases.enabled=false,console.enabled=false",
        "--set",
        "evaluator.enabled=false,trainer.enabled=false,maintain.enabled=false",
    ),
    "storage of one's own": ("--set", "storage.existingClaim=mine"),
    "a storage class": ("--set", "storage.storageClassName=nfs,storage.size=1Ti"),
    "images of one's own": (
        "--set",
        "image.repository=registry.example/el,image.tag=1.2,image.pullSecrets[0].name=pull",
    ),
    "a GPU": (
        *WITH_TASK,
        "--set-json",
        'trainer={"suspend":false,"resources":{"limits":{"nvidia.com/gpu":1}},"pod":'
        '{"nodeSelector":{"gpu":"yes"},"tolerations":[{"key":"gpu","operator":"Exists"}],'
        '"seccompProfile":{"type":"Unconfined"},"existingSecret":"s3"}}',
    ),
    "more of every pod": (
        "--set-json",
        'pod={"annotations":{"a":"b"},"serviceAccountName":"us",'
        '"extraVolumes":[{"name":"project","persistentVolumeClaim":{"claimName":"project"}}],'
        '"extraVolumeMounts":[{"name":"project","mountPath":"/etc/everlearn/project"}]}',
    ),
    "a load balancer": (
        "--set",
        "gateway.service.type=LoadBalancer,gateway.service.annotations.a=b",
    ),
    "other ports": (
        "--set",
        "config.gateway.port=9000,config.console.port=9200,config.bus.metrics_port=9901",
    ),
}


@pytest.mark.parametrize("switches", SWITCHES.values(), ids=SWITCHES)
def test_what_is_rendered_follows_the_schemas_of_kubernetes(switches: tuple[str, ...]) -> None:
    objects = rendered(*switches)
    assert len(objects) > 5
    for each in objects:
        validate(each)
    names = [(each["kind"], each["metadata"]["name"]) for each in objects]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "replica"), 1),
        (("spec", "template", "spec", "containers", 0, "readinessProbe", "httpGet", "url"), "/"),
        (("spec", "template", "spec", "initContainers", 0, "restart"), "Always"),
    ],
)
def test_the_schemas_refuse_what_kubernetes_would_drop(path: tuple[Any, ...], value: Any) -> None:
    found = named("gateway", kind="Deployment")
    place: Any = found
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises(kubernetes_validate.ValidationError):
        validate(found)


@pytest.mark.parametrize("switches", [(), WITH_TASK, SWITCHES["a GPU"]])
def test_lint_finds_nothing(switches: tuple[str, ...]) -> None:
    done = helm("lint", "--strict", str(CHART), *switches)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 chart(s) failed" in done.stdout


@pytest.mark.parametrize(
    ("switch", "said"),
    [
        ("gateway.replica=3", "/gateway': additional properties 'replica' not allowed"),
        ("kafka.enabled=true", "additional properties 'kafka' not allowed"),
        ("config.kafka=x", "/config': additional properties 'kafka' not allowed"),
        ("config.bus.kind=wal", "/config/bus/kind': value must be 'kafka'"),
        ("config.data_dir=/data", "/config/data_dir': value must be '/var/lib/everlearn'"),
        ("config.gateway.host=127.0.0.1", "value must be one of '0.0.0.0', '::'"),
        ("config.gateway.port=80", "/config/gateway/port': minimum: got 80, want 1,024"),
        ("config.releases.metrics_port=0", "/config/releases/metrics_port': minimum"),
        ("config.state.url=", "/config/state/url': '' does not match pattern"),
        ("releases.replicas=two", "/releases/replicas': got string, want integer"),
        ("pod.secret=x", "/pod': additional properties 'secret' not allowed"),
        ("trainer.pod.gpu=1", "/trainer/pod': additional properties 'gpu' not allowed"),
        ("evaluator.schedule=hourly", "/evaluator/schedule': 'hourly' does not match pattern"),
        ("storage.size=10gb", "/storage/size': '10gb' does not match pattern"),
        ("tasks.Support=x", "'Support' does not match pattern"),
        ("tasks.support=task: sales", "tasks.support: the file says `task: sales`"),
    ],
)
def test_what_is_wrong_in_the_values_is_named(switch: str, said: str) -> None:
    done = helm("template", str(CHART), "--set", switch)
    assert done.returncode == 1
    assert said in done.stderr


def test_every_key_of_the_values_is_in_the_schema_and_the_other_way() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert values.keys() == schema["properties"].keys() - {"global"}
    assert values["pod"].keys() == schema["$defs"]["pod"]["properties"].keys()
    for name in values.keys() - {"config", "tasks", "pod"}:
        rule = schema["properties"][name]
        rule = schema["$defs"][rule["$ref"].split("/")[-1]] if "$ref" in rule else rule
        assert rule["additionalProperties"] is False
        assert values[name].keys() == rule["properties"].keys() - {"pod"}, name


def test_nobody_is_root_and_no_file_of_the_image_can_be_written() -> None:
    for name, pod in pods(*WITH_TASK).items():
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert spec["automountServiceAccountToken"] is False
        for each in (*spec.get("initContainers", ()), *spec["containers"]):
            assert each["securityContext"] == {
                "readOnlyRootFilesystem": True,
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            }
            assert each["resources"]["requests"].keys() >= {"cpu", "memory"}
            assert "memory" in each["resources"]["limits"]


def test_no_variable_of_kubernetes_is_read_as_a_setting() -> None:
    assert {pod["spec"]["enableServiceLinks"] for pod in pods(*WITH_TASK).values()} == {False}


def test_no_secret_stands_in_the_chart() -> None:
    for file in (*CHART.rglob("*.yaml"), *CHART.rglob("*.tpl")):
        for line in file.read_text().splitlines():
            assert not re.search(r"(?i)password\w*: *\S|secret\w*: *[\"']?[\w/+]{16}", line), line
    assert not [each for each in rendered(*WITH_TASK) if each["kind"] == "Secret"]


def test_the_shipper_ends_after_the_gateway_and_has_the_time_to() -> None:
    pod = pods()["gateway"]["spec"]
    (shipper,) = pod["initContainers"]
    (gateway,) = pod["containers"]
    assert (shipper["name"], shipper["restartPolicy"]) == ("shipper", "Always")
    assert gateway["lifecycle"]["preStop"]["exec"]["command"] == ["sleep", "5"]
    assert pod["terminationGracePeriodSeconds"] == 5 + 30 + 10 + 40
    slower = pods("--set-json", "config.gateway.drain_seconds=90.5")["gateway"]["spec"]
    assert slower["terminationGracePeriodSeconds"] == 5 + 91 + 10 + 40
    mounts = [
        {m["mountPath"]: m["name"] for m in one["volumeMounts"]} for one in (shipper, gateway)
    ]
    assert mounts[0] == mounts[1]


def test_a_rolling_update_takes_no_gateway_away_before_another_is_ready() -> None:
    gateway = named("gateway", kind="Deployment")["spec"]
    assert gateway["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    assert "replicas" not in gateway, "the autoscaler's"
    assert named("gateway", kind="PodDisruptionBudget")["spec"]["maxUnavailable"] == 1


def test_without_autoscaling_the_replicas_are_those_of_the_values() -> None:
    switches = SWITCHES["no autoscaling"]
    assert named("gateway", *switches, kind="Deployment")["spec"]["replicas"] == 3
    assert "HorizontalPodAutoscaler" not in {each["kind"] for each in rendered(*switches)}


def test_a_log_of_a_size_is_a_volume_that_outlives_the_pod() -> None:
    switches = SWITCHES["a log that outlives pods"]
    gateway = named("gateway", *switches, kind="StatefulSet")["spec"]
    (claim,) = gateway["volumeClaimTemplates"]
    assert claim["spec"]["resources"]["requests"]["storage"] == "10Gi"
    volumes = {each["name"] for each in gateway["template"]["spec"]["volumes"]}
    assert claim["metadata"]["name"] == "data"
    assert "data" not in volumes
    scaled = named("gateway", *switches, kind="HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]
    assert scaled["kind"] == "StatefulSet"


def test_what_a_workload_says_goes_before_what_every_pod_is_told() -> None:
    found = pods(*SWITCHES["a GPU"])
    trainer, evaluator = found["trainer"]["spec"], found["evaluator"]["spec"]
    assert trainer["nodeSelector"] == {"gpu": "yes"}
    assert trainer["containers"][0]["envFrom"] == [{"secretRef": {"name": "s3"}}]
    assert trainer["securityContext"]["seccompProfile"] == {"type": "Unconfined"}
    assert "nodeSelector" not in evaluator
    assert evaluator["containers"][0]["envFrom"] == [{"secretRef": {"name": "everlearn"}}]


def test_another_config_starts_new_pods_and_another_task_does_not() -> None:
    def stamps(*switches: str) -> set[str]:
        found = pods(*switches).values()
        return {pod["metadata"]["annotations"]["checksum/config"] for pod in found}

    assert stamps() == stamps(*WITH_TASK)
    assert not stamps() & stamps("--set", "config.gateway.drain_seconds=10")


def test_a_config_of_one_s_own_is_merged_over_the_default_numbers_as_they_are(
    tmp_path: Path,
) -> None:
    mine: dict[str, Any] = {
        "upstreams": {"vllm": None, "mine": {"base_url": "http://mine/v1"}},
        "default_upstream": "mine",
        "gateway": {"max_body_bytes": 16777216, "capture": {"wal_max_bytes": 1000000}},
    }
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({"config": mine}))
    found = yaml.safe_load(named("config", "-f", str(file))["data"]["everlearn.yaml"])
    assert found["upstreams"] == {"mine": {"base_url": "http://mine/v1"}}
    assert found["gateway"]["require_key"] is True
    assert found["gateway"].items() >= mine["gateway"].items()


def test_the_product_accepts_the_config_and_the_task_that_are_mounted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    local = '{"base_url":"http://model-server/v1","kind":"vllm"}'
    switches = (*WITH_TASK, "--set-json", f"config.upstreams.local={local}")
    config, tasks = named("config", *switches)["data"], named("tasks", *switches)["data"]
    assert tasks["text2sql.yaml"].strip() == TASK.read_text().strip()
    (tmp_path / "tasks").mkdir()
    (tmp_path / "everlearn.yaml").write_text(config["everlearn.yaml"])
    (tmp_path / "tasks" / "text2sql.yaml").write_text(tasks["text2sql.yaml"])
    (tmp_path / "orders.duckdb").symlink_to(TASK.parents[1] / "orders.duckdb")
    for name in of_everlearn(dict(os.environ)):
        monkeypatch.delenv(name)
    service = load(tmp_path / "everlearn.yaml")
    assert load_tasks(service).keys() == {"text2sql"}


def test_a_release_of_another_name_has_objects_of_its_own() -> None:
    def names(release: str) -> set[str]:
        return {each["metadata"]["name"] for each in rendered(*WITH_TASK, name=release)}

    assert not names("everlearn") & names("prod")
    assert all(name.startswith("prod-everlearn-") for name in names("prod"))


def test_the_consoles_numbers_are_scraped_at_their_own_port_where_they_have_one() -> None:
    def told(*switches: str) -> tuple[str | None, list[int]]:
        pod = named("console", *switches, kind="Deployment")["spec"]["template"]
        ports = [each["containerPort"] for each in pod["spec"]["containers"][0]["ports"]]
        return pod["metadata"]["annotations"].get("prometheus.io/port"), ports

    assert told() == ("9104", [8200, 9104])
    assert told("--set", "config.console.metrics_port=0") == (None, [8200])
