"""The operations that may stand where a convolution stood, by their names."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from nasfw.orders import bit_reversal
from nasfw.spaces.site import CONVOLUTIONS, Site
from nasfw.spaces.xd_layers import FourierConv, Kind, XDConv
from nasfw.values import UsageError

_POOLS = {1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d}
_PADS = {1: nn.CircularPad1d, 2: nn.CircularPad2d, 3: nn.CircularPad3d}
# Factors of each transform.
_DEEPEST = 16
_NAME = re.compile(
    r"conv|skip|zero|permuted|k(?P<k>\d+)d(?P<d>\d+)|pool(?P<pool>\d+)|fourier(?P<modes>\d*)|xd(?P<depth>\d*)"
)


class Affine(nn.Module):
    """scale * operation(x) + bias: what is left of a layer whose operation has no weights."""

    def __init__(self, operation: nn.Module, outputs: int, dims: int, biased: bool) -> None:
        super().__init__()
        self.operation = operation
        self.scale = nn.Parameter(torch.ones(1))
        self.bias = nn.Parameter(torch.zeros(outputs, *[1] * dims)) if biased else None

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.operation(x) * self.scale
        return y if self.bias is None else y + self.bias


class Zero(nn.Module):
    """Zeros, but for a bias, whatever the input."""

    def __init__(self, site: Site) -> None:
        super().__init__()
        self.every = _pool(site, 1)
        self.bias = nn.Parameter(torch.zeros(site.outputs, *[1] * site.dims)) if site.biased else None
        self.outputs = site.outputs

    def forward(self, x: Tensor) -> Tensor:
        nothing = self.every(x[:, :1]) * 0.0
        nothing = torch.cat([nothing] * self.outputs, 1)
        return nothing if self.bias is None else nothing + self.bias


class Permuted(nn.Module):
    """The convolution of a map whose positions are in bit-reversed order on every axis, and back."""

    def __init__(self, site: Site, convolution: nn.Module) -> None:
        super().__init__()
        self.dims, self.convolution = site.dims, convolution
        for axis, n in enumerate(site.size):
            order = torch.tensor(bit_reversal(n))
            self.register_buffer(f"there{axis}", order, persistent=False)
            self.register_buffer(f"back{axis}", order.argsort(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        for axis in range(self.dims):
            x = x.index_select(axis + 2, self.get_buffer(f"there{axis}"))
        x = self.convolution(x)
        for axis in range(self.dims):
            x = x.index_select(axis + 2, self.get_buffer(f"back{axis}"))
        return x


def check_options(options: Sequence[str]) -> None:
    """UsageError for a name that no operation has."""
    for option in options:
        found = _NAME.fullmatch(option)
        given = {} if found is None else numbers(option)
        odd = given.get("k", 1) % 2 == 1 and given.get("pool", 1) % 2 == 1
        if found is None or not odd or 0 in given.values() or given.get("depth", 1) > _DEEPEST:
            raise UsageError(
                f"no operation is called {option!r}; there are conv, skip, zero, permuted, fourier, xd, and "
                "with numbers k3d2 (kernel size, odd, and dilation), pool3 (odd), fourier8 (modes) and xd3 "
                f"(depth, at most {_DEEPEST})"
            )


def numbers(option: str) -> dict[str, int]:
    """The numbers in the name of an operation: k and d, pool, modes, or depth."""
    found = _NAME.fullmatch(option)
    return {} if found is None else {name: int(value) for name, value in found.groupdict().items() if value}


def possible(site: Site, options: Sequence[str]) -> list[str]:
    """Those of ``options`` that can stand for the convolution of ``site``, "conv" among them."""
    return list(dict.fromkeys(["conv", *(o for o in options if _fits(site, o))]))


def _fits(site: Site, option: str) -> bool:
    found = _NAME.fullmatch(option)
    if found is None:
        return False
    if found["depth"] is not None or option == "conv":
        return True
    # The others are centred where the convolution is, and give as many outputs.
    if not site.centred:
        return False
    if found["k"]:
        k, d = int(found["k"]), int(found["d"])
        own = {*zip(site.kernel, site.dilation, strict=True)} == {(k, d)}
        # The dilation of one tap means nothing, and a kernel beyond the map has taps that never meet it.
        return not own and (k > 1 or d == 1) and all((k - 1) * d // 2 < n for n in site.size)
    if found["modes"]:
        return 2 * int(found["modes"]) < max(site.size)
    if found["pool"]:
        return site.inputs == site.outputs and all(int(found["pool"]) // 2 < n for n in site.size)
    if option == "skip":
        return site.inputs == site.outputs
    return option != "permuted" or site.results == site.size


def operation(site: Site, option: str, kind: Kind = "blocks", extras: bool = False) -> nn.Module:
    """The operation ``option`` for ``site``, with weights of its own."""
    found = _NAME.fullmatch(option)
    assert found is not None
    if found["depth"] is not None:
        return XDConv(site, int(found["depth"] or 1), kind, extras)
    if found["modes"] is not None:
        return FourierConv(site, int(found["modes"]) if found["modes"] else None)
    if option == "conv" or found["k"]:
        return convolution(site, int(found["k"]), int(found["d"])) if found["k"] else own(site)
    if option == "permuted":
        return Permuted(site, own(site))
    if option == "zero":
        return Zero(site)
    return Affine(_pool(site, int(found["pool"] or 1)), site.outputs, site.dims, site.biased)


def own(site: Site) -> nn.Module:
    """The convolution itself."""
    return _convolution(site, site.kernel, site.dilation, tuple(p for p, _ in site.padding))


def convolution(site: Site, k: int, d: int) -> nn.Module:
    """One with ``k`` taps ``d`` apart on every axis in its place."""
    return _convolution(site, (k,) * site.dims, (d,) * site.dims, ((k - 1) * d // 2,) * site.dims)


def _convolution(
    site: Site, kernel: Sequence[int], dilation: Sequence[int], padding: Sequence[int]
) -> nn.Module:
    symmetric = kernel != site.kernel or all(p == q for p, q in site.padding)
    make: Callable[..., nn.Module] = CONVOLUTIONS[site.dims]
    return make(
        site.inputs,
        site.outputs,
        tuple(kernel),
        stride=site.stride,
        # What is not symmetric comes from this one word.
        padding=tuple(padding) if symmetric else "same",
        dilation=tuple(dilation),
        groups=site.groups,
        bias=site.biased,
        padding_mode="circular" if site.circular else "zeros",
    )


def _pool(site: Site, k: int) -> nn.Module:
    pool: Callable[..., nn.Module] = _POOLS[site.dims]
    if site.circular and k > 1:
        return nn.Sequential(_PADS[site.dims](k // 2), pool(k, site.stride))
    return pool(k, site.stride, k // 2)


def started(module: nn.Module, convolution: nn.Module) -> nn.Module:
    """``module``, with the weights of the convolution that it replaces if it has the same kernel."""
    if isinstance(module, Permuted):
        module.convolution.load_state_dict(convolution.state_dict())
    elif isinstance(module, XDConv):
        module.start(convolution)
    return module
