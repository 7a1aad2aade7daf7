"""What `kubectl apply -k` would apply, and where to find things in it."""

import functools
import json
import pathlib
import re
import subprocess

import yaml

REPOSITORY = pathlib.Path(__file__).parents[2]
DEPLOY = REPOSITORY / "deploy"
KUBERNETES = DEPLOY / "kubernetes"


@functools.cache
def built(folder: pathlib.Path) -> list[dict]:
    """The objects of a kustomization."""
    done = subprocess.run(["kubectl", "kustomize", folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def everything() -> list[dict]:
    return built(KUBERNETES)


def of_kind(*kinds: str) -> list[dict]:
    return [one for one in everything() if one["kind"] in kinds]


def named(kind: str, name: str) -> dict:
    [found] = [one for one in of_kind(kind) if one["metadata"]["name"] == name]
    return found


def workloads() -> list[dict]:
    return of_kind("Deployment", "StatefulSet")


def pod(workload: dict) -> dict:
    return workload["spec"]["template"]["spec"]


def containers() -> list[tuple[dict, dict]]:
    """Every container, with its workload."""
    return [(workload, container) for workload in workloads() for container in pod(workload)["containers"]]


def config_map(start: str) -> dict:
    """The data of the one whose generated name starts so."""
    found = [one for one in of_kind("ConfigMap") if re.fullmatch(f"{start}-[a-z0-9]{{10}}", one["metadata"]["name"])]
    assert len(found) == 1, f"{start}: {len(found)}"
    return found[0]["data"]


def environment(container: dict) -> dict[str, str]:
    """The variables whose values stand in the manifests."""
    values = {}
    for source in container.get("envFrom", []):
        [data] = [one["data"] for one in of_kind("ConfigMap") if one["metadata"]["name"] == source["configMapRef"]["name"]]
        values |= data
    return values | {one["name"]: one["value"] for one in container.get("env", []) if "value" in one}


def arguments(container: dict) -> list[str]:
    """As the kubelet would pass them; what it alone knows stays `$(NAME)`."""
    values = environment(container)
    expand = lambda text: re.sub(r"\$\((\w+)\)", lambda match: values.get(match[1], match[0]), text)
    return [expand(argument) for argument in container.get("args", [])]


def dashboard() -> dict:
    return json.loads((DEPLOY / "grafana" / "wayfare.json").read_text())
