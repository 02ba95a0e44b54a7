from __future__ import annotations

import sys
import textwrap

import pytest
import torch
from torch import nn

from nasfw.spaces.backbones import BACKBONES, accepts, find, function, make, paper_channels, tcn, wrn, wrn1d
from nasfw.values import UsageError


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("size", [(1, 1), (3, 3), (8, 8), (5, 9)])
@pytest.mark.parametrize("outputs", [(3,), "dense"])
def test_wrn_gives_the_output_shape(size, outputs):
    outputs = (2, *size) if outputs == "dense" else outputs
    model = wrn((2, *size), outputs).eval()
    assert model(torch.randn(2, 2, *size)).shape == (2, *outputs)


@pytest.mark.parametrize("factory", [wrn1d, tcn])
@pytest.mark.parametrize("length", [1, 5, 64])
@pytest.mark.parametrize("outputs", [(3,), "dense"])
def test_series_backbones_give_the_output_shape(factory, length, outputs):
    outputs = (2, length) if outputs == "dense" else outputs
    model = factory((3, length), outputs).eval()
    assert model(torch.randn(2, 3, length)).shape == (2, *outputs)


def test_wrn_16_1_has_the_published_number_of_parameters():
    """181,476 for three channels and 100 classes; 170,928 are weights of the 13 searched convolutions."""
    model = wrn((3, 32, 32), (100,))
    assert count(model) == 181_476
    convolutions = {n: m for n, m in model.named_modules() if isinstance(m, nn.Conv2d)}
    searched = [m for n, m in convolutions.items() if "shortcut" not in n]
    assert len(searched) == 13
    assert sum(m.weight.numel() for m in searched) == 170_928


def test_width_multiplies_the_channels():
    narrow, wide = wrn((1, 8, 8), (2,)), wrn((1, 8, 8), (2,), width=4)
    assert wide.blocks[-1].conv2.out_channels == 4 * narrow.blocks[-1].conv2.out_channels == 256


@pytest.mark.parametrize(("classes", "channels"), [(4, 4), (9, 4), (10, 16), (24, 64), (999, 64)])
def test_the_papers_channels_follow_the_number_of_classes(classes, channels):
    assert paper_channels(classes) == channels
    assert wrn1d((1, 32), (classes,)).blocks[0].conv1.out_channels == max(16, channels)


def test_dense_prediction_keeps_every_position_apart():
    """There is no stride, so an output has a position of its own."""
    model = wrn((1, 9, 9), (1, 9, 9))
    assert {m.stride for m in model.modules() if isinstance(m, nn.Conv2d)} == {(1, 1)}


def test_series_blocks_are_centred():
    """An impulse in the middle of a series answers symmetrically if the kernels are symmetric."""
    model = tcn((1, 21), (1, 21)).eval()
    with torch.no_grad():
        for p in model.parameters():
            if p.dim() == 3:
                p.copy_((p + p.flip(2)) / 2)
    x = torch.zeros(1, 1, 21)
    x[..., 10] = 1
    y = model(x)
    torch.testing.assert_close(y, y.flip(2))


@pytest.mark.parametrize("name", BACKBONES)
def test_dropout_is_off_until_a_recipe_sets_it(name):
    inputs = (1, 8, 8) if name == "wrn" else (1, 8)
    rates = [m.p for m in BACKBONES[name](inputs, (2,)).modules() if isinstance(m, nn.Dropout)]
    assert rates
    assert set(rates) == {0.0}


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes the user's own module into the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def write(name, text):
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(text))

    yield write
    for path in tmp_path.glob("*.py"):
        sys.modules.pop(path.stem, None)


def test_function_of_the_working_directory_is_found_and_called(module):
    module(
        "own_one",
        """
        from torch import nn
        def shaped(input_shape, output_shape):
            return nn.Sequential(nn.Flatten(), nn.Linear(input_shape[0], output_shape[0]))
        def fixed():
            return nn.Identity()
        """,
    )
    assert make("own_one:shaped", (4,), (2,))[1].weight.shape == (2, 4)
    assert isinstance(make("own_one:fixed", (4,), (2,)), nn.Identity)


def test_settings_reach_only_those_who_have_them(module):
    module(
        "own_two",
        """
        from torch import nn
        def wide(input_shape, output_shape, width=1):
            return nn.Linear(1, width)
        """,
    )
    assert make("own_two:wide", (4,), (2,), width=3, channels=7).out_features == 3
    assert accepts(function("own_two:wide"), "width")
    assert not accepts(function("own_two:wide"), "channels")


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("no_such_package:net", "cannot be imported: ModuleNotFoundError"),
        ("own_three:missing", "has no 'missing'"),
        ("own_three:number", "no function"),
        ("own_three:fails", r"failed: RuntimeError: no luck"),
        ("own_three:text", "returned str, not a torch.nn.Module"),
        ("own_three:one", "failed: TypeError"),
        ("own_three:lazy", r"lazy layer \(1\), whose weights are made at its first input"),
        (":net", "package:function"),
        ("own_three:", "package:function"),
        ("wnr", "did you mean 'wrn'"),
        ("transformer", "there are wrn, wrn1d, tcn"),
    ],
)
def test_unusable_reference_is_explained(module, reference, message):
    module(
        "own_three",
        """
        number = 3
        def fails():
            raise RuntimeError("no luck")
        def text():
            return "net"
        def lazy():
            from torch import nn
            return nn.Sequential(nn.Flatten(), nn.LazyLinear(3))
        def one(shape):
            return None
        """,
    )
    with pytest.raises(UsageError, match=message):
        make(reference, (1, 8, 8), (2,))


def test_module_with_an_error_is_explained(module):
    module("own_four", "1 / 0")
    with pytest.raises(UsageError, match="own_four cannot be imported: ZeroDivisionError"):
        find("own_four:net")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: wrn((1, 8), (2,)), "is for maps"),
        (lambda: wrn1d((1, 8, 8), (2,)), "is for series"),
        (lambda: wrn((1, 8, 8), (2, 4, 4)), "the task needs"),
        (lambda: wrn((1, 8, 8), (2,), depth=15), "depth 15"),
        (lambda: wrn((1, 8, 8), (2,), width=0), "width 0"),
        (lambda: tcn((1, 8), (2,), channels=0), "channels 0"),
    ],
)
def test_shapes_and_settings_that_do_not_fit_are_refused(call, message):
    with pytest.raises(UsageError, match=message):
        call()
