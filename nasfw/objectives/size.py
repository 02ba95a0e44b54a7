"""How large a candidate is: parameters, and floating-point operations of one inference."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from torch import nn

from nasfw.contracts import Candidate, Objective
from nasfw.flops import count_parameters, forward_flops


@dataclass(frozen=True)
class Parameters(Objective):
    """Number of the network's parameters; a shared one counts once."""

    metric = "parameters"

    def measure(self, candidate: Candidate) -> float:
        return float(count_parameters(_network(candidate)))


@dataclass(frozen=True)
class Flops(Objective):
    """Floating-point operations of one inference of one sample, as ``forward_flops`` counts them."""

    metric = "flops"
    unit = "FLOP"

    def measure(self, candidate: Candidate) -> float:
        shape = candidate.task.input_shape
        try:
            return float(forward_flops(_network(candidate), shape))
        except (RuntimeError, TypeError):
            # Weights that were never allocated cannot show the values that this network wants to see.
            return float(forward_flops(candidate.model, shape))


def _network(candidate: Candidate) -> nn.Module:
    """The candidate's network; if none is built yet, one without memory where the space can build it so."""
    if "model" in vars(candidate):
        return candidate.model
    try:
        # A build that copies weights is told by torch that they are lost here, which is what we want.
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return candidate.space.build(candidate.architecture)
    except (RuntimeError, TypeError):
        return candidate.model
