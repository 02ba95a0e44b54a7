"""Settings of all tests."""

import pytest
import torch

# The tests use tiny networks: handing them to several threads takes longer than the work itself.
torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def cache(tmp_path_factory):
    """What tests cache is nobody's but theirs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NASFW_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
