"""A process that has every import behind it and forks for each command: `babelscope` that starts at once.

Its children share one seed of Python's hashes: where that might count, one result is of a program of its own.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LIBRARIES = (
    "torch", "torch.distributed.tensor", "sentencepiece", "pandas", "xarray", "zarr", "scipy.stats", "PIL.Image",
    *(f"transformers.models.{name}.modeling_{name}" for name in ("auto", "bloom", "gpt2", "llama")),
    "transformers.models.auto.tokenization_auto", "transformers.models.encoder_decoder",
    "transformers.tokenization_utils_tokenizers", "transformers.convert_slow_tokenizer",
    "pyarrow.parquet", "pyarrow.dataset", "pyarrow.pandas_compat", "matplotlib.pyplot",
    "matplotlib.backends.backend_agg", "plotly.graph_objects", "plotly.io", "plotly.offline", "plotly.tools",
    "fontTools.subset", "fontTools.ttLib", "language_data.names", "lxml.etree", "jinja2",
    "rich.console", "rich.markup", "rich.table", "cyclopts.validators",
)  # fmt: skip
OURS = (
    "babelscope.studies.regions", "babelscope.studies.region_plan", "babelscope.studies.circuits",
    "babelscope.studies.circuit_plan", "babelscope.evolution.sweep", "babelscope.pocket.heldout",
    "babelscope.pocket.models", "babelscope.figures", "babelscope.report", "babelscope.results",
    "babelscope.results.arrays", "babelscope.results.tables", "babelscope.evaluation", "babelscope.tasks",
)  # fmt: skip
"""what every command would import anew"""


@dataclass
class Child:
    """A command under way, asked as `subprocess.Popen` is; its code is −9 when it ended without a word."""

    pid: int
    caller: socket.socket
    returncode: int | None = field(default=None, init=False)

    def poll(self) -> int | None:
        if self.returncode is None and select.select([self.caller], [], [], 0)[0]:
            self.wait()
        return self.returncode

    def wait(self) -> int:
        if self.returncode is None:
            word = self.caller.recv(1)
            self.returncode = word[0] if word else -signal.SIGKILL
            self.caller.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


@dataclass(frozen=True)
class Server:
    """The process; in the folder `home` there is a program `babelscope` that asks it."""

    home: Path

    def start(self, words: Sequence[str], printed: Path) -> Child:
        """Begin a command in this folder; what it says goes into a file."""
        caller = socket.socket(socket.AF_UNIX)
        caller.connect(str(self.home / "socket"))
        asked = dict(folder=os.getcwd(), arguments=list(words), variables=dict(os.environ))
        with open(os.devnull, "r+b") as nothing, printed.open("wb") as said:
            socket.send_fds(caller, [json.dumps(asked).encode()], [nothing.fileno(), nothing.fileno(), said.fileno()])
        return Child(int.from_bytes(caller.recv(4, socket.MSG_WAITALL), "big"), caller)


@contextlib.contextmanager
def server() -> Generator[Server]:
    """Start the process, and put the program into a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="bs") as home:
        place, program = Path(home, "socket"), Path(home, "babelscope")
        program.write_text(f"#!{sys.executable} -SE\n{_CLIENT.format(place=str(place))}", encoding="utf-8")
        program.chmod(0o755)
        process = subprocess.Popen([sys.executable, __file__, str(place)], stdout=subprocess.PIPE)
        try:
            assert process.stdout is not None
            assert process.stdout.readline(), "the process that runs the commands did not start"
            yield Server(Path(home))
        finally:
            process.terminate()
            process.wait()


_CLIENT = """
import json, os, socket, sys
here = socket.socket(socket.AF_UNIX)
here.connect({place!r})
asked = dict(folder=os.getcwd(), arguments=sys.argv[1:], variables=dict(os.environ))
socket.send_fds(here, [json.dumps(asked).encode()], [0, 1, 2])
here.recv(4, socket.MSG_WAITALL)
sys.exit((here.recv(1) or b"\\1")[0])
"""


def serve(place: str) -> None:
    """Fork once per command, with the caller's folder, variables, input and outputs; say its id, then its code."""
    _import_ahead()
    signal.signal(signal.SIGCHLD, _reap)
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(place)
    listening.listen()
    print("ready", flush=True)
    while True:
        caller, _ = listening.accept()
        asked, descriptors, _, _ = socket.recv_fds(caller, 1 << 20, 3)
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            caller.sendall(os.getpid().to_bytes(4, "big"))
            caller.sendall(bytes([_command(json.loads(asked), descriptors)]))
            os._exit(0)
        caller.close()
        for descriptor in descriptors:
            os.close(descriptor)


def _import_ahead() -> None:
    os.environ["MPLBACKEND"] = "agg"
    from babelscope.cli import VERBS

    for name in (*LIBRARIES, *OURS, *(f"babelscope.cli.{verb}" for verb in VERBS)):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    import torch

    torch.set_num_threads(1)


def _reap(*_: object) -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _command(asked: dict[str, Any], descriptors: list[int]) -> int:
    from babelscope.cli import main

    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
    os.chdir(asked["folder"])
    os.environ.clear()
    os.environ.update(asked["variables"])
    code: Any = 1
    try:
        main(asked["arguments"])
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    return code


if __name__ == "__main__":
    serve(sys.argv[1])
