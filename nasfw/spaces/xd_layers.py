"""Operations y = Re{K diag(D) M x}: XD operations, whose transforms are learned, and Fourier layers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.overrides import _get_current_function_mode
from torch.utils._python_dispatch import _get_current_dispatch_mode

from nasfw.folding import Fold
from nasfw.spaces.learned import Blocks, Butterflies
from nasfw.spaces.products import Diagonal, fixed, multiplied
from nasfw.spaces.site import Site
from nasfw.spaces.spectral import (
    Frame,
    analysed,
    analysis_forms,
    kernel_spectrum,
    paired,
    synthesis_forms,
    synthesised,
)
from nasfw.values import Option

Made = tuple[list[Tensor], list[Tensor], Diagonal]
Kind = Literal["blocks", "butterflies"]
# Steps that optimisers have taken: torch does not count a fused one as a change of what it changes.
_STEPS = [0]


def _count(*_: object) -> None:
    _STEPS[0] += 1


register_optimizer_step_post_hook(_count)


class Spectral(nn.Module):
    """y = Re{K diag(D) M x} + bias, with a diagonal D for every pair of channels.

    In evaluation the real forms of K and M, and D, are kept for as long as what they are made of stays.
    Changes through ``.data`` or numpy pass unnoticed until the next call of ``train`` or ``eval``. Under
    autocast everything is computed in the parameters' precision, and the result is in the lower one.
    """

    def __init__(self, site: Site, frame: Frame) -> None:
        super().__init__()
        self.site, self.frame = site, frame
        self.bias = nn.Parameter(torch.zeros(site.outputs)) if site.biased else None
        self._kept: tuple[object, Made, list[Tensor]] | None = None

    def parts(self) -> tuple[Sequence[Tensor], Sequence[Tensor], Diagonal]:
        """The complex matrices of M and K, [2, batch, to, from], and D [frequencies, 2, ci / groups, co]."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        kind = self._held()[0].device.type
        if not torch.is_autocast_enabled(kind):
            return self._applied(x)
        # Half the digits are not enough for sums over all positions.
        with torch.autocast(kind, enabled=False):
            return self._applied(x.to(self._held()[0].dtype)).to(torch.get_autocast_dtype(kind))

    def _applied(self, x: Tensor) -> Tensor:
        wanted = (self.site.inputs, *self.site.size)
        # What only stands in for a map has no shape yet.
        if isinstance(x, Tensor) and tuple(x.shape[1:]) != wanted:
            raise ValueError(
                f"maps of the shape {tuple(x.shape)} were given; this operation takes (batch, "
                f"{', '.join(map(str, wanted))})"
            )
        analysis, synthesis, diagonal = self._made()
        x = analysed(self.frame, analysis, x)
        if self.training:
            z = diagonal.times(x, self.site.groups, self._numbers)
        else:
            z = multiplied(x, diagonal.whole(), self.site.groups)
        y = synthesised(self.frame, synthesis, z)
        return y if self.bias is None else y + self.bias.view(-1, *[1] * self.site.dims)

    def _made(self) -> Made:
        state = self._state()
        if state is not None and self._kept is not None and self._kept[0] == state:
            return self._kept[1]
        m, k, diagonal = self.parts()
        if state is None:
            return analysis_forms(m), synthesis_forms(k), diagonal
        made = analysis_forms(m), synthesis_forms(k), fixed(diagonal.whole(), self.frame.count)
        # With what they are made of, so that nothing else can come to lie in its memory.
        self._kept = (state, made, [p.detach() for p in self._held()])
        return made

    @property
    def _numbers(self) -> int:
        """How many numbers D has."""
        return 2 * self.frame.count * (self.site.inputs // self.site.groups) * self.site.outputs

    def _held(self) -> list[Tensor]:
        return [*self.parameters(), *self.buffers()]

    def _state(self) -> object:
        """What changes with every parameter; None where nothing may be kept."""
        if self.training or torch.is_grad_enabled() or _traced():
            return None
        held = self._held()
        # Whoever traces, or stands in for parameters, shall see what is computed of them.
        if any(type(p) not in (nn.Parameter, Tensor) or p.is_meta or p.is_inference() for p in held):
            return None
        return _STEPS[0], [(p.data_ptr(), p._version, p.dtype, p.device) for p in held]

    def train(self, mode: bool = True) -> Spectral:
        self._kept = None
        return super().train(mode)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_kept": None}


def _traced() -> bool:
    modes = _get_current_function_mode(), _get_current_dispatch_mode()  # type: ignore[no-untyped-call]
    return modes != (None, None) or torch._C._are_functorch_transforms_active()


class XDConv(Spectral):
    """An XD operation that starts as a convolution: D = gate (L w + b), and K, L, M are learned.

    Roberts, Khodak, Dao, Li, Ré and Talwalkar, "Rethinking Neural Operations for Diverse Tasks", NeurIPS
    2021, section 3. ``weight`` [co, ci / groups, *kernel] is what L is applied to, see ``kernel``; everything
    but it and the ``bias`` is a transform, see ``transforms``. ``kind`` says what K, L and M are made of, and
    ``depth`` of how many factors, of which all but one start as identities. With ``extras`` there are the
    channel gate (a factor for every pair of channels, 1 at first) and the spectral bias b (a number for every
    frequency, 0 at first).
    """

    def __init__(self, site: Site, depth: int = 1, kind: Kind = "blocks", extras: bool = False) -> None:
        frame = site.frame() if kind == "blocks" else Butterflies.make_frame(site, depth)
        super().__init__(site, frame)
        shape = (site.outputs, site.inputs // site.groups, *site.kernel)
        self.weight = nn.Parameter(torch.empty(shape))
        nn.init.kaiming_uniform_(self.weight, math.sqrt(5))
        self.learned = (Blocks if kind == "blocks" else Butterflies)(frame, depth)
        self.gate = nn.Parameter(torch.ones(shape[1], shape[0])) if extras else None
        self.spectral_bias = nn.Parameter(torch.zeros(frame.count, 2)) if extras else None

    @torch.no_grad()
    def start(self, convolution: nn.Module) -> None:
        """Take weights and bias of a convolution of the same kernel; ValueError if it has another."""
        weight, bias = convolution.weight, convolution.bias
        assert isinstance(weight, Tensor)
        if weight.shape != self.weight.shape:
            raise ValueError(f"a kernel of {tuple(weight.shape)} cannot stand for {tuple(self.weight.shape)}")
        self.weight.copy_(self.learned.turned(weight))
        if self.bias is not None:
            assert isinstance(bias, Tensor)
            self.bias.copy_(bias)

    def kernel(self) -> Tensor:
        """The kernel w of L w, as long as L is that of a convolution: [co, ci / groups, *kernel]."""
        return self.learned.turned(self.weight.detach())

    def transforms(self) -> Iterable[nn.Parameter]:
        """The architecture parameters: K, L and M, and the gate and the spectral bias if there are such."""
        yield from self.learned.parameters()
        yield from (p for p in (self.gate, self.spectral_bias) if p is not None)

    def folded(self, options: Sequence[Option]) -> Mapping[Option, Fold]:
        """The nearest operations of these names, see ``nasfw.folding``."""
        # That module is about layers of this one.
        from nasfw.spaces.folding import Folding

        known = Folding(self)
        folds = {option: known.to(str(option)) for option in options}
        return {option: fold for option, fold in folds.items() if fold is not None}

    def parts(self) -> tuple[Sequence[Tensor], Sequence[Tensor], Diagonal]:
        m, k, taps = self.learned()
        return m, k, kernel_spectrum(self.frame, taps, self.weight, self.spectral_bias, self.gate)


class FourierConv(Spectral):
    """A Fourier layer: D are weights, for the lowest ``modes`` frequencies of each axis or for all.

    Li et al., "Fourier Neural Operator for Parametric Partial Differential Equations", ICLR 2021, section 4.
    ``weight`` [frequencies, 2, ci / groups, co] has real and imaginary parts; of the map's last axis there
    are the frequencies from 0 on, of the others the negative ones too, in this order; they start as theirs,
    uniform between 0 and 1 over the number of pairs of channels. The map is taken to be periodic.
    """

    def __init__(self, site: Site, modes: int | None = None) -> None:
        super().__init__(site, site.periodic(modes))
        inputs = site.inputs // site.groups
        start = torch.rand(self.frame.count, 2, inputs, site.outputs) / (inputs * site.outputs)
        self.weight = nn.Parameter(start)
        for name, matrix in self._matrices():
            self.register_buffer(name, matrix.to(start.dtype), persistent=False)

    def _matrices(self) -> Iterator[tuple[str, Tensor]]:
        for name, matrices in (("m", self.frame.analysis()), ("k", self.frame.synthesis())):
            yield from ((f"{name}{i}", paired(matrix).contiguous()) for i, matrix in enumerate(matrices))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FourierConv:
        before = self.weight.dtype
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.weight.dtype.itemsize > before.itemsize and not self.weight.is_meta:
            # They are exact in the higher precision, too.
            for name, matrix in self._matrices():
                self.get_buffer(name).copy_(matrix)
        return self

    def parts(self) -> tuple[Sequence[Tensor], Sequence[Tensor], Diagonal]:
        count = range(self.frame.stages)
        m, k = ([getattr(self, f"{name}{i}") for i in count] for name in ("m", "k"))
        return m, k, fixed(self.weight, self.frame.count)
