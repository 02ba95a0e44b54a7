"""Asking a server that another program, such as ssh, connects to; connections are kept and made anew."""

from __future__ import annotations

import atexit
import json
import logging
import os
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from typing import IO, Any

from nasfw.hardware.serve import PROTOCOL, hello
from nasfw.values import Unsupported

log = logging.getLogger("nasfw")

# A login may print so many lines before the server says hello.
_NOISE = 200


class Connection:
    """A server on another machine; it is started when it is first needed, and again after it broke."""

    def __init__(self, address: str, command: Sequence[str]) -> None:
        self._address = address
        self._command = command
        self._lock = threading.Lock()
        self._numbers = count(1)
        self._process: subprocess.Popen[bytes] | None = None
        self._listener: threading.Thread | None = None
        self._said: deque[str] = deque(maxlen=20)

    def ask(self, request: Mapping[str, Any], timeout: float) -> Mapping[str, Any]:
        """The answer to ``request``; Unsupported if none comes, and then the next one finds a new server."""
        with self._lock:
            try:
                if self._process is None:
                    self._process = self._started()
                    self._greet(self._process, timeout)
                return self._exchange(self._process, request, timeout)
            # What was not read to its end would be taken for the next answer.
            except BaseException:
                self.close(patience=0.0)
                raise

    def _started(self) -> subprocess.Popen[bytes]:
        try:
            # In a session of its own, an interrupt typed here does not end the server.
            process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as reason:
            raise Unsupported(
                f"{self._address} cannot be reached: {self._command[0]!r} does not start here: "
                f"{reason.strerror}"
            ) from None
        self._said.clear()
        self._listener = threading.Thread(target=self._listen, args=(_open(process.stderr),), daemon=True)
        self._listener.start()
        return process

    def _listen(self, errors: IO[bytes]) -> None:
        with errors:
            for line in errors:
                if text := line.decode(errors="replace").strip():
                    self._said.append(text)
                    log.info("%s: %s", self._address, text)

    def _greet(self, process: subprocess.Popen[bytes], timeout: float) -> None:
        """Read the server's hello, after what a login may print; Unsupported if there is none or another."""
        output, last = _open(process.stdout), ""
        with _deadline(process, timeout) as late:
            for _ in range(_NOISE):
                line = output.readline()
                said = _object(line)
                if "protocol" in said or not line:
                    break
                last = line.decode(errors="replace").strip()
        if late.is_set():
            raise Unsupported(f"{self._address} did not start to serve within {timeout:g} s")
        if "protocol" not in said:
            raise Unsupported(self._refusal(process, last))
        if said["protocol"] != PROTOCOL:
            raise Unsupported(
                f"{self._address} runs nasfw {said.get('nasfw')} with protocol {said['protocol']}, and this "
                f"is nasfw {hello()['nasfw']} with protocol {PROTOCOL}: install the same version on both"
            )

    def _refusal(self, process: subprocess.Popen[bytes], printed: str) -> str:
        """Why there was no hello, and what to do about it."""
        code, last = self._end(process, printed)
        if code == 127:
            return (
                f'{self._address} has no command to serve with ({last}): pip install "nasfw[cpu]" there, or '
                "give the command with its full path"
            )
        if code == 255 and self._command[0] == "ssh":
            return (
                f"ssh cannot reach {self._address} ({last}); see that ssh -o BatchMode=yes {self._address} "
                "true succeeds"
            )
        return f"{self._address} does not serve: {self._command[0]!r} ended with exit code {code} ({last})"

    def _exchange(
        self, process: subprocess.Popen[bytes], request: Mapping[str, Any], timeout: float
    ) -> Mapping[str, Any]:
        number, line = next(self._numbers), b""
        with _deadline(process, timeout) as late, suppress(BrokenPipeError):
            requests = _open(process.stdin)
            requests.write(json.dumps({"id": number, **request}).encode() + b"\n")
            requests.flush()
            line = _open(process.stdout).readline()
        if late.is_set():
            raise Unsupported(f"{self._address} did not answer within {timeout:g} s")
        if not line.endswith(b"\n"):
            code, last = self._end(process)
            raise Unsupported(
                f"the connection to {self._address} broke before the answer came (exit code {code}, {last})"
            )
        answer = _object(line)
        if answer.get("id") != number:
            text = line[:80].decode(errors="replace").strip()
            raise Unsupported(f"{self._address} answers something else: {text}")
        return answer

    def _end(self, process: subprocess.Popen[bytes], printed: str = "") -> tuple[int, str]:
        """Exit code of a process that has closed its output, and its last error, else what it ``printed``."""
        try:
            code = process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            _kill(process)
            code = process.wait()
        if self._listener is not None:
            self._listener.join(timeout=1)
        return code, (self._said[-1] if self._said else printed) or "without a word"

    def close(self, patience: float) -> None:
        """End the server: by the end of its input, and by force after ``patience`` seconds."""
        process, self._process = self._process, None
        if process is None:
            return
        for stream in (process.stdin, process.stdout):
            # The rest of a request cannot be written to a process that is gone.
            with suppress(OSError):
                _open(stream).close()
        try:
            process.wait(timeout=patience)
        except subprocess.TimeoutExpired:
            _kill(process)
            process.wait()


def _open(stream: IO[bytes] | None) -> IO[bytes]:
    if stream is None:
        raise ValueError("the process was started without pipes")
    return stream


def _object(line: bytes) -> Mapping[str, Any]:
    """The JSON object in ``line``; an empty one if there is none."""
    try:
        content = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


@contextmanager
def _deadline(process: subprocess.Popen[bytes], seconds: float) -> Iterator[threading.Event]:
    """Kill ``process`` if the block takes longer, so that it reads and writes no more; the event tells."""
    late = threading.Event()

    def end() -> None:
        late.set()
        _kill(process)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield late
    finally:
        timer.cancel()


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill the process and those that it started, as far as the system has groups of them."""
    if hasattr(os, "killpg"):
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()


# By process as well: one that is forked inherits its parent's connections, but must not use them.
_connections: dict[tuple[int, tuple[str, ...]], Connection] = {}


def connection(address: str, command: tuple[str, ...]) -> Connection:
    """The connection that this process keeps for ``command``, which reaches ``address``."""
    return _connections.setdefault((os.getpid(), command), Connection(address, command))


@atexit.register
def _close_all() -> None:
    for (process, _), connection in _connections.items():
        if process == os.getpid():
            connection.close(patience=2.0)
