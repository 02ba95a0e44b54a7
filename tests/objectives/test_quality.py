"""Error and accuracy of small networks with known predictions."""

import pytest
import torch
from torch import nn

from nasfw.contracts import Candidate, SearchSpace, Task, Unsupported
from nasfw.objectives.quality import Accuracy, Error


class Signs(Task):
    """Which of two numbers is larger; every batch but the first is a single sample."""

    input_shape = (2,)
    output_shape = (2,)

    def size(self, split):
        return 8

    def batches(self, split, batch_size=256, generator=None):
        x = torch.randn(8, 2, generator=torch.Generator().manual_seed(len(split)))
        y = x.argmax(1)
        y[:2] = 1 - y[:2]
        return zip(x.split([5, 1, 1, 1]), y.split([5, 1, 1, 1]), strict=True)

    def loss(self, output, target):
        return nn.functional.cross_entropy(output, target)

    def error(self, outputs, targets):
        return float((outputs.argmax(1) != targets).double().mean())


class Ranking(Signs):
    metric = "auroc"


class Identity(SearchSpace):
    decisions = {}  # noqa: RUF012
    default = ()

    def build(self, architecture):
        return nn.Identity()


def test_error_is_the_tasks_on_the_whole_split():
    """Two of eight labels are wrong, both in the first batch: the mean over batches would be 0.1."""
    assert Error().measure(Candidate(Identity(), Signs(), ())) == 0.25


@pytest.mark.parametrize("split", ["train", "valid", "full", "test"])
def test_accuracy_and_error_add_to_one(split):
    candidate = Candidate(Identity(), Signs(), (), split)
    assert Accuracy().measure(candidate) + Error().measure(candidate) == 1.0


def test_accuracy_of_a_task_with_another_metric_is_unsupported():
    candidate = Candidate(Identity(), Ranking(), ())
    assert Error().measure(candidate) == 0.25
    with pytest.raises(Unsupported, match=r"metric of task Ranking is auroc; use objectives=\[error,...\]"):
        Accuracy().measure(candidate)


def test_how_to_read_them():
    assert (Error().name, Error().unit, Error().maximise, Error().trained) == ("error", "", False, True)
    assert (Accuracy().name, Accuracy().unit, Accuracy().maximise, Accuracy().trained) == (
        "accuracy",
        "",
        True,
        True,
    )
