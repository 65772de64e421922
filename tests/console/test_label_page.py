"""The label page as a browser without a script sees it, over a real lake and a gateway."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from fastapi.testclient import TestClient

from console.app import create_app
from evaluators.fill import fill
from everlearn.config import load
from everlearn.task import load_task
from tests.console.gateway import Gateway, entered, gateway
from tests.evaluators.lake import Rows

PAGE = "/labels/text2sql"
SHORT = {
    "name": "short", "type": "string_check", "operation": "eq",
    "input": "{{ sample.output_text }}", "reference": "yes",
}  # fmt: skip


class Desk:
    """Rows, the gateway that takes the labels, and browsers before the console."""

    def __init__(self, rows: Rows, taken: Gateway) -> None:
        self.rows, self.taken = rows, taken
        config = rows.service.root / "everlearn.yaml"
        config.write_text(config.read_text() + f"gateway: {{port: {taken.port}}}\n")
        self.service = load(config)
        self.app = create_app(self.service)

    def fill(self, *texts: str) -> list[str]:
        """Answers that wait for a label; their ids."""
        names = [self.rows.answered(f"question {text}", text) for text in texts]
        fill(self.service, load_task(self.service, "text2sql"), self.rows.lake)
        return names

    def browser(self) -> TestClient:
        return entered(self.app)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    rows = Rows(tmp_path)
    task = {
        "task": "text2sql", "base_model": "base", "upstream": "local", "graders": [SHORT],
        "release": {"primary": "short"}, "labels": {"random_percent": 100},
    }  # fmt: skip
    (tmp_path / "tasks" / "text2sql.yaml").write_text(yaml.safe_dump(task))
    with gateway() as taken:
        yield Desk(rows, taken)
    rows.lake.close()


def test_an_answer_is_labelled_through_the_gateway(desk: Desk) -> None:
    [answer] = desk.fill("<script>SELECT 1</script>")
    with desk.browser() as client:
        page = client.get(PAGE)
        assert answer in page.text
        assert "<script>SELECT" not in page.text
        form = {
            "completion_id": answer, "verdict": "down", "correction": "SELECT 2",
            "comment": "why", "author_id": "ann ü",
        }  # fmt: skip
        sent = client.post(PAGE, data=form)
        assert (sent.status_code, sent.headers["location"]) == (303, PAGE)
        shared = {
            "completion_id": answer, "name": "thumbs", "author": "expert", "author_id": "ann ü",
            "tags": {"asked": "random", "probability": "1"},
        }  # fmt: skip
        assert desk.taken.feedback == [
            {**shared, "kind": "binary", "value": False, "comment": "why"},
            {**shared, "kind": "correction", "value": "SELECT 2"},
        ]
        page = client.get(PAGE)
        assert "No answer waits" in page.text
        assert "1 labelled, 1 by you, 0 wait" in page.text
        desk.fill("SELECT 0")
        assert 'value="ann ü"' in client.get(PAGE).text


def test_a_rating_and_the_criteria_of_a_rubric_are_asked(desk: Desk) -> None:
    rates_by_rubric(desk)
    [answer] = desk.fill("a")
    with desk.browser() as client:
        page = client.get(PAGE).text
        assert "harms nobody" in page
        assert 'value="5" data-key="5"' in page
        form = {
            "completion_id": answer, "verdict": "2", "author_id": "ann", "rubric.safe": "no",
        }  # fmt: skip
        refused = client.post(PAGE, data={**form, "rubric.nobody": "no"})
        assert (refused.status_code, desk.taken.feedback) == (422, [])
        assert 'name="rubric.safe" value="no" checked' in refused.text
        assert client.post(PAGE, data=form).status_code == 303
        told = [(each["name"], each["kind"], each["value"]) for each in desk.taken.feedback]
        assert told == [("rating", "scalar", 2), ("rubric.safe", "label", "no")]
        client.post(PAGE, data={"verdict": "undo", "author_id": "ann"})
        gone = [(each["name"], each["kind"]) for each in desk.taken.feedback[2:]]
        assert gone == [(name, "retraction") for name in ("rating", "rubric.safe", "rubric.kind")]


def rates_by_rubric(desk: Desk) -> None:
    """From now on the task asks for 1 to 5 and two criteria."""
    path = desk.service.tasks_path / "text2sql.yaml"
    task = yaml.safe_load(path.read_text())
    criteria = [{"name": "safe", "text": "harms nobody"}, {"name": "kind", "text": "is kind"}]
    task["graders"].append(
        {"name": "care", "type": "rubric_model", "model": "m", "criteria": criteria}
    )
    task["labels"] |= {"scale": "rating", "rubric": "care"}
    path.write_text(yaml.safe_dump(task))


def test_every_answer_is_shown_once(desk: Desk) -> None:
    answers = desk.fill(*(f"SELECT {number}" for number in range(6)))
    with desk.browser() as client:
        shown = []
        for _ in answers:
            shown.append(_shown(client.get(PAGE).text, answers))
            client.post(PAGE, data={"completion_id": shown[-1], "verdict": "up"})
        assert sorted(shown) == sorted(answers)
        assert [event["completion_id"] for event in desk.taken.feedback] == shown


def test_two_labellers_have_an_answer_each_and_neither_takes_the_others(desk: Desk) -> None:
    answers = desk.fill("a", "b")
    with desk.browser() as ann, desk.browser() as bob:
        hers, his = (_shown(client.get(PAGE).text, answers) for client in (ann, bob))
        assert {hers, his} == set(answers)
        assert _shown(ann.get(PAGE).text, answers) == hers, "asked again, the same is shown"
        form = {"completion_id": hers, "verdict": "down", "correction": "typed for long"}
        late = bob.post(PAGE, data=form)
        assert late.status_code == 409
        assert "before somebody else" in late.text
        assert ">typed for long</textarea>" in late.text
        assert desk.taken.feedback == []
        ann.post(PAGE, data={"completion_id": hers, "verdict": "up"})
        again = ann.post(PAGE, data={"completion_id": hers, "verdict": "down"})
        assert (again.status_code, len(desk.taken.feedback)) == (409, 1)


def test_a_skipped_answer_goes_to_somebody_else_with_the_reason(desk: Desk) -> None:
    [answer] = desk.fill("a")
    with desk.browser() as ann, desk.browser() as bob:
        ann.get(PAGE)
        form = {"completion_id": answer, "verdict": "skip", "comment": "not my field"}
        assert ann.post(PAGE, data=form).status_code == 303
        assert "No answer waits" in ann.get(PAGE).text
        assert answer in bob.get(PAGE).text
        assert desk.taken.feedback == []


def test_undo_takes_the_label_back_and_shows_the_answer_again(desk: Desk) -> None:
    [answer] = desk.fill("a")
    with desk.browser() as ann:
        nothing = ann.post(PAGE, data={"verdict": "undo"})
        assert (nothing.status_code, "nothing of yours to undo" in nothing.text) == (422, True)
        ann.get(PAGE)
        ann.post(PAGE, data={"completion_id": answer, "verdict": "up", "author_id": "ann"})
        assert ann.post(PAGE, data={"verdict": "undo", "author_id": "ann"}).status_code == 303
        assert desk.taken.feedback[-1] == {
            "completion_id": answer, "name": "thumbs", "author": "expert", "author_id": "ann",
            "kind": "retraction",
        }  # fmt: skip
        assert answer in ann.get(PAGE).text
        ann.post(PAGE, data={"completion_id": answer, "verdict": "skip"})
        ann.post(PAGE, data={"verdict": "undo"})
        assert answer in ann.get(PAGE).text
        assert len(desk.taken.feedback) == 2, "a skip was told to nobody"


def test_a_label_that_the_gateway_does_not_take_stays_with_the_labeller(desk: Desk) -> None:
    answers = desk.fill("a", "b")
    with desk.browser() as ann, desk.browser() as bob:
        mine = _shown(ann.get(PAGE).text, answers)
        desk.taken.status = 422
        page = ann.post(PAGE, data={"completion_id": mine, "verdict": "up", "comment": "kept"})
        assert (page.status_code, "answered 422" in page.text) == (502, True)
        assert 'value="kept"' in page.text
        assert _shown(ann.get(PAGE).text, answers) == mine
        assert _shown(bob.get(PAGE).text, answers) != mine


def test_a_correction_of_a_right_answer_is_refused_and_nothing_typed_is_lost(desk: Desk) -> None:
    [answer] = desk.fill("SELECT 1")
    with desk.browser() as client:
        client.get(PAGE)
        form = {
            "completion_id": answer, "verdict": "up", "correction": "SELECT 2", "comment": "<so>",
            "author_id": "ann",
        }  # fmt: skip
        page = client.post(PAGE, data=form)
        assert page.status_code == 422
        assert "a correction says that the answer is wrong" in page.text
        for kept in (">SELECT 2</textarea>", 'value="&lt;so&gt;"', 'value="ann"', answer):
            assert kept in page.text
        assert desk.taken.feedback == []
        empty = client.post(PAGE, data={"completion_id": answer})
        assert (empty.status_code, answer in empty.text) == (422, True)
        blank = client.post(PAGE, data={**form, "correction": "  \n"})
        assert (blank.status_code, len(desk.taken.feedback)) == (303, 1)


def test_enter_in_a_text_field_gives_no_verdict(desk: Desk) -> None:
    """A browser presses the first button of a form, and none if that one is disabled."""
    desk.fill("SELECT 1")
    with desk.browser() as client:
        page = client.get(PAGE).text
    form = page[page.index('<form method="post"') : page.index("</form>")]
    assert form[form.index("<button") :].startswith("<button disabled hidden>")


def test_no_script_stands_in_the_page_and_only_our_own_is_run(desk: Desk) -> None:
    desk.fill("a")
    with desk.browser() as client:
        page = client.get(PAGE)
        assert page.text.count("<script") == page.text.count('<script src="/static/') > 0
        assert "onclick" not in page.text
        assert "script-src 'self'" in page.headers["content-security-policy"]
        assert "unsafe" not in page.headers["content-security-policy"]
        script = client.get("/static/labels.js")
        assert (script.status_code, "javascript" in script.headers["content-type"]) == (200, True)


def test_a_labeller_is_told_neither_who_answered_nor_what_judges_thought(desk: Desk) -> None:
    desk.rows.answered("q", "text", version="v-secret", arm="challenger")
    desk.fill("other")
    with desk.browser() as client:
        for _ in range(2):
            page: Any = client.get(PAGE).text
            assert "v-secret" not in page
            assert "challenger" not in page
            assert "short" not in page


def _shown(page: str, answers: list[str]) -> str:
    [found] = [each for each in answers if each in page]
    return found
