"""Architecture <-> mixture: one-hot, discretisation, Gumbel-softmax samples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from nasfw.junctions import Junction
from nasfw.values import Architecture, Option

Decisions = Mapping[str, Sequence[Option]]


def indices(decisions: Decisions, architecture: Architecture) -> list[int]:
    """Position of each chosen option among its decision's options; ValueError if there is none."""
    if len(architecture) != len(decisions):
        raise ValueError(f"{len(architecture)} options for {len(decisions)} decisions")
    return [list(options).index(o) for options, o in zip(decisions.values(), architecture, strict=True)]


def one_hot(
    decisions: Decisions, architecture: Architecture, dtype: torch.dtype = torch.float32
) -> list[Tensor]:
    """The mixture that is ``architecture`` alone."""
    chosen = indices(decisions, architecture)
    return [
        torch.eye(len(options), dtype=dtype)[i] for options, i in zip(decisions.values(), chosen, strict=True)
    ]


def uniform(decisions: Decisions) -> list[Tensor]:
    """Equal weights for all options of every decision."""
    return [torch.full((len(options),), 1.0 / len(options)) for options in decisions.values()]


def softmax(logits: Sequence[Tensor]) -> list[Tensor]:
    """The softmax of each decision's logits, for all decisions of one length at once."""
    found = list(logits)
    for positions in by_length(found):
        rows = torch.softmax(torch.stack([found[i] for i in positions]), 1).unbind()
        for i, row in zip(positions, rows, strict=True):
            found[i] = row
    return found


def mixed(decisions: Decisions, junctions: Sequence[Junction]) -> list[list[int]]:
    """Positions of the options that a mixture may give weight to, decision by decision."""
    barred = {i: j.absent for j in junctions if j.selects and not j.mixed for i in j.decisions}
    return [
        [k for k, option in enumerate(options) if i not in barred or option != barred[i]]
        for i, options in enumerate(decisions.values())
    ]


def embedded(
    rows: Sequence[Tensor], positions: Sequence[Sequence[int]], decisions: Decisions
) -> list[Tensor]:
    """Weights for all options: those of ``rows`` at ``positions``, and zero elsewhere."""
    found = []
    for row, kept, options in zip(rows, positions, decisions.values(), strict=True):
        if len(kept) < len(options):
            index = torch.tensor(kept, device=row.device)
            row = row.new_zeros(len(options)).index_copy(0, index, row)
        found.append(row)
    return found


def gumbel_softmax(logits: Iterable[Tensor], temperature: float = 1.0, noise: float = 1.0) -> list[Tensor]:
    """Soft samples: softmax((log softmax(logits) + noise G) / temperature), G ~ Gumbel(0, 1).

    Jang et al. 2017, equation 2, for each decision with ``noise`` = 1; without noise, the plain softmax.
    Drawn from torch's global generator of the logits' device, for all decisions of one length at once.
    """
    vectors = list(logits)
    samples = list(vectors)
    for positions in by_length(vectors):
        rows = torch.log_softmax(torch.stack([vectors[i] for i in positions]), 1)
        # torch's own exponential sampler cannot return 0, so the logarithm stays finite.
        rows = rows - noise * torch.empty_like(rows).exponential_().log()
        for i, sample in zip(positions, torch.softmax(rows / temperature, 1).unbind(), strict=True):
            samples[i] = sample
    return samples


def by_length(vectors: Sequence[Tensor]) -> list[list[int]]:
    """Positions of ``vectors``, those of equal length together, lengths in the order in which they come."""
    groups: dict[int, list[int]] = {}
    for i, vector in enumerate(vectors):
        groups.setdefault(len(vector), []).append(i)
    return list(groups.values())


def straight_through(weights: Iterable[Tensor]) -> list[Tensor]:
    """One-hot at the largest weight in the forward pass, the gradient of ``weights`` in the backward pass."""
    hard = []
    for w in weights:
        top = torch.zeros_like(w).scatter_(0, w.detach().argmax(keepdim=True), 1.0)
        hard.append(top + (w - w.detach()))
    return hard


@torch.no_grad()
def drawn(logits: Tensor, count: int = 1) -> Tensor:
    """Positions of ``count`` different options, drawn one after the other by the softmax of ``logits``.

    As those that are largest with Gumbel noise. Unlike torch's own sampler that takes what is no number, at
    which a card would stop for good; that a training diverged is found out from its loss.
    """
    return torch.topk(logits - torch.empty_like(logits).exponential_().log(), count).indices


def sampled(weights: Iterable[Tensor]) -> list[Tensor]:
    """A one-hot vector drawn from each of ``weights``, which sum to 1."""
    return [torch.zeros_like(w).scatter_(0, drawn(w.detach().log()), 1.0) for w in weights]


def hard_gumbel(logits: Sequence[Tensor], temperature: float) -> list[Tensor]:
    """One-hot at the largest entry of a Gumbel-softmax sample, with the sample's gradient.

    Dong and Yang 2019 (GDAS), equation 4. At every temperature an option is drawn with its softmax weight.
    """
    return straight_through(gumbel_softmax(logits, temperature))


def reinmax(logits: Sequence[Tensor]) -> list[Tensor]:
    """One-hot vectors drawn from the softmax of ``logits``, with ReinMax's gradient.

    Liu, Dong, Liu, Yu and Gao 2023, algorithm 2, at temperature 1: of second order, which is exact in
    expectation for quadratic functions of the vector.
    """
    found = []
    for row in logits:
        shares = torch.softmax(row, 0)
        sample = torch.zeros_like(shares).scatter_(0, drawn(row), 1.0)
        # The mean of sample and softmax, as a function of the logits whose value at them it is.
        middle = torch.softmax((torch.log((sample + shares) / 2) - row).detach() + row, 0)
        change = 2 * middle - shares / 2
        found.append(sample + (change - change.detach()))
    return found


def edge_weighted(
    rows: Sequence[Tensor], junctions: Sequence[Junction], edges: Sequence[Tensor]
) -> list[Tensor]:
    """``rows``, each times the weight of its edge among the edges into the same node.

    One vector of ``edges`` for every junction; decisions outside junctions stay as they are.
    """
    found = list(rows)
    for junction, shares in zip(junctions, edges, strict=True):
        for i, share in zip(junction.decisions, shares, strict=True):
            found[i] = rows[i] * share
    return found
