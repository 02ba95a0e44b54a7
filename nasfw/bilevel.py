"""Gradients of bilevel problems: min over a of V(w*(a), a), where w*(a) minimises T(w, a) over w.

With first and second derivatives written as subscripts, the exact gradient is, by the implicit function
theorem,

    dV/da = V_a - T_aw H^-1 V_w,    H = T_ww,

at w = w*(a). The functions here approximate H^-1 by nothing (first order), by a learning rate (one unrolled
step; Liu, Simonyan and Yang 2019, equations 7 and 8), or by conjugate gradients or a Neumann series
(Lorraine, Vicol and Duvenaud 2020). Products with second derivatives are central differences of gradients,
which need no second backward pass and are exact where the third derivatives vanish.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Tensors = Sequence[Tensor]
# A loss as a function of the weights w and of what is optimised outside, a.
Loss = Callable[[Tensors, Tensors], Tensor]
# One number for all weights, or one for each tensor of them.
Rate = float | Sequence[float]

# The step of a central difference, as a multiple of the direction's inverse norm.
EPSILON = 0.01


def first_order(valid: Loss, weights: Tensors, outer: Tensors) -> list[Tensor]:
    """V_a: the gradient if the weights did not depend on a."""
    leaves = _leaves(outer)
    return _gradients(valid(_fixed(weights), leaves), leaves)


def unrolled(
    train: Loss,
    valid: Loss,
    weights: Tensors,
    outer: Tensors,
    rate: Rate,
    momentum: Rate = 0.0,
    decay: Rate = 0.0,
    velocity: Sequence[Tensor | None] | None = None,
    epsilon: float = EPSILON,
) -> list[Tensor]:
    """The gradient of V(w', a), where w' = w - rate (momentum * velocity + T_w + decay * w).

    That is V_a(w', a) - T_aw(w, a) (rate V_w(w', a)). ``velocity`` is the optimiser's momentum buffer, by
    default and where it is None zero. No copy of a network is needed but its weights'.
    """
    start = _leaves(weights)
    rates, momenta, decays = (_each(number, start) for number in (rate, momentum, decay))
    steps = _gradients(train(start, _fixed(outer)), start)
    with torch.no_grad():
        for i, (w, g) in enumerate(zip(start, steps, strict=True)):
            g.add_(w, alpha=decays[i])
            if velocity is not None and (v := velocity[i]) is not None:
                g.add_(v, alpha=momenta[i])
            g.mul_(-rates[i]).add_(w)
    virtual = [w.requires_grad_() for w in steps]
    leaves = _leaves(outer)
    inner_outer = _gradients(valid(virtual, leaves), [*virtual, *leaves])
    inward, outward = inner_outer[: len(virtual)], inner_outer[len(virtual) :]
    del virtual, steps
    most = max(rates)
    if min(rates) < most:
        inward = [r / most * v for r, v in zip(rates, inward, strict=True)]
    mixed = mixed_product(train, weights, outer, inward, epsilon)
    return [a - most * m for a, m in zip(outward, mixed, strict=True)]


def implicit(
    train: Loss,
    valid: Loss,
    weights: Tensors,
    outer: Tensors,
    solver: str = "cg",
    steps: int = 10,
    rate: float = 0.1,
    damping: Rate = 0.0,
    epsilon: float = EPSILON,
) -> list[Tensor]:
    """V_a - T_aw (H + damping I)^-1 V_w, the inverse by ``steps`` of a solver.

    "cg": conjugate gradients, exact after as many steps as there are weights where H + damping I is positive
    definite; ended before a direction that it curves down in. "neumann": rate * sum of (I - rate H)^j over
    j = 0 to ``steps``, which converges for a rate below 2 / (largest eigenvalue).
    """
    inner, leaves = _leaves(weights), _leaves(outer)
    found = _gradients(valid(inner, leaves), [*inner, *leaves])
    inward, outward = found[: len(inner)], found[len(inner) :]
    damped = _each(damping, inner)

    def product(v: Tensors) -> list[Tensor]:
        curved = _difference(lambda w: _gradients(train(w, _fixed(outer)), w), weights, v, epsilon)
        return [c + d * x for c, d, x in zip(curved, damped, v, strict=True)]

    solved = _conjugate(product, inward, steps) if solver == "cg" else _neumann(product, inward, steps, rate)
    mixed = mixed_product(train, weights, outer, solved, epsilon)
    return [a - m for a, m in zip(outward, mixed, strict=True)]


def mixed_product(
    train: Loss, weights: Tensors, outer: Tensors, direction: Tensors, epsilon: float = EPSILON
) -> list[Tensor]:
    """T_aw times ``direction``, which has the shapes of ``weights``."""

    def gradient(w: Tensors) -> list[Tensor]:
        leaves = _leaves(outer)
        return _gradients(train(w, leaves), leaves)

    return _difference(gradient, weights, direction, epsilon, like=outer)


def dominant_eigenvalue(loss: Callable[[Tensors], Tensor], at: Tensors, tolerance: float = 1e-2) -> float:
    """The largest eigenvalue of the Hessian of ``loss`` at ``at``, within a relative ``tolerance``.

    By Lanczos's method, whose matrix-vector products are central differences (Zela et al. 2020, section 4,
    look at it for the validation loss as a function of the mixture's logits). Not a number if the
    Hessian is not finite.
    """
    # Only here, since it takes a second to import.
    from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

    shapes, sizes = [a.shape for a in at], [a.numel() for a in at]
    count = sum(sizes)

    def product(v: NDArray[np.float64]) -> NDArray[np.float64]:
        flat = torch.as_tensor(np.ascontiguousarray(v), dtype=at[0].dtype, device=at[0].device).reshape(-1)
        parts = [p.reshape(s) for p, s in zip(torch.split(flat, sizes), shapes, strict=True)]
        # Where the loss draws numbers, all products are of one function, and the caller's stream stays.
        with torch.random.fork_rng(_cards(at)):
            found = _difference(lambda a: _gradients(loss(a), a), at, parts, EPSILON * math.sqrt(count))
        image = torch.cat([f.reshape(-1) for f in found]).double().cpu().numpy()
        if not np.isfinite(image).all():
            raise FloatingPointError("the Hessian is not finite")
        return image

    start = np.random.default_rng(0).standard_normal(count)
    operator = LinearOperator((count, count), matvec=product, dtype=np.float64)
    some = min(count, 6)
    try:
        if count <= 3:
            columns = np.stack([product(row) for row in np.eye(count)])
            return float(np.linalg.eigvalsh((columns + columns.T) / 2)[-1])
        # A Hessian of zeros is more than the method can take.
        if not product(start).any():
            return 0.0
        top = eigsh(operator, 1, which="LA", v0=start, tol=tolerance, ncv=some, return_eigenvectors=False)[0]
    except FloatingPointError:
        return math.nan
    except ArpackNoConvergence as reason:
        top = reason.eigenvalues[0] if len(reason.eigenvalues) else math.nan
    return float(np.real(top))


def _difference(
    gradient: Callable[[list[Tensor]], list[Tensor]],
    at: Tensors,
    direction: Tensors,
    epsilon: float,
    like: Tensors | None = None,
) -> list[Tensor]:
    """The derivative of ``gradient`` along ``direction``: [g(at + e d) - g(at - e d)] / 2e, |e d| = epsilon.

    Zeros of the shapes of ``like``, by default of ``at``, if the direction is zero.
    """
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(list(direction))))
    if not float(norm) > 0:
        return [torch.zeros_like(a) for a in (at if like is None else like)]
    step = epsilon / norm
    moved = [(a.detach() + step * d).requires_grad_() for a, d in zip(at, direction, strict=True)]
    # Where the loss draws numbers, both sides draw the same, or their difference would be taken for a slope.
    with torch.random.fork_rng(_cards(at)):
        forward = gradient(moved)
    with torch.no_grad():
        for m, d in zip(moved, direction, strict=True):
            m.sub_(2 * step * d)
    backward = gradient(moved)
    return [(f - b) / (2 * step) for f, b in zip(forward, backward, strict=True)]


def _conjugate(product: Callable[[Tensors], list[Tensor]], target: Tensors, steps: int) -> list[Tensor]:
    solved = [torch.zeros_like(t) for t in target]
    residual = [t.clone() for t in target]
    direction, square = [r.clone() for r in residual], _dot(residual, residual)
    first = square
    for _ in range(steps):
        if not square > 1e-28 * first:
            break
        image = product(direction)
        curvature = _dot(direction, image)
        if not curvature > 0:
            break
        length = square / curvature
        torch._foreach_add_(solved, direction, alpha=length)
        torch._foreach_add_(residual, image, alpha=-length)
        former, square = square, _dot(residual, residual)
        torch._foreach_mul_(direction, square / former)
        torch._foreach_add_(direction, residual)
    return solved


def _neumann(
    product: Callable[[Tensors], list[Tensor]], target: Tensors, steps: int, rate: float
) -> list[Tensor]:
    term = [t.clone() for t in target]
    total = [t.clone() for t in target]
    for _ in range(steps):
        torch._foreach_add_(term, product(term), alpha=-rate)
        torch._foreach_add_(total, term)
    return [rate * t for t in total]


def _dot(one: Tensors, other: Tensors) -> float:
    pairs = zip(map(_real, one), map(_real, other), strict=True)
    return float(sum((a.double() * b.double()).sum() for a, b in pairs))


def _real(value: Tensor) -> Tensor:
    """Complex numbers as pairs of real ones, which is what their gradients take them for."""
    return torch.view_as_real(value.resolve_conj()) if value.is_complex() else value


def _each(number: Rate, weights: Tensors) -> list[float]:
    return [number] * len(weights) if isinstance(number, int | float) else list(number)


def _cards(values: Tensors) -> list[torch.device]:
    """The card that they are on."""
    return [values[0].device] if values[0].is_cuda else []


def _leaves(values: Tensors) -> list[Tensor]:
    return [v.detach().requires_grad_() for v in values]


def _fixed(values: Tensors) -> list[Tensor]:
    return [v.detach() for v in values]


def _gradients(loss: Tensor, of: Tensors) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(of), materialize_grads=True))
