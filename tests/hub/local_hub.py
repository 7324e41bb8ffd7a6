"""A server that answers the Hub's endpoints, and fails where it is told to."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import yaml

TOKEN = "hf_NobodyMayReadThis"
OWNER = "tester"
LARGE = (".safetensors", ".pt", ".pth", ".png")


@dataclass
class Hub:
    """What the server holds, and how it is to fail: `faults[step]` are the answers that come before the right one, each
    a status and headers; 0 drops the connection."""

    url: str = ""
    repos: dict[str, dict[str, bytes]] = field(default_factory=lambda: defaultdict(dict))
    objects: dict[str, bytes] = field(default_factory=dict)
    commits: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)
    faults: dict[str, list[tuple[int, dict[str, str]]]] = field(default_factory=lambda: defaultdict(list))

    def fail(self, step: str, status: int, times: int = 1, **headers: str) -> None:
        self.faults[step] = [(status, {name.replace("_", "-"): value for name, value in headers.items()})] * times


class Handler(BaseHTTPRequestHandler):
    hub: ClassVar[Hub]
    protocol_version = "HTTP/1.1"
    steps: ClassVar[dict[str, str]] = {
        "whoami": r"GET /api/whoami-v2$",
        "create": r"POST /api/repos/create$",
        "validate": r"POST /api/validate-yaml$",
        "preupload": r"POST /api/(?:models|spaces)/(?P<repo>[\w./-]+)/preupload/(?P<revision>\w+)$",
        "batch": r"POST /(?:spaces/)?(?P<repo>[\w./-]+)\.git/info/lfs/objects/batch$",
        "put": r"PUT /objects/(?P<oid>\w+)$",
        "commit": r"POST /api/(?:models|spaces)/(?P<repo>[\w./-]+)/commit/(?P<revision>\w+)$",
        "read": r"GET /(?P<repo>[\w-]+/[\w.-]+)/resolve/(?P<revision>\w+)/(?P<file>.+)$",
    }

    def answer(self) -> None:
        hub = self.hub
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        asked = f"{self.command} {self.path}"
        hub.requests.append(asked)
        hub.tokens.add(self.headers.get("Authorization", ""))
        for step, pattern in self.steps.items():
            found = re.match(pattern, asked)
            if found is None:
                continue
            if hub.faults[step]:
                return self.fault(*hub.faults[step].pop(0))
            if "repo" in found.groupdict() and found["repo"] not in hub.repos:
                return self.reply(404, {"error": "no repository"})
            return getattr(self, step)(body, **found.groupdict())
        self.reply(404, {"error": "nothing there"})

    do_GET = do_POST = do_PUT = answer

    def fault(self, status: int, headers: dict[str, str]) -> None:
        if status == 0:
            self.close_connection = True
            self.connection.close()
        else:
            self.reply(status, {"error": "so it \x1b[31mgoes"}, headers)

    def reply(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def whoami(self, body: bytes) -> None:
        self.reply(200, {"type": "user", "name": OWNER})

    def create(self, body: bytes) -> None:
        asked = json.loads(body)
        repo = f"{asked['organization'] or OWNER}/{asked['name']}"
        status = 409 if repo in self.hub.repos else 200
        self.hub.repos[repo]
        self.reply(status, {"url": f"{self.hub.url}/{repo}"})

    def validate(self, body: bytes) -> None:
        header = json.loads(body)["content"].split("---\n")[1]
        wrong = [] if isinstance(yaml.safe_load(header), dict) else [{"message": "no mapping"}]
        self.reply(400 if wrong else 200, {"errors": wrong, "warnings": []})

    def preupload(self, body: bytes, repo: str, revision: str) -> None:
        files = []
        for file in json.loads(body)["files"]:
            mode = "lfs" if file["path"].endswith(LARGE) else "regular"
            files.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": None})
        self.reply(200, {"files": files})

    def batch(self, body: bytes, repo: str) -> None:
        objects = []
        for asked in json.loads(body)["objects"]:
            upload = {"href": f"{self.hub.url}/objects/{asked['oid']}", "header": {}}
            there = asked["oid"] in self.hub.objects
            objects.append(asked | ({} if there else {"actions": {"upload": upload}}))
        self.reply(200, {"transfer": "basic", "objects": objects})

    def put(self, body: bytes, oid: str) -> None:
        assert hashlib.sha256(body).hexdigest() == oid
        self.hub.objects[oid] = body
        self.reply(200, {})

    def commit(self, body: bytes, repo: str, revision: str) -> None:
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "header":
                self.hub.commits.append(value["summary"])
            elif line["key"] == "file":
                self.hub.repos[repo][value["path"]] = base64.b64decode(value["content"])
            else:
                self.hub.repos[repo][value["path"]] = self.hub.objects[value["oid"]]
        commit = f"{len(self.hub.commits):040x}"
        self.reply(200, {"commitOid": commit, "commitUrl": f"{self.hub.url}/{repo}/commit/{commit}"})

    def read(self, body: bytes, repo: str, revision: str, file: str) -> None:
        held = self.hub.repos[repo].get(file)
        self.reply(404, {"error": "no file"}) if held is None else self.reply(200, held)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def serving() -> Iterator[Hub]:
    """A Hub on a free port of this machine."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Answers", (Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
