"""The pytest plugin that comes with nasfw: readable asserts in the contract tests, and toy fixtures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from nasfw.testing.toys import ToySpace, ToyTask

pytest.register_assert_rewrite("nasfw.testing.contracts")


@pytest.fixture
def toy_task() -> ToyTask:
    """A task that trains in milliseconds."""
    from nasfw.testing.toys import ToyTask

    return ToyTask()


@pytest.fixture
def toy_space(toy_task: ToyTask) -> ToySpace:
    """A space of nine networks for ``toy_task``, with a supernet."""
    from nasfw.testing.toys import ToySpace

    return ToySpace(toy_task)
