"""The commands that choose a network of a run and write files that work without nasfw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from nasfw.terminal import Json, err, guarded, log_to_stderr, out, print_json
from nasfw.values import Measure, UsageError

if TYPE_CHECKING:
    from nasfw.choosing import Choice
    from nasfw.results import Result
    from nasfw.shipping.export import Exported

app = typer.Typer(rich_markup_mode="markdown")
_SHOWN = 20
_BUSY = "exporting and verifying"

Run = Annotated[Path, typer.Argument(help="the folder of a run")]


@app.command()
@guarded
def pick(
    folder: Run,
    maximum: Annotated[
        list[str] | None, typer.Option("--max", metavar="NAME=VALUE", help="at most, as in latency=5ms")
    ] = None,
    minimum: Annotated[
        list[str] | None, typer.Option("--min", metavar="NAME=VALUE", help="at least, as in accuracy=97%")
    ] = None,
    weight: Annotated[
        list[str] | None,
        typer.Option("--weight", metavar="NAME=NUMBER", help="how much an objective counts; others do not"),
    ] = None,
    as_json: Json = False,
    exporting: Annotated[bool, typer.Option("--export/--no-export", help="write its files")] = True,
) -> None:
    """Choose one network of the front, say why, and export it.

    Bounds alone: the best network that meets them, in the first objective that has no bound. Weights: the
    smallest weighted sum of the objectives, each scaled to 0..1 over the front. Neither: the knee of the
    front.
    """
    log_to_stderr()
    from nasfw import choosing, results

    result = results.read(folder)
    weights = _assigned(weight, "--weight") or None
    choice = choosing.pick(result, _assigned(maximum, "--max"), _assigned(minimum, "--min"), weights)
    if not as_json:
        out.print(_choice(choice, result), crop=False)
    exported = None
    if exporting and result.phase == "final":
        from nasfw.shipping.export import export as ship

        with err.status(_BUSY):
            (exported,) = ship(folder, choice.network.name, again=False)
    if as_json:
        print_json(_data(choice, result, exported))
    elif exported is not None:
        out.print(_shipped(exported), crop=False)
    if exporting and exported is None:
        raise UsageError(_untrained(result))


@app.command()
@guarded
def export(
    folder: Run,
    key: Annotated[
        str | None,
        typer.Argument(help="one network: the digits that tables show or their beginning, plain, or random"),
    ] = None,
    to: Annotated[
        Path | None, typer.Option("--to", metavar="DESTINATION", help="by default export in the run's folder")
    ] = None,
) -> None:
    """Write the networks of the front, or one, as files that work without nasfw, and verify them.

    Each gets a folder with model.py and weights.safetensors, which need torch alone, model.onnx, and card.md.
    """
    log_to_stderr()
    from nasfw import results
    from nasfw.shipping.export import export as ship

    result = results.read(folder)
    if result.phase != "final":
        raise UsageError(_untrained(result))
    with err.status(_BUSY):
        exported = ship(folder, key, destination=to)
    out.print(_exports(exported, result), crop=False)


def _assigned(texts: Sequence[str] | None, option: str) -> dict[str, str]:
    """Names and values that were given as NAME=VALUE."""
    found: dict[str, str] = {}
    for text in texts or []:
        # A device's name may have an equals sign, a value has none.
        name, _, value = (part.strip() for part in text.rpartition("="))
        if not name or not value:
            raise UsageError(f"{option} is written NAME=VALUE, not {text!r}")
        if name in found:
            raise UsageError(f"{option} {name} is given twice")
        found[name] = value
    return found


def _untrained(result: Result) -> str:
    lacks = f"{result.folder} has no trained networks to export"
    if not result.summary.final:
        return f"{lacks}: it was run without final trainings (final=false)"
    return f"{lacks} yet: its final trainings are not done; its command, given again, goes on there"


def _data(choice: Choice, result: Result, exported: Exported | None) -> dict[str, Any]:
    """All that ``pick`` prints as JSON values."""
    content = result.plain_data()
    network = next(n for n in content["front"] if n["name"] == choice.network.name)
    made = exported and {
        "folder": str(exported.folder),
        "checks": dict(exported.checks),
        "remarks": list(exported.remarks),
    }
    shared = {name: content[name] for name in ("phase", "split", "objectives")}
    return {"why": choice.why, "network": network, "export": made, **shared, "front": content["front"]}


def _choice(choice: Choice, result: Result) -> RenderableType:
    """The front with the chosen network marked, and why it was chosen."""
    from nasfw.display import front_table
    from nasfw.reports import words

    labels = {m: words.label(m, result) for m in result.summary.measures}
    shown = result.front[:_SHOWN]
    shown += [choice.network] if choice.network not in shown else []
    rows = [
        {"network": n.name + " *" * (n == choice.network)}
        | {label: list(n.values[m.name]) for m, label in labels.items()}
        for n in shown
    ]
    split = "test split" if result.phase == "final" else "validation split; not trained again yet"
    measures = [replace(m, name=label) for m, label in labels.items()]
    table = front_table(rows, measures, title=f"Pareto front of {result.summary.task} ({split})")
    table.rows[shown.index(choice.network)].style = "bold"
    rest = len(result.front) - len(shown)
    return Group(
        table,
        *([Text(f"... and {rest} more; --json shows all.")] if rest else []),
        Text(f"* {choice.why}"),
        *words.described(choice.network, "Its choices"),
    )


def _shipped(exported: Exported) -> RenderableType:
    """Where an exported network lies, what its verification found, and how to load it."""
    from nasfw.shipping.artefact import CARD, MODEL, ONNX, onnx_use, torch_use

    place = exported.folder
    x = "model.prepare(x)" if "\ndef prepare(" in (place / MODEL).read_text() else "x"
    lines = [
        "",
        f"Exported and verified: {place}",
        "",
        "There, with torch alone:",
        *(f"    {t}" for t in torch_use(x)),
    ]
    if (place / ONNX).exists():
        lines += ["or with ONNX Runtime:", *(f"    {t}" for t in onnx_use(f"{x}.numpy()"))]
    lines += [f"where x is a batch of {'inputs' if x == 'x' else 'samples'}; {CARD} says more."]
    lines += [f"Note: {remark}" for remark in exported.remarks]
    return Group(*map(_line, lines))


def _line(text: str) -> Text:
    """A text in one piece however long, so that it can be copied."""
    return Text(text, no_wrap=True, overflow="ignore")


def _exports(exported: Sequence[Exported], result: Result) -> RenderableType:
    """What was written and what its verification found."""
    from nasfw.display import text_table

    remarks = [Text(f"{e.folder.name}: {r}") for e in exported for r in e.remarks]
    return Group(
        text_table([_checks(e, result) for e in exported], "Exported networks"),
        Text(
            "Of model.py and model.onnx: the largest difference between their outputs on the test split and "
            "the searched network's, relative to the largest output. They ran in a process without nasfw."
        ),
        *remarks,
        Text(),
        _line(f"Folder     {exported[0].folder.parent}"),
        Text("Each network's folder has a card.md, which says how to use it."),
    )


def _checks(exported: Exported, result: Result) -> dict[str, str]:
    """A row of the table of exports."""
    from nasfw.display import DASH, format_value
    from nasfw.reports import words

    metric = (
        "accuracy"
        if "accuracy" in {m.name for m in result.summary.measures}
        else words.label(Measure("error"), result)
    )
    row = {"network": exported.folder.name}
    for way, file in (("torch", "model.py"), ("onnx", "model.onnx")):
        found = exported.checks.get(way)
        row[file] = DASH if found is None else f"{found:.2g}"
    for check, title in (("metric", metric), ("reported", "as the run reported")):
        row[title] = format_value(exported.checks.get(check), "", metric)
    return row
