from __future__ import annotations

import pytest
import torch
from torch import nn

from nasfw.spaces.site import CONVOLUTIONS, site_of

# Torch announces that it will copy, which is not what is tested.
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")


def test_site_describes_only_ordinary_convolutions():
    class Own(nn.Conv1d):
        pass

    assert site_of(nn.Conv1d(1, 1, 3), (8,)) is not None
    for other in (
        Own(1, 1, 3),
        nn.ConvTranspose1d(1, 1, 3),
        nn.Linear(1, 1),
        nn.Conv1d(1, 1, 3, padding=1, padding_mode="reflect"),
        nn.Conv1d(1, 1, 3, padding=1, padding_mode="replicate"),
    ):
        assert site_of(other, (8,)) is None


@pytest.mark.parametrize("padding", [0, 2, "same", "valid", (3, 0)])
@pytest.mark.parametrize("kernel", [1, 3, 4, (2, 5)])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_site_knows_the_size_of_the_result(padding, kernel, dilation, stride):
    if padding == "same" and stride > 1:
        return
    module = nn.Conv2d(1, 1, kernel, stride, padding, dilation)
    assert site_of(module, (12, 13)).results == module(torch.zeros(1, 1, 12, 13)).shape[2:]


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_centred_are_convolutions_with_a_result_for_every_position_that_the_stride_keeps(dims):
    def centred(size, kernel, stride=1, padding="same", dilation=1):
        module = CONVOLUTIONS[dims](1, 1, kernel, stride, padding, dilation)
        return site_of(module, (size,) * dims).centred

    assert all(centred(9, k, dilation=d) for k in (1, 2, 3, 4, 5) for d in (1, 2, 3))
    assert all(centred(n, 3, s, 2, 2) for n in (8, 9, 10) for s in (1, 2, 3))
    assert not centred(9, 3, padding="valid")
    assert not centred(9, 3, padding=2)
    assert not centred(9, 5, stride=2, padding=1)
    assert not centred(9, 4, padding=2)


def test_a_site_says_what_a_convolution_is():
    module = nn.Conv2d(4, 6, (3, 4), (2, 1), (1, 2), (1, 3), groups=2, bias=False, padding_mode="circular")
    site = site_of(module, (8, 9))
    assert (site.dims, site.size, site.results) == (2, (8, 9), (4, 4))
    assert (site.inputs, site.outputs, site.groups, site.biased, site.circular) == (4, 6, 2, False, True)
    assert [axis.taps for axis in site.axes] == [(-1, 0, 1), (-2, 1, 4, 7)]
    even = site_of(nn.Conv1d(1, 1, 4, padding="same"), (8,))
    assert even.padding == ((1, 2),)
