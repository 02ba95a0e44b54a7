"""Quantities as people write them are the doubles that they mean, or refused."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nasfw.display import format_value
from nasfw.quantities import quantity
from nasfw.values import Measure, UsageError

ACCURACY = Measure("accuracy", maximise=True, trained=True)
ERROR = Measure("error", trained=True)
LATENCY = Measure("latency@cpu", "s", device="cpu")
ENERGY = Measure("energy", "J")
MEMORY = Measure("memory", "B")
FLOPS = Measure("flops", "FLOP")
PARAMETERS = Measure("parameters")
POWER = Measure("power", "W")


@pytest.mark.parametrize(
    ("text", "measure", "value"),
    [
        ("5ms", LATENCY, 0.005),
        (" 5 ms ", LATENCY, 0.005),
        ("0.005", LATENCY, 0.005),
        ("5e-3", LATENCY, 0.005),
        ("5s", LATENCY, 5.0),
        ("2min", LATENCY, 120.0),
        ("3 min 20 s", LATENCY, 200.0),
        ("2 h 5 min", LATENCY, 7500.0),
        ("80us", LATENCY, 8e-5),
        ("80µs", LATENCY, 8e-5),
        ("80\N{GREEK SMALL LETTER MU}s", LATENCY, 8e-5),
        (".5ns", LATENCY, 5e-10),
        ("12 mJ", ENERGY, 0.012),
        ("2kJ", ENERGY, 2000.0),
        ("3MB", MEMORY, 3e6),
        ("3M", MEMORY, 3e6),
        ("3 MiB", MEMORY, 3 * 2.0**20),
        ("5KB", MEMORY, 5000.0),
        ("5kB", MEMORY, 5000.0),
        ("4096", MEMORY, 4096.0),
        ("30MFLOP", FLOPS, 3e7),
        ("30 MFLOPs", FLOPS, 3e7),
        ("100k", PARAMETERS, 1e5),
        ("1.5M", PARAMETERS, 1.5e6),
        ("0.97", ACCURACY, 0.97),
        ("97%", ACCURACY, 0.97),
        ("97.2 %", ACCURACY, 0.972),
        ("57%", ACCURACY, 0.57),
        ("3%", ERROR, 0.03),
        ("1e-3", ERROR, 0.001),
        ("3%", Measure("share", "%"), 0.03),
        ("5mW", POWER, 0.005),
        ("5MW", POWER, 5e6),
        ("5", POWER, 5.0),
    ],
)
def test_quantities(text, measure, value):
    """Exactly the double that the decimal number has: 57 * 0.01 is not."""
    assert quantity(text, measure) == value


@pytest.mark.parametrize(
    ("text", "measure", "message"),
    [
        ("5", LATENCY, "in s, so that 5 alone would be 5 s: write 5ms or 5s"),
        ("1", LATENCY, "write 1ms or 1s"),
        ("12", ENERGY, "in J, so that 12 alone would be 12 J: write 12mJ or 12J"),
        ("5MB", LATENCY, "latency@cpu is in s: write 5ms or 0.005, not '5MB'"),
        ("5Ms", LATENCY, "did you mean 5ms?"),
        ("5MS", LATENCY, "did you mean 5ms?"),
        ("5m", LATENCY, "write 5ms or 0.005"),
        ("5%", LATENCY, "write 5ms"),
        ("5 min 3", LATENCY, "write 5ms"),
        ("5ms", MEMORY, "memory is in B: write 3MB, 3MiB or 3e6, not '5ms'"),
        ("5mB", MEMORY, "did you mean 5MB?"),
        ("5mb", MEMORY, "did you mean 5MB?"),
        ("5mib", MEMORY, "did you mean 5MiB?"),
        ("5m", PARAMETERS, "did you mean 5M?"),
        ("97%", PARAMETERS, "parameters has no unit: write 100k or 1e5"),
        ("5ms", PARAMETERS, "has no unit"),
        ("97", ACCURACY, "accuracy is a share: write 97% or 0.97, not '97'"),
        ("-0.1", ACCURACY, "is a share"),
        ("0,97", ACCURACY, "is a share"),
        ("97k%", ACCURACY, "is a share"),
        ("5V", POWER, "power is in W: write 5W or 5, not '5V'"),
        ("", LATENCY, "not ''"),
        ("ms", LATENCY, "not 'ms'"),
        ("nan", LATENCY, "not 'nan'"),
        ("inf", PARAMETERS, "not 'inf'"),
        ("1e999", PARAMETERS, "not '1e999'"),
        ("1e9999999", PARAMETERS, "not '1e9999999'"),
    ],
)
def test_quantities_that_do_not_fit(text, measure, message):
    with pytest.raises(UsageError) as caught:
        quantity(text, measure)
    assert message in str(caught.value)


@given(
    st.sampled_from([LATENCY, ENERGY, MEMORY, FLOPS, PARAMETERS, ACCURACY, ERROR, POWER]),
    st.floats(1, 9.999),
    st.integers(-9, 17),
)
def test_what_tables_show_is_read_back(measure, digits, exponent):
    value = digits * 10.0**exponent
    absolute, relative = 0.0, 5.01e-4
    if measure is ACCURACY:
        value, absolute = digits / 10, 5.01e-5
    elif measure in (MEMORY, FLOPS, PARAMETERS):
        value, absolute = float(math.ceil(value)), 0.5
    elif measure is LATENCY and value >= 120:
        # Two units: days and hours, hours and minutes, or minutes and seconds.
        relative = 1 / 23
    text = format_value(value, measure.unit, measure.name)
    assert quantity(text, measure) == pytest.approx(value, rel=relative, abs=absolute)
