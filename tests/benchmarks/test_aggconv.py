"""Small versions of ``python -m nasfw.benchmarks aggconv``: what aggregated convolutions cost.

    pytest tests/benchmarks -m "" --benchmark-enable --benchmark-json=aggconv.json

The ratios are in ``extra_info``; the rounds of what is compared take turns.
"""

import pytest

from nasfw.benchmarks import subjects
from nasfw.benchmarks.subjects import MODES, PLAIN, PUBLISHED, Shapes

# The published layer takes gigabytes and minutes for the default kernels of maps.
KERNEL_SIZES, DILATIONS = (3, 5, 7), (1, 3, 7)
MAPS = subjects.layout(8, (16, 16), KERNEL_SIZES, DILATIONS)
BATCH = 8


@pytest.mark.parametrize("way", [*MODES, PUBLISHED])
def test_a_layer_against_the_plain_convolution(compare, way):
    """At most 6 times are wanted of the mode auto, for 16 channels, 32 x 32 pixels and batch 64."""
    passes = {
        name: subjects.layer_pass(subjects.make_layer(name, MAPS), MAPS, BATCH) for name in (way, PLAIN)
    }
    compare(passes, way, PLAIN)


def test_many_kernels_against_few(compare):
    """49 kernels shall cost at most twice what 4 do."""
    passes = {}
    for c in (2, 7):
        sizes, dilations = [2 * p + 3 for p in range(c)], [2**q - 1 for q in range(1, c + 1)]
        layout = subjects.layout(8, (1000,), sizes, dilations)
        name = f"{len(layout.kernels)} kernels"
        passes[name] = subjects.layer_pass(subjects.make_layer("auto", layout), layout, BATCH)
    compare(passes, "49 kernels", "4 kernels")


@pytest.mark.slow
@pytest.mark.parametrize("depthwise", [False, True])
@pytest.mark.parametrize(
    ("backbone", "shape", "settings"),
    [
        (
            "wrn",
            (3, 16, 16),
            {"depth": 10, "channels": 4, "kernel_sizes": KERNEL_SIZES, "dilations": DILATIONS},
        ),
        ("wrn1d", (4, 250), {"channels": 8}),
    ],
)
def test_a_supernet_step_against_the_backbone_and_the_published_supernet(
    compare, backbone, shape, settings, depthwise
):
    """At most 5 backbone steps are wanted for maps and 2.5 for series; depthwise 2.8 and 0.5."""
    space = subjects.space(Shapes(shape, (10,), BATCH), backbone, depthwise=depthwise, **settings)
    passes = {
        "backbone": subjects.backbone_step(space),
        "supernet": subjects.supernet_step(space),
        PUBLISHED: subjects.supernet_step(space, as_published=True),
    }
    compare(passes, "supernet", "backbone", PUBLISHED)
