"""A Hub of folders on this machine, with a log of what was asked and sent, that can be told to misbehave.

Repositories lie at ROOT/ORG/NAME; files of weights are large files: a redirect leads to them at another origin, as
the Hub's does. `faults` maps a repository to a mode; the modes are the methods `fault_*` and those named in the code.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import NamedTuple
from urllib.parse import parse_qs, quote, unquote, urlsplit

LARGE = (".safetensors", ".bin", ".gguf")
GOOD_TOKEN = "hf_good"
# Answers in place of the right one: status, X-Error-Code, X-Error-Message, Retry-After.
REFUSALS = {
    "gated": (403, "GatedRepo", "Access to model is restricted", ""),
    "disabled": (403, "", "Access to this resource is disabled.", ""),
    "bad token": (401, "", "Invalid credentials in Authorization header", ""),
    "forbidden": (403, "", "no", ""),
    "too many": (429, "", "slow down", "3"),
    "much too many": (429, "", "slow down", "3600"),
    "down": (503, "", "", ""),
    "broken": (500, "", "", ""),
    "teapot": (418, "", "", ""),
}


class Request(NamedTuple):
    method: str
    path: str
    host: str
    authorization: str
    range: str


@dataclass
class Hub:
    root: Path
    port: int = 0
    faults: dict[str, str] = field(default_factory=dict)
    failures: Counter[str] = field(default_factory=Counter)  # how often a repository's files still fail to come
    log: list[Request] = field(default_factory=list)
    sent: Counter[str] = field(default_factory=Counter)  # bytes by ORG/NAME/FILE

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def commit(self, repository: str) -> str:
        digest = hashlib.sha1()
        for path in self.files(repository):
            digest.update(f"{path.relative_to(self.root)}\n".encode() + path.read_bytes())
        return digest.hexdigest()

    def files(self, repository: str) -> list[Path]:
        return sorted(path for path in (self.root / repository).rglob("*") if path.is_file())

    def asked(self, part: str) -> list[Request]:
        return [request for request in self.log if part in request.path]


@contextmanager
def served(root: Path) -> Iterator[Hub]:
    """A Hub of the folders in `root`, until the block is left."""
    hub = Hub(root)
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.port = server.server_address[1]
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, format: str, *arguments: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        names = ("Host", "Authorization", "Range")
        self.hub.log.append(Request(self.command, self.path, *(self.headers.get(name, "") for name in names)))
        url = urlsplit(self.path)
        routes = {
            r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?": self.info,
            r"/api/models/([^/]+/[^/]+)/tree/([0-9a-f]{40})(?:/(.+))?": self.tree,
            r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)": self.resolve,
            r"/cdn/([^/]+/[^/]+)/(.+)": self.file,
        }
        for pattern, answer in routes.items():
            if found := re.fullmatch(pattern, url.path):
                self.mode = self.hub.faults.get(found[1], "")
                self.query = parse_qs(url.query)
                return answer(*(unquote(part or "") for part in found.groups()))
        return self.refuse(404, "", "no such route")

    def info(self, repository: str, revision: str) -> None:
        if self.may(repository, revision):
            answer: object = {"id": repository, "sha": self.hub.commit(repository), "siblings": []}
            self.send(json.dumps(["no object"] if self.mode == "strange" else answer).encode())

    def tree(self, repository: str, revision: str, folder: str) -> None:
        if not self.may(repository, revision):
            return None
        entries = [self.entry(path, repository) for path in self.hub.files(repository)]
        entries = [entry for entry in entries if str(entry["path"]).startswith(f"{folder}/" if folder else "")]
        if not entries:
            return self.refuse(404, "EntryNotFound", f"{folder} does not exist")
        if self.mode == "escaping":
            entries[0]["path"] = "../../outside.safetensors"
        start = int(self.query.get("cursor", ["0"])[0])
        place = "http://elsewhere.invalid" if self.mode == "elsewhere" else self.hub.address + urlsplit(self.path).path
        more = {"Link": f'<{place}?cursor={start + 3}&recursive=true>; rel="next"'}
        return self.send(json.dumps(entries[start : start + 3]).encode(), more if start + 3 < len(entries) else {})

    def entry(self, path: Path, repository: str) -> dict[str, object]:
        content, name = path.read_bytes(), path.relative_to(self.hub.root / repository).as_posix()
        entry: dict[str, object] = {"type": "file", "path": name, "size": len(content), "oid": git_hash(content)}
        if name.endswith(LARGE):
            size = len(content) + 5 * (self.mode == "lying size")
            entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": size, "pointerSize": 134}
        return entry

    def resolve(self, repository: str, revision: str, name: str) -> None:
        if not self.may(repository, revision):
            return None
        path = self.hub.root / repository / name
        if self.mode == "gone" or not path.is_file():
            return self.refuse(404, "EntryNotFound", "Entry not found")
        content = path.read_bytes()
        large = name.endswith(LARGE)
        etag = hashlib.sha256(content).hexdigest() if large else git_hash(content)
        headers = {"X-Repo-Commit": self.hub.commit(repository), "ETag": f'"{etag}"'}
        if self.mode == "no commit":
            del headers["X-Repo-Commit"]
        if not large:
            return self.content(content, f"{repository}/{name}", headers)
        elsewhere = self.path if self.mode == "circle" else f"/cdn/{repository}/{quote(name)}"
        size = len(content) + 5 * (self.mode == "lying size")
        headers |= {"X-Linked-Size": str(size), "X-Linked-ETag": headers["ETag"]}
        return self.send(b"", {**headers, "Location": f"http://localhost:{self.hub.port}{elsewhere}"}, 302)

    def file(self, repository: str, name: str) -> None:
        content = (self.hub.root / repository / name).read_bytes()
        etag = hashlib.sha256(content).hexdigest()
        if self.mode == "changing":
            etag += str(len(self.hub.log))
        if self.mode == "flip" and name.endswith(LARGE):
            content = content[:-1] + bytes([content[-1] ^ 1])
        self.content(content, f"{repository}/{name}", {} if self.mode == "no etag" else {"ETag": f'"{etag}"'})

    def content(self, content: bytes, name: str, headers: dict[str, str]) -> None:
        total, status, asked = len(content), 200, self.headers.get("Range")
        if asked and self.mode != "no range":
            start, stop = map(int, asked.removeprefix("bytes=").split("-"))
            content, status = content[start : stop + 1], 206
            shift = 1 if self.mode == "wrong range" else 0
            headers["Content-Range"] = f"bytes {start + shift}-{start + len(content) - 1 + shift}/{total}"
        if self.mode == "gzip":
            content, headers = gzip.compress(content), {**headers, "Content-Encoding": "gzip"}
        repository = "/".join(name.split("/")[:2])
        if self.command == "GET" and self.hub.failures[repository]:
            self.hub.failures[repository] -= 1
            return self.refuse(503, "", "") if self.mode == "shaky" else self.send(content, headers, status, cut=True)
        if self.command == "GET":
            self.hub.sent[name] += len(content)
        return self.send(content, headers, status)

    def may(self, repository: str, revision: str) -> bool:
        token = self.headers.get("Authorization", "")
        if not (self.hub.root / repository).is_dir():
            self.refuse(401 if not token else 404, "RepoNotFound", "Repository not found")
        elif self.mode in REFUSALS and not (self.mode == "gated" and token == f"Bearer {GOOD_TOKEN}"):
            self.refuse(*REFUSALS[self.mode])
        elif revision not in ("", "main", "refs/pr/1", "fix/scale", self.hub.commit(repository)):
            self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        else:
            return True
        return False

    def refuse(self, status: int, code: str, message: str, retry_after: str = "") -> None:
        said = {"X-Error-Code": code, "X-Error-Message": message, "Retry-After": retry_after}
        self.send(json.dumps({"error": message}).encode(), {name: text for name, text in said.items() if text}, status)

    def send(self, body: bytes, headers: dict[str, str] | None = None, status: int = 200, *, cut: bool = False) -> None:
        self.send_response(status)
        for name, text in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if cut else body)
        self.close_connection = self.close_connection or cut


def git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
