"""Settings of all tests."""

import torch

# The tests use tiny networks: handing them to several threads takes longer than the work itself.
torch.set_num_threads(1)
