import copy
import logging
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from nasfw.spaces.aggconv import AggConv
from nasfw.spaces.backbones import tcn, wrn, wrn1d
from nasfw.spaces.named import operation as operation_of_xd
from nasfw.spaces.named import possible
from nasfw.spaces.normalisation import quicken
from nasfw.spaces.site import site_of
from nasfw.spaces.xd import XD
from nasfw.tasks.arrays import ArraysTask
from nasfw.tasks.digits import Digits

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from nasfw.hardware.converter import Inconvertible, convert  # noqa: E402

# Torch announces that it will copy, which is not what is tested.
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")

TOLERANCE = 1e-5
IMAGE, SERIES, VECTOR = (4, 8, 6), (4, 12), (6,)


def session(proto, optimised_path=None):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if optimised_path:
        options.optimized_model_filepath = str(optimised_path)
    return onnxruntime.InferenceSession(proto.SerializeToString(), options, ["CPUExecutionProvider"])


def difference(got, want):
    """Largest difference relative to the largest value."""
    assert got.shape == want.shape
    return np.abs(got - want).max() / max(np.abs(want).max(), 1e-30)


def wanted(model, x):
    training = [module for module in model.modules() if module.training]
    model.eval()
    with torch.no_grad():
        result = model(x.clone()).numpy()
    for module in training:
        module.training = True
    return result


def samples(batch, shape):
    return torch.randn(batch, *shape, generator=torch.Generator().manual_seed(batch))


def assert_converts(model, shape, batch=None, tolerance=TOLERANCE):
    """The checked ONNX model computes what torch does: at one batch size, or at several if it is open."""
    proto = convert(model, shape, batch)
    onnx.checker.check_model(proto, full_check=True)
    run = session(proto)
    for size in (1, 2, 7) if batch is None else (batch,):
        x = samples(size, shape)
        assert difference(run.run(["output"], {"input": x.numpy()})[0], wanted(model, x)) <= tolerance


def scrambled(model):
    """``model`` with batch norms whose statistics are not those of a fresh one."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if getattr(module, "running_mean", None) is not None:
            module.running_mean.normal_(generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 1.5, generator=generator)
                nn.init.uniform_(module.bias, -1, 1, generator=generator)
    return model


class Function(nn.Module):
    """A function of the input and a weight, as a module."""

    def __init__(self, function, *weight_shape, dtype=torch.float32):
        super().__init__()
        self.function = function
        self.weight = nn.Parameter(torch.randn(weight_shape, dtype=dtype))

    def forward(self, x):
        return self.function(x, self.weight)


MODULES = {
    "conv1d": (lambda: nn.Conv1d(4, 6, 3), SERIES),
    "conv1d same": (lambda: nn.Conv1d(4, 6, 4, padding="same", dilation=3), SERIES),
    "conv1d circular": (lambda: nn.Conv1d(4, 6, 5, padding=2, padding_mode="circular"), SERIES),
    "conv1d replicate": (lambda: nn.Conv1d(4, 6, 5, padding=2, padding_mode="replicate"), SERIES),
    "conv2d": (lambda: nn.Conv2d(4, 6, (3, 5), (2, 1), (1, 2), bias=False), IMAGE),
    "conv2d valid": (lambda: nn.Conv2d(4, 6, 3, padding="valid"), IMAGE),
    "conv2d depthwise": (lambda: nn.Conv2d(4, 8, 3, padding=2, dilation=2, groups=4), IMAGE),
    "conv2d reflect": (lambda: nn.Conv2d(4, 6, 3, padding=(1, 2), padding_mode="reflect"), IMAGE),
    "conv2d circular": (lambda: nn.Conv2d(4, 6, 3, padding="same", padding_mode="circular"), IMAGE),
    "conv3d": (lambda: nn.Conv3d(2, 3, 3, padding=1), (2, 4, 5, 6)),
    "conv_transpose1d": (lambda: nn.ConvTranspose1d(4, 6, 3, 2, 1, 1), SERIES),
    "conv_transpose2d": (lambda: nn.ConvTranspose2d(4, 6, 3, 2, 1, 1, groups=2, dilation=2), IMAGE),
    "batch_norm of vectors": (lambda: nn.BatchNorm1d(6), VECTOR),
    "batch_norm1d": (lambda: nn.BatchNorm1d(4, eps=1e-3), SERIES),
    "batch_norm2d": (lambda: nn.BatchNorm2d(4), IMAGE),
    "batch_norm2d without scale": (lambda: nn.BatchNorm2d(4, affine=False), IMAGE),
    "group_norm": (lambda: nn.GroupNorm(2, 4), IMAGE),
    "group_norm without scale": (lambda: nn.GroupNorm(4, 4, affine=False), SERIES),
    "layer_norm": (lambda: nn.LayerNorm(IMAGE[1:]), IMAGE),
    "layer_norm without scale": (lambda: nn.LayerNorm(6, elementwise_affine=False), IMAGE),
    "layer_norm without bias": (lambda: nn.LayerNorm(6, bias=False), IMAGE),
    "instance_norm1d": (lambda: nn.InstanceNorm1d(4, affine=True), SERIES),
    "instance_norm2d": (lambda: nn.InstanceNorm2d(4), IMAGE),
    "instance_norm tracked": (lambda: nn.InstanceNorm2d(4, track_running_stats=True), IMAGE),
    "linear": (lambda: nn.Linear(6, 5), VECTOR),
    "linear without bias": (lambda: nn.Linear(6, 5, bias=False), VECTOR),
    "linear on maps": (lambda: nn.Linear(6, 5), IMAGE),
    "linear on maps without bias": (lambda: nn.Linear(6, 5, bias=False), IMAGE),
    "relu": (lambda: nn.ReLU(), IMAGE),
    "relu in place": (lambda: nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU(inplace=True)), IMAGE),
    "leaky_relu": (lambda: nn.LeakyReLU(0.2), IMAGE),
    "relu6": (lambda: nn.ReLU6(), IMAGE),
    "hardtanh": (lambda: nn.Hardtanh(-0.5, 0.7), IMAGE),
    "elu": (lambda: nn.ELU(0.7), IMAGE),
    "silu": (lambda: nn.SiLU(inplace=True), IMAGE),
    "mish": (lambda: nn.Mish(), IMAGE),
    "gelu": (lambda: nn.GELU(), IMAGE),
    "gelu tanh": (lambda: nn.GELU("tanh"), IMAGE),
    "sigmoid": (lambda: nn.Sigmoid(), IMAGE),
    "tanh": (lambda: nn.Tanh(), IMAGE),
    "softplus": (lambda: nn.Softplus(), IMAGE),
    "softsign": (lambda: nn.Softsign(), IMAGE),
    "hardswish": (lambda: nn.Hardswish(), IMAGE),
    "hardsigmoid": (lambda: nn.Hardsigmoid(), IMAGE),
    "softmax": (lambda: nn.Softmax(1), IMAGE),
    "log_softmax": (lambda: nn.LogSoftmax(-1), VECTOR),
    "prelu": (lambda: nn.PReLU(), IMAGE),
    "prelu of channels": (lambda: nn.PReLU(4), SERIES),
    "prelu of vectors": (lambda: nn.PReLU(6), VECTOR),
    "dropout": (lambda: nn.Sequential(nn.Dropout(0.5), nn.Dropout2d(0.5, inplace=True)), IMAGE),
    "identity": (lambda: nn.Identity(), IMAGE),
    "max_pool1d": (lambda: nn.MaxPool1d(3, 2, 1), SERIES),
    "max_pool2d": (lambda: nn.MaxPool2d(2), IMAGE),
    "max_pool2d dilated": (lambda: nn.MaxPool2d((3, 2), 1, (1, 0), (2, 3)), IMAGE),
    "avg_pool1d": (lambda: nn.AvgPool1d(3, 2, 1), SERIES),
    "avg_pool2d": (lambda: nn.AvgPool2d(3, 1, 1), IMAGE),
    "avg_pool2d without padding": (lambda: nn.AvgPool2d((3, 2), 1, 1, count_include_pad=False), IMAGE),
    "adaptive_avg_pool1d": (lambda: nn.AdaptiveAvgPool1d(1), SERIES),
    "adaptive_avg_pool1d divided": (lambda: nn.AdaptiveAvgPool1d(4), SERIES),
    "adaptive_avg_pool2d": (lambda: nn.AdaptiveAvgPool2d(1), IMAGE),
    "adaptive_avg_pool2d divided": (lambda: nn.AdaptiveAvgPool2d((2, None)), IMAGE),
    "adaptive_max_pool1d": (lambda: nn.AdaptiveMaxPool1d(1), SERIES),
    "adaptive_max_pool2d": (lambda: nn.AdaptiveMaxPool2d((1, 1)), IMAGE),
    "adaptive_max_pool2d divided": (lambda: nn.AdaptiveMaxPool2d((4, 3)), IMAGE),
    "flatten": (lambda: nn.Flatten(), IMAGE),
    "unflatten": (lambda: nn.Unflatten(1, (2, 2)), IMAGE),
    "zero padding": (lambda: nn.ZeroPad2d((1, 0, 2, 3)), IMAGE),
    "cropping": (lambda: nn.ZeroPad2d((-1, 2, 3, -2)), IMAGE),
    "constant padding": (lambda: nn.ConstantPad1d((2, 1), 0.5), SERIES),
    "reflecting padding": (lambda: nn.ReflectionPad2d((1, 2, 0, 3)), IMAGE),
    "upsampling": (lambda: nn.Upsample(scale_factor=2), IMAGE),
    "upsampling bilinearly": (lambda: nn.Upsample(scale_factor=2, mode="bilinear"), IMAGE),
    "pixel_shuffle": (lambda: nn.PixelShuffle(2), IMAGE),
    "weight norm": (lambda: nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 6, 3)), IMAGE),
    "spectral norm": (lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(6, 5)), VECTOR),
}


@pytest.mark.parametrize("name", MODULES)
def test_a_module_is_computed_as_torch_computes_it(name):
    make, shape = MODULES[name]
    model = scrambled(make())
    assert_converts(model, shape, batch=1)
    assert_converts(model, shape)


def in_place(x, _):
    y = x * 2
    z = y
    y += x
    F.relu_(y)
    y.mul_(0.5)
    return y + z


def copied(x, _):
    y = x * 2
    z = y.clone()
    z.relu_()
    y = y.view(x.size(0), -1).contiguous()
    return (z + 1).flatten(1) + y.mul_(2)


def normalised(x, _):
    mean = x.mean(dim=(2, 3), keepdim=True)
    return (x - mean) * torch.rsqrt((x - mean).square().mean(dim=(2, 3), keepdim=True) + 1e-5)


def attention(x, w):
    b, c, h, width = x.shape
    tokens = x.reshape(b, c, h * width).transpose(1, 2)
    q, k, v = (tokens @ w).chunk(3, dim=-1)
    scores = torch.softmax(q @ k.transpose(-2, -1) / c**0.5, dim=-1)
    return (scores @ v).transpose(1, 2).view(b, c, h, width)


def shuffled(x, _):
    b, c = x.size(0), x.size(1)
    y = x.view(b, 2, c // 2, *x.shape[2:])
    return torch.transpose(y, 1, 2).contiguous().view(b, -1, x.size(2), x.size(3))


def repeated_over_steps(x, w):
    state = torch.zeros(x.size(0), 3)
    for t in range(x.shape[-1]):
        state = torch.tanh(x[:, :, t] @ w + 0.5 * state)
    return state


FUNCTIONS = {
    "add": (lambda x, w: x + w, (6,)),
    "add scaled": (lambda x, w: torch.add(x, w, alpha=2), (6,)),
    "add by name": (lambda x, w: torch.add(x, other=w), (2, 1, 1, 1, 1)),
    "add number": (lambda x, w: 1 + x + 2.5, ()),
    "sub": (lambda x, w: (3 - x) - w, (8, 1)),
    "rsub": (lambda x, w: torch.rsub(x, 2), ()),
    "mul": (lambda x, w: 2 * x * w, (4, 1, 1)),
    "mul by nothing": (lambda x, w: x.mul(0.0) + w, (4, 1, 1)),
    "div": (lambda x, w: x / w / 3 + 1 / (x.exp() + 1), (4, 1, 1)),
    "neg": (lambda x, w: -x, ()),
    "pow": (lambda x, w: x**2 + torch.pow(x, 3) + 2**x, ()),
    "pow of tensors": (lambda x, w: x.abs() ** w, (6,)),
    "abs, sqrt, log": (lambda x, w: torch.log(x.abs().sqrt() + 1), ()),
    "rsqrt": (lambda x, w: (x.abs() + 1).rsqrt(), ()),
    "erf, sin, cos": (lambda x, w: torch.erf(x) + torch.sin(x) * x.cos(), ()),
    "floor, ceil, sign": (lambda x, w: x.floor() + torch.ceil(x) * torch.sign(x), ()),
    "reciprocal": (lambda x, w: (x.abs() + 1).reciprocal(), ()),
    "clamp": (lambda x, w: x.clamp(-0.5, 0.5) + torch.clamp(x, min=0.1) + x.clamp_min_(0.0), ()),
    "maximum": (lambda x, w: torch.maximum(x, w) + torch.minimum(x, w) + torch.max(x, w), (6,)),
    "in place": (in_place, ()),
    "in place on a copy": (copied, ()),
    "in place functions": (lambda x, w: F.relu(x + w, True) + F.elu(x, 1.0, True), (6,)),
    "mask": (lambda x, w: x * (w > 0), (6,)),
    "mean": (lambda x, w: x.mean((2, 3)), ()),
    "mean kept": (lambda x, w: torch.mean(x, -1, keepdim=True), ()),
    "mean in numpy's words": (lambda x, w: x.mean(axis=1, keepdims=True), ()),
    "sum": (lambda x, w: x.sum(1) + x.sum([1]), ()),
    "amax": (lambda x, w: x.amax((2, 3)) - torch.amin(x, dim=(-1, -2)), ()),
    "max": (lambda x, w: x.max(dim=1)[0] + torch.min(x, 1, keepdim=True).values[:, 0], ()),
    "logsumexp": (lambda x, w: torch.logsumexp(x, 1), ()),
    "normalised": (normalised, ()),
    "reshape": (lambda x, w: x.reshape(x.shape[0], -1).view(-1, 4, 48), ()),
    "reshape by keyword": (lambda x, w: torch.reshape(x, (len(x), 4, -1)), ()),
    "flatten": (lambda x, w: x.flatten(2) + torch.flatten(x, 2, 3), ()),
    "flatten with the batch": (lambda x, w: (x.flatten(0, 1) * 2).view(x.size(0), 4, 8, 6), ()),
    "batch as factor": (lambda x, w: (x.view(x.shape[0] * 4, 48) @ w).view(x.shape[0], 4, 5), (48, 5)),
    "view_as": (lambda x, w: x.flatten(1).view_as(x), ()),
    "squeeze": (lambda x, w: x.mean((2, 3), True).squeeze(-1).squeeze(2), ()),
    "unsqueeze": (lambda x, w: x.unsqueeze(1) + torch.unsqueeze(x, -4), ()),
    "permute": (lambda x, w: x.permute(0, 2, 3, 1) @ w, (4, 5)),
    "transpose": (lambda x, w: x.transpose(1, -1).swapaxes(2, 3).movedim(1, 2), ()),
    "transposed matrices": (lambda x, w: x @ x.mT + w.T, (8, 8)),
    "attention": (attention, (4, 12)),
    "shuffled": (shuffled, ()),
    "shape arithmetic": (lambda x, w: x.reshape(x.size(0), x.shape[1] // 2, -1) / x.shape[3], ()),
    "condition on shape": (lambda x, w: x * 2 if x.dim() == 4 and x.shape[-1] > 3 else x, ()),
    "loop over steps": (lambda x, w: repeated_over_steps(x[:, :, 0], w), (4, 3)),
    "chunk": (lambda x, w: torch.cat(x.chunk(3, dim=2)[::-1], 2), ()),
    "split": (lambda x, w: torch.cat([x.split(3, 2)[2], torch.split(x, [1, 3], 1)[1][:, :, :2]], 1), ()),
    "unbind": (lambda x, w: x.unbind(1)[2] - torch.unbind(x, -3)[0], ()),
    "slice": (lambda x, w: x[:, 1:3] + x[:, :2] * x[:, -2:], ()),
    "slice with steps": (lambda x, w: x[..., ::2] + x[:, :, :, 1::2], ()),
    "slice to the last": (lambda x, w: x[:, :, 1:, 1:] - x[:, :, :-1, :-1], ()),
    "index": (lambda x, w: x[:, 0] + x[:, -1] * x[:, 2, 3:4], ()),
    "index with new axes": (lambda x, w: x[:, None, 1, ..., None] + x[:, None, -2, ..., None], ()),
    "index with ellipsis": (lambda x, w: x[..., 0] + x[:, ..., -1], ()),
    "a sample of the batch": (lambda x, w: x[:1] + x, ()),
    "narrow": (lambda x, w: x.narrow(2, 1, 3) + x.select(2, 0)[:, :, None], ()),
    "index_select": (lambda x, w: x.index_select(-1, torch.tensor([5, 0, 0, 2])), ()),
    "index_select by name": (lambda x, w: torch.index_select(x, dim=1, index=torch.arange(3)), ()),
    "cat": (lambda x, w: torch.cat([x, x * 2], dim=-3), ()),
    "cat with zeros": (lambda x, w: torch.cat([x, torch.zeros(x.size(0), 2, 8, 6)], 1), ()),
    "stack": (lambda x, w: torch.stack([x, -x], dim=-1), ()),
    "expand": (lambda x, w: torch.cat([w.expand(x.size(0), -1, 8, 6), x], 1), (1, 2, 1, 1)),
    "expand input": (lambda x, w: x[:, :1].expand(-1, 3, -1, -1) + x[:, 1:].expand_as(x[:, 1:]), ()),
    "repeat": (lambda x, w: x.repeat(1, 2, 1, 3), ()),
    "repeat constants": (lambda x, w: x * w.repeat(x.shape[0], 2, 1, 1), (1, 2, 1, 1)),
    "zeros": (lambda x, w: x * 2 + torch.zeros(x.shape) + x.new_zeros(x.size()), ()),
    "zeros_like": (lambda x, w: torch.zeros_like(x) * x + torch.ones_like(x), ()),
    "matmul": (lambda x, w: torch.matmul(x, w), (6, 5)),
    "matmul from the left": (lambda x, w: w @ x, (3, 8)),
    "bmm": (lambda x, w: torch.bmm(x.flatten(2), x.flatten(2).transpose(1, 2)), ()),
    "einsum": (lambda x, w: torch.einsum("bchw,oc->bohw", x, w), (5, 4)),
    "einsum with ellipsis": (lambda x, w: torch.einsum("b c ..., c o -> b o ...", x, w), (4, 5)),
    "einsum without arrow": (lambda x, w: torch.einsum("bchw,co", x, w), (4, 5)),
    "linear of a weight": (lambda x, w: F.linear(x, w), (5, 6)),
    "conv of a weight": (lambda x, w: F.conv2d(x, w, stride=2, padding=(1, 0)), (5, 4, 3, 3)),
    "conv of a computed weight": (lambda x, w: F.conv2d(x, torch.softmax(w, 0)[:3]), (5, 4, 3, 3)),
    "pad": (lambda x, w: F.pad(x, (1, 2)) + F.pad(x, [1, 2], value=1.5), ()),
    "pad circularly": (lambda x, w: F.pad(x, (2, 1, 1, 0), mode="circular"), ()),
    "pad reflecting": (lambda x, w: F.pad(x, (2, 1, 1, 0), "reflect"), ()),
    "interpolate": (lambda x, w: F.interpolate(x, size=(5, 9)), ()),
    "interpolate by a fraction": (lambda x, w: F.interpolate(x, scale_factor=(0.7, 1.6)), ()),
    "interpolate bilinearly": (lambda x, w: F.interpolate(x, (5, 9), mode="bilinear"), ()),
    "interpolate to one": (lambda x, w: F.interpolate(x, (1, 3), mode="bilinear"), ()),
    "interpolate at corners": (lambda x, w: F.interpolate(x, (5, 9), None, "bilinear", True), ()),
    "interpolate series": (lambda x, w: F.interpolate(x[:, :, 0], 9, mode="linear"), ()),
    "softmax": (lambda x, w: F.softmax(x, dim=-1) + torch.softmax(x, 1) + x.log_softmax(2), ()),
    "dropout": (lambda x, w: F.dropout(x, 0.5, False) * 2, ()),
    "casts": (lambda x, w: x.to(torch.float32).float().to(w).to("cpu").to(x.device).type_as(w) * 2, ()),
    "detached copies": (lambda x, w: x.detach().clone() * x.contiguous(), ()),
    "weight of the input's type": (lambda x, w: x @ w.to(x.dtype).to(x.device), (6, 5)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_is_computed_as_torch_computes_it(name):
    function, weight_shape = FUNCTIONS[name]
    model = Function(function, *weight_shape)
    assert_converts(model, IMAGE, batch=1)
    assert_converts(model, IMAGE)


def truncated(x, w):
    """The mixing of low frequencies that a Fourier neural operator does."""
    low = torch.fft.rfft(x)[..., :5]
    mixed = torch.view_as_complex(torch.stack([low.real * w[0], low.imag * w[1]], -1))
    return torch.fft.irfft(F.pad(mixed, (0, 4)), n=16)


def by_parts(x, w):
    parts = torch.view_as_real(torch.fft.rfft2(x))
    return torch.fft.irfft2(torch.view_as_complex((parts * w).contiguous()), s=x.shape[-2:])


def filtered(x, w):
    return torch.fft.irfft2(torch.fft.rfft2(x, norm="ortho") * w, norm="ortho")


def mixed_channels(x, w):
    low = torch.fft.rfft(x, dim=2)
    return torch.fft.irfft(torch.einsum("bchw,coh->bohw", low, w), n=8, dim=2)


def complex_arithmetic(x, w):
    z = torch.fft.rfft(x)
    z = (z * 2 + z.conj() * (1 + 2j) - z / 4) * z + z * x[..., :1] + z[:, :1] + 1j
    return torch.cat([z.real, torch.stack([z, -z], 1).sum(1).imag, (x[..., :9] + z).real], 1)


COMPLEX = {
    "rfft": (lambda x, w: torch.view_as_real(torch.fft.rfft(x)), ()),
    "rfft cut": (lambda x, w: torch.fft.rfft(x, 4, dim=-2, norm="forward").real, ()),
    "rfft filled": (lambda x, w: torch.fft.rfft(x, n=32, norm="ortho").imag, ()),
    "rfft2": (lambda x, w: torch.view_as_real(torch.fft.rfft2(x)), ()),
    "irfft of odd length": (lambda x, w: torch.fft.irfft(torch.fft.rfft(x) * 1j, n=5), ()),
    "irfft filled": (lambda x, w: torch.fft.irfft(torch.fft.rfft(x), n=32, norm="forward"), ()),
    "fft and ifft": (lambda x, w: torch.fft.ifft(torch.fft.fft(torch.complex(x, -x), dim=2) * 1j).real, ()),
    "fft2": (lambda x, w: torch.fft.ifft2(torch.fft.fft2(torch.complex(x, x))).imag, ()),
    "low frequencies": (truncated, (2, 4, 8, 5)),
    "parts": (by_parts, (9, 2)),
    "filter": (filtered, (4, 8, 9)),
    "mixed channels": (mixed_channels, (4, 3, 5)),
    "arithmetic": (complex_arithmetic, ()),
    "einsum of one": (lambda x, w: torch.einsum("bchw->bwc", torch.fft.rfft(x)).imag, ()),
    "shapes": (lambda x, w: torch.fft.rfft(x).transpose(1, 3).flatten(2)[:, 1:, None].imag, ()),
    "index_select": (lambda x, w: torch.fft.rfft(x).index_select(3, torch.tensor([4, 2])).imag, ()),
}


@pytest.mark.parametrize("name", COMPLEX)
def test_a_fourier_transform_is_computed_as_torch_computes_it(name):
    function, weight_shape = COMPLEX[name]
    complexes = name in ("filter", "mixed channels")
    model = Function(function, *weight_shape, dtype=torch.complex64 if complexes else torch.float32)
    assert_converts(model, (4, 8, 16), batch=1)
    assert_converts(model, (4, 8, 16))


@settings(max_examples=60, deadline=None)
@given(
    dims=st.sampled_from([1, 2]),
    kernel=st.integers(1, 5),
    stride=st.integers(1, 3),
    dilation=st.integers(1, 4),
    padding=st.one_of(st.integers(0, 6), st.sampled_from(["same", "valid"])),
    groups=st.sampled_from([1, 2, 4]),
    bias=st.booleans(),
    mode=st.sampled_from(["zeros", "zeros", "circular", "reflect"]),
)
def test_any_convolution_is_computed_as_torch_computes_it(
    dims, kernel, stride, dilation, padding, groups, bias, mode
):
    assume(padding != "same" or stride == 1)
    kind = nn.Conv1d if dims == 1 else nn.Conv2d
    model = kind(4, 8, kernel, stride, padding, dilation, groups, bias, mode)
    shape = (4, 9) if dims == 1 else (4, 9, 8)
    try:
        model(torch.zeros(1, *shape))
    except RuntimeError:
        assume(False)
    assert_converts(model, shape, batch=2)


@settings(max_examples=80, deadline=None)
@given(
    kind=st.sampled_from(["max", "mean", "mean of the map"]),
    kernel=st.integers(1, 4),
    stride=st.integers(1, 5),
    padding=st.integers(0, 2),
    dilation=st.integers(1, 3),
    ceil_mode=st.booleans(),
    size=st.integers(4, 9),
)
def test_any_pooling_is_computed_as_torch_computes_it(
    kind, kernel, stride, padding, dilation, ceil_mode, size
):
    assume(padding <= kernel // 2)
    if kind == "max":
        model = nn.MaxPool1d(kernel, stride, padding, dilation, ceil_mode=ceil_mode)
    else:
        model = nn.AvgPool1d(kernel, stride, padding, ceil_mode, kind == "mean")
    try:
        assume(torch.isfinite(model(torch.zeros(1, 3, size))).all())
    except RuntimeError:
        assume(False)
    assert_converts(model, (3, size), batch=2)


BACKBONES = {
    "wrn": (lambda: wrn((3, 16, 16), (10,)), (3, 16, 16)),
    "wide wrn": (lambda: wrn((1, 12, 12), (3,), depth=10, width=2, channels=4), (1, 12, 12)),
    "dense wrn": (lambda: wrn((2, 9, 9), (3, 9, 9), depth=10, channels=4), (2, 9, 9)),
    "wrn1d": (lambda: wrn1d((2, 30), (5,)), (2, 30)),
    "dense wrn1d": (lambda: wrn1d((2, 30), (5, 30)), (2, 30)),
    "tcn": (lambda: tcn((2, 30), (5,)), (2, 30)),
}


@pytest.mark.parametrize("name", BACKBONES)
def test_a_backbone_is_computed_as_torch_computes_it(name):
    make, shape = BACKBONES[name]
    assert_converts(scrambled(make()), shape)


@pytest.mark.parametrize(("shape", "target"), [((2, 30), (0, 1)), ((1, 12, 12), (2, 12, 12)), (None, None)])
def test_networks_of_aggregated_convolutions_are_computed_as_torch_computes_them(shape, target):
    generator = np.random.default_rng(0)
    if shape is None:
        task = Digits()
    else:
        inputs = generator.normal(size=(8, *shape)).astype("float32")
        outputs = np.resize(target, 8) if len(target) == 2 else generator.normal(size=(8, *target))
        task = ArraysTask(inputs, outputs)
    space = AggConv(task=task, channels=4)
    for _ in range(3):
        model = scrambled(space.build(space.sample(generator)))
        assert_converts(model, task.input_shape)


XD_SITES = {
    "series": (nn.Conv1d(4, 4, 3, padding=1), (20,)),
    "series in two stages": (nn.Conv1d(4, 4, 5, padding=2, padding_mode="circular"), (300,)),
    "unrolled series": (nn.Conv1d(4, 4, 5, padding=2, padding_mode="circular"), (521,)),
    "maps with a stride": (nn.Conv2d(4, 4, 3, 2, 1, padding_mode="circular"), (9, 8)),
    "maps of groups": (nn.Conv2d(4, 6, 3, padding=1, groups=2), (6, 7)),
    "depthwise maps": (nn.Conv2d(4, 4, 4, padding="same", groups=4, bias=False), (6, 7)),
    "volumes": (nn.Conv3d(4, 4, 3, padding=1, padding_mode="circular"), (5, 4, 6)),
}
XD_OPTIONS = ("k3d2", "pool3", "skip", "zero", "permuted", "fourier", "fourier2", "xd", "xd2")


@pytest.mark.parametrize("name", XD_SITES)
@pytest.mark.parametrize("kind", ["blocks", "butterflies"])
def test_operations_of_xd_are_computed_as_torch_computes_them(name, kind):
    """By products of matrices: no runtime has to know Fourier transforms."""
    module, size = XD_SITES[name]
    site = site_of(module, size)
    for option in possible(site, XD_OPTIONS if kind == "blocks" else ("xd2",)):
        layer = operation_of_xd(site, option, kind, extras=True)
        for p in layer.parameters():
            nn.init.normal_(p, 0.2, 0.2)
        assert_converts(layer, (4, *size), batch=3, tolerance=1e-4)
        assert_converts(layer, (4, *size), tolerance=1e-4)
        assert "DFT" not in {node.op_type for node in convert(layer, (4, *size), None).graph.node}


def test_what_is_kept_for_evaluation_does_not_change_what_is_converted():
    module, size = XD_SITES["maps with a stride"]
    layer = operation_of_xd(site_of(module, size), "xd").eval()
    before = convert(layer, (4, *size), None)
    wanted(layer, samples(2, (4, *size)))
    assert convert(layer, (4, *size), None) == before


@pytest.mark.parametrize(("shape", "backbone"), [((2, 20), "wrn1d"), ((1, 9, 8), "pde"), ((1, 8, 8), "wrn")])
def test_networks_of_xd_operations_are_computed_as_torch_computes_them(shape, backbone):
    generator = np.random.default_rng(0)
    task = ArraysTask(
        generator.normal(size=(8, *shape)).astype("float32"), np.arange(8) % 2, channels="first"
    )
    sizes = {"depth": 10} if backbone == "wrn" else {}
    space = XD(task, backbone, XD_OPTIONS, channels=4, **sizes)
    for architecture in (space.universal, space.sample(generator), space.sample(generator)):
        assert_converts(scrambled(space.build(architecture)), shape, tolerance=1e-4)


def operation(kind, channels, stride):
    """An operation of a cell, as differentiable search spaces have them."""
    pool = {"max": nn.MaxPool2d(3, stride, 1), "mean": nn.AvgPool2d(3, stride, 1, count_include_pad=False)}
    if kind in pool:
        return pool[kind]
    if kind == "skip":
        return nn.Identity() if stride == 1 else FactorisedReduction(channels, channels)
    dilation = 2 if kind == "dilated" else 1
    return nn.Sequential(
        *(Separable(channels, stride if i == 0 else 1, dilation) for i in range(3 - dilation))
    )


class Separable(nn.Sequential):
    def __init__(self, channels, stride, dilation):
        super().__init__(
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, stride, dilation, dilation, groups=channels, bias=False),
            nn.Conv2d(channels, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        )


class FactorisedReduction(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.relu = nn.ReLU()
        self.even = nn.Conv2d(inputs, outputs // 2, 1, stride=2, bias=False)
        self.odd = nn.Conv2d(inputs, outputs // 2, 1, stride=2, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x):
        x = self.relu(x)
        return self.norm(torch.cat([self.even(x), self.odd(x[:, :, 1:, 1:])], dim=1))


class Cell(nn.Module):
    kinds = ("separable", "dilated", "max", "mean", "skip", "separable", "zero", "skip")

    def __init__(self, before, last, channels, reduction, reduction_before):
        super().__init__()
        point = nn.Conv2d(before, channels, 1, bias=False)
        self.first = (
            FactorisedReduction(before, channels)
            if reduction_before
            else nn.Sequential(nn.ReLU(), point, nn.BatchNorm2d(channels))
        )
        self.second = nn.Sequential(
            nn.ReLU(), nn.Conv2d(last, channels, 1, bias=False), nn.BatchNorm2d(channels)
        )
        self.edges = nn.ModuleList(
            nn.Identity()
            if kind == "zero"
            else operation(kind, channels, 2 if reduction and i % 2 < 2 and i < 2 else 1)
            for i, kind in enumerate(self.kinds)
        )
        self.reduction = reduction

    def forward(self, x, y):
        states = [self.first(x), self.second(y)]
        first = self.edges[0](states[0]) + self.edges[1](states[1])
        states = [first, *states[2:]]
        for i in range(2, 8, 2):
            left, right = states[-1], states[max(0, len(states) - 2)]
            b = self.edges[i + 1](right)
            states.append(self.edges[i](left) + (b.mul(0.0) if self.kinds[i + 1] == "zero" else b))
        return torch.cat(states[-4:], dim=1)


class Cells(nn.Module):
    def __init__(self, count=8, channels=16):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 3 * channels, 3, padding=1), nn.BatchNorm2d(3 * channels))
        before = last = 3 * channels
        reduced = False
        self.cells = nn.ModuleList()
        for i in range(count):
            reduction = i in (count // 3, 2 * count // 3)
            channels *= 1 + reduction
            self.cells.append(Cell(before, last, channels, reduction, reduced))
            before, last, reduced = last, 4 * channels, reduction
        self.pool, self.head = nn.AdaptiveAvgPool2d(1), nn.Linear(last, 10)

    def forward(self, x):
        x = y = self.stem(x)
        for cell in self.cells:
            x, y = y, cell(x, y)
        y = self.pool(y)
        return self.head(y.view(y.size(0), -1))


class Spectral(nn.Module):
    def __init__(self):
        super().__init__()
        self.lift, self.point = nn.Conv1d(2, 8, 1), nn.Conv1d(8, 8, 1)
        self.weight = nn.Parameter(torch.randn(8, 8, 6, 2) / 8)

    def forward(self, x):
        x = self.lift(x)
        low = torch.view_as_real(torch.fft.rfft(x)[:, :, :6])
        a, b = low[..., 0], low[..., 1]
        c, d = self.weight[..., 0], self.weight[..., 1]
        product = "bim,iom->bom"
        real = torch.einsum(product, a, c) - torch.einsum(product, b, d)
        imaginary = torch.einsum(product, a, d) + torch.einsum(product, b, c)
        mixed = F.pad(torch.stack([real, imaginary], -1), (0, 0, 0, 27))
        return F.gelu(torch.fft.irfft(torch.view_as_complex(mixed.contiguous()), n=64) + self.point(x))


ORACLE = {
    "wrn": (lambda: wrn((3, 8, 8), (10,), depth=10), (3, 8, 8)),
    "wrn1d": (lambda: wrn1d((2, 32), (5,)), (2, 32)),
    "cells": (lambda: Cells(2, 4), (3, 8, 8)),
    "spectral": (Spectral, (2, 64)),
}


@pytest.mark.parametrize("name", ORACLE)
def test_networks_agree_with_those_that_torch_exports(name):
    make, shape = ORACLE[name]
    model = scrambled(make()).eval()
    x = samples(1, shape)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(model, (x,), dynamo=True, verbose=False, external_data=False)
    run = session(program.model_proto)
    exported = run.run(None, {run.get_inputs()[0].name: x.numpy()})[0]
    own = session(convert(model, shape)).run(None, {"input": x.numpy()})[0]
    assert difference(own, exported) <= TOLERANCE
    assert difference(own, wanted(model, x)) <= TOLERANCE


def test_eight_cells_are_computed_as_torch_computes_them():
    assert_converts(scrambled(Cells()), (3, 32, 32), batch=1)


def test_convolution_normalisation_and_activation_become_one_operator(tmp_path):
    """The runtime must find what it can fuse."""
    session(convert(scrambled(wrn1d((2, 32), (5,))), (2, 32)), tmp_path / "fused.onnx")
    operators = {node.op_type for node in onnx.load(tmp_path / "fused.onnx").graph.node}
    assert "FusedConv" in operators
    assert operators.isdisjoint({"BatchNormalization", "Identity"})


def test_quick_batch_norms_are_ordinary_ones_in_evaluation():
    model = scrambled(wrn1d((2, 30), (5,)))
    plain = convert(model, (2, 30))
    quicken(model)
    assert convert(model, (2, 30)) == plain


def test_subclasses_and_hooks_that_compute_weights_are_seen_through():
    class Doubled(nn.Conv2d):
        def forward(self, x):
            return 2 * super().forward(x)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        hooked = nn.utils.weight_norm(nn.Conv2d(6, 2, 3))
    model = nn.Sequential(Doubled(4, 6, 3), hooked)
    with torch.no_grad():
        hooked.weight_g.mul_(3)
    assert_converts(model, IMAGE)


def test_a_parameter_that_is_used_twice_is_stored_once():
    layer = nn.Linear(6, 6)
    model = nn.Sequential(layer, nn.ReLU(), layer)
    assert [i.name for i in convert(model, VECTOR).graph.initializer] == ["0.weight", "0.bias"]


def test_parameters_may_have_the_names_of_other_things():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            for name in ("input", "output", "Mul_0", "constant_1", "batch_size"):
                setattr(self, name, nn.Parameter(torch.randn(6)))

        def forward(self, x):
            y = x * self.input + self.output * 2
            return (y * self.Mul_0 + self.constant_1).reshape(1, x.size(0), 3, 2).sum(0) * self.batch_size[0]

    assert_converts(Named(), VECTOR)


def test_low_precision_becomes_single_precision():
    model = nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.ReLU()).to(torch.bfloat16)
    proto = convert(model, IMAGE)
    assert {i.data_type for i in proto.graph.initializer} == {onnx.TensorProto.FLOAT}
    x = samples(1, IMAGE)
    got = session(proto).run(None, {"input": x.numpy()})[0]
    assert difference(got, wanted(copy.deepcopy(model).float(), x)) <= TOLERANCE


def test_names_and_the_open_axis_are_those_promised():
    graph = convert(nn.Linear(6, 5), VECTOR, None).graph
    ends = [
        (v.name, [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim])
        for v in (*graph.input, *graph.output)
    ]
    assert ends == [("input", ["batch", 6]), ("output", ["batch", 5])]
    fixed = convert(nn.Linear(6, 5), VECTOR, 3).graph.input[0]
    assert [d.dim_value for d in fixed.type.tensor_type.shape.dim] == [3, 6]


class TwoInputs(nn.Module):
    def forward(self, x, y):
        return x + y


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x):
        self.count += 1
        return x * self.count


class Hooked(nn.Sequential):
    def __init__(self):
        super().__init__(nn.ReLU())
        self[0].register_forward_hook(lambda *_: None)


def overwritten_view(x, _):
    y = x * 2
    z = y[:, 1:]
    z.relu_()
    return y


def overwritten_cast(x, _):
    y = x * 2
    z = y.double()
    z.relu_()
    return y + z


def overwritten_view_by_name(x, _):
    y = x * 2
    z = torch.flatten(input=y, start_dim=1)
    y.relu_()
    return z


def overwritten_original(x, _):
    y = x * 2
    z = y.flatten(1)
    y.add_(1)
    return z


INCONVERTIBLE = {
    "condition on values": (lambda x, w: x if x.sum() > 0 else -x, r"(?s)depends on the values.*__bool__|gt"),
    "number from values": (lambda x, w: x * x.sum().item(), "depends on the values.*item"),
    "unknown operation": (lambda x, w: torch.cumprod(x, 1), r"torch\.cumprod is an operation"),
    "unknown method": (lambda x, w: x.sort(1)[0], r"torch\.Tensor\.sort is an operation"),
    "positions of extrema": (lambda x, w: x.max(1)[1] * x, "positions of extrema"),
    "integers": (lambda x, w: x.to(torch.int64), "only floating types"),
    "random numbers": (lambda x, w: x + torch.rand(6), "random numbers"),
    "active dropout": (lambda x, w: F.dropout(x, 0.5), "dropout that is active"),
    "two results": (lambda x, w: (x, x), "one real tensor.*tuple"),
    "a constant": (lambda x, w: w, "one real tensor.*Parameter"),
    "a complex result": (lambda x, w: torch.fft.rfft(x), "one real tensor.*complex"),
    "complex absolute value": (lambda x, w: torch.fft.rfft(x).abs(), "Tensor.abs of complex numbers"),
    "division with rounding": (lambda x, w: torch.div(x, 2, rounding_mode="floor"), "rounding"),
    "softmax of another type": (lambda x, w: F.softmax(x, 1, dtype=torch.float64), "float64"),
    "uneven pooling": (lambda x, w: F.adaptive_avg_pool2d(x, (3, 3)), "does not divide"),
    "pooling with positions": (
        lambda x, w: F.max_pool2d(x, 2, return_indices=True)[0],
        "max_pool2d_with_indices is an",
    ),
    "pooling with a divisor": (lambda x, w: F.avg_pool2d(x, 2, divisor_override=3), "divisor_override"),
    "rounding of positions": (lambda x, w: F.interpolate(x, scale_factor=41), "rounding decides"),
    "bicubic": (lambda x, w: F.interpolate(x, scale_factor=2, mode="bicubic"), "bicubic"),
    "statistics of the batch": (lambda x, w: F.batch_norm(x, None, None, training=True), "statistics"),
    "assignment": (lambda x, w: x.__setitem__(0, 1), "__setitem__ is an operation"),
    "a list of positions": (lambda x, w: x[:, [0, 2]], "indexing with slice, list"),
    "overwritten view": (overwritten_view, "share memory"),
    "overwritten view by name": (overwritten_view_by_name, "share memory"),
    "overwritten cast": (overwritten_cast, "share memory"),
    "overwritten original": (overwritten_original, "share memory"),
    "a kept weight changed": (lambda x, w: x * w.mul_(2), "changes a tensor that the network keeps"),
    "a kept weight activated": (lambda x, w: x * F.relu(w, inplace=True), "tensor that the network keeps"),
    "a kept weight written": (lambda x, w: x * torch.neg(w, out=w), "tensor that the network keeps"),
    "result written elsewhere": (lambda x, w: torch.add(x, 1, out=torch.empty(1)), "torch.add with arg"),
    "a wrong shape": (lambda x, w: x.view(7, -1), "cannot be traced.*RuntimeError"),
}


@pytest.mark.parametrize("name", INCONVERTIBLE)
def test_what_is_not_converted_is_named(name):
    function, message = INCONVERTIBLE[name]
    model = Function(function)
    before = model.weight.clone()
    with pytest.raises(Inconvertible, match=message):
        convert(model, IMAGE)
    assert torch.equal(model.weight, before)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (TwoInputs(), "one input: TypeError.*missing"),
        (Counting(), "changes a tensor that the network keeps"),
        (Hooked(), "module '0' has a hook"),
        (nn.BatchNorm2d(4, track_running_stats=False), "statistics of the batch"),
        (nn.Conv2d(4, 2, 1, device="meta"), "without values"),
        (nn.Conv2d(3, 2, 1), "convolution of 4 channels"),
        (nn.ConvTranspose2d(4, 2, 3, 1, 0, 1, dilation=2), "output_padding"),
        (nn.LSTM(6, 3), "LSTM|lstm|tuple|cannot be traced"),
        (nn.MultiheadAttention(6, 2), "cannot be traced"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_networks_that_are_not_converted_say_why(model, message):
    with pytest.raises(Inconvertible, match=message):
        convert(model, IMAGE)


DEPENDENT = {
    "loop over the batch": lambda x, w: torch.stack([x[i] for i in range(x.size(0))]),
    "mean of the batch": lambda x, w: x / x.size(0),
    "condition on the batch": lambda x, w: x * 2 if x.size(0) > 1 else x,
    "squeezed batch": lambda x, w: x.squeeze(0),
    "halved batch": lambda x, w: x.reshape(-(-x.size(0) // 2), -1),
    "numbered samples": lambda x, w: x + torch.arange(x.size(0)).view(-1, 1, 1, 1),
    "sample by number": lambda x, w: x[3],
}


@pytest.mark.parametrize("name", DEPENDENT)
def test_what_depends_on_the_batch_size_has_no_open_batch(name):
    with pytest.raises(Inconvertible):
        convert(Function(DEPENDENT[name]), IMAGE, None)


def test_models_stay_as_they_are():
    model = scrambled(wrn((1, 8, 8), (3,), depth=10, channels=4)).train()
    model.blocks[0].eval()
    model.end[0].momentum = None
    state = copy.deepcopy(model.state_dict())
    attributes = {name: dict(vars(module)) for name, module in model.named_modules()}
    parameters = [id(p) for p in model.parameters()]
    generator = torch.get_rng_state()
    for batch in (1, None):
        convert(model, (1, 8, 8), batch)
    assert {name: dict(vars(module)) for name, module in model.named_modules()} == attributes
    assert [id(p) for p in model.parameters()] == parameters
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert torch.equal(generator, torch.get_rng_state())
    assert torch.is_grad_enabled()


def test_models_stay_as_they_are_where_conversion_fails():
    class Careless(nn.Module):
        def forward(self, x):
            self.last = x
            return torch.cumprod(x + torch.rand(1), 1)

    model = Careless()
    generator = torch.get_rng_state()
    with pytest.raises(Inconvertible):
        convert(model, VECTOR)
    assert not hasattr(model, "last")
    assert model.training
    assert torch.equal(generator, torch.get_rng_state())
