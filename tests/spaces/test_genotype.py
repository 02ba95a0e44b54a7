"""Cells as text, in the form in which they are published."""

import numpy as np
import pytest

from nasfw.flops import count_parameters
from nasfw.spaces.cell import Darts
from nasfw.spaces.genotype import exists, parse, text
from nasfw.spaces.nasbench201 import NasBench201
from nasfw.spaces.robust import S1, S2, S3, S4, S5
from nasfw.values import UsageError

# Liu, Simonyan and Yang 2019: the cells that were found with first- and second-order approximation.
DARTS_V1 = (
    "Genotype(normal=[('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('skip_connect', 0), ('sep_conv_3x3', 1), "
    "('skip_connect', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('skip_connect', 2)], "
    "normal_concat=[2, 3, 4, 5], reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1), ('skip_connect', 2), "
    "('max_pool_3x3', 0), ('max_pool_3x3', 0), ('skip_connect', 2), ('skip_connect', 2), "
    "('avg_pool_3x3', 0)], reduce_concat=[2, 3, 4, 5])"
)
DARTS_V2 = (
    "Genotype(normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('sep_conv_3x3', 1), "
    "('sep_conv_3x3', 1), ('skip_connect', 0), ('skip_connect', 0), ('dil_conv_3x3', 2)], "
    "normal_concat=[2, 3, 4, 5], reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1), ('skip_connect', 2), "
    "('max_pool_3x3', 1), ('max_pool_3x3', 0), ('skip_connect', 2), ('skip_connect', 2), "
    "('max_pool_3x3', 1)], reduce_concat=[2, 3, 4, 5])"
)


@pytest.fixture
def decisions(task):
    return Darts(task()).decisions


@pytest.mark.parametrize("published", [DARTS_V1, DARTS_V2])
def test_published_genotypes_round_trip(published, decisions):
    architecture = parse(decisions, published)
    written = text(decisions, architecture)
    assert parse(decisions, written) == architecture
    assert written.count("'") == published.count("'") == 32
    assert "normal_concat=range(2, 6)" in written


def test_a_genotype_says_what_is_on_which_edge(decisions):
    chosen = dict(zip(decisions, parse(decisions, DARTS_V2), strict=True))
    assert chosen["normal 4<-0"] == "skip_connect"
    assert chosen["normal 5<-2"] == "dil_conv_3x3"
    assert chosen["reduce 5<-1"] == "max_pool_3x3"
    assert sum(option != "none" for option in chosen.values()) == 16


def test_the_published_network_has_the_published_number_of_parameters(task):
    """DARTS's second cells, of 20 layers and 36 channels for CIFAR-10: 3,349,342."""
    space = Darts(task((3, 32, 32), (10,)))
    assert count_parameters(space.enlarged().build(parse(space.decisions, DARTS_V2))) == 3_349_342


def test_members_round_trip(decisions, task):
    rng = np.random.default_rng(0)
    for space in (Darts(task()), S5(task()), Darts(task(), nodes=2, operations="nasnet")):
        for _ in range(20):
            architecture = space.sample(rng)
            assert parse(space.decisions, text(space.decisions, architecture)) == architecture


def test_the_form_is_the_one_of_python(task):
    architecture = ("sep_conv_3x3", "skip_connect", "max_pool_3x3", "sep_conv_3x3")
    assert text(S5(task()).decisions, architecture) == (
        "Genotype(normal=[('sep_conv_3x3', 0), ('skip_connect', 1)], normal_concat=range(2, 3), "
        "reduce=[('max_pool_3x3', 0), ('sep_conv_3x3', 1)], reduce_concat=range(2, 3))"
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("", "is no genotype, which is written as"),
        ("Genotype(", "is no genotype"),
        ("Genotype(normal=[])", "is no genotype"),
        ("Cell(normal=[], normal_concat=[], reduce=[], reduce_concat=[])", "is no genotype"),
        (DARTS_V1.replace("'skip_connect'", "open('x')"), "is no genotype"),
        (DARTS_V1.replace("[2, 3, 4, 5]", "range('a')"), "is no genotype"),
        (DARTS_V1.replace("[2, 3, 4, 5]", "range(3, 6)"), r"joins the nodes \[3, 4, 5\]"),
        (DARTS_V1.replace("('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ", "", 1), "has 6 edges"),
        (DARTS_V1.replace("('sep_conv_3x3', 1)", "('sep_conv_3x3', 0)", 1), "two edges normal 2<-0"),
        (DARTS_V1.replace("('sep_conv_3x3', 1)", "('sep_conv_3x3', 4)", 1), "edge normal 2<-4, which"),
        (DARTS_V1.replace("('sep_conv_3x3', 1)", "('none', 1)", 1), "'none' on the edge"),
        (DARTS_V1.replace("('sep_conv_3x3', 1)", "('conv_3x3', 1)", 1), "possible there: max_pool_3x3"),
    ],
)
def test_what_is_no_genotype_of_the_space_is_refused(given, message, decisions):
    with pytest.raises(UsageError, match=message):
        parse(decisions, given)


def test_cells_with_other_numbers_of_edges_have_no_genotype(task):
    space = Darts(task())
    with pytest.raises(UsageError, match="two edges each"):
        text(space.decisions, ("none",) * 28)


def test_other_spaces_have_no_genotypes(task):
    space = NasBench201(task())
    with pytest.raises(UsageError, match="normal and reduction edges"):
        text(space.decisions, space.default)


SPACES = [Darts, S1, S2, S3, S4, S5]


@pytest.mark.parametrize("size", [(8, 8), (7,)])
@pytest.mark.parametrize("make", SPACES)
def test_spaces_of_cells_write_and_read_genotypes(make, size, task):
    """Images or series: a cell does not depend on the task."""
    space = make(task((1, *size)))
    rng = np.random.default_rng(1)
    for architecture in (space.default, *(space.sample(rng) for _ in range(20))):
        written = space.text(architecture)
        assert written == text(space.decisions, architecture)
        assert space.parse(written) == architecture


def test_spaces_of_cells_read_decisions_as_well(task):
    space = S5(task())
    written = "reduce 2<-0=max_pool_3x3, reduce 2<-1=sep_conv_3x3, normal 2<-0=sep_conv_3x3"
    architecture = ("sep_conv_3x3", "skip_connect", "max_pool_3x3", "sep_conv_3x3")
    assert space.parse(f"{written}, normal 2<-1=skip_connect") == architecture


def test_spaces_of_cells_write_decisions_where_there_is_no_genotype(task):
    space = Darts(task())
    for architecture in (("none",) * 28, ("skip_connect",) * 28):
        assert not exists(space.decisions, architecture)
        assert space.text(architecture).startswith(f"normal 2<-0={architecture[0]}, normal 2<-1=")
        assert space.parse(space.text(architecture)) == architecture


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("resnet", "'resnet' is no genotype, which is written as"),
        (f"DARTS_V1 = {DARTS_V1}", "is no genotype, which is written as"),
        ("normal 2<-0=conv", "'normal 2<-0' cannot be conv; possible there: none, max_pool_3x3"),
        ("normal 2-0=none", "no decision 'normal 2-0'; did you mean 'normal 2<-0'"),
    ],
)
def test_spaces_of_cells_refuse_what_they_cannot_read(given, message, task):
    with pytest.raises(UsageError, match=message):
        Darts(task()).parse(given)
