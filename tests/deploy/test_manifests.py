"""The manifests are valid, and what one of them names is there in another."""

import os
import re
import subprocess

import kubernetes_validate
import pytest
import yaml
from manifests import (
    KUBERNETES,
    arguments,
    built,
    config_map,
    containers,
    environment,
    everything,
    named,
    of_kind,
    pod,
    workloads,
)


# The oldest release with every field that is used, the sleep of preStop among them; and the newest.
@pytest.mark.parametrize("version", ["1.30", "1.37"])
@pytest.mark.parametrize("folder", [".", "serving", "observability"])
def test_they_follow_the_schemas_of_kubernetes(folder, version):
    objects = built(KUBERNETES / folder)
    assert len(objects) > 8
    for one in objects:
        kubernetes_validate.validate(one, version, strict=True)


def test_a_field_that_does_not_exist_is_noticed():
    broken = yaml.safe_load(yaml.safe_dump(named("Deployment", "wayfare")))
    pod(broken)["containers"][0]["livenesProbe"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, "1.37", strict=True)


def test_all_is_in_one_namespace():
    for one in everything():
        if one["kind"] != "Namespace":
            assert one["metadata"]["namespace"] == "wayfare", one["metadata"]["name"]


def pods_of(selector: dict) -> list[dict]:
    return [
        one for one in workloads() if selector.items() <= one["spec"]["template"]["metadata"]["labels"].items()
    ]


def test_selectors_select_one_workload():
    for one in workloads():
        assert pods_of(one["spec"]["selector"]["matchLabels"]) == [one]
    for kind in ("NetworkPolicy", "PodDisruptionBudget"):
        for one in of_kind(kind):
            selector = one["spec"].get("podSelector") or one["spec"]["selector"]
            assert len(pods_of(selector["matchLabels"])) == 1, one["metadata"]["name"]


def test_services_and_probes_name_ports_that_containers_have():
    for service in of_kind("Service"):
        [workload] = pods_of(service["spec"]["selector"])
        [container] = pod(workload)["containers"]
        has = {port["name"] for port in container.get("ports", [])}
        for port in service["spec"].get("ports", []):
            assert port["targetPort"] in has, service["metadata"]["name"]
    for _, container in containers():
        for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
            probe = container.get(kind, {})
            if "httpGet" in probe:
                assert probe["httpGet"]["port"] in {port["name"] for port in container["ports"]}


def test_volumes_and_variables_come_from_what_is_there():
    maps = {one["metadata"]["name"] for one in of_kind("ConfigMap")}
    for workload, container in containers():
        volumes = {volume["name"]: volume for volume in pod(workload).get("volumes", [])}
        claims = {claim["metadata"]["name"] for claim in workload["spec"].get("volumeClaimTemplates", [])}
        for mount in container.get("volumeMounts", []):
            assert mount["name"] in volumes.keys() | claims, mount
        for volume in volumes.values():
            assert volume.get("configMap", {}).get("name") in maps | {None}, volume
        for source in container.get("envFrom", []):
            assert source["configMapRef"]["name"] in maps
        # The one secret, which docs/kubernetes.md tells how to make.
        for variable in container.get("env", []):
            reference = variable.get("valueFrom", {}).get("secretKeyRef")
            if reference:
                assert reference["name"] == "wayfare"
                assert reference["key"] in {"api-key", "hf-token", "grafana-password"}
        for argument in arguments(container):
            for name in re.findall(r"\$\((\w+)\)", argument):
                assert any(one["name"] == name for one in container["env"]), argument


def endpoints() -> dict[str, str]:
    """Every address of the manifests' own services that a configuration or an option names, by where it stands."""
    collector = yaml.safe_load(config_map("otel-collector")["config.yaml"])
    prometheus = yaml.safe_load(config_map("prometheus")["prometheus.yml"])
    sources = yaml.safe_load(config_map("grafana-datasources")["datasources.yaml"])["datasources"]
    wayfare = environment(pod(named("Deployment", "wayfare"))["containers"][0])
    found = {
        "wayfare": wayfare["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"].removeprefix("http://"),
        "collector": collector["exporters"]["otlp_grpc/tempo"]["endpoint"],
    }
    for source in sources:
        found[source["name"]] = source["url"].removeprefix("http://")
    for job in prometheus["scrape_configs"]:
        [static] = job["static_configs"]
        [found[f"scrape of {job['job_name']}"]] = static["targets"]
    return found


def test_what_configurations_connect_to_is_a_port_of_a_service():
    addresses = endpoints()
    assert len(addresses) == 7, addresses
    for where, address in addresses.items():
        host, port = address.split(":")
        service = named("Service", host)
        assert int(port) in {one["port"] for one in service["spec"]["ports"]}, where


def test_the_collector_uses_what_it_defines_and_listens_where_its_ports_are():
    config = yaml.safe_load(config_map("otel-collector")["config.yaml"])
    assert config.keys() == {"receivers", "processors", "exporters", "extensions", "service"}
    for kind in ("receivers", "processors", "exporters"):
        used = {name for pipeline in config["service"]["pipelines"].values() for name in pipeline[kind]}
        assert used == config[kind].keys()
    assert set(config["service"]["extensions"]) == config["extensions"].keys()
    # The limiter must refuse before anything is kept.
    assert config["service"]["pipelines"]["traces"]["processors"][0] == "memory_limiter"
    protocols = config["receivers"]["otlp"]["protocols"]
    listens = {protocol["endpoint"].split(":")[1] for protocol in protocols.values()}
    listens.add(config["extensions"]["health_check"]["endpoint"].split(":")[1])
    [reader] = config["service"]["telemetry"]["metrics"]["readers"]
    listens.add(str(reader["pull"]["exporter"]["prometheus"]["port"]))
    [container] = pod(named("Deployment", "otel-collector"))["containers"]
    assert listens == {str(port["containerPort"]) for port in container["ports"]}


def test_tempo_listens_where_its_ports_are_and_keeps_traces_on_its_disk():
    config = yaml.safe_load(config_map("tempo")["tempo.yaml"])
    [container] = pod(named("StatefulSet", "tempo"))["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert config["server"]["http_listen_port"] == ports["http"]
    grpc = config["distributor"]["receivers"]["otlp"]["protocols"]["grpc"]["endpoint"]
    assert grpc == f"0.0.0.0:{ports['otlp-grpc']}"
    disk = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}["data"]
    trace = config["storage"]["trace"]
    for part in ("local", "wal"):
        assert trace[part]["path"].startswith(f"{disk}/")


def test_grafana_finds_its_dashboard_and_both_data_sources():
    [container] = pod(named("Deployment", "grafana"))["containers"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    [provider] = yaml.safe_load(config_map("grafana-dashboard-provider")["provider.yaml"])["providers"]
    assert provider["options"]["path"] == mounts["dashboards"]
    home = environment(container)["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    folder, _, file = home.rpartition("/")
    assert folder == mounts["dashboards"]
    assert file in config_map("grafana-dashboards")
    sources = yaml.safe_load(config_map("grafana-datasources")["datasources.yaml"])["datasources"]
    assert {source["type"] for source in sources} == {"prometheus", "tempo"}
    ids = {source["uid"] for source in sources}
    for source in sources:
        for exemplar in source.get("jsonData", {}).get("exemplarTraceIdDestinations", []):
            assert exemplar["datasourceUid"] in ids


def test_engines_and_front_agree_on_where_and_how_many():
    engines = named("StatefulSet", "engines")
    [front] = pod(named("Deployment", "wayfare"))["containers"]
    [engine] = pod(engines)["containers"]
    options = dict(argument.split("=", 1) for argument in arguments(front) if "=" in argument)
    theirs = dict(argument.split("=", 1) for argument in arguments(engine) if "=" in argument)
    assert arguments(front)[1] == arguments(engine)[0]
    count = engines["spec"]["replicas"]
    assert options["--engine-count"] == theirs["--data-parallel-size"] == str(count)
    port = int(options["--engine-address"].rpartition(":")[2])
    assert theirs["--data-parallel-rpc-port"] == str(port)
    assert environment(engine)["FRONT_PORT"] == str(port + 1)
    assert options["--engine-advertise-host"] == theirs["--data-parallel-address"]
    service = named("Service", options["--engine-advertise-host"])["spec"]
    # Before it is ready, or it never would be; and the pod itself, which has more ports than a Service can list.
    assert service["publishNotReadyAddresses"] and service["clusterIP"] == "None"
    assert pods_of(service["selector"]) == [named("Deployment", "wayfare")]
    assert theirs["--data-parallel-start-rank"] == "$(RANK)"
    assert "--disable-log-stats" not in theirs
    # Handshake, requests, and the outputs of each rank.
    [allowed] = [rule["ports"][0] for rule in named("NetworkPolicy", "wayfare")["spec"]["ingress"] if "from" in rule]
    assert allowed["port"] == port and allowed["endPort"] >= port + 1 + count


def test_wayfare_knows_the_options_and_waits_long_enough():
    workload = named("Deployment", "wayfare")
    [container] = pod(workload)["containers"]
    server = os.environ["WAYFARE"]
    done = subprocess.run([server, *arguments(container), "--help"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    unknown = subprocess.run([server, *arguments(container), "--no-such", "--help"], capture_output=True, text=True)
    assert unknown.returncode == 2, "an unknown option must be noticed"
    options = dict(argument.split("=", 1) for argument in arguments(container) if "=" in argument)
    startup = container["startupProbe"]
    patience = startup["periodSeconds"] * startup["failureThreshold"]
    assert patience > int(options["--engine-ready-timeout"])
    assert workload["spec"]["progressDeadlineSeconds"] > patience
    drain = container["lifecycle"]["preStop"]["sleep"]["seconds"] + 2 * int(options["--shutdown-timeout"]) + 2
    assert pod(workload)["terminationGracePeriodSeconds"] > drain


def test_no_container_may_become_more_than_it_is():
    for workload, container in containers():
        name = workload["metadata"]["name"]
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False, name
        assert context["capabilities"] == {"drop": ["ALL"]}, name
        whole = pod(workload)
        assert whole["automountServiceAccountToken"] is False, name
        assert whole["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault", name
        assert "memory" in container["resources"]["limits"] and "cpu" in container["resources"]["requests"], name
        # vLLM's image is made for root, and writes where it likes.
        if name != "engines":
            assert context["readOnlyRootFilesystem"] and whole["securityContext"]["runAsNonRoot"], name


def test_images_are_of_one_version():
    for workload, container in containers():
        _, _, tag = container["image"].rpartition(":")
        if workload["metadata"]["name"] != "wayfare":
            assert re.search(r"\d+\.\d+\.\d+", tag), container["image"]
