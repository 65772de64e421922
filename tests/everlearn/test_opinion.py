"""Feedback has one meaning: scales, whose word counts, and what says nothing."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everlearn.opinion import OffScale, Scales, opinion, value_of, voices


def said(kind: str = "binary", **fields: Any) -> dict[str, Any]:
    return {"kind": kind, "name": "thumbs", "author": "end_user", **fields}


def number(value: float, name: str = "thumbs") -> dict[str, Any]:
    return said("scalar", value_number=value, name=name)


@pytest.mark.parametrize(
    ("row", "value"),
    [
        (said(value_bool=True), 1.0),
        (said(value_bool=False), 0.0),
        (number(1), 1.0),
        (number(0), 0.0),
        (number(-1), 0.0),
        (number(0.4), 0.4),
        (number(1, "stars"), 0.0),
        (number(3, "stars"), 0.5),
        (number(5, "stars"), 1.0),
        (number(7, "nps"), 0.7),
        (number(0.25, "quality"), 0.25),
        (number(75, "percent"), 0.75),
        (number(-1, "mood"), 0.25),
        (said("implicit", name="copied", value_bool=True), 1.0),
        (said("comment", value_text="thanks"), None),
        (said("label", value_text="polite"), None),
        (said("retraction"), None),
    ],
)
def test_a_value_is_read_on_the_scale_of_its_name(row: dict[str, Any], value: float | None) -> None:
    declared: Scales = {"percent": (0, 100), "mood": (-2, 2)}
    assert value_of(row, declared) == value


@pytest.mark.parametrize(
    "row",
    [
        number(2), number(-2), number(0, "stars"), number(6, "stars"), number(11, "nps"),
        number(-1, "quality"), number(float("nan")), number(float("inf"), "stars"),
    ],
)  # fmt: skip
def test_what_is_off_the_scale_is_told(row: dict[str, Any]) -> None:
    with pytest.raises(OffScale, match="is not in"):
        value_of(row)


def test_one_value_off_the_scale_costs_nobody_elses_word() -> None:
    heard, strange = voices([said(value_bool=True), number(17)], "", ["thumbs"])
    found = opinion(heard)
    assert found is not None
    assert (found.value, strange) == (1.0, ["thumbs: 17 is not in 0 to 1"])


def test_a_declared_scale_outranks_the_usual_one() -> None:
    assert value_of(number(7, "stars"), {"stars": (1, 10)}) == pytest.approx(2 / 3)


def test_only_the_feedback_of_that_name_counts_and_experts_corrections() -> None:
    rows = [
        said(value_bool=False, name="tone"),
        said(value_bool=True),
        said("correction", name="fix", value_text="better"),
    ]
    found = opinion(voices(rows, "answer", ["thumbs"])[0])
    assert found is not None
    assert (found.value, found.voices) == (1.0, 1)
    expert = said("correction", name="fix", value_text="better", author="expert")
    found = opinion(voices([*rows, expert], "answer", ["thumbs"])[0])
    assert found is not None
    assert (found.value, found.correction, found.kind) == (0.0, "better", "correction")


def test_an_experts_correction_outranks_his_own_thumb_in_either_order() -> None:
    fix = said("correction", value_text="better", author="expert", author_id="ann")
    thumb = said(value_bool=True, author="expert", author_id="ann")
    for rows in ([fix, thumb], [thumb, fix]):
        found = opinion(voices(rows, "answer", ["thumbs"])[0])
        assert found is not None
        assert (found.value, found.correction) == (0.0, "better")


def test_without_a_name_two_users_of_one_key_are_one_rater() -> None:
    rows = [
        said(value_bool=True, key_id="browser"),
        said(value_bool=False, key_id="browser"),
        said(value_bool=True, author_id="ann", key_id="server"),
    ]
    found = opinion(voices(rows, "", ["thumbs"])[0])
    assert found is not None
    assert (found.value, found.voices) == (0.5, 2)


words = st.builds(
    lambda value, who, author, weight: said(
        value_bool=value, author_id=who, author=author, weight=weight
    ),
    st.booleans(), st.sampled_from("abc"), st.sampled_from(["end_user", "expert", "code"]),
    st.floats(0, 1),
)  # fmt: skip


@given(st.lists(words, max_size=12))
def test_a_verdict_is_a_share_and_its_margin_agrees(rows: list[dict[str, Any]]) -> None:
    found = opinion(voices(rows, "", ["thumbs"])[0])
    if found is None:
        last = {(row["author"], row["author_id"]): row for row in rows}
        assert all(row["weight"] == 0 and row["author"] != "expert" for row in last.values())
        return
    assert 0 <= found.value <= 1
    experts = [row for row in rows if row["author"] == "expert"]
    if experts:
        assert found.value == float(experts[-1]["value_bool"])
    # Weights so small that they round away agree with anything.
    if abs(found.margin) > 1e-9:
        assert (found.value > 0.5) == (found.margin > 0)


def test_nobody_has_said_anything() -> None:
    assert opinion([]) is None
