"""Two answers side by side, as a browser without a script sees them, over a lake and a gateway."""

import re

from fastapi.testclient import TestClient

from tests.console.test_label_page import Desk, desk

__all__ = ["desk"]

PAGE = "/labels/text2sql/pairs"


def test_a_pair_is_shown_blind_and_the_preference_goes_to_the_gateway(desk: Desk) -> None:
    answers = two(desk)
    with desk.browser() as ann:
        page = ann.get(PAGE).text
        assert not any(name in page for name in (*answers, "v-old", "v-new"))
        assert "<script>SELECT" not in page
        first, second = re.findall(r"SELECT \d", page)
        assert {first, second} == {"SELECT 1", "SELECT 2"}
        form = {"pair": shown(ann), "verdict": "B", "comment": "shorter", "author_id": "ann \u00fc"}
        sent = ann.post(PAGE, data=form)
        assert (sent.status_code, sent.headers["location"]) == (303, PAGE)
        [event] = desk.taken.feedback
        assert answers[event["preferred"]].endswith(f"{second}</script>")
        assert answers[event["other"]].endswith(f"{first}</script>")
        assert (event["name"], event["author"], event["author_id"]) == (
            "pairwise", "expert", "ann \u00fc"
        )  # fmt: skip
        assert (event["comment"], event["tags"]["side"]) == ("shorter", "B")
        page = ann.get(PAGE).text
        assert "No two answers to one prompt wait" in page
        assert "1 pairs judged, 1 by you, 0 wait" in page


def test_undo_takes_the_preference_back_and_shows_the_same_sides(desk: Desk) -> None:
    two(desk)
    with desk.browser() as ann:
        nothing = ann.post(PAGE, data={"verdict": "undo"})
        assert (nothing.status_code, "nothing of yours to undo" in nothing.text) == (422, True)
        before, page = shown(ann), ann.get(PAGE).text
        for verdict in ("A", "tie", "skip"):
            ann.post(PAGE, data={"pair": before, "verdict": verdict, "author_id": "ann"})
            ann.post(PAGE, data={"verdict": "undo", "author_id": "ann"})
            assert shown(ann) == before
        assert re.findall(r"SELECT \d", ann.get(PAGE).text) == re.findall(r"SELECT \d", page)
        said, gone, tie, untied = desk.taken.feedback
        assert (gone["kind"], gone["completion_id"]) == ("retraction", said["preferred"])
        assert (tie["value"], untied["kind"]) == ("tie", "retraction")
        assert untied["completion_id"] == tie["completion_id"]


def test_a_pair_is_before_one_labeller_and_what_is_not_taken_stays(desk: Desk) -> None:
    two(desk)
    with desk.browser() as ann, desk.browser() as bob:
        hers = shown(ann)
        assert "No two answers to one prompt wait" in bob.get(PAGE).text
        late = bob.post(PAGE, data={"pair": hers, "verdict": "A", "comment": "typed <long>"})
        assert (late.status_code, "is taken" in late.text) == (409, True)
        assert 'value="typed &lt;long&gt;"' in late.text
        wrong = ann.post(PAGE, data={"pair": hers, "verdict": "C"})
        assert (wrong.status_code, "A, B, tie or skip" in wrong.text) == (422, True)
        desk.taken.status = 422
        refused = ann.post(PAGE, data={"pair": hers, "verdict": "A"})
        assert (refused.status_code, "answered 422" in refused.text) == (502, True)
        assert shown(ann) == hers
        assert desk.taken.feedback == []


def two(desk: Desk) -> dict[str, str]:
    """Two answers to one prompt, of different versions."""
    texts = [f"<script>SELECT {number}</script>" for number in (1, 2)]
    versions = ("v-old", "v-new")
    return {
        desk.rows.answered("q", text, version=version): text
        for text, version in zip(texts, versions, strict=True)
    }


def shown(client: TestClient) -> str:
    """The pair that the page is about."""
    found = re.search(r'name="pair" value="(\w+)"', client.get(PAGE).text)
    assert found is not None
    return found[1]
