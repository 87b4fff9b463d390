"""What the cluster files may hold: the fields of Kubernetes and KubeRay that they use.

After the API references of Kubernetes 1.31 (batch/v1, core/v1) and KubeRay 1.6 (ray.io/v1); a field
that is spelled wrong, stands in the wrong place or has the wrong type fails here as on a cluster.
"""

from typing import Any

TEXT: dict[str, Any] = {"type": "string", "minLength": 1}
COUNT: dict[str, Any] = {"type": "integer", "minimum": 0}
SECONDS: dict[str, Any] = {"type": "integer", "minimum": 1}
FLAG: dict[str, Any] = {"type": "boolean"}
QUANTITY: dict[str, Any] = {
    "type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?(m|k|Ki|M|Mi|G|Gi|T|Ti)?$"
}  # fmt: skip
NAME: dict[str, Any] = {"type": "string", "pattern": r"^[a-z]([-a-z0-9]*[a-z0-9])?$"}


def fields(required: str = "", /, **known: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": known,
        "required": required.split(),
        "additionalProperties": False,
    }


def many(item: Any) -> dict[str, Any]:
    return {"type": "array", "items": item, "minItems": 1}


TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
METADATA = fields(
    "name", name={**NAME, "maxLength": 47}, namespace=TEXT, labels=TEXTS, annotations=TEXTS
)
RESOURCES = {
    "type": "object",
    "propertyNames": {"enum": ["cpu", "memory", "nvidia.com/gpu", "ephemeral-storage"]},
    "additionalProperties": QUANTITY,
}
KEY_OF_SECRET = fields("name key", name=TEXT, key=TEXT, optional=FLAG)
CONTAINER = fields(
    "name image resources",
    name=NAME,
    image=TEXT,
    command=many(TEXT),
    args=many(TEXT),
    workingDir={"type": "string", "pattern": "^/"},
    ports=many(
        fields(
            "containerPort",
            name={**NAME, "maxLength": 15},
            containerPort={"type": "integer", "minimum": 1, "maximum": 65535},
        )
    ),
    env=many(
        fields(
            "name", name=TEXT, value={"type": "string"},
            valueFrom=fields("secretKeyRef", secretKeyRef=KEY_OF_SECRET),
        )
    ),
    envFrom=many(fields(secretRef=fields("name", name=TEXT, optional=FLAG))),
    resources=fields("requests limits", requests=RESOURCES, limits=RESOURCES),
)  # fmt: skip
POD = fields(
    "spec",
    metadata=fields(labels=TEXTS, annotations=TEXTS),
    spec=fields(
        "containers",
        restartPolicy={"enum": ["Always", "OnFailure", "Never"]},
        containers=many(CONTAINER),
        serviceAccountName=NAME,
        nodeSelector=TEXTS,
        tolerations=many(
            fields(
                key=TEXT, operator={"enum": ["Exists", "Equal"]}, value=TEXT,
                effect={"enum": ["NoSchedule", "PreferNoSchedule", "NoExecute"]},
            )
        ),
    ),
)  # fmt: skip

START_PARAMETERS = {
    "type": "object",
    "propertyNames": {
        "enum": ["num-cpus", "num-gpus", "dashboard-host", "object-store-memory", "block"]
    },
    "additionalProperties": {"type": "string"},
}
RAY_CLUSTER_SPEC = fields(
    "headGroupSpec",
    rayVersion={"type": "string", "pattern": r"^\d+\.\d+\.\d+$"},
    authOptions=fields(mode={"enum": ["disabled", "token"]}),
    enableInTreeAutoscaling=FLAG,
    autoscalerOptions=fields(
        version={"enum": ["v1", "v2"]},
        upscalingMode={"enum": ["Default", "Aggressive", "Conservative"]},
        idleTimeoutSeconds=COUNT,
    ),
    headGroupSpec=fields("rayStartParams template", rayStartParams=START_PARAMETERS, template=POD),
    workerGroupSpecs=many(
        fields(
            "groupName rayStartParams template minReplicas maxReplicas",
            groupName=NAME,
            replicas=COUNT,
            minReplicas=COUNT,
            maxReplicas=COUNT,
            rayStartParams=START_PARAMETERS,
            template=POD,
        )
    ),
)
RAY_JOB_SPEC = fields(
    "entrypoint",
    entrypoint=TEXT,
    runtimeEnvYAML=TEXT,
    submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
    jobId=TEXT,
    activeDeadlineSeconds=SECONDS,
    backoffLimit=COUNT,
    shutdownAfterJobFinishes=FLAG,
    ttlSecondsAfterFinished=COUNT,
    clusterSelector=TEXTS,
    rayClusterSpec=RAY_CLUSTER_SPEC,
)
ON_EXIT_CODES = fields(
    "operator values",
    containerName=NAME,
    operator={"enum": ["In", "NotIn"]},
    values={**many({"type": "integer", "minimum": 1, "maximum": 255}), "uniqueItems": True},
)
RULE = {
    **fields(
        "action",
        action={"enum": ["FailJob", "FailIndex", "Ignore", "Count"]},
        onExitCodes=ON_EXIT_CODES,
        onPodConditions=many(fields("type", type=TEXT, status=TEXT)),
    ),
    "oneOf": [{"required": ["onExitCodes"]}, {"required": ["onPodConditions"]}],
}
JOB_SPEC = fields(
    "template",
    backoffLimit=COUNT,
    activeDeadlineSeconds=SECONDS,
    ttlSecondsAfterFinished=COUNT,
    podFailurePolicy=fields("rules", rules={**many(RULE), "maxItems": 20}),
    template=POD,
)
CRON_JOB_SPEC = fields(
    "schedule jobTemplate",
    schedule={"type": "string", "pattern": r"^\S+ \S+ \S+ \S+ \S+$"},
    timeZone={"type": "string", "pattern": r"^[A-Z][A-Za-z]+(/[A-Za-z_]+)*$"},
    concurrencyPolicy={"enum": ["Allow", "Forbid", "Replace"]},
    startingDeadlineSeconds=SECONDS,
    suspend=FLAG,
    successfulJobsHistoryLimit=COUNT,
    failedJobsHistoryLimit=COUNT,
    jobTemplate=fields("spec", spec=JOB_SPEC),
)


def kind(api: str, name: str, spec: Any) -> dict[str, Any]:
    return fields(
        "apiVersion kind metadata spec",
        apiVersion={"const": api}, kind={"const": name}, metadata=METADATA, spec=spec,
    )  # fmt: skip


SCHEMAS = {
    "RayCluster": kind("ray.io/v1", "RayCluster", RAY_CLUSTER_SPEC),
    "RayJob": kind("ray.io/v1", "RayJob", RAY_JOB_SPEC),
    "CronJob": kind("batch/v1", "CronJob", CRON_JOB_SPEC),
}
