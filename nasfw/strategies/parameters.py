"""Parameters that several strategies have; importing this does not import torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

Epochs = Annotated[int | None, Field(ge=1, description="supernet epochs; None: as many as the recipe's")]
Fraction = Annotated[
    float | None,
    Field(gt=0, le=1, description="share of the batches per supernet epoch; None: the recipe's"),
]
Clip = Annotated[float, Field(gt=0, description="bound on the norm of the weights' gradient")]
Proposals = Annotated[int, Field(ge=1, description="architectures ranked with inherited weights")]
Candidates = Annotated[int, Field(ge=1, description="architectures trained from scratch")]
Eigenvalue = Annotated[
    int,
    Field(ge=0, description="epochs between computations of the largest eigenvalue, for the report; 0: none"),
]
Order = Literal["first", "second", "implicit"]
Orders = Annotated[
    Order,
    Field(description="of the hypergradient: without, or with the weights' answer to the mixture"),
]
MixtureRate = Annotated[float, Field(gt=0, description="learning rate (Adam) of the mixture's logits")]
MixtureDecay = Annotated[float, Field(ge=0, description="weight decay of the mixture's logits")]
Solver = Annotated[Literal["cg", "neumann"], Field(description="of implicit gradients")]
SolverSteps = Annotated[int, Field(ge=0, description="steps of the implicit gradients' solver")]
