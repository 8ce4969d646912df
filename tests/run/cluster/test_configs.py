"""configs/cluster: valid by the validators of those who read them, and true to the project."""

import copy
import re
import subprocess

import jsonschema
import kubernetes_validate
import pytest
import yaml

from ntt_ray import __version__
from ntt_ray.config import build_config
from tests.support.paths import ROOT
from tests.support.rayjob_schema import RAY_JOB

CLUSTER = ROOT / "configs" / "cluster"
KUBERNETES = "1.33"
RAY = re.search(r"^ray==(\S+)$", (ROOT / "constraints.txt").read_text(), flags=re.MULTILINE)[1]
CONFIG_MAP, POLICY, RAYJOB = yaml.safe_load_all((CLUSTER / "rayjob.yaml").read_text())
AWS = yaml.safe_load((CLUSTER / "aws.yaml").read_text())


def _groups(job=RAYJOB):
    cluster = job["spec"]["rayClusterSpec"]
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


def _check_rayjob(job) -> None:
    jsonschema.validate(job, RAY_JOB)
    for group in _groups(job):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, **group["template"]}
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)


def test_the_rayjob_is_valid():
    _check_rayjob(RAYJOB)
    kubernetes_validate.validate(CONFIG_MAP, KUBERNETES, strict=True)
    kubernetes_validate.validate(POLICY, KUBERNETES, strict=True)


TOKEN_ASKED_FOR = ("spec", "rayClusterSpec", "authOptions")
OWN = {"ntt-ray/run": RAYJOB["metadata"]["name"]}


def test_the_pods_of_a_rayjob_ask_for_a_token_that_is_in_no_file():
    auth = RAYJOB["spec"]["rayClusterSpec"]["authOptions"]
    assert auth == {"mode": "token", "secretName": "ntt-ray-token"}
    page = (ROOT / "docs" / "cluster.md").read_text()
    created = "kubectl create secret generic ntt-ray-token --from-literal=auth_token="
    assert created in page
    assert created in (CLUSTER / "rayjob.yaml").read_text()
    assert "kubectl get secret ntt-ray-token -o jsonpath='{.data.auth_token}'" in page
    # what KubeRay puts there by authOptions is not written over
    names = {entry["name"] for group in _groups() for entry in _environment(group)}
    assert not [name for name in names if name.startswith("RAY_AUTH")]


def _environment(group):
    return group["template"]["spec"]["containers"][0].get("env", [])


def test_nobody_but_the_run_and_the_operator_reaches_its_pods():
    for group in _groups():
        assert OWN.items() <= group["template"]["metadata"]["labels"].items()
    head = _groups()[0]
    assert head["serviceType"] == "ClusterIP"
    assert "enableIngress" not in head
    spec = POLICY["spec"]
    assert spec["podSelector"] == {"matchLabels": OWN}
    assert spec["policyTypes"] == ["Ingress"]
    own, others = spec["ingress"]
    assert own == {"from": [{"podSelector": {"matchLabels": OWN}}]}
    assert [port["port"] for port in others["ports"]] == [8265]
    submitter, operator = others["from"]
    name = {"ray.io/originated-from-cr-name": RAYJOB["metadata"]["name"]}
    assert submitter == {"podSelector": {"matchLabels": name}}
    assert operator["podSelector"]["matchLabels"] == {"app.kubernetes.io/name": "kuberay-operator"}


def _at(job, *path):
    for key in path[:-1]:
        job = job[key]
    return job, path[-1]


POD = ("spec", "rayClusterSpec", "headGroupSpec", "template", "spec")
GPU = ("spec", "rayClusterSpec", "workerGroupSpecs", 1)
# what is said instead, and where
WRONG = {
    "a key of the job": (("spec", "entryPoint"), "ntt-ray"),
    "a number for ray start": (
        ("spec", "rayClusterSpec", "headGroupSpec", "rayStartParams", "num-cpus"),
        0,
    ),
    "a key of a group": ((*GPU, "maxReplica"), 3),
    "a text for a number": ((*GPU, "maxReplicas"), "3"),
    "a key of a container": ((*POD, "containers", 0, "volumeMount"), []),
    "no token": ((*TOKEN_ASKED_FOR, "mode"), "disabled"),
    "a key of the authentication": ((*TOKEN_ASKED_FOR, "secret"), "ntt-ray-token"),
    "a port that is a text": ((*POD, "containers", 0, "ports", 0, "containerPort"), "6379"),
    "a key of a volume": ((*POD, "volumes", 0, "configmap"), {"name": "a"}),
}


@pytest.mark.parametrize("case", WRONG)
def test_the_check_sees_mistakes(case):
    path, value = WRONG[case]
    job = copy.deepcopy(RAYJOB)
    place, key = _at(job, *path)
    place[key] = value
    with pytest.raises((jsonschema.ValidationError, kubernetes_validate.ValidationError)):
        _check_rayjob(job)


def test_the_rayjob_fits_the_image_and_the_constraints():
    assert RAYJOB["spec"]["rayClusterSpec"]["rayVersion"] == RAY
    for group in _groups():
        spec = group["template"]["spec"]
        assert spec["securityContext"]["runAsNonRoot"]
        assert spec["restartPolicy"] == "Never"
        (container,) = spec["containers"]
        assert container["image"].endswith(f"/ntt-ray:{__version__}")
        # by reference: no secret is in the file
        assert container["envFrom"] == [{"secretRef": {"name": "ntt-ray-s3", "optional": True}}]
        assert not any("KEY" in entry["name"] for entry in container.get("env", ()))


def test_the_rayjob_carries_a_config_that_its_entrypoint_names():
    (name, text), *more = CONFIG_MAP["data"].items()
    assert not more
    config = build_config(yaml.safe_load(text))
    head = _groups()[0]["template"]["spec"]
    (volume,) = [v for v in head["volumes"] if "configMap" in v]
    assert volume["configMap"]["name"] == CONFIG_MAP["metadata"]["name"]
    (mount,) = [m for m in head["containers"][0]["volumeMounts"] if m["name"] == volume["name"]]
    assert RAYJOB["spec"]["entrypoint"] == f"ntt-ray run {mount['mountPath']}/{name}"
    (gpus,) = [group for group in _groups() if group.get("groupName") == "gpu"]
    assert config.job.actors.max == gpus["maxReplicas"]


def _prepared(config):
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(copy.deepcopy(config))
    validate_config(prepared)
    return prepared


def test_aws_is_valid_for_rays_launcher():
    prepared = _prepared(AWS)
    assert prepared["head_node_type"] in prepared["available_node_types"]
    assert prepared["docker"]["image"].endswith(f"/ntt-ray:{__version__}")
    # nothing is installed over the image
    commands = [prepared[f"{kind}setup_commands"] for kind in ("", "head_", "worker_")]
    assert commands == [[], [], []]
    kinds = prepared["available_node_types"].values()
    assert sum(kind.get("max_workers", 0) for kind in kinds) == prepared["max_workers"]


def test_machines_of_aws_ask_for_a_token_and_show_no_dashboard():
    prepared = _prepared(AWS)
    options = " ".join(prepared["docker"]["run_options"])
    assert "--env RAY_AUTH_MODE=token" in options
    (place,) = re.findall(r"--env RAY_AUTH_TOKEN_PATH=(\S+)", options)
    assert prepared["file_mounts"][place].endswith("/.ray/auth_token")
    (home,) = re.findall(r"useradd .* (\S+) \\$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert place.startswith(f"/home/{home}/")  # the user of the image can read it
    (start,) = [text for text in prepared["head_start_ray_commands"] if "ray start" in text]
    assert "--dashboard-host=127.0.0.1" in start
    # nothing else differs from what Ray's launcher does by itself
    defaults = _prepared({k: v for k, v in AWS.items() if not k.endswith("start_ray_commands")})
    plain = [" ".join(text.split()) for text in defaults["head_start_ray_commands"]]
    ours = [text.replace("127.0.0.1", "0.0.0.0") for text in prepared["head_start_ray_commands"]]
    assert ours == plain
    assert prepared["worker_start_ray_commands"] == defaults["worker_start_ray_commands"]


@pytest.mark.parametrize(
    ("key", "value"), [("max_worker", 3), ("head_node_type", "none"), ("max_workers", 1)]
)
def test_rays_launcher_sees_mistakes(key, value):
    with pytest.raises((jsonschema.ValidationError, ValueError)):
        _prepared({**AWS, key: value})


def test_the_slurm_script_is_bash_and_its_command_is_rays(tmp_path):
    script = (CLUSTER / "slurm.sh").read_text()
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    # run with stand-ins for what only Slurm has: what would be started, word for word
    tools = {
        "scontrol": "echo node1; echo node2",
        "getent": "echo '10.0.0.1 STREAM node1'; echo '10.0.0.2 STREAM node1'",
        "srun": 'echo "$RAY_AUTH_MODE ${#RAY_AUTH_TOKEN}"; printf "%s\\n" "$@"',
    }
    for name, body in tools.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_NODELIST": "node[1-2]"}
    env |= {"SLURM_JOB_NUM_NODES": "2", "SLURM_CPUS_PER_TASK": "32"}
    done = subprocess.run(
        ["bash", str(CLUSTER / "slurm.sh"), "my.yaml"], env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    secret, *words = done.stdout.splitlines()
    assert secret == "token 64"
    assert words[:2] == ["--nodes=2", "--ntasks=2"]
    words = words[2:]
    assert words[:2] == ["ray", "symmetric-run"]
    before, after = words[2 : words.index("--")], words[words.index("--") + 1 :]
    assert after == ["env", "RAY_ADDRESS=10.0.0.1:6379", "ntt-ray", "run", "my.yaml"]
    from ray.scripts.symmetric_run import curate_and_validate_ray_start_args

    assert curate_and_validate_ray_start_args(before) == ["--num-cpus=32", "--num-gpus=0"]


def test_the_page_names_what_there_is():
    page = (ROOT / "docs" / "cluster.md").read_text()
    for link in re.findall(r"\]\((?!https?://|#)([^)]+)\)", page):
        assert (ROOT / "docs" / link).exists(), link
    anchors = {re.sub(r"[^a-z ]", "", t.lower()).replace(" ", "-") for t in _headings(page)}
    assert set(re.findall(r"\]\(#([^)]+)\)", page)) <= anchors
    assert set(re.findall(r"ray\[default\]==(\S+?)\"", page)) == {RAY}
    images = re.findall(r"ntt-ray:(\d\S*\d)", page)
    assert {image.removesuffix("-cuda12") for image in images} == {__version__}
    for job in re.findall(r"python (jobs/\w+\.py|\.ci/\w+\.py)", page):
        assert (ROOT / job).exists(), job


def _headings(page: str) -> list[str]:
    return re.findall(r"^## (.+)$", page, flags=re.MULTILINE)
