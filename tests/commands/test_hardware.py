"""nasfw devices and nasfw measure, as a user types them."""

import json

import pytest
from torch import nn
from typer.testing import CliRunner

from nasfw import cli
from nasfw.hardware import machine
from nasfw.hardware.session import to_onnx


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """Every test works in a folder of its own, with two networks, in a terminal of 80 columns."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    for name, width in (("small", 2), ("a-network-with-a-rather-long-name", 50)):
        model = nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 3)).eval()
        (tmp_path / f"{name}.onnx").write_bytes(to_onnx(model, (4,)).SerializeToString())


def nasfw(*arguments):
    return CliRunner().invoke(cli.app, [str(a) for a in arguments])


def succeeded(*arguments):
    result = nasfw(*arguments)
    assert result.exit_code == 0, result.stderr
    assert all(len(line) <= 80 for line in result.stdout.splitlines()), result.stdout
    return result.stdout


def refused(*arguments):
    """The one sentence with which a command is refused."""
    result = nasfw(*arguments)
    assert result.exit_code == 2, result.exception
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    return result.stderr.strip()


def test_devices_of_this_machine_are_listed():
    text = succeeded("devices")
    assert f"host        {machine.processor()}" in text
    assert f"host: cores {machine.cores()}" in text
    told = json.loads(nasfw("devices", "--json").stdout)
    host = next(d for d in told["devices"] if d["spec"] == "host")
    assert host["metrics"]["latency"] is None
    assert host["fingerprint"]["cores"] == machine.cores()
    # Every reason is also given to people.
    words = text.split()
    for device in told["devices"]:
        for reason in (device["problem"], *device["metrics"].values()):
            assert reason is None or set(reason.split()) <= set(words)


@pytest.mark.slow
def test_files_are_measured_and_the_values_are_told_with_their_intervals():
    files = ("small.onnx", "a-network-with-a-rather-long-name.onnx")
    told = json.loads(nasfw("measure", *files, "metrics=latency", "--json").stdout)
    assert [m["file"] for m in told["measured"]] == list(files)
    for measured in told["measured"]:
        assert 0 < measured["low"] <= measured["value"] <= measured["high"]
        assert (measured["spec"], measured["device"]) == ("host", machine.processor())
    text = succeeded("measure", *files, "metrics=latency")
    assert "95 % interval" in text
    assert text.count(" to ") == 2
    assert "Measured by: processor time of the thread." in text


@pytest.mark.parametrize("as_json", [False, True])
def test_a_file_that_cannot_be_measured_is_told_beside_the_others(as_json):
    """With an operation that no runtime has, after what could be measured; the code tells that one failed."""
    onnx = pytest.importorskip("onnx")
    bad = onnx.load("small.onnx")
    bad.graph.node[0].op_type = "Levitate"
    onnx.save(bad, "bad.onnx")
    result = nasfw("measure", "bad.onnx", "small.onnx", "metrics=latency", *(["--json"] if as_json else []))
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1].startswith("error: latency of bad.onnx on host: ")
    assert "Levitate" in result.stderr
    if as_json:
        told = json.loads(result.stdout)
        assert [m["file"] for m in told["measured"]] == ["small.onnx"]
        assert len(told["failed"]) == 1
    else:
        assert "small.onnx" in result.stdout
    alone = nasfw("measure", "bad.onnx", "metrics=latency")
    assert (alone.exit_code, alone.stdout) == (2, "")
    assert "error: latency of bad.onnx on host: " in alone.stderr


@pytest.mark.slow
def test_settings_of_the_device_are_written_as_for_a_run():
    arguments = ("small.onnx", "hardware=[{host: {threads: 2}}]", "metrics=[memory]")
    told = json.loads(nasfw("measure", *arguments, "--json").stdout)["measured"]
    assert [m["spec"] for m in told] == ["{host: {threads: 2}}"]
    again = json.loads(
        nasfw("measure", "small.onnx", "hardware.threads=2", "metrics=memory", "--json").stdout
    )
    # Memory differs by a page or two each time.
    same = ("file", "spec", "device", "metric", "repetitions")
    assert [[m[k] for k in same] for m in again["measured"]] == [[m[k] for k in same] for m in told]
    # Three repetitions have no interval.
    text = succeeded("measure", *arguments)
    assert "range" in text
    assert "interval" not in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["hardware=host"], "no file was given"),
        (["gone.onnx"], "gone.onnx cannot be read"),
        (["small.onnx", "metric=latency"], "there is no setting 'metric' here; did you mean 'metrics'"),
        (["small.onnx", "metrics=weight"], "weight on host: device "),
        (["small.onnx", "metrics={a: 1}"], "metrics are written metrics=latency,memory"),
        (["small.onnx", "metrics="], "metrics= has no value"),
        (["small.onnx", "hardware=hots"], "no device is called 'hots'; did you mean 'host'"),
        (["small.onnx", "hardware=[]"], "hardware is empty"),
        (["small.onnx", "hardware.threds=2"], "host has no parameter 'threds'; did you mean 'threads'"),
    ],
)
def test_measurements_that_cannot_be_made(arguments, message):
    assert message in refused("measure", *arguments)


def test_a_device_agrees_with_itself():
    """The second time, values come from the cache."""
    settings = ("spaces.kernel_sizes=[3]", "spaces.dilations=[1,2]", "samples=4", "seed=1")
    told = json.loads(nasfw("devices", "compare", "host", "{host: {threads: 1}}", *settings, "--json").stdout)
    assert told["agreement"]["tau"] == pytest.approx(1.0)
    assert told["agreement"]["ratio"] == told["agreement"]["half"] == 1.0
    text = succeeded("devices", "compare", "host", "host", *settings)
    assert "latency of 4 random networks of {aggconv:" in text
    assert "Kendall's tau              1.000 (1.000 to 1.000)" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["host", "hots"], "no device is called 'hots'; did you mean 'host'"),
        (["host", "[host, cuda]"], "two devices are compared"),
        (["host", "host", "sample=5"], "there is no setting 'sample' here; did you mean 'samples'"),
        (["host", "host", "samples=few"], "samples cannot be 'few'"),
        (["host", "{host: {threads: 2}"], "is not valid YAML"),
    ],
)
def test_comparisons_that_cannot_be_made(arguments, message):
    assert message in refused("devices", "compare", *arguments)
