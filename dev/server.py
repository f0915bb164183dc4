"""Runs a ComfyUI server and talks to it; as a program, serves it to the user's browser."""

import argparse
import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from dataclasses import dataclass, field
from pathlib import Path

import websocket

ROOT = Path(__file__).resolve().parent.parent
PACK = "semantic_latents"
FAILURES = ("execution_error", "execution_interrupted")


class HostError(RuntimeError):
    """The server did not start, refused a prompt, or failed in running it."""


def free_port(wanted=0):
    """The wanted port if nobody listens on it; any free one for 0."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError as problem:
            raise HostError(f"port {wanted} cannot be used ({problem.strerror}); choose another") from None
        return probe.getsockname()[1]


def device_arguments():
    """--cpu where there is no usable GPU."""
    import torch

    return [] if torch.cuda.is_available() else ["--cpu"]


def with_parent(command):
    """The command line, changed so that the kernel stops the program when its parent is killed, where the system can do that."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "TERM", *command] if setpriv else command


class Host:
    """A running server with folders of its own; a context manager."""

    def __init__(self, tree, *, port=0, output=None, arguments=("--cpu",), echo=False):
        self.tree, self.port, self.output = Path(tree), free_port(port), output
        self.arguments, self.echo, self.process = list(arguments), echo, None
        self.address = f"http://127.0.0.1:{self.port}"
        self.client = Client(self.address)

    def __enter__(self):
        self._temporary = tempfile.TemporaryDirectory(prefix="comfyui-")
        self.folder = Path(self._temporary.name)
        self.log_file = self.folder / "log.txt"
        try:
            self._start()
            self._wait_until_ready()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception):
        if self.process:
            self._stop()
        self._temporary.cleanup()

    def _stop(self):
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    @property
    def log(self):
        """What the server has printed so far."""
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def command(self):
        """The server's command line."""
        folders = {name: self.folder / name for name in ("user", "input", "temp")}
        folders["output"] = Path(self.output or self.folder / "output")
        for path in folders.values():
            path.mkdir(exist_ok=True)
        shutil.copytree(self.tree / "input", folders["input"], dirs_exist_ok=True)
        places = [f"--{name}-directory={path}" for name, path in folders.items()]
        # The default database is a file that only one server can hold.
        return [
            sys.executable,
            "main.py",
            "--listen=127.0.0.1",
            f"--port={self.port}",
            "--disable-auto-launch",
            "--database-url=sqlite:///:memory:",
            *places,
            *self.arguments,
        ]

    def _start(self):
        with contextlib.ExitStack() as stack:
            log = None if self.echo else stack.enter_context(open(self.log_file, "w"))
            self.process = subprocess.Popen(
                with_parent(self.command()),
                cwd=self.tree,
                stdout=log,
                stderr=subprocess.STDOUT if log else None,
                stdin=subprocess.DEVNULL,
            )

    def _wait_until_ready(self, seconds=240):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise HostError(f"ComfyUI stopped with code {self.process.returncode}:\n{tail(self.log)}")
            with contextlib.suppress(OSError):
                self.client.get("/system_stats")
                return
            time.sleep(0.2)
        raise HostError(f"ComfyUI did not answer within {seconds} seconds:\n{tail(self.log)}")


def tail(text, lines=30):
    """The last lines of a log."""
    return "\n".join(text.splitlines()[-lines:])


def failed_import(log, pack=PACK):
    """The part of a server's log that says why a custom node pack did not load, or None."""
    failed = any("IMPORT FAILED" in line and pack in line for line in log.splitlines())
    return log[max(log.find("Traceback"), 0) :] if failed else None


@dataclass
class Run:
    """What came of a prompt: the websocket's events and the outputs by node id."""

    prompt_id: str
    events: list = field(default_factory=list)
    outputs: dict = field(default_factory=dict)

    def of(self, kind):
        """The events of one kind."""
        return [data for event, data in self.events if event == kind]

    def images(self, kind="output"):
        """References to the pictures that were saved (or only shown: kind temp), by the numbers of their nodes."""
        by_number = sorted(self.outputs.items(), key=lambda entry: [int(part) for part in re.findall(r"\d+", entry[0])])
        found = [image for _, output in by_number for image in output.get("images", [])]
        return [image for image in found if image["type"] == kind]


class Client:
    """The server's API as the frontend uses it."""

    def __init__(self, address):
        self.address, self.client_id = address, uuid.uuid4().hex

    def get(self, path, **query):
        """The JSON answer to a GET request."""
        return json.loads(self.read(path, **query))

    def read(self, path, **query):
        """The bytes of a GET request's answer."""
        url = self.address + urllib.parse.quote(path) + (f"?{urllib.parse.urlencode(query)}" if query else "")
        with urllib.request.urlopen(url, timeout=60) as answer:
            return answer.read()

    def object_info(self):
        """All node types with their inputs and outputs."""
        return self.get("/object_info")

    def image(self, reference):
        """The bytes of a picture that a run refers to."""
        return self.read("/view", **{key: reference[key] for key in ("filename", "subfolder", "type")})

    def post(self, path, content):
        """The answer to a POST request with a JSON body."""
        body = json.dumps(content).encode()
        request = urllib.request.Request(f"{self.address}{path}", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.read()

    def submit(self, prompt):
        """Queue a prompt in API format; its id."""
        try:
            answer = json.loads(self.post("/prompt", {"prompt": prompt, "client_id": self.client_id}))
        except urllib.error.HTTPError as refusal:
            raise HostError(f"ComfyUI refused the prompt:\n{explain(refusal.read())}") from None
        if answer["node_errors"]:
            # It runs the other outputs of a prompt that is wrong in part; a workflow should be right as a whole.
            raise HostError(f"ComfyUI refused a part of the prompt:\n{describe(answer['node_errors'])}")
        return answer["prompt_id"]

    def run(self, prompt, callback=lambda kind, data: None, timeout=900):
        """Queue a prompt and follow it to its end; callback is told of every event."""
        url = f"{self.address.replace('http', 'ws', 1)}/ws?clientId={self.client_id}"
        with contextlib.closing(websocket.create_connection(url, timeout=timeout)) as events:
            run = Run(self.submit(prompt))
            follow(events, run, callback)
        run.outputs = self.get(f"/history/{run.prompt_id}")[run.prompt_id]["outputs"]
        return run


def follow(events, run, callback):
    """Collect a prompt's events until its outputs are in the history; raises unless it succeeded."""
    # Success is announced shortly before the history is written; "executing nothing" comes after.
    while run.events[-1:] != [("executing", {"node": None, "prompt_id": run.prompt_id})]:
        message = events.recv()
        if isinstance(message, bytes):
            run.events.append(("preview", message))
            continue
        event = json.loads(message)
        kind, data = event["type"], event.get("data") or {}
        if data.get("prompt_id", run.prompt_id) != run.prompt_id:
            continue
        run.events.append((kind, data))
        callback(kind, data)
        if kind in FAILURES:
            raise HostError(
                f"{kind} in {data.get('node_type')} (node {data.get('node_id')}): "
                f"{data.get('exception_message', '').strip()}\n{''.join(data.get('traceback', []))}"
            )


def explain(refusal):
    """Why a prompt was refused."""
    try:
        answer = json.loads(refusal)
        return "\n".join([answer["error"]["message"], describe(answer.get("node_errors") or {})])
    except (ValueError, KeyError, TypeError):
        return refusal.decode(errors="replace")


def describe(node_errors):
    """The errors of a prompt's nodes, one a line."""
    return "\n".join(
        f"node {node} ({problem['class_type']}): {error['message']}: {error['details']}"
        for node, problem in node_errors.items()
        for error in problem["errors"]
    )


def main():
    """Serve ComfyUI with this pack until Ctrl-C."""
    parser = argparse.ArgumentParser(description="Serve ComfyUI with this pack; other arguments go to ComfyUI.")
    parser.add_argument("--port", type=int, default=0)
    options, others = parser.parse_known_args()
    output = ROOT / "output"
    with Host(os.environ["COMFYUI"], port=options.port, output=output, echo=True, arguments=[*device_arguments(), *others]) as host:
        print(
            "\nComfyUI's workflow templates are left out here; its message about them can be ignored.\n"
            f"ComfyUI with Semantic Latents: {host.address}  (Ctrl-C stops it)\n",
            flush=True,
        )
        host.process.wait()


if __name__ == "__main__":
    try:
        main()
    except HostError as problem:
        sys.exit(str(problem))
    except KeyboardInterrupt:
        sys.exit(0)
