"""Mixtures against their definitions."""

import itertools
import math

import pytest
import torch

from nasfw.junctions import Junction, best
from nasfw.mixtures import (
    by_length,
    drawn,
    edge_weighted,
    embedded,
    gumbel_softmax,
    hard_gumbel,
    indices,
    mixed,
    one_hot,
    reinmax,
    sampled,
    softmax,
    straight_through,
    uniform,
)

DECISIONS = {"kernel": (3, 5, 7), "act": ("relu", "tanh"), "fixed": (True,)}


def rows(mixture):
    return [w.tolist() for w in mixture]


def all_architectures():
    return itertools.product(*DECISIONS.values())


def test_discretise_inverts_one_hot():
    for architecture in all_architectures():
        assert best(DECISIONS, (), rows(one_hot(DECISIONS, architecture))) == architecture


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
    assert best(DECISIONS, (), rows(uniform(DECISIONS))) == (3, "relu", True)


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


@pytest.mark.parametrize("lengths", [(3,), (2, 5, 2, 1, 5)])
def test_the_softmax_of_all_is_that_of_each(lengths):
    torch.manual_seed(0)
    rows = [torch.randn(n, dtype=torch.float64) for n in lengths]
    for found, row in zip(softmax(rows), rows, strict=True):
        torch.testing.assert_close(found, torch.softmax(row, 0), rtol=1e-14, atol=1e-15)


EDGES = {"u": ("none", "x", "y"), "v": ("x", "none"), "w": (1, 2, 3)}


@pytest.mark.parametrize(
    ("junctions", "positions"),
    [
        ([], [[0, 1, 2], [0, 1], [0, 1, 2]]),
        ([Junction((0, 1), 1, "none")], [[0, 1, 2], [0, 1], [0, 1, 2]]),
        ([Junction((0, 1), 1, "none", mixed=False)], [[1, 2], [0], [0, 1, 2]]),
        ([Junction((0, 1), 2, mixed=False)], [[0, 1, 2], [0, 1], [0, 1, 2]]),
    ],
)
def test_absent_edges_are_mixed_where_the_junction_says_so(junctions, positions):
    assert mixed(EDGES, junctions) == positions


def test_what_is_not_mixed_gets_the_weight_zero_and_the_rest_its_gradient():
    rows = [torch.tensor([0.4, 0.6]), torch.tensor([1.0]), torch.tensor([0.2, 0.3, 0.5])]
    rows = [row.double().requires_grad_() for row in rows]
    found = embedded(rows, [[1, 2], [0], [0, 1, 2]], EDGES)
    assert [row.tolist() for row in found] == [[0.0, *rows[0].tolist()], [1.0, 0.0], rows[2].tolist()]
    slopes = [torch.arange(1.0, len(row) + 1) for row in found]
    loss = sum((row * slope).sum() for row, slope in zip(found, slopes, strict=True))
    gradients = torch.autograd.grad(loss, rows)
    assert [g.tolist() for g in gradients] == [[2.0, 3.0], [1.0], [1.0, 2.0, 3.0]]


LOGITS = torch.tensor([0.0, 1.0, -0.5, 0.7], dtype=torch.float64)


def assert_frequencies(drawn, expected):
    """One-hot vectors drawn with the probabilities ``expected``, by the chi square of their counts."""
    counts, n = torch.stack(drawn).sum(0), len(drawn)
    assert all(sorted(d.tolist())[-2:] == [0.0, 1.0] for d in drawn[:100])
    freedom = len(expected) - 1
    statistic = float(((counts - n * expected) ** 2 / (n * expected)).sum())
    assert statistic <= freedom + 4 * math.sqrt(2 * freedom)


@pytest.mark.parametrize(
    "draw",
    [
        lambda logits: hard_gumbel(logits, 0.1),
        lambda logits: hard_gumbel(logits, 1.0),
        lambda logits: hard_gumbel(logits, 10.0),
        reinmax,
        lambda logits: sampled(softmax(logits)),
    ],
    ids=["gumbel 0.1", "gumbel 1", "gumbel 10", "reinmax", "sampled"],
)
def test_one_hot_samples_have_the_softmax_frequencies(draw):
    """Gumbel's at every temperature, since it does not change which entry is largest."""
    torch.manual_seed(0)
    drawn = [row for _ in range(300) for row in draw([LOGITS] * 10)]
    assert_frequencies(drawn, torch.softmax(LOGITS, 0))


@pytest.mark.parametrize("temperature", [0.3, 1.0, 5.0])
def test_a_hard_sample_is_the_top_of_a_soft_one_with_its_gradient(temperature):
    logits, slope = LOGITS.clone().requires_grad_(), torch.tensor([1.0, -2.0, 0.5, 3.0]).double()
    torch.manual_seed(4)
    (hard,) = hard_gumbel([logits], temperature)
    torch.manual_seed(4)
    (soft,) = gumbel_softmax([logits], temperature)
    assert hard.tolist() == [float(k == int(soft.argmax())) for k in range(4)]
    (one,), (other,) = (torch.autograd.grad(row @ slope, logits) for row in (hard, soft))
    torch.testing.assert_close(one, other, rtol=1e-14, atol=1e-15)


def drawn_straight_through(logits):
    """A one-hot draw with the softmax's gradient: the estimator of first order."""
    weights = softmax(logits)
    draws = sampled(weights)
    return [d + (w - w.detach()) for d, w in zip(draws, weights, strict=True)]


def expected_gradient(estimator, f, logits):
    """The mean over ALL draws, weighted by their probabilities, of the estimator's gradient of f."""
    shares = [torch.softmax(a.detach(), 0) for a in logits]
    total, found = [torch.zeros_like(a) for a in logits], set()
    torch.manual_seed(0)
    while len(found) < math.prod(len(a) for a in logits):
        rows = estimator(logits)
        drawn = tuple(int(row.detach().argmax()) for row in rows)
        if drawn not in found:
            found.add(drawn)
            probability = math.prod(float(p[k]) for p, k in zip(shares, drawn, strict=True))
            gradients = torch.autograd.grad(f(rows), logits)
            total = [t + probability * g for t, g in zip(total, gradients, strict=True)]
    return total


def exact_gradient(f, logits):
    """That of the sum over all draws of probability times value."""
    shares = [torch.softmax(a, 0) for a in logits]
    eyes = [torch.eye(len(a), dtype=torch.float64) for a in logits]
    value = sum(
        math.prod(p[k] for p, k in zip(shares, drawn, strict=True))
        * f([eye[k] for eye, k in zip(eyes, drawn, strict=True)])
        for drawn in itertools.product(*(range(len(a)) for a in logits))
    )
    return torch.autograd.grad(value, logits)


def quadratic(lengths, seed):
    """x'Ax + b'x of all vectors together, so that decisions interact as well."""
    generator, n = torch.Generator().manual_seed(seed), sum(lengths)
    A = torch.randn(n, n, generator=generator, dtype=torch.float64)
    b = torch.randn(n, generator=generator, dtype=torch.float64)
    return lambda rows: torch.cat(list(rows)) @ A @ torch.cat(list(rows)) + b @ torch.cat(list(rows))


@pytest.mark.parametrize("lengths", [(3,), (2, 3), (2, 2, 2)])
@pytest.mark.parametrize("seed", range(3))
def test_reinmax_is_exact_in_expectation_for_quadratic_functions(lengths, seed):
    """To rounding, where straight-through is off by several per cent."""
    generator = torch.Generator().manual_seed(10 + seed)
    logits = [torch.randn(n, generator=generator, dtype=torch.float64).requires_grad_() for n in lengths]
    f = quadratic(lengths, seed)
    exact = torch.cat(exact_gradient(f, logits))
    found = torch.cat(expected_gradient(reinmax, f, logits))
    torch.testing.assert_close(found, exact, rtol=1e-10, atol=1e-12)
    first = torch.cat(expected_gradient(drawn_straight_through, f, logits))
    assert (first - exact).norm() > 0.03 * exact.norm()


def test_straight_through_is_exact_in_expectation_for_linear_functions():
    """So what the test above finds is the second order."""
    logits = [LOGITS.clone().requires_grad_()]
    slope = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)

    def f(rows):
        return rows[0] @ slope

    for estimator in (reinmax, drawn_straight_through):
        (found,) = expected_gradient(estimator, f, logits)
        torch.testing.assert_close(found, exact_gradient(f, logits)[0], rtol=1e-10, atol=1e-12)


def test_edge_weights_multiply_the_rows_of_their_edges():
    torch.manual_seed(0)
    rows = [torch.softmax(torch.randn(n, dtype=torch.float64), 0) for n in (3, 2, 4, 3)]
    junctions = [Junction((2, 0), 1, "none"), Junction((3,), 1)]
    shares = [torch.tensor([0.25, 0.75]).double(), torch.tensor([1.0]).double()]
    found = edge_weighted(rows, junctions, shares)
    for row, expected in zip(found, (0.75 * rows[0], rows[1], 0.25 * rows[2], rows[3]), strict=True):
        torch.testing.assert_close(row, expected, rtol=1e-14, atol=0)


def test_several_options_are_drawn_without_repetition():
    torch.manual_seed(0)
    assert sorted(drawn(LOGITS, 4).tolist()) == [0, 1, 2, 3]
    assert drawn(torch.tensor([0.0, -torch.inf, 0.0]), 2).tolist() in ([0, 2], [2, 0])


def test_what_is_no_number_can_be_drawn_from():
    """That a training diverged is said by its loss, and not by whatever comes first."""
    broken = torch.tensor([torch.nan, 0.0, torch.nan])
    for rows in (reinmax([broken]), sampled([broken]), hard_gumbel([broken], 1.0)):
        assert len(rows[0]) == 3
