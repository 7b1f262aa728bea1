"""Set expressions over sources."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selftrain_core.errors import ConfigError
from selftrain_core.sets import parse

KNOWN = ("train", "labelled-50", "photos", "test")


@pytest.mark.parametrize(
    ("expression", "terms"),
    [
        ("train", [(1, "train")]),
        (" train ", [(1, "train")]),
        ("train - labelled-50", [(1, "train"), (-1, "labelled-50")]),
        ("train − labelled-50 + photos", [(1, "train"), (-1, "labelled-50"), (1, "photos")]),
        ("train+photos", [(1, "train"), (1, "photos")]),
        ("train -test", [(1, "train"), (-1, "test")]),
    ],
)
def test_expressions(expression: str, terms: list[tuple[int, str]]) -> None:
    assert parse(expression, KNOWN) == terms


@pytest.mark.parametrize("expression", ["", "  ", "+", "- train", "train +", "train photos", "train + - photos"])
def test_malformed_expressions_are_explained(expression: str) -> None:
    with pytest.raises(ConfigError, match="is no set expression; an example: 'train - labelled"):
        parse(expression, KNOWN)


def test_an_unknown_source_is_explained() -> None:
    message = (
        r"'train - labeled-50' names the source 'labeled-50', which is not under data\.sources "
        r"\(did you mean 'labelled-50'\?\); sources: labelled-50, photos, test, train"
    )
    with pytest.raises(ConfigError, match=message):
        parse("train - labeled-50", KNOWN)


def test_a_hyphen_without_spaces_is_part_of_the_name() -> None:
    with pytest.raises(ConfigError, match="names the source 'train-photos'"):
        parse("train-photos", KNOWN)


@given(st.lists(st.tuples(st.sampled_from("+-−"), st.sampled_from(KNOWN)), min_size=1, max_size=6))
def test_what_is_written_is_read(terms: list[tuple[str, str]]) -> None:
    text = terms[0][1] + "".join(f" {sign} {name}" for sign, name in terms[1:])
    expected = [(1, terms[0][1])] + [(1 if sign == "+" else -1, name) for sign, name in terms[1:]]
    assert parse(text, KNOWN) == expected
