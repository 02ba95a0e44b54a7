"""How tests are run, those of the plugins too."""

import pytest


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config):
    """As many processes as processors, but one for benchmarks, and for files and tests that are named.

    What is timed should have no neighbour, and to start other processes takes longer than most files.
    """
    named = all(".py" in argument for argument in config.args)
    return 0 if named or config.getoption("benchmark_enable", default=False) else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """What only measures states little while nothing is measured: then it belongs to the slow tests."""
    if not config.getoption("benchmark_enable", default=False):
        for item in items:
            if "benchmark" in getattr(item, "fixturenames", ()):
                item.add_marker(pytest.mark.slow)
