"""Keeping libraries quiet that tell more than anybody asked for."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO


@contextmanager
def silence() -> Iterator[None]:
    """Keep back what is warned about, logged and printed: what fails inside says so by an exception."""
    root, quiet, before = logging.getLogger(), logging.NullHandler(), logging.root.manager.disable
    # Some log through functions that print every later message if the root logger has no handler.
    root.addHandler(quiet)
    logging.disable(logging.CRITICAL)
    try:
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
        root.removeHandler(quiet)
