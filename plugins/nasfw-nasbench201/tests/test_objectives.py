"""Objectives give what the table has for the split and the epochs of the training."""

import pytest
from nasfw_nasbench201.cells import indices
from nasfw_nasbench201.objectives import Accuracy, Flops, Parameters
from nasfw_nasbench201.task import NasBench201

import nasfw
from nasfw import plugins
from nasfw.testing import ObjectiveContract, ToyTask


@pytest.fixture
def candidate(space, file):
    """The plain backbone, as a search shows it that trains for 200 epochs."""

    def shown(split="valid", epochs=200, task=None):
        task = task or NasBench201("cifar100", file)
        recipe = None if epochs is None else nasfw.Recipe(epochs=epochs)
        return nasfw.Candidate(space, task, space.default, split, recipe=recipe)

    return shown


class TestContracts(ObjectiveContract):
    @pytest.fixture(params=[Accuracy, Parameters, Flops])
    def objective(self, request):
        return request.param()

    @pytest.fixture
    def candidate(self, space, file):
        return nasfw.Candidate(
            space, NasBench201("cifar10", file), space.default, recipe=nasfw.Recipe(epochs=12)
        )


@pytest.mark.parametrize("split", ["valid", "test"])
@pytest.mark.parametrize("epochs", [12, 200])
def test_accuracy_is_that_of_split_and_epochs(candidate, content, split, epochs):
    shown = candidate(split, epochs)
    expected = content[f"{split}_acc_{epochs}"][indices()[shown.architecture], 1]
    assert Accuracy().measure(shown) == pytest.approx(expected / 100, rel=1e-12)


def test_tried_out_it_is_that_of_the_longest_training(candidate):
    assert Accuracy().measure(candidate(epochs=None)) == Accuracy().measure(candidate(epochs=200))


def test_sizes_are_in_ones_and_a_multiply_add_is_two_operations(candidate, content):
    shown = candidate()
    row = indices()[shown.architecture]
    assert Parameters().measure(shown) == round(1e6 * content["params_M"][row, 1])
    assert Flops().measure(shown) == 2 * round(1e6 * content["flops_M"][row, 1])


def test_its_own_data_set_and_file_come_before_the_tasks(candidate, content, file):
    """So that networks for a task of one's own can be judged by what they are worth on the benchmark."""
    shown = candidate(task=ToyTask())
    expected = content["valid_acc_200"][indices()[shown.architecture], 2] / 100
    assert Accuracy("ImageNet16-120", file).measure(shown) == pytest.approx(expected, rel=1e-12)


def test_only_accuracy_depends_on_the_training():
    assert [o.fixed for o in (Accuracy(), Parameters(), Flops())] == [False, True, True]
    assert not any(o.trained for o in (Accuracy(), Parameters(), Flops()))


def test_other_epochs_are_refused_with_those_there_are(candidate):
    with pytest.raises(nasfw.UsageError, match=r"after 12 and 200 epochs, not after 20; set recipe.epochs"):
        Accuracy().measure(candidate(epochs=20))


def test_a_split_that_the_table_lacks_is_said_so(candidate, package):
    task = NasBench201("cifar10")
    with pytest.raises(nasfw.UsageError, match="no test accuracies of cifar10; say final=false"):
        Accuracy().measure(candidate("test", task=task))


def test_a_size_that_the_table_lacks_is_said_so(candidate, package):
    with pytest.raises(nasfw.UsageError, match="no flops_M of cifar10; it has params_M, valid_acc_200"):
        Flops().measure(candidate(task=NasBench201("cifar10")))


def test_without_a_data_set_it_is_asked_for(candidate, file):
    with pytest.raises(nasfw.UsageError, match="which data set"):
        Accuracy(file=file).measure(candidate(task=ToyTask()))


@pytest.mark.parametrize("dataset", ["cifar10", "ImageNet16-120"])
def test_real_sizes_are_those_of_the_networks(real, space, dataset):
    """The table counts a multiply-add as one, and the classifier's bias as well."""
    task = NasBench201(dataset, real("nb201_accuracy.npz"))
    registry = plugins.load(entry_points=False)
    space = registry.make("space", "nasbench201", task=task)
    shown = nasfw.Candidate(space, task, space.default)
    counted = {name: registry.make("objective", name).measure(shown) for name in ("parameters", "flops")}
    assert Parameters().measure(shown) == counted["parameters"]
    assert Flops().measure(shown) == pytest.approx(counted["flops"] + 2 * task.output_shape[0], abs=4)
