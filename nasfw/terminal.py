"""The two streams of a terminal, and how commands speak on them: results, one sentence for an error, logs."""

from __future__ import annotations

import functools
import json
import logging
import sys
from collections.abc import Callable
from typing import Annotated, Any, NoReturn, TypeVar

import typer
from rich.console import Console
from rich.markup import escape

from nasfw.values import UsageError

out, err = Console(), Console(stderr=True)
Command = TypeVar("Command", bound=Callable[..., Any])
Json = Annotated[bool, typer.Option("--json", help="print JSON for machines")]


def guarded(command: Command) -> Command:
    """Turn errors that are the user's into one sentence and exit code 2, and an interrupt into a hint."""

    @functools.wraps(command)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except UsageError as error:
            _fail(f"[bold red]error:[/] {escape(str(error))}", 2)
        except KeyboardInterrupt:
            _fail("stopped; the same command goes on from here", 130)

    return guarded  # type: ignore[return-value]


def _fail(message: str, code: int) -> NoReturn:
    err.print(message, soft_wrap=True, highlight=False)
    raise typer.Exit(code)


def print_json(content: Any) -> None:
    """Write JSON values to the output as they are, whatever the terminal's width."""
    sys.stdout.write(json.dumps(content, indent=1) + "\n")


def log_to_stderr(level: int = logging.WARNING) -> None:
    """Print what is logged from ``level`` up, each message as one line."""
    logging.basicConfig(level=level, handlers=[_Handler()])


class _Handler(logging.Handler):
    """Prints each message as one line."""

    def emit(self, record: logging.LogRecord) -> None:
        level = "" if record.levelno < logging.WARNING else f"{record.levelname.lower()}: "
        err.print(level + record.getMessage(), soft_wrap=True, markup=False, highlight=False)
