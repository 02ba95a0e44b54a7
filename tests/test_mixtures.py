"""Mixtures against their definitions."""

import itertools
import math

import pytest
import torch

from nasfw.mixtures import by_length, discretise, gumbel_softmax, indices, one_hot, straight_through, uniform

DECISIONS = {"kernel": (3, 5, 7), "act": ("relu", "tanh"), "fixed": (True,)}


def all_architectures():
    return itertools.product(*DECISIONS.values())


def test_discretise_inverts_one_hot():
    for architecture in all_architectures():
        assert discretise(DECISIONS, one_hot(DECISIONS, architecture)) == architecture


def test_indices_point_at_the_options():
    assert indices(DECISIONS, (7, "relu", True)) == [2, 0, 0]


@pytest.mark.parametrize("wrong", [(3, "relu"), (3, "relu", True, 3), (4, "relu", True), ("relu", 3, True)])
def test_what_is_no_architecture_is_refused(wrong):
    with pytest.raises(ValueError, match=r"decisions|not in"):
        one_hot(DECISIONS, wrong)


def test_uniform_and_one_hot_weights_sum_to_one():
    for mixture in (uniform(DECISIONS), one_hot(DECISIONS, (5, "tanh", True), torch.float64)):
        assert [len(w) for w in mixture] == [3, 2, 1]
        for w in mixture:
            torch.testing.assert_close(w.sum(), torch.ones((), dtype=w.dtype))
    assert all((w == w[0]).all() for w in uniform(DECISIONS))


def test_the_first_of_equal_weights_is_taken():
    assert discretise(DECISIONS, uniform(DECISIONS)) == (3, "relu", True)


def test_gumbel_softmax_at_low_temperature_samples_the_softmax():
    """P(argmax(logits + G) = i) = softmax(logits)_i (the Gumbel-max trick)."""
    logits = torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64)
    n, counts = 4000, torch.zeros(3, dtype=torch.float64)
    torch.manual_seed(0)
    for _ in range(n):
        (sample,) = gumbel_softmax([logits], temperature=0.1)
        counts[sample.argmax()] += 1
    expected = torch.softmax(logits, 0)
    deviation = (expected * (1 - expected) / n).sqrt()
    assert ((counts / n - expected).abs() < 4 * deviation).all()


def test_gumbel_noise_has_its_mean_and_variance():
    """For two options the difference of the noises is logistic: mean 0, variance pi^2 / 3."""
    torch.manual_seed(1)
    (sample,) = gumbel_softmax([torch.zeros(200_000, dtype=torch.float64)])
    noise = sample.log()
    noise = noise - noise.mean()
    variance = math.pi**2 / 6
    assert noise.var().item() == pytest.approx(variance, rel=0.02)


def test_a_soft_sample_sums_to_one_and_has_the_softmax_gradient():
    """d sum_j c_j y_j / d a = y (c - y.c) - p sum(y (c - y.c)) = y (c - y.c) at temperature 1."""
    a = torch.tensor([0.3, -1.0, 2.0, 0.0], dtype=torch.float64, requires_grad=True)
    c = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
    torch.manual_seed(2)
    (y,) = gumbel_softmax([a])
    assert y.sum().item() == pytest.approx(1.0, abs=1e-12)
    (gradient,) = torch.autograd.grad(y @ c, a)
    y = y.detach()
    torch.testing.assert_close(gradient, y * (c - y @ c), rtol=1e-10, atol=1e-12)


def test_a_shift_of_the_logits_changes_no_sample():
    a = torch.randn(5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    samples = []
    for shift in (0.0, 1000.0):
        torch.manual_seed(3)
        samples.append(gumbel_softmax([a + shift], 0.5)[0])
    torch.testing.assert_close(samples[0], samples[1], rtol=1e-9, atol=1e-12)


def test_straight_through_is_one_hot_forward_and_identity_backward():
    w = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64, requires_grad=True)
    c = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)
    (hard,) = straight_through([w])
    assert torch.equal(hard.detach(), torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64))
    (gradient,) = torch.autograd.grad(hard @ c, w)
    assert torch.equal(gradient, c)


@pytest.mark.parametrize("lengths", [(3,), (4, 4, 4), (2, 5, 2, 1, 5)])
def test_samples_are_the_definition_decision_by_decision(lengths):
    """softmax((log softmax(a) + s G) / T), G = -log E with E from the generator, length by length."""
    torch.manual_seed(0)
    logits = [torch.randn(n, dtype=torch.float64) for n in lengths]
    torch.manual_seed(5)
    found = gumbel_softmax(iter(logits), temperature=0.7, noise=0.3)
    torch.manual_seed(5)
    for positions in by_length(logits):
        draws = torch.empty(len(positions), len(logits[positions[0]]), dtype=torch.float64).exponential_()
        for i, e in zip(positions, draws, strict=True):
            a = [v - math.log(sum(math.exp(u) for u in logits[i].tolist())) for v in logits[i].tolist()]
            powers = [math.exp((v - 0.3 * math.log(d)) / 0.7) for v, d in zip(a, e.tolist(), strict=True)]
            expected = torch.tensor([p / sum(powers) for p in powers], dtype=torch.float64)
            torch.testing.assert_close(found[i], expected, rtol=1e-10, atol=1e-12)


def test_decisions_of_one_length_are_drawn_independently():
    torch.manual_seed(0)
    first, second = gumbel_softmax([torch.zeros(50_000, dtype=torch.float64) for _ in range(2)])
    assert abs(torch.corrcoef(torch.stack([first.log(), second.log()]))[0, 1]) < 0.02


def test_equal_lengths_are_taken_together():
    assert by_length([torch.zeros(n) for n in (2, 5, 2, 1, 5)]) == [[0, 2], [1, 4], [3]]
    assert gumbel_softmax([]) == by_length([]) == []
