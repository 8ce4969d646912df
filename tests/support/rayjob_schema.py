"""What a KubeRay RayJob (``ray.io/v1``) may say, as a strict JSON schema.

Written from the names and types of KubeRay's API reference, no copy of its resource definition.
Unlike that one it refuses unknown keys, and asks for the token and for what runs in the cluster.
Pod templates are checked elsewhere, against Kubernetes' own schemas.
"""

from __future__ import annotations

from typing import Any

TEXT = {"type": "string", "minLength": 1}
COUNT = {"type": "integer", "minimum": 0}
# Ray's start command takes texts only: a number here is an error that only the cluster would show
START_PARAMETERS = {"type": "object", "additionalProperties": {"type": "string"}}
QUANTITY = {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?(m|[KMGT]i?)?$"}
QUANTITIES = {"type": "object", "additionalProperties": QUANTITY}
LABELS = {"type": "object", "additionalProperties": {"type": "string"}}


def strict(required: list[str], **properties: Any) -> dict[str, Any]:
    """An object with these keys and no other."""
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


AUTOSCALER = strict(
    [],
    idleTimeoutSeconds=COUNT,
    upscalingMode={"enum": ["Default", "Aggressive", "Conservative"]},
    resources=strict([], requests=QUANTITIES, limits=QUANTITIES),
    image=TEXT,
    imagePullPolicy={"enum": ["Always", "IfNotPresent", "Never"]},
    env={"type": "array"},
    envFrom={"type": "array"},
    securityContext={"type": "object"},
    volumeMounts={"type": "array"},
)
HEAD = strict(
    ["rayStartParams", "template"],
    rayStartParams=START_PARAMETERS,
    template={"type": "object"},
    serviceType={"enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
    enableIngress={"type": "boolean"},
)
WORKERS = strict(
    ["groupName", "minReplicas", "maxReplicas", "rayStartParams", "template"],
    groupName=TEXT,
    replicas=COUNT,
    minReplicas=COUNT,
    maxReplicas=COUNT,
    numOfHosts=COUNT,
    rayStartParams=START_PARAMETERS,
    template={"type": "object"},
)
AUTH = strict(["mode", "secretName"], mode={"const": "token"}, secretName=TEXT)
CLUSTER = strict(
    ["rayVersion", "authOptions", "headGroupSpec", "workerGroupSpecs"],
    rayVersion=TEXT,
    authOptions=AUTH,
    enableInTreeAutoscaling={"type": "boolean"},
    autoscalerOptions=AUTOSCALER,
    headGroupSpec=HEAD,
    workerGroupSpecs={"type": "array", "items": WORKERS, "minItems": 1},
    headServiceAnnotations=LABELS,
    suspend={"type": "boolean"},
)
SPEC = strict(
    ["entrypoint", "rayClusterSpec"],
    entrypoint=TEXT,
    runtimeEnvYAML=TEXT,
    jobId=TEXT,
    submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode"]},
    backoffLimit=COUNT,
    activeDeadlineSeconds={"type": "integer", "minimum": 1},
    shutdownAfterJobFinishes={"type": "boolean"},
    ttlSecondsAfterFinished=COUNT,
    suspend={"type": "boolean"},
    entrypointNumCpus={"type": "number"},
    entrypointNumGpus={"type": "number"},
    entrypointResources=TEXT,
    metadata=LABELS,
    submitterPodTemplate={"type": "object"},
    rayClusterSpec=CLUSTER,
)
RAY_JOB = strict(
    ["apiVersion", "kind", "metadata", "spec"],
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayJob"},
    metadata=strict(["name"], name=TEXT, namespace=TEXT, labels=LABELS, annotations=LABELS),
    spec=SPEC,
)
