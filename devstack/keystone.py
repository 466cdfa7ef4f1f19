"""A private Keystone on the loopback interface: SQLite, fernet tokens, everything in its state directory."""

from __future__ import annotations

import grp
import json
import os
import pwd
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from devstack.api_client import ApiClient
from devstack.environments import KEYSTONE
from devstack.services import Service
from devstack.steps import StepFailed

ADMIN = "admin"
PASSWORD = "of-a-test"
"""Of every user: whoever can reach this Keystone is on this machine."""
DOMAIN = "Default"
REGION = "RegionOne"
_START_TIMEOUT = 60.0


@dataclass(frozen=True)
class KeystoneUser:
    """Who logs in with PASSWORD, scoped to a project."""

    name: str
    id: str
    project: str
    project_id: str
    auth_url: str

    def make_openrc(self) -> dict[str, str]:
        """The environment that every client reads."""
        return {
            "OS_AUTH_URL": self.auth_url,
            "OS_USERNAME": self.name,
            "OS_PASSWORD": PASSWORD,
            "OS_PROJECT_NAME": self.project,
            "OS_USER_DOMAIN_NAME": DOMAIN,
            "OS_PROJECT_DOMAIN_NAME": DOMAIN,
            "OS_REGION_NAME": REGION,
            "OS_IDENTITY_API_VERSION": "3",
        }


class PrivateKeystone:
    """One Keystone with an admin; projects, users and the compute service are added over its API."""

    def __init__(self, state_dir: Path, port: int) -> None:
        self.state_dir = state_dir
        self.url = f"http://127.0.0.1:{port}/v3"
        self._config = state_dir / "keystone.conf"
        self._port = port
        self._client = ApiClient(self.url)
        self._roles: dict[str, str] = {}
        environment = {**os.environ, "OS_KEYSTONE_CONFIG_FILES": str(self._config), "PYTHONWARNINGS": "ignore"}
        environment.pop("GUNICORN_CMD_ARGS", None)
        # Keystone reads the command line of its server as its own, so that has to be empty.
        self._service = Service(
            "keystone", [str(KEYSTONE.directory / "bin/gunicorn")], environment, state_dir / "gunicorn.log", cwd=state_dir
        )

    @property
    def is_running(self) -> bool:
        return self._service.is_running

    def start(self) -> None:
        """Make its database, bootstrap and serve; raises StepFailed. About 10 s."""
        self._write_config()
        user, group = pwd.getpwuid(os.geteuid()).pw_name, grp.getgrgid(os.getegid()).gr_name
        self._manage("db_sync")
        self._manage("fernet_setup", "--keystone-user", user, "--keystone-group", group)
        urls = ("--bootstrap-public-url", self.url, "--bootstrap-internal-url", self.url)  # auth_token looks for the internal one
        self._manage("bootstrap", "--bootstrap-password", PASSWORD, *urls, "--bootstrap-region-id", REGION)
        self._service.start()
        self._service.wait_ready(self._answers, _START_TIMEOUT, "GET /v3 answers 200", "read the log")
        self._client = ApiClient(self.url, {"X-Auth-Token": self.issue_token(self.admin)})
        self._roles = {role["name"]: role["id"] for role in self._ask("GET", "/roles")["roles"]}

    def stop(self) -> None:
        self._service.stop()

    @property
    def admin(self) -> KeystoneUser:
        """The one that bootstrap made."""
        return KeystoneUser(ADMIN, "", ADMIN, "", self.url)

    def make_project(self, name: str) -> str:
        """Its id."""
        return str(self._ask("POST", "/projects", {"project": {"name": name, "domain_id": "default"}})["project"]["id"])

    def make_user(self, name: str, role: str, project: str, project_id: str) -> KeystoneUser:
        """A user with one role in one project; `admin` implies `member`, which implies `reader`."""
        body = {"user": {"name": name, "password": PASSWORD, "domain_id": "default"}}
        user_id = self._ask("POST", "/users", body)["user"]["id"]
        self._ask("PUT", f"/projects/{project_id}/users/{user_id}/roles/{self._roles[role]}")
        return KeystoneUser(name, user_id, project, project_id, self.url)

    def make_compute_service(self) -> str:
        """The id of the catalogue's service of type `compute`."""
        return str(self._ask("POST", "/services", {"service": {"name": "crashcart", "type": "compute"}})["service"]["id"])

    def make_endpoint(self, service_id: str, region: str, url: str) -> None:
        """Where that service is in a region, which is made when it is not there; this Keystone is there, too."""
        if region != REGION:
            self._ask("POST", "/regions", {"region": {"id": region}})
            self._add_endpoint(self._find_own_service(), region, self.url)
        self._add_endpoint(service_id, region, url)

    def issue_token(self, user: KeystoneUser) -> str:
        """A token of the user, scoped to its project; raises StepFailed."""
        domain = {"name": DOMAIN}
        password = {"user": {"name": user.name, "domain": domain, "password": PASSWORD}}
        body = {
            "auth": {
                "identity": {"methods": ["password"], "password": password},
                "scope": {"project": {"name": user.project, "domain": domain}},
            }
        }
        answer = ApiClient(self.url).post("/auth/tokens", body, timeout=30)
        if answer.status != 201:
            raise StepFailed(f"keystone gives {user.name} no token: {answer.status} {answer.message}", log=self.state_dir / "keystone.log")
        return answer.headers["x-subject-token"]

    def list_middleware_options(self) -> dict[str, object]:
        """The group `keystone_authtoken` of a service that asks this Keystone whose tokens it is sent."""
        return {
            "www_authenticate_uri": self.url,
            "auth_url": self.url,
            "auth_type": "password",
            "username": ADMIN,
            "password": PASSWORD,
            "project_name": ADMIN,
            "user_domain_name": DOMAIN,
            "project_domain_name": DOMAIN,
            "region_name": REGION,
        }

    def _find_own_service(self) -> str:
        return str(self._ask("GET", "/services?type=identity")["services"][0]["id"])

    def _add_endpoint(self, service_id: str, region: str, url: str) -> None:
        endpoint = {"service_id": service_id, "interface": "public", "region_id": region, "url": url}
        self._ask("POST", "/endpoints", {"endpoint": endpoint})

    def _answers(self) -> bool:
        try:
            return self._client.get("", timeout=5).status == 200
        except OSError:
            return False

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        sent = None if body is None else json.dumps(body).encode()
        answer = self._client.request(method, path, body=sent, timeout=30)
        if answer.status >= 300:
            raise StepFailed(f"keystone: {method} {path}: {answer.status} {answer.message}", log=self.state_dir / "keystone.log")
        return answer.body

    def _manage(self, *arguments: str) -> None:
        log = self.state_dir / "keystone-manage.log"
        argv = [str(KEYSTONE.directory / "bin/keystone-manage"), "--config-file", str(self._config), *arguments]
        with log.open("ab") as output:
            done = subprocess.run(argv, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        if done.returncode != 0:
            raise StepFailed(f"keystone-manage {arguments[0]} failed", log=log)

    def _write_config(self) -> None:
        keys = self.state_dir / "fernet-keys"
        keys.mkdir(parents=True, mode=0o700)
        self._config.write_text(
            f"[DEFAULT]\nlog_file = {self.state_dir / 'keystone.log'}\n"
            f"[database]\nconnection = sqlite:///{self.state_dir / 'keystone.sqlite'}\n"
            f"[fernet_tokens]\nkey_repository = {keys}\n"
            f"[fernet_receipts]\nkey_repository = {keys}\n"
            "[cache]\nenabled = true\nbackend = dogpile.cache.memory\n"
            "[identity]\npassword_hash_rounds = 4\n"  # the cheapest: these passwords guard nothing
        )
        (self.state_dir / "gunicorn.conf.py").write_text(
            'wsgi_app = "keystone.wsgi.api:application"\n'
            f'bind = "127.0.0.1:{self._port}"\n'
            'worker_class = "gthread"\nthreads = 8\ncontrol_socket_disable = True\n'
        )
