"""The command as a process of its own that starts at once: a copy (fork) of one that has imported everything.

To start an interpreter and to import takes longer than what most tests let the command do. What a copy shares
with a process started anew ends there: descriptors, directory, environment, arguments and exit are its own.
Tests of how a process starts, of signals, and of descriptors that it inherits start theirs anew.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from subprocess import CompletedProcess

LARGEST = 1 << 17
"""Bytes of a request: arguments and environment."""
IMPORTED = (
    "shadowmmu.cli.commands",
    "shadowmmu.check.checks",
    "shadowmmu.check.coherence.stale",
    "shadowmmu.guest.play.player",
    "shadowmmu.trace.compare",
    "shadowmmu.trace.ftrace",
    "shadowmmu.trace.recorder",
    "shadowmmu.trace.snapshot",
)
OF_PROGRAMS = ("shadowmmu.check.program", "shadowmmu.guest.pc.pc", "shadowmmu.guest.linux.guest")
"""What commands import when they are called; what programs need is there with the extra `guest`."""


class Launcher:
    """Starts the copies, one at a time."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._server = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())],
                env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
            )
        atexit.register(self._end)

    def _end(self) -> None:
        self._socket.close()
        self._server.wait()

    def run(
        self,
        words: Sequence[str],
        *,
        cwd: Path | None,
        env: Mapping[str, str],
        timeout: float,
        merged: bool = False,
    ) -> CompletedProcess[bytes]:
        """Run `shadowmmu WORDS`: its status and what it wrote. Raises TimeoutExpired, after it was killed.

        `merged`: what it writes to stderr is among what it writes to stdout.
        """
        request = json.dumps([words, str(cwd or os.getcwd()), dict(env)]).encode()
        (out, out_end), (err, err_end) = os.pipe(), os.pipe()
        with open(os.devnull, "rb") as nothing:
            streams = [nothing.fileno(), out_end, out_end if merged else err_end]
            socket.send_fds(self._socket, [request], streams)
        os.close(out_end)
        os.close(err_end)
        pid = int(self._socket.recv(LARGEST))
        written = _read_all([out, err], time.monotonic() + timeout)
        if written is None:
            os.kill(pid, signal.SIGKILL)
        status = int(self._socket.recv(LARGEST))
        if written is None:
            raise subprocess.TimeoutExpired(["shadowmmu", *words], timeout)
        return CompletedProcess(["shadowmmu", *words], status, *written)


def decoded(done: CompletedProcess[bytes]) -> CompletedProcess[str]:
    """The same as text."""
    return CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


def _read_all(fds: list[int], deadline: float) -> list[bytes] | None:
    """All that comes out of pipes, which are closed then; None if they are not at their end in time."""
    read: dict[int, list[bytes]] = {fd: [] for fd in fds}
    with selectors.DefaultSelector() as selector:
        for fd in fds:
            selector.register(fd, selectors.EVENT_READ)
        while selector.get_map():
            ready = selector.select(max(0, deadline - time.monotonic()))
            for key, _ in ready:
                piece = os.read(key.fd, LARGEST)
                read[key.fd].append(piece)
                if not piece:
                    selector.unregister(key.fd)
            if not ready:
                break
        complete = not selector.get_map()
    for fd in fds:
        os.close(fd)
    return [b"".join(read[fd]) for fd in fds] if complete else None


@cache
def launcher() -> Launcher:
    """The launcher of this process, from the first call on."""
    return Launcher()


def _serve(requests: socket.socket) -> None:
    """Start a copy per request, and tell its process id and then its status. A copy returns from here."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        request, fds, _, _ = socket.recv_fds(requests, LARGEST, 3)
        if not request:
            sys.exit()
        pid = os.fork()
        if not pid:
            requests.close()
            _become(*json.loads(request), fds)
            return
        for fd in fds:
            os.close(fd)
        requests.send(str(pid).encode())
        _, status = os.waitpid(pid, 0)
        requests.send(str(os.waitstatus_to_exitcode(status)).encode())


def _become(words: list[str], cwd: str, environment: dict[str, str], fds: list[int]) -> None:
    for number, fd in enumerate(fds):
        os.dup2(fd, number)
        os.close(fd)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["shadowmmu", *words]


if __name__ == "__main__":
    for name in IMPORTED + OF_PROGRAMS if find_spec("unicorn") and find_spec("iced_x86") else IMPORTED:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    _serve(socket.socket(fileno=int(sys.argv[1])))
    from shadowmmu.cli.main import main

    main()
