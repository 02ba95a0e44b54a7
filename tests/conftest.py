"""Settings of all tests, and what several of them need."""

import os
import subprocess
import sys
from contextlib import ExitStack

import pytest
import torch
from hypothesis import HealthCheck, settings

# How long an example takes says nothing where processes share the processor.
settings.register_profile("shared", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared")

# The tests use tiny networks: handing them to several threads takes longer than the work itself.
torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def cache(tmp_path_factory):
    """What tests cache is nobody's but theirs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NASFW_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def served():
    """Starts a script that says when it is ready; what that gives sends it a line, and returns its answer."""
    with ExitStack() as stack:

        def start(script, **variables):
            process = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", script],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    env={**os.environ, **variables},
                )
            )
            # At its end it is waited for, so it must know that there is nothing more to come.
            stack.callback(process.stdin.close)
            assert process.stdout.readline() == "ready\n"

            def ask(line):
                process.stdin.write(f"{line}\n")
                process.stdin.flush()
                return int(process.stdout.readline())

            return ask

        yield start
