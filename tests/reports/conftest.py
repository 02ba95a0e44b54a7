"""What tests of reports share."""

import io

import pytest
from rich.console import Console


@pytest.fixture
def printed():
    """What a console of some width shows."""

    def printed(what, width=100, **options):
        console = Console(width=width, file=io.StringIO(), **options)
        console.print(what, crop=False)
        return console.file.getvalue()

    return printed
