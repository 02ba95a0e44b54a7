"""The plugins in words."""

import pytest

from nasfw import plugins
from nasfw.reports.catalogue import catalogue, explanation
from nasfw.values import UsageError

REGISTRY = plugins.load(entry_points=False)


def test_the_catalogue_names_every_plugin(printed):
    lines = [line.split() for line in printed(catalogue(REGISTRY)).splitlines()]
    for entry in REGISTRY.entries():
        assert [entry.kind, entry.name, "nasfw", entry.version] in lines


@pytest.mark.parametrize("entry", REGISTRY.entries(), ids=lambda e: e.name)
def test_every_plugin_is_explained(entry, printed):
    text = printed(explanation(REGISTRY, entry.name), 80)
    assert f"{entry.kind} {entry.name} (nasfw" in text
    for parameter in REGISTRY.parameters(entry):
        assert parameter.name in text


def test_an_unknown_plugin_is_not_explained():
    with pytest.raises(UsageError, match="did you mean 'dash'"):
        explanation(REGISTRY, "dashh")
