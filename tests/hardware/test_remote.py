"""Measuring on another machine, for which this one stands in."""

import base64
import io
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest
from torch import nn

from nasfw.contracts import Candidate, Device
from nasfw.hardware.host import Host
from nasfw.hardware.remote import Remote
from nasfw.hardware.serve import PROTOCOL, hello, respond, serve
from nasfw.hardware.session import to_onnx
from nasfw.plugins import load
from nasfw.testing import DeviceContract, ToySpace, ToyTask
from nasfw.values import Measured, Unsupported, UsageError

# A server without nasfw. It finds one second in every byte of a model, except where its name says otherwise.
BOARD = """
import json, os, sys, time

name = sys.argv[1]

def send(content):
    print(json.dumps(content), flush=True)

if name == "asleep":
    time.sleep(60)
if name == "broken":
    sys.exit("no space left on device")
if name == "bare":
    print("sh: nasfw: not found", file=sys.stderr)
    sys.exit(127)
print("Welcome to the board! {last login: never}")
send({"nasfw": "0.0.1", "protocol": 0 if name == "old" else 1})
for line in sys.stdin:
    request = json.loads(line)
    answer = {"id": request["id"]}
    if request["op"] == "describe":
        print("describing", file=sys.stderr)
        answer |= {"name": "Board 3", "fingerprint": {"device": "Board 3", "cores": 4}, "batch": 2}
        answer |= {"dynamic": False} if name != "vague" else {}
    elif name == "mute":
        time.sleep(60)
    elif name == "dying":
        sys.exit("power lost")
    elif name == "chatty":
        print("progress: 50 %")
    elif name == "wrong":
        answer |= {"values": [{"value": -1.0} for m in request["models"]]}
    elif name == "buggy":
        answer |= {"failed": "KeyError: 'x'"}
    elif name == "strict":
        answer |= {"usage": "models must be small"}
    elif request["metric"] not in ("latency", "energy", "memory"):
        answer |= {"unsupported": f"no {request['metric']} here"}
    elif request["op"] == "measure":
        details = {"repetitions": 9, "clock": "hourglass", "remark": str(os.getpid())}
        answer |= {"values": [{"value": 3 * len(m) // 4, **details} for m in request["models"]]}
    send(answer)
"""
NASFW = (sys.executable, "-m", "nasfw", "device", "serve")


@pytest.fixture(scope="module")
def board(tmp_path_factory):
    """Makes devices of the machine called so."""
    script = tmp_path_factory.mktemp("board") / "board.py"
    script.write_text(BOARD)

    def made(address, **settings):
        return Remote(address, command=(sys.executable, str(script), "{address}"), **settings)

    return made


def toy(architecture=(1.0, 2.0)):
    task = ToyTask()
    return Candidate(ToySpace(task), task, architecture)


def server(device):
    """The process in which the device's server runs."""
    return int(device.measure_onnx("latency", [b"abc"])[0].remark)


class TestRemote(DeviceContract):
    @pytest.fixture
    def device(self, board):
        return board("board")


def test_it_is_called_as_there_and_by_its_address(board):
    assert board("user@board").name == "Board 3 on user@board"
    assert board("user@board").fingerprint == {"device": "Board 3", "cores": 4, "address": "user@board"}


def test_values_keep_their_details_and_their_order(board):
    """20 models take two requests."""
    values = board("board").measure_onnx("latency", [b"abc" * i for i in range(1, 21)])
    assert values == [3.0 * i for i in range(1, 21)]
    assert {(v.repetitions, v.clock, v.drift) for v in values} == {(9, "hourglass", None)}


def test_networks_are_converted_for_the_batch_of_the_device_there(board):
    candidate = toy()
    (value,) = board("board").measure_all("latency", [candidate])
    expected = to_onnx(candidate.model, candidate.task.input_shape, 2).SerializeToString()
    assert abs(value - len(expected)) <= 2


def test_equal_devices_share_a_server_and_so_does_a_pickled_copy(board):
    device = board("board")
    assert {server(device), server(board("board")), server(pickle.loads(pickle.dumps(device)))} == {
        server(device)
    }


def test_threads_get_their_own_answers(board):
    device = board("board")
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: device.measure_onnx("latency", [b"abc" * i])[0], range(1, 65)))
    assert found == [3.0 * i for i in range(1, 65)]


def test_a_server_that_was_killed_is_said_to_be_and_started_again(board):
    device = board("killed")
    former = server(device)
    os.kill(former, signal.SIGKILL)
    with pytest.raises(Unsupported, match=r"connection to killed broke .* \(exit code -9, without a word\)"):
        device.measure_onnx("latency", [b"abc"])
    assert server(device) != former


def test_a_server_that_ends_half_way_is_quoted(board):
    with pytest.raises(Unsupported, match=r"connection to dying broke .* \(exit code 1, power lost\)"):
        board("dying").measure_onnx("latency", [b"abc"])


@pytest.mark.parametrize(
    ("address", "error", "message"),
    [
        ("asleep", Unsupported, "asleep did not start to serve within 0.5 s"),
        ("mute", Unsupported, "mute did not answer within 0.5 s"),
        ("broken", Unsupported, r"broken does not serve: .* exit code 1 \(no space left on device\)"),
        ("bare", Unsupported, r'bare has no command .*: not found\): pip install "nasfw\[cpu\]" there'),
        ("old", Unsupported, rf"old runs nasfw 0\.0\.1 with protocol 0, .* protocol {PROTOCOL}: install"),
        ("chatty", Unsupported, "chatty answers something else: progress: 50 %"),
        ("wrong", Unsupported, "wrong answers what are no measurements"),
        ("buggy", Unsupported, "buggy failed at measure: KeyError: 'x'"),
        ("strict", UsageError, "strict: models must be small"),
    ],
)
def test_what_goes_wrong_is_said_in_one_sentence(board, address, error, message):
    slow = address in ("asleep", "mute")
    with pytest.raises(error, match=message) as caught:
        board(address, timeout=0.5 if slow else 30.0).measure_onnx("latency", [b"abc"])
    assert type(caught.value) is error
    assert "\n" not in str(caught.value)


def test_a_description_that_lacks_something_is_refused(board):
    with pytest.raises(Unsupported, match="vague describes its device"):
        _ = board("vague").name


def test_after_a_timeout_the_next_request_finds_a_new_server(board):
    with pytest.raises(Unsupported, match="did not answer"):
        board("mute", timeout=0.5).measure_onnx("latency", [b"abc"])
    assert board("mute").name == "Board 3 on mute"


def test_a_program_that_is_not_there_is_named():
    with pytest.raises(Unsupported, match="board cannot be reached: 'no-such-program' does not start here"):
        _ = Remote("board", command=("no-such-program", "{address}")).name


def test_ssh_that_is_refused_is_quoted_with_a_remedy(tmp_path, monkeypatch):
    ssh = tmp_path / "ssh"
    ssh.write_text('#!/bin/sh\necho "$3: Permission denied (publickey)." >&2\nexit 255\n')
    ssh.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(Unsupported) as caught:
        Remote("user@board").check("latency")
    assert str(caught.value) == (
        "ssh cannot reach user@board (user@board: Permission denied (publickey).); see that "
        "ssh -o BatchMode=yes user@board true succeeds"
    )


@pytest.mark.parametrize("address", ["", "-oProxyCommand=reboot", "two words", "a\nb"])
def test_what_is_no_address_is_refused(address):
    with pytest.raises(UsageError, match="address must be a machine"):
        Remote(address)


def test_settings_come_as_text():
    """As from the command line."""
    spec = {"remote": {"address": "b", "hardware": {"host": {"threads": 2}}, "command": ["x"], "timeout": 5}}
    registry = load(entry_points=False)
    if not any(e.name == "remote" for e in registry.entries("device")):
        registry.add("remote", Remote)
    assert registry.make("device", spec) == Remote("b", {"host": {"threads": 2}}, ("x",), 5.0)


def test_servers_end_with_the_process_and_a_forked_one_has_its_own(board):
    """The forked process must not write into its parent's connection."""
    script = (
        "import os\n"
        "from nasfw.hardware.connection import connection\n"
        f"command = {board('board').command!r}\n"
        "request = {'op': 'measure', 'metric': 'latency', 'models': ['abcd']}\n"
        "def told():\n"
        "    answer = connection('board', command).ask(request, 60.0)\n"
        "    print(answer['values'][0]['remark'], flush=True)\n"
        "told()\n"
        "child = os.fork()\n"
        "told()\n"
        "if child: os.waitpid(child, 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    first, *others = map(int, done.stdout.split())
    assert len({first, *others}) == 2
    for pid in {first, *others}:
        for _ in range(50):
            if not _runs(pid):
                break
            time.sleep(0.1)
        assert not _runs(pid)


def _runs(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_this_machine_as_a_remote_one_is_host():
    """What was measured there is not measured again here: it is the same machine, network and cache."""
    remote, host, candidate = Remote("loopback", command=NASFW), Host(), toy()
    assert remote.name == f"{host.name} on loopback"
    assert remote.fingerprint == {**host.fingerprint, "address": "loopback"}
    there, here = (d.measure("latency", candidate) for d in (remote, host))
    assert there == here
    assert there.details == here.details
    with pytest.raises(UsageError, match=r"loopback: .* no ONNX model"):
        remote.measure_onnx("latency", [b"abc"])
    with pytest.raises(Unsupported, match=r"loopback: device .* not 'no-such-metric'"):
        remote.check("no-such-metric")
    with pytest.raises(UsageError, match="loopback: no device is called 'hots'; did you mean 'host'"):
        Remote("loopback", "hots", NASFW).check("latency")


@dataclass(frozen=True)
class Scale(Device):
    """Weighs models: a gram for each byte; an empty one breaks it."""

    metrics = ("weight",)
    precision: float = 0.5

    @property
    def name(self) -> str:
        return "Scale"

    @property
    def fingerprint(self) -> Mapping[str, Any]:
        return {"device": self.name, "precision": self.precision}

    def measure(self, metric: str, candidate: Candidate) -> float:
        raise NotImplementedError

    def measure_onnx(self, metric: str, models: Sequence[bytes], rounds: int | None = None) -> list[float]:
        self.check(metric)
        return [Measured(1 / (1 / len(m)), low=0.0, repetitions=rounds or 1) for m in models]


def made(spec):
    """A scale of the precision ``spec``."""
    if not isinstance(spec, float):
        raise UsageError(f"{spec!r} is no precision")
    return Scale(spec)


def answered(**request):
    return json.loads(respond(json.dumps(request).encode(), made))


def encoded(*models):
    return [base64.b64encode(m).decode() for m in models]


def test_the_server_describes_a_device():
    assert answered(id=1, op="describe", device=0.1) == {
        "id": 1,
        "name": "Scale",
        "fingerprint": {"device": "Scale", "precision": 0.1},
        "metrics": ["weight"],
        "batch": 1,
        "dynamic": False,
    }


def test_the_server_measures_with_all_details():
    request = {"device": 0.1, "metric": "weight", "models": encoded(b"abc"), "rounds": 7}
    (value,) = answered(id="x", op="measure", **request)["values"]
    assert Measured(**value).details == Measured(3.0, low=0.0, repetitions=7).details


@pytest.mark.parametrize(
    ("request_", "answer"),
    [
        ({"op": "check", "metric": "weight", "device": 0.1}, {}),
        (
            {"op": "check", "metric": "height", "device": 0.1},
            {"unsupported": "device Scale measures weight, not 'height'"},
        ),
        ({"op": "check", "metric": "weight", "device": "x"}, {"usage": "'x' is no precision"}),
        ({"op": "check", "device": 0.1}, {"usage": "metric must be a text, not None"}),
        ({"op": "stop"}, {"usage": "op is 'stop'; possible: describe, check, measure"}),
        ({"op": ["check"]}, {"usage": "op is ['check']; possible: describe, check, measure"}),
        (
            {"op": "measure", "metric": "weight", "device": 0.1, "models": [""]},
            {"failed": "ZeroDivisionError: division by zero"},
        ),
        (
            {"op": "measure", "metric": "weight", "device": 0.1, "models": []},
            {"usage": "models must be a list of ONNX models in base64"},
        ),
        (
            {"op": "measure", "metric": "weight", "device": 0.1, "models": ["YQ=="], "rounds": 0},
            {"usage": "rounds must be a whole number from 1 up, or null, not 0"},
        ),
    ],
)
def test_every_request_has_an_answer(request_, answer):
    assert answered(id=5, **request_) == {"id": 5, **answer}


def test_models_that_are_no_base64_are_refused():
    for model in ("a", "ü", 7, None):
        answer = answered(id=5, op="measure", metric="weight", device=0.1, models=[model])
        assert answer["usage"].startswith("a model must be given in base64")


@pytest.mark.parametrize("line", [b"rubbish", b"\xff", b"[1]", b"7", b"[" * 100_000])
def test_what_is_no_request_has_an_answer(line):
    answer = json.loads(respond(line, made))
    assert answer["id"] is None
    assert answer["usage"].startswith("a request is a")


def test_serving_goes_on_until_the_input_ends():
    requests = [b"rubbish\n", b"\n", b'{"id": 1, "op": "check", "device": 0.1, "metric": "weight"}\n']
    answers = io.BytesIO()
    serve(made, requests, answers)
    greeting, refusal, answer = map(json.loads, answers.getvalue().splitlines())
    assert greeting == hello()
    assert "usage" in refusal
    assert answer == {"id": 1}


def test_only_answers_reach_the_output():
    script = (
        "import os, sys\n"
        "from nasfw.hardware.serve import private_streams\n"
        "print('before')\n"
        "with private_streams() as (requests, answers):\n"
        "    print('printed'); os.system('echo by a child'); left = sys.stdin.read()\n"
        "    answers.write(requests.readline() + repr(left).encode() + b'\\n'); answers.flush()\n"
        "print('after')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], input="asked\n", capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["before", "asked", "''", "after"]
    assert sorted(done.stderr.splitlines()) == ["by a child", "printed"]


def test_a_table_is_fitted_to_what_a_remote_device_measures(board):
    """Where a network costs its size, its cost is the sum of its parts'."""
    task = ToyTask()
    table = board("board").table("latency", Wide(task), task, 0)
    assert table is not None
    assert table.tau > 0.9
    assert table.error < 0.01


@dataclass(frozen=True)
class Wide(ToySpace):
    """Two hidden layers of as many repetitions of a linear map as are decided."""

    @property
    def decisions(self) -> Mapping[str, Sequence[int]]:
        return {"0": range(1, 9), "1": range(1, 9)}

    @property
    def default(self) -> tuple[int, ...]:
        return (1, 1)

    def build(self, architecture: tuple[int, ...]) -> nn.Module:
        return nn.Sequential(*(nn.Sequential(*(nn.Linear(4, 4) for _ in range(n))) for n in architecture))
