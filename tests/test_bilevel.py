"""Hypergradients against closed forms on quadratic problems.

T(w, a) = 1/2 w'Aw - w'(Ba + c) and V(w, a) = 1/2 |w - d|^2 + e'a: then w*(a) = A^-1 (Ba + c), and one
gradient step from w leads to w' = w - rate (Aw - Ba - c).
"""

import numpy as np
import pytest
import torch

from nasfw import bilevel

N, M = 6, 4


class Quadratic:
    def __init__(self, seed=0):
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape):
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        root = draw(N, N)
        self.A = root @ root.T / N + 0.5 * torch.eye(N, dtype=torch.float64)
        self.B, self.c, self.d, self.e = draw(N, M), draw(N), draw(N), draw(M)
        self.w, self.a, self.velocity = draw(N), draw(M), draw(N)

    # The weights come in two tensors, as those of networks do in many.
    def train(self, weights, outer):
        w, a = torch.cat(list(weights)), torch.cat(list(outer))
        return 0.5 * w @ self.A @ w - w @ (self.B @ a + self.c)

    def valid(self, weights, outer):
        w, a = torch.cat(list(weights)), torch.cat(list(outer))
        return 0.5 * (w - self.d).square().sum() + self.e @ a

    @property
    def parts(self):
        return list(self.w.split([2, 4])), list(self.a.split([1, 3]))

    def gradient(self, found):
        return torch.cat(list(found))


def test_first_order_is_the_partial_derivative():
    q = Quadratic()
    weights, outer = q.parts
    torch.testing.assert_close(q.gradient(bilevel.first_order(q.valid, weights, outer)), q.e)


@pytest.mark.parametrize("epsilon", [1e-3, 0.01, 1.0, 100.0])
def test_one_unrolled_step_is_the_closed_form_whatever_epsilon(epsilon):
    """dV(w')/da = e + rate B'(w' - d), w' = w - rate (momentum v + Aw - Ba - c + decay w)."""
    q = Quadratic()
    rate, momentum, decay = 0.1, 0.9, 0.03
    step = momentum * q.velocity + q.A @ q.w - q.B @ q.a - q.c + decay * q.w
    exact = q.e + rate * q.B.T @ (q.w - rate * step - q.d)
    weights, outer = q.parts
    velocity = list(q.velocity.split([2, 4]))
    found = bilevel.unrolled(q.train, q.valid, weights, outer, rate, momentum, decay, velocity, epsilon)
    torch.testing.assert_close(q.gradient(found), exact, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("rates", [(0.1, 0.02), (0.02, 0.1), (0.0, 0.1), (0.0, 0.0)])
def test_each_tensor_may_have_a_rate_momentum_and_decay_of_its_own(rates):
    """The closed form with diagonal matrices of them; a velocity of None is zero."""
    q = Quadratic()
    rate, momentum, decay = (
        torch.tensor([a] * 2 + [b] * 4, dtype=torch.float64) for a, b in (rates, (0.0, 0.9), (0.5, 0.03))
    )
    step = momentum * q.velocity + q.A @ q.w - q.B @ q.a - q.c + decay * q.w
    exact = q.e + q.B.T @ (rate * (q.w - rate * step - q.d))
    weights, outer = q.parts
    velocity = [None, q.velocity[2:]]
    found = bilevel.unrolled(q.train, q.valid, weights, outer, rates, (0.0, 0.9), (0.5, 0.03), velocity)
    torch.testing.assert_close(q.gradient(found), exact, rtol=1e-9, atol=1e-9)


def test_the_first_order_gradient_is_another_one():
    """Else the test above could not tell them apart."""
    q = Quadratic()
    exact = q.e + 0.1 * q.B.T @ (q.w - 0.1 * (q.A @ q.w - q.B @ q.a - q.c) - q.d)
    assert (exact - q.e).norm() > 0.1 * q.e.norm()


@pytest.mark.parametrize("epsilon", [0.01, 10.0])
def test_the_implicit_gradient_is_the_exact_one(epsilon):
    """At w*: dV/da = e + B' A^-1 (w* - d); conjugate gradients take as many steps as there are weights."""
    q = Quadratic()
    q.w = torch.linalg.solve(q.A, q.B @ q.a + q.c)
    exact = q.e + q.B.T @ torch.linalg.solve(q.A, q.w - q.d)
    weights, outer = q.parts
    found = bilevel.implicit(q.train, q.valid, weights, outer, "cg", steps=N, epsilon=epsilon)
    torch.testing.assert_close(q.gradient(found), exact, rtol=1e-9, atol=1e-9)


def test_damping_is_added_to_the_hessian():
    q = Quadratic()
    weights, outer = q.parts
    damped = q.A + 0.7 * torch.eye(N, dtype=torch.float64)
    exact = q.e + q.B.T @ torch.linalg.solve(damped, q.w - q.d)
    found = bilevel.implicit(q.train, q.valid, weights, outer, "cg", steps=N, damping=0.7)
    torch.testing.assert_close(q.gradient(found), exact, rtol=1e-9, atol=1e-9)


def test_each_tensor_may_be_damped_by_its_own():
    q = Quadratic()
    weights, outer = q.parts
    damped = q.A + torch.diag(torch.tensor([0.7] * 2 + [0.1] * 4, dtype=torch.float64))
    exact = q.e + q.B.T @ torch.linalg.solve(damped, q.w - q.d)
    found = bilevel.implicit(q.train, q.valid, weights, outer, "cg", steps=N, damping=(0.7, 0.1))
    torch.testing.assert_close(q.gradient(found), exact, rtol=1e-9, atol=1e-9)


def test_complex_weights_are_pairs_of_real_ones():
    q = Quadratic()
    q.w = torch.linalg.solve(q.A, q.B @ q.a + q.c)
    weights, outer = q.parts
    paired = [torch.view_as_complex(w.reshape(-1, 2)) for w in weights]

    def of_pairs(loss):
        return lambda w, a: loss([torch.view_as_real(v).reshape(-1) for v in w], a)

    for solver, steps in (("cg", N), ("neumann", 5)):
        exact = bilevel.implicit(q.train, q.valid, weights, outer, solver, steps)
        found = bilevel.implicit(of_pairs(q.train), of_pairs(q.valid), paired, outer, solver, steps)
        torch.testing.assert_close(q.gradient(found), q.gradient(exact), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("steps", [0, 1, 5])
def test_a_neumann_series_is_its_partial_sum(steps):
    """rate sum_j (I - rate A)^j is A^-1 [I - (I - rate A)^(steps + 1)]."""
    q, rate = Quadratic(), 0.2
    weights, outer = q.parts
    eye = torch.eye(N, dtype=torch.float64)
    inverse = torch.linalg.solve(q.A, eye - torch.linalg.matrix_power(eye - rate * q.A, steps + 1))
    exact = q.e + q.B.T @ inverse @ (q.w - q.d)
    found = bilevel.implicit(q.train, q.valid, weights, outer, "neumann", steps=steps, rate=rate)
    torch.testing.assert_close(q.gradient(found), exact, rtol=1e-9, atol=1e-9)


def test_the_neumann_series_without_a_second_term_is_the_unrolled_step():
    """With V's gradient taken at the same weights, the learning rate stands for the inverse Hessian."""
    q = Quadratic()
    # Where T_w is zero, the step leads nowhere.
    q.w = torch.linalg.solve(q.A, q.B @ q.a + q.c)
    weights, outer = q.parts
    unrolled = bilevel.unrolled(q.train, q.valid, weights, outer, rate=0.3)
    series = bilevel.implicit(q.train, q.valid, weights, outer, "neumann", steps=0, rate=0.3)
    torch.testing.assert_close(q.gradient(unrolled), q.gradient(series), rtol=1e-9, atol=1e-9)


def test_many_unrolled_steps_lead_to_the_implicit_gradient():
    """Differentiating through k steps of descent from w* approaches it as k grows."""
    q = Quadratic()
    q.w = torch.linalg.solve(q.A, q.B @ q.a + q.c)
    exact = q.e + q.B.T @ torch.linalg.solve(q.A, q.w - q.d)
    weights, outer = q.parts
    errors = [
        (q.gradient(bilevel.implicit(q.train, q.valid, weights, outer, "neumann", k, 0.2)) - exact).norm()
        for k in (0, 10, 100, 1000)
    ]
    assert errors[0] > errors[1] > errors[2] > errors[3]
    assert errors[3] < 1e-9


def test_conjugate_gradients_end_where_the_loss_curves_down():
    """From a saddle there is no minimum to look for; what was found before is kept."""
    q = Quadratic()
    q.A = -q.A
    weights, outer = q.parts
    found = bilevel.implicit(q.train, q.valid, weights, outer, "cg", steps=N)
    torch.testing.assert_close(q.gradient(found), q.e)


def test_weights_and_outer_parameters_are_left_alone():
    q = Quadratic()
    weights, outer = q.parts
    before = [t.clone() for t in (*weights, *outer)]
    bilevel.unrolled(q.train, q.valid, weights, outer, 0.1)
    bilevel.implicit(q.train, q.valid, weights, outer)
    assert all(torch.equal(a, b) for a, b in zip(before, (*weights, *outer), strict=True))
    assert all(t.grad is None for t in (*weights, *outer))


@pytest.mark.parametrize("count", [2, 3, 40])
def test_the_dominant_eigenvalue_is_that_of_the_matrix(count):
    generator = torch.Generator().manual_seed(count)
    root = torch.randn(count, count, generator=generator, dtype=torch.float64)
    matrix = (root + root.T) / 2
    at = list(torch.randn(count, generator=generator, dtype=torch.float64).split([1, count - 1]))

    def loss(parts):
        a = torch.cat(list(parts))
        return 0.5 * a @ matrix @ a

    exact = np.linalg.eigvalsh(matrix.numpy())[-1]
    assert bilevel.dominant_eigenvalue(loss, at, tolerance=1e-9) == pytest.approx(exact, rel=1e-7)


def test_the_dominant_eigenvalue_is_not_the_one_of_largest_size():
    at = [torch.zeros(5, dtype=torch.float64)]
    scales = torch.tensor([-9.0, -1.0, 0.5, 1.0, 2.0], dtype=torch.float64)
    found = bilevel.dominant_eigenvalue(lambda parts: 0.5 * (scales * parts[0].square()).sum(), at)
    assert found == pytest.approx(2.0, rel=1e-2)


@pytest.mark.parametrize("count", [2, 3])
def test_what_is_not_symmetric_in_a_hessian_by_rounding_does_not_count(count):
    """Of a gradient (S + N) a with N skew, the eigenvalue is that of S; those of S + N are complex."""
    skew = torch.triu(torch.full((count, count), 2.0, dtype=torch.float64), 1)
    skew = skew - skew.T
    symmetric = torch.diag(torch.linspace(1.0, 3.0, count, dtype=torch.float64))

    class Rough(torch.autograd.Function):
        """Half of a'Sa, with a gradient that is not its own."""

        @staticmethod
        def forward(ctx, a):
            ctx.save_for_backward(a)
            return 0.5 * a @ symmetric @ a

        @staticmethod
        def backward(ctx, grad):
            (a,) = ctx.saved_tensors
            return grad * ((symmetric + skew) @ a)

    at = [torch.ones(count, dtype=torch.float64)]
    assert np.abs(np.linalg.eigvals((symmetric + skew).numpy()).imag).max() > 1
    found = bilevel.dominant_eigenvalue(lambda parts: Rough.apply(parts[0]), at)
    assert found == pytest.approx(3.0, rel=1e-9)


@pytest.mark.parametrize("count", [2, 8])
def test_a_flat_loss_has_the_eigenvalue_zero_and_a_broken_one_none(count):
    at = [torch.ones(count, dtype=torch.float64)]
    assert bilevel.dominant_eigenvalue(lambda parts: (3 * parts[0]).sum(), at) == pytest.approx(0.0, abs=1e-9)
    assert np.isnan(bilevel.dominant_eigenvalue(lambda parts: (parts[0] * np.nan).square().sum(), at))


def test_noise_in_a_loss_is_the_same_on_both_sides_of_a_difference():
    """T = (w n).a with n drawn anew in each pass: T_aw v = v n, and not n's change over the step."""
    w = torch.ones(4, dtype=torch.float64)
    a, v = torch.zeros(4, dtype=torch.float64), torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)

    def loss(weights, outer):
        return (weights[0] * torch.randn(4, dtype=torch.float64)) @ outer[0]

    torch.manual_seed(0)
    (found,) = bilevel.mixed_product(loss, [w], [a], [v])
    following = torch.rand(1)
    torch.manual_seed(0)
    torch.testing.assert_close(found, v * torch.randn(4, dtype=torch.float64), rtol=1e-9, atol=1e-12)
    # The next pass draws on.
    assert torch.equal(following, torch.rand(1))


def test_products_are_of_one_function_also_where_the_loss_draws():
    """The loss (a^2 n).1 of normal n has 2 n for its Hessian's diagonal, with the n that comes next."""
    at = [torch.ones(6, dtype=torch.float64)]

    def loss(parts):
        return (parts[0].square() * torch.randn(6, dtype=torch.float64)).sum()

    torch.manual_seed(0)
    found = bilevel.dominant_eigenvalue(loss, at, tolerance=1e-9)
    # The caller's stream stays where it was.
    assert found == pytest.approx(2 * float(torch.randn(6, dtype=torch.float64).max()), rel=1e-6)
