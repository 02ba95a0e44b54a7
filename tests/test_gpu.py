"""The same on a graphics card as on the processor."""

from dataclasses import dataclass, field

import pytest
import torch

from nasfw import training
from nasfw.contracts import Problem
from nasfw.engine import Budget, search, seeded
from nasfw.executors import Serial
from nasfw.mixtures import uniform
from nasfw.objectives.quality import Accuracy
from nasfw.objectives.size import Parameters
from nasfw.records import Records
from nasfw.spaces.aggconv import AggConv
from nasfw.strategies.dash import Dash
from nasfw.tasks.digits import Digits
from nasfw.testing import ToySpace, ToyTask

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device on this machine"),
]


@pytest.mark.parametrize("mode", ["results", "weights", "fourier"])
def test_supernet_gives_the_processors_output(mode):
    space = AggConv(Digits(), mode=mode)
    supernet = space.supernet().eval()
    x = torch.randn(4, 1, 8, 8)
    mixture = uniform(space.decisions)
    expected = supernet(x, mixture)
    # By default the card rounds the factors of convolutions to 10 bits.
    with torch.backends.cudnn.flags(allow_tf32=False):
        given = supernet.cuda()(x.cuda(), [m.cuda() for m in mixture])
    torch.testing.assert_close(given.cpu(), expected, rtol=1e-3, atol=1e-3)


@dataclass(frozen=True)
class Stopping(ToyTask):
    """Raises in the batches of the third epoch."""

    epochs: int = 4
    seen: list[int] = field(default_factory=list, compare=False)

    def batches(self, split, batch_size=256, generator=None):
        self.seen.append(1)
        if len(self.seen) == 3:
            raise KeyboardInterrupt
        return super().batches(split, batch_size, generator)


def test_training_resumes_on_the_card(tmp_path):
    task, stopping = ToyTask(epochs=4), Stopping()
    whole, halved = (ToySpace(task).build((1.0, 2.0)) for _ in range(2))
    halved.load_state_dict(whole.state_dict())
    with seeded(0):
        training.fit(whole, task, task.recipe, compute="cuda:0")
    with seeded(0), pytest.raises(KeyboardInterrupt):
        training.fit(halved, stopping, task.recipe, compute="cuda:0", checkpoint=tmp_path / "c.pt")
    with seeded(0):
        training.fit(halved, task, task.recipe, compute="cuda:0", checkpoint=tmp_path / "c.pt")
    for a, b in zip(whole.parameters(), halved.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_dash_searches_on_the_card(tmp_path):
    task = ToyTask()
    problem = Problem(
        ToySpace(task), task, [Accuracy(), Parameters()], task.recipe, 0, tmp_path / "toy", "cuda:0"
    )
    with Records(tmp_path / "records.jsonl", write=True) as records:
        search(problem, "toy", Dash(epochs=2), records, Serial(), Budget())
        assert all(record.error is None for record in records)
