"""A model hub on loopback, with faults on demand.

It speaks as much of HuggingFace's and of ModelScope's HTTP API as their real clients ask for to list and download a
model or a data set: info, tree, resolve (HEAD and GET, with ETag, Range and the X-Linked headers), file list and file;
and as much as they ask for to make a repository and to upload a folder.

    with HubServer({"config.json": b"{}", "model.safetensors": bytes(5000)}) as server:
        server.faults["model.safetensors"] = [Fault(cut=1000), None, Fault(status=500)]  # its 1st and its 3rd request
        hub.download(server.repo, endpoint=server.address, models_dir=folder)
        assert server.sent("model.safetensors") == 5000
"""

import base64
import hashlib
import json
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

REPO = "Qwen/Qwen3-Tiny"
REVISION = "0123456789abcdef0123456789abcdef01234567"
LFS = (".safetensors", ".parquet")  # what lies in LFS at HuggingFace; all else lies in git
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 1073741824\n"  # what git holds of LFS
INFO, TREE, LISTING, ROOT = "info", "tree", "listing", "/"  # the names of requests that are not for a file


@dataclass(frozen=True)
class Fault:
    """What goes wrong with one GET; several can be combined."""

    status: int | None = None  # this status instead of an answer
    headers: Mapping[str, str] = field(default_factory=dict)  # beside or instead of the right ones
    body: bytes | None = (
        None  # sent in place of the answer; as a file of the same length a wrong hash, else a wrong size
    )
    redirect: str | None = None  # 302 to this address
    ignore_range: bool = False  # 200 and the whole file, whatever was asked
    cut: int | None = None  # the connection ends after so many bytes of this answer
    stall: int | None = None  # after so many bytes nothing more comes, and the connection stays open
    pace: float | None = None  # bytes per second


@dataclass
class Request:
    """One request as it came, and how many bytes of its body were sent."""

    method: str
    path: str
    file: str | None  # the file, or one of INFO, TREE, LISTING, ROOT
    range: str | None
    authorization: str | None
    cookie: str | None
    sent: int = 0
    body: bytes = b""  # of an upload


class HubServer:
    """A hub with one model or data set, as a context manager.

    Args:
        files: file names and contents, or a folder of them. They can be changed while the server runs.
        repo: its id.
        repo_type: "model" or "dataset", as the clients call it.

    Attributes:
        address: the endpoint.
        faults: per file name (or INFO, TREE, LISTING, ROOT): a Fault for every GET, a list with one Fault or None for
            each GET in order, or a function that gets the GET's number from 0 and gives a Fault or None.
        stated: per file name, what the listings state in place of the truth, such as {"size": 5} or {"sha256": "…"}.
        requests: everything that was asked, in order.
        secret: the token that an upload must bring; None refuses every upload.
        created: what the clients said of the repositories that they made.
    """

    def __init__(self, files: Mapping[str, bytes] | Path, repo: str = REPO, repo_type: str = "model"):
        if isinstance(files, Path):
            files = {str(path.relative_to(files)): path.read_bytes() for path in files.rglob("*") if path.is_file()}
        self.files = dict(files)
        self.repo = repo
        self.api = f"{repo_type}s/{repo}"  # below the addresses of both APIs
        self.route = repo if repo_type == "model" else self.api  # of HuggingFace's files
        self.faults: dict[str, Fault | list[Fault | None] | Callable[[int], Fault | None]] = {}
        self.stated: dict[str, dict[str, Any]] = {}
        self.requests: list[Request] = []
        self.secret: str | None = None
        self.created: list[dict[str, Any]] = []
        self._blobs: dict[str, bytes] = {}  # uploaded, by sha256
        self.stopped = threading.Event()
        self._counted: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self._http.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._http.server_port}"

    def __enter__(self) -> "HubServer":
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        self._http.shutdown()
        self._http.server_close()

    def url(self, file: str) -> str:
        """Where HuggingFace's clients fetch a file."""
        return f"{self.address}/{self.route}/resolve/{REVISION}/{file}"

    def gets(self, file: str | None = None) -> list[Request]:
        """The GETs of one file, or of all files."""
        return [
            request
            for request in list(self.requests)
            if request.method == "GET" and (request.file == file if file else request.file in self.files)
        ]

    def sent(self, file: str | None = None) -> int:
        """Bytes sent of one file, or of all files."""
        return sum(request.sent for request in self.gets(file))

    def forget(self) -> None:
        """Start anew: no requests seen, no faults."""
        with self._lock:
            self.requests.clear()
            self._counted.clear()
            self.faults.clear()

    def _record(self, request: Request) -> Fault | None:
        """Note a request, and give the fault it is to meet."""
        with self._lock:
            self.requests.append(request)
            key = request.file or ""
            number = self._counted[key]
            if request.method == "GET":
                self._counted[key] += 1
            plan = self.faults.get(key)
        if request.method != "GET" and key != ROOT:
            return None
        if isinstance(plan, list):
            return plan[number] if number < len(plan) else None
        return plan(number) if callable(plan) else plan

    def _stated(self, file: str) -> dict[str, Any]:
        body = self.files[file]
        return {"size": len(body), "sha256": sha256(body), "git_sha1": git_sha1(body)} | self.stated.get(file, {})

    def _siblings(self) -> Iterator[dict[str, Any]]:
        """The files as HuggingFace states them."""
        for file in self.files:
            stated = self._stated(file)
            lfs = {"sha256": stated["sha256"], "oid": stated["sha256"], "size": stated["size"], "pointerSize": 134}
            in_lfs = {"lfs": lfs} if file.endswith(LFS) else {}
            yield {"file": file, "size": stated["size"], "blob": stated["git_sha1"], **in_lfs}


class _Handler(BaseHTTPRequestHandler):
    """Routes of one HubServer."""

    hub: HubServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        hub, url = self.hub, urlsplit(self.path)
        query = parse_qs(url.query)
        file = self._file(unquote(url.path), query)
        self.request_record = Request(
            self.command,
            self.path,
            file,
            self.headers.get("Range"),
            self.headers.get("Authorization"),
            self.headers.get("Cookie"),
        )
        fault = hub._record(self.request_record) or Fault()
        known = self.headers.get("Authorization") in (None, f"Bearer {hub.secret}")
        if hub.secret is not None and not known:
            fault = Fault(status=401)
        if fault.redirect is not None:
            self._answer(302, b"", {"Location": fault.redirect, **fault.headers}, fault)
        elif fault.status is not None:
            self._answer(fault.status, b"{}", fault.headers, fault)
        elif file == ROOT:
            self._answer(200, b"", fault.headers, fault)
        elif file == INFO:
            siblings = [{**item, "rfilename": item["file"], "blobId": item["blob"]} for item in hub._siblings()]
            gpu = {"cardData": {"license": "mit"}}
            self._json({"id": hub.repo, "sha": REVISION, "siblings": siblings, **gpu}, fault)
        elif file == TREE:
            self._json([{**i, "type": "file", "path": i["file"], "oid": i["blob"]} for i in hub._siblings()], fault)
        elif file == LISTING:
            size = int(query.get("PageSize", [len(hub.files)])[0])  # only lists of data sets have pages
            first = size * (int(query.get("PageNumber", [1])[0]) - 1)
            stated = {name: hub._stated(name) for name in list(hub.files)[first : first + size]}
            files = [
                {"Path": name, "Name": name, "Type": "blob", "Size": item["size"], "Sha256": item["sha256"]}
                for name, item in stated.items()
            ]
            self._json({"Code": 200, "Success": True, "Data": {"Files": files}}, fault)
        elif file in hub.files:
            self._file_answer(file, fault)
        else:
            self._answer(404, b"{}", {"X-Error-Code": "EntryNotFound"} if file else {}, fault)

    def do_POST(self) -> None:
        body = self._upload()
        path = urlsplit(self.path).path
        if body is None:
            return
        if path in ("/api/repos/create", "/api/v1/models"):
            owner, name = self.hub.repo.split("/")
            made = {"url": f"{self.hub.address}/{self.hub.repo}", "Data": {"Path": owner, "Name": name}}
            if self.hub.created:  # the one repository of this server is there already
                status, said = (409, made) if path == "/api/repos/create" else (400, {"Code": 10020101001})
                return self._answer(status, json.dumps(said | {"Message": "already exists"}).encode(), {}, Fault())
            self.hub.created.append(json.loads(body))
            self._json(made, Fault())
        elif path == "/api/validate-yaml":
            self._json({"errors": [], "warnings": []}, Fault())
        elif path == f"/api/{self.hub.api}/preupload/main":
            files = [file["path"] for file in json.loads(body)["files"]]
            modes = {path: "lfs" if path.endswith(LFS) else "regular" for path in files}
            answer = [{"path": path, "uploadMode": mode, "shouldIgnore": False} for path, mode in modes.items()]
            self._json({"files": answer}, Fault())
        elif path.endswith("/info/lfs/objects/batch"):
            wanted = [item for item in json.loads(body)["objects"] if item["oid"] not in self.hub._blobs]
            href = f"{self.hub.address}/blobs/"
            objects = [{**item, "actions": {"upload": {"href": href + item["oid"]}}} for item in wanted]
            self._json({"objects": objects, "transfer": "basic"}, Fault())
        elif path == f"/api/{self.hub.api}/commit/main":
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    self.hub.files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    self.hub.files[value["path"]] = self.hub._blobs[value["oid"]]
            url = f"{self.hub.address}/{self.hub.repo}/commit/{REVISION}"
            self._json({"success": True, "commitUrl": url, "commitOid": REVISION}, Fault())
        elif path == f"/api/v1/repos/{self.hub.api}/commit/master":
            for action in json.loads(body)["actions"]:
                lfs = action["type"] == "lfs"
                content = self.hub._blobs[action["sha256"]] if lfs else base64.b64decode(action["content"])
                self.hub.files[action["path"]] = content
            self._json({"Code": 200, "Success": True, "Data": {"commit_id": REVISION}}, Fault())
        else:
            self._answer(404, b"{}", {}, Fault())

    def do_PUT(self) -> None:
        body = self._upload()
        if body is not None:
            oid = self.path.rpartition("/")[2]
            assert sha256(body) == oid
            self.hub._blobs[oid] = body
            self._json({}, Fault())

    def _upload(self) -> bytes | None:
        """The body of a request that changes something; None, and a refusal, where its token is not the right one."""
        authorization = self.headers.get("Authorization")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.request_record = Request(
            self.command, self.path, None, None, authorization, self.headers.get("Cookie"), body=body
        )
        self.hub._record(self.request_record)
        # A blob goes to the address that the batch has named, which is secret enough.
        if self.command == "PUT" or authorization == f"Bearer {self.hub.secret}":
            return body
        self._answer(401, b'{"error": "Invalid credentials", "Message": "who are you"}', {}, Fault())
        return None

    def _file(self, path: str, query: dict[str, list[str]]) -> str | None:
        """Which file, or which of the other requests, a path means."""
        hub = self.hub
        if path == "/":
            return ROOT
        if path in {
            f"/api/{hub.api}",
            f"/api/{hub.api}/revision/main",
            f"/api/{hub.api}/revision/{REVISION}",
        }:
            return INFO
        if path.startswith(f"/api/{hub.api}/tree/"):
            return TREE
        if path == f"/api/v1/{hub.api}/repo/{'tree' if hub.api.startswith('datasets/') else 'files'}":
            return LISTING
        if path == f"/api/v1/{hub.api}/repo":
            return query.get("FilePath", [""])[0]
        for revision in ("main", REVISION):
            if path.startswith(prefix := f"/{hub.route}/resolve/{revision}/"):
                return path.removeprefix(prefix)
        return None

    def _file_answer(self, file: str, fault: Fault) -> None:
        """A file or the asked range of it."""
        stated = self.hub._stated(file)
        body = self.hub.files[file] if fault.body is None else fault.body
        headers = {
            "Accept-Ranges": "bytes",
            "ETag": f'"{stated["git_sha1"]}"',
            "X-Repo-Commit": REVISION,
        }
        if file.endswith(LFS):
            headers |= {"X-Linked-Size": str(stated["size"]), "X-Linked-ETag": f'"{stated["sha256"]}"'}
        asked = self.headers.get("Range")
        if not asked or fault.ignore_range:
            return self._answer(200, body, headers | dict(fault.headers), fault)
        first, _, last = asked.removeprefix("bytes=").partition("-")
        start, end = int(first), min(int(last or len(body) - 1), len(body) - 1)
        if start >= len(body):
            return self._answer(416, b"", {"Content-Range": f"bytes */{len(body)}"}, fault)
        headers["Content-Range"] = f"bytes {start}-{end}/{len(body)}"
        return self._answer(206, body[start : end + 1], headers | dict(fault.headers), fault)

    def _json(self, value: Any, fault: Fault) -> None:
        body = json.dumps(value).encode() if fault.body is None else fault.body
        self._answer(200, body, {"Content-Type": "application/json", **fault.headers}, fault)

    def _answer(self, status: int, body: bytes, headers: Mapping[str, str], fault: Fault) -> None:
        """Send an answer, cut, stalled or slowed as the fault says."""
        self.send_response(status)
        for key, value in ({"Content-Length": str(len(body))} | dict(headers)).items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        upto = min(len(body) if limit is None else limit for limit in (fault.cut, fault.stall, None))
        step = len(body) + 1 if fault.pace is None else max(1, int(fault.pace / 20))
        try:
            for begin in range(0, upto, step):
                piece = body[begin : min(begin + step, upto)]
                self.request_record.sent += len(piece)
                self.wfile.write(piece)
                self.wfile.flush()
                if fault.pace is not None:
                    self.hub.stopped.wait(len(piece) / fault.pace)
            if fault.stall is not None:
                self.hub.stopped.wait()
            if fault.cut is not None or fault.stall is not None:
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
        except OSError:  # the client has left
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


def sha256(body: bytes) -> str:
    """The hash that hubs state of large files."""
    return hashlib.sha256(body).hexdigest()


def git_sha1(body: bytes) -> str:
    """git's id of a file's content, the hash that HuggingFace states of small files."""
    return hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()


def seal(monkeypatch: Any, home: Path) -> None:
    """Let no hub variable and no login of this machine reach a test; an invented token takes their place."""
    for variable in ("HF_ENDPOINT", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "COURSE_SOURCES", "COLAB_RELEASE_TAG"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HF_TOKEN", "hf_a_secret")
    monkeypatch.setenv("MODELSCOPE_HOME", str(home / "modelscope"))


def move(monkeypatch: Any, endpoints: dict[str, str], *addresses: str) -> None:
    """Give the hubs other addresses, in the order of `hub.ENDPOINTS`, which is passed in."""
    for kind, address in zip(list(endpoints), addresses, strict=True):
        monkeypatch.setitem(endpoints, kind, address)


def left(folder: Path) -> list[str]:
    """What is in a folder, but for the empty files of locks."""
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock" or path.stat().st_size)


def refusing_address() -> str:
    """An address on loopback where nobody listens: refused at once."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


@contextmanager
def silent_address() -> Iterator[str]:
    """An address on loopback that accepts connections and never answers."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(64)  # the system accepts; nobody reads
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
