"""Networks that solve an equation: a plain CNN, the Fourier neural operator, DASH and XD, on several grids.

    python examples/pde_operators.py                                  # Burgers' equation, some 20 minutes
    python examples/pde_operators.py --task darcy --resolutions 16,32

All are one backbone, trained by one recipe; what differs is the operation in the place of its four large
convolutions: the convolutions themselves; transforms of the lowest frequencies; the convolutions of other
kernel sizes and dilations that DASH finds; XD operations, which can become any of these and learn which. At
their borders maps go on as the task's do; for DASH, in zeros. The test error is printed, and drawn where
matplotlib is installed (the extra "plots"). Every training is kept in runs/pde_operators: a command that was
killed, repeated, goes on where it stopped.
"""

import argparse
import importlib.util
import json
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

import nasfw

RECIPE = {"optimizer": "adamw", "lr": 5e-3, "schedule": "onecycle", "transform_lr": 0.01}
# By the task: grids, channels, epochs, and the frequencies that the Fourier neural operator keeps.
DEFAULTS = {"burgers": ([64, 128, 256], 16, 30, 16), "darcy": ([16, 32], 8, 12, 12)}
CNN, FNO, DASH, XD = METHODS = ("plain CNN", "FNO", "DASH", "XD")


def everywhere(option, backbone):
    """No search: the network with one operation in the place of all convolutions."""
    architecture = {f"blocks.{i}.conv": option for i in range(4)}
    return {
        "spaces": {"xd": {**backbone, "options": [option]}},
        "strategy": {"given": {"architectures": architecture}},
        # What there is one of need not be compared on the validation split.
        "recipe": {**RECIPE, "epochs": 1},
    }


def settings(method, modes, channels, epochs):
    """Space, strategy and recipe of a method."""
    backbone = {"backbone": "pde", "channels": channels}
    if method == DASH:
        short = {**RECIPE, "epochs": max(1, epochs // 4)}
        return {"spaces": {"aggconv": backbone}, "strategy": {"dash": {"candidates": 3}}, "recipe": short}
    return everywhere({CNN: "conv", FNO: f"fourier{modes}", XD: "xd"}[method], backbone)


def measured(method, resolution, given):
    """Test errors by seed, and the seconds of the search and of a final training."""
    modes = min(DEFAULTS[given.task][-1], resolution // 2 - 1)
    name = f"{given.task}-{resolution}-{given.epochs}x{given.channels}-{given.samples}"
    folder = Path("runs", "pde_operators", f"{name}-{method.replace(' ', '_')}-{given.seeds}")
    result = nasfw.run(
        **settings(method, modes, given.channels, given.epochs),
        task={given.task: {"resolution": resolution, "samples": given.samples}},
        objectives=["error"],
        final={"epochs": given.epochs, "seeds": given.seeds, "limit": 1, "least": 1},
        yardsticks=[],
        export=False,
        folder=folder,
    )
    records = map(json.loads, (folder / "records.jsonl").read_text().splitlines())
    training = median(r["seconds"] for r in records if r["phase"] == "final")
    return list(result.pick.values["error"]), result.seconds if method == DASH else 0.0, training


def table(found, given):
    """Rows of resolutions and methods."""
    kept = Table("grid", "network", title=f"Relative L2 error on the test split of {given.task}")
    for title in ("median", f"range of {given.seeds} seeds", "search (s)", "training (s)"):
        kept.add_column(title, justify="right")
    for (resolution, method), (errors, search, training) in found.items():
        size = str(resolution) if given.task == "burgers" else f"{resolution} x {resolution}"
        spread = f"{min(errors):.4f} to {max(errors):.4f}"
        spent = "-" if not search else f"{search:.0f}"
        kept.add_row(size, method, f"{median(errors):.4f}", spread, spent, f"{training:.0f}")
    return kept


def draw(found, given):
    """Error against resolution: medians over the seeds, and their range."""
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullLocator

    from nasfw.plots.style import BLACK, BLUE, ORANGE, RED, SETTINGS

    styles = {CNN: (BLACK, "s"), FNO: (BLUE, "^"), DASH: (ORANGE, "D"), XD: (RED, "o")}
    with mpl.rc_context(SETTINGS):
        figure = Figure(figsize=(4.2, 3.0), layout="constrained")
        axes = figure.subplots()
        for method, (colour, marker) in styles.items():
            errors = {n: e for (n, m), (e, *_) in found.items() if m == method}
            middle = [median(e) for e in errors.values()]
            ranges = [(m - min(e), max(e) - m) for m, e in zip(middle, errors.values(), strict=True)]
            bars = {"yerr": list(zip(*ranges, strict=True)), "elinewidth": 0.8, "capsize": 2.0}
            axes.errorbar(list(errors), middle, **bars, color=colour, marker=marker, label=method)
        axes.set(xscale="log", yscale="log")
        axes.set_xticks(given.resolutions, map(str, given.resolutions))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 1.5, 2.0, 3.0, 5.0, 7.0)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("points on each axis")
        axes.set_ylabel("relative L2 error (lower is better)")
        axes.set_title(f"{given.task}, test split; medians and ranges of {given.seeds} seeds")
        figure.legend(loc="outside lower left", ncols=len(METHODS))
        figure.savefig(given.to, dpi=200)


def numbers(text):
    """Grid sizes, as in 64,128."""
    try:
        found = [int(n) for n in text.split(",")]
    except ValueError:
        found = []
    if not found or min(found) < 4:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of grid sizes from 4 on, as in 64,128,256")
    return found


def arguments():
    """What the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--task", choices=DEFAULTS, default="burgers")
    parser.add_argument("--resolutions", type=numbers, help="points on each axis, as in 64,128,256")
    parser.add_argument("--channels", type=int, help="of the backbone")
    parser.add_argument("--epochs", type=int, help="of every final training")
    parser.add_argument("--samples", type=int, help="for training and validation; by default 800")
    parser.add_argument("--seeds", type=int, default=2, help="final trainings of every network")
    parser.add_argument("--to", type=Path, help="a .svg, .png or .pdf; by default pde_TASK.svg")
    parser.add_argument("--quick", action="store_true", help="tiny, to see that it works")
    given = parser.parse_args()
    resolutions, channels, epochs, _ = DEFAULTS[given.task]
    standard = {"resolutions": resolutions, "channels": channels, "epochs": epochs, "samples": 800}
    if given.quick:
        standard = {"resolutions": [16, 32], "channels": 4, "epochs": 8, "samples": 100}
    for name, value in standard.items():
        setattr(given, name, value if getattr(given, name) is None else getattr(given, name))
    for name in ("channels", "epochs", "samples", "seeds"):
        if getattr(given, name) < 1:
            parser.error(f"--{name} {getattr(given, name)} must be at least 1")
    given.to = given.to or Path(f"pde_{given.task}.svg")
    if given.to.suffix not in (".svg", ".png", ".pdf"):
        parser.error(f"--to {given.to} must end in .svg, .png or .pdf")
    return given


if __name__ == "__main__":
    given, console, found = arguments(), Console(), {}
    for resolution in given.resolutions:
        for method in METHODS:
            found[resolution, method] = errors, *_ = measured(method, resolution, given)
            console.print(f"{given.task}, {resolution} points, {method}: error {median(errors):.4f}")
    console.print(table(found, given))
    if importlib.util.find_spec("matplotlib") is None:
        console.print('Not drawn: matplotlib is not installed; pip install "nasfw[plots]"', markup=False)
    else:
        draw(found, given)
        console.print(f"written: {given.to}")
