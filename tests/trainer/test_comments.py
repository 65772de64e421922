"""Who is heard, where a comment stands, what the lift says: the pure parts of learning from
comments."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from evaluators.trust import Standing as Trusted
from everlearn.people import CommentJudge as Named
from everlearn.people import Comments
from tests.trainer.examples import accepted, corrected, make_row
from trainer.admit import admit
from trainer.lessons.board import CORRECTIONS, contradicted, settle
from trainer.lessons.comments import Comment, Known, refusals
from trainer.lessons.lift import Lift, Pair, decide, verdict
from trainer.lessons.rows import AUTHOR, Lesson, Round, taught
from trainer.lessons.teacher import corrected as corrected_prompt
from trainer.lessons.teacher import hinted
from trainer.methods import TrainingData
from trainer.render import Conversation

AT = datetime(2026, 11, 1, tzinfo=UTC)
JUDGE = Named(upstream="local", model="judge")


def comment(number: int = 0, **overrides: Any) -> Comment:
    fields: dict[str, Any] = {
        "feedback_id": f"fb_{number}",
        "completion_id": f"cmpl_{number}",
        "text": f"comment {number}",
        "author": "expert",
        "rater": "eve",
        "given_at": AT - timedelta(minutes=number),
    }
    return Comment(**{**fields, **overrides})


def rules(**overrides: Any) -> Comments:
    return Comments(judge=JUDGE, **overrides)


def test_of_ten_thousand_comments_of_one_rater_the_newest_few_are_heard() -> None:
    flood = [comment(number, rater="loud") for number in range(10_000)]
    refused = refusals([*flood, comment(10_001, rater="calm")], rules(), {})
    heard = {each.feedback_id for each in flood} - set(refused)
    assert heard == {f"fb_{number}" for number in range(20)}
    assert "fb_10001" not in refused
    assert refused["fb_20"] == "comments.max_per_rater 20 of loud are heard"


def test_the_same_text_of_one_rater_counts_once_and_of_two_twice() -> None:
    said = [comment(1, text="Name  it"), comment(2, text="name it"), comment(3, rater="bob")]
    refused = refusals([*said, comment(4, text="name it", rater="bob")], rules(), {})
    assert refused == {"fb_2": "said before by the same rater"}


@pytest.mark.parametrize(
    ("overrides", "standing", "why"),
    [
        ({"authors": "experts"}, Trusted(1.0), "a user's comment teaches nothing"),
        ({"authors": "trusted"}, None, "weight 0.50 < comments.min_weight 0.8"),
        ({"authors": "trusted"}, Trusted(0.0, "one_sided"), "quarantined: one_sided"),
        ({"authors": "trusted"}, Trusted(0.9), None),
    ],
)
def test_a_user_is_heard_when_the_task_says_so_and_his_trust_is_high(
    overrides: dict[str, Any], standing: Trusted | None, why: str | None
) -> None:
    asked = [comment(author="end_user", rater="user-1")]
    trust = {} if standing is None else {"user-1": standing}
    refused = refusals(asked, rules(**overrides), trust)
    assert (why in refused["fb_0"]) if why else refused == {}


def test_an_answer_that_may_not_be_trained_on_teaches_nothing_through_a_comment() -> None:
    assert "store: false" in refusals([comment(usable=False)], rules(), {})["fb_0"]


def pairs(*gains: float, quality: tuple[float, float] | None = None) -> list[Pair]:
    told = {} if quality is None else {"quality": quality}
    return [Pair(keeps=(0.0 if gain >= 0 else 1.0, max(0.0, gain)), **told) for gain in gains]


def test_a_rule_that_the_model_follows_when_told_teaches() -> None:
    lift = decide(pairs(*[1.0] * 6, *[0.0] * 6), 0.9, "base")
    assert lift.state == "teaching"
    assert lift.why.endswith("> 0")
    assert (lift.rows, lift.tried, lift.champion) == (12, 12, "base")


def test_a_rule_that_it_cannot_follow_waits_with_the_reason() -> None:
    lift = decide(pairs(*[0.0] * 30), 0.9)
    assert lift.state == "waiting"
    assert "does not follow it when told: no number of rows" in lift.why


def test_a_lift_within_chance_waits_with_the_number_that_would_do() -> None:
    few = pairs(1.0, 1.0, -1.0, 0.0)
    lift = decide(few, 0.9)
    assert lift.state == "waiting"
    needed = int(lift.why.split("about ")[1].split()[0])
    assert needed > len(few)
    assert decide(few * (needed // len(few) + 1), 0.9).state == "teaching"


def test_one_row_or_none_that_could_be_judged_shows_nothing() -> None:
    assert "tried on 0 rows < 2" in decide([Pair(keeps=(None, 1.0))] * 50, 0.9).why
    assert decide(pairs(1.0), 0.9).state == "waiting"


def test_a_rule_kept_to_untold_is_learned() -> None:
    lift = decide([Pair(keeps=(1.0, 1.0))] * 19 + [Pair(keeps=(0.0, 0.0))], 0.9)
    assert (lift.state, "95%" in lift.why) == ("learned", True)


def test_a_rule_against_the_right_answers_is_refused() -> None:
    lift = decide(pairs(*[1.0] * 20, quality=(1.0, 0.0)), 0.9)
    assert lift.state == "refused"
    assert "held-out grader falls by 1.000 on 20 rows" in lift.why
    assert decide(pairs(*[1.0] * 20, quality=(0.5, 0.5)), 0.9).state == "teaching"


@pytest.mark.parametrize(
    ("keeps", "quality", "found"),
    [
        ((0.0, 1.0), (None, None), "better"),
        ((0.0, 1.0), (1.0, 1.0), "better"),
        ((0.0, 1.0), (1.0, 0.5), "worse by the held-out grader"),
        ((1.0, 1.0), (None, None), "kept"),
        ((0.0, 0.0), (0.0, 1.0), "not kept"),
        ((None, 1.0), (None, None), "not judged"),
    ],
)
def test_only_an_answer_that_keeps_to_it_now_and_is_as_good_is_taught(
    keeps: tuple[float | None, float | None],
    quality: tuple[float | None, float | None],
    found: str,
) -> None:
    assert verdict(Pair(keeps=keeps, quality=quality)) == found


def known(number: int, sort: str | None, rule: str | None = None, **more: Any) -> Known:
    return Known(feedback_id=f"fb_{number}", sorter="s", sort=sort, rule=rule, **more)


def test_every_comment_has_a_state_and_a_reason() -> None:
    said = [comment(number) for number in range(7)]
    board = {
        each.feedback_id: each
        for each in (
            known(0, "rule", "Name it."),
            known(1, "correction"),
            known(2, "displeasure"),
            known(3, "nothing", reason="praise"),
            known(4, None, error="the judge was away"),
            known(6, "rule", "Never."),
        )
    }
    lifts = {
        "Name it.": Lift(state="teaching", why="0.5 > 0", rows=9),
        CORRECTIONS: Lift(state="waiting", why="2 rows", rows=2),
    }
    found = settle(said, {"fb_6": "no authority"}, board, {}, lifts)
    assert [(each.state, each.why) for each in found] == [
        ("teaching", "0.5 > 0"),
        ("waiting", "2 rows"),
        ("teaching", "counts as a thumb down"),
        ("refused", "asks for nothing: praise"),
        ("waiting", "could not be sorted: the judge was away"),
        ("waiting", "not sorted yet"),
        ("refused", "no authority"),
    ]
    assert [each.teaches for each in found] == [True, *[False] * 6]


def test_contradictory_rules_of_two_experts_wait_for_a_decision() -> None:
    told = [(comment(1), "Be long."), (comment(2, rater="bob"), "Be short.")]
    found = contradicted(told, [(0, 1)])
    assert {state for state, _ in found.values()} == {"waiting"}
    assert "contradicts fb_2 of bob: 'Be short.': an expert decides" in found["fb_1"][1]


def test_of_one_rater_the_later_rule_counts_and_an_experts_before_a_users() -> None:
    user = {"author": "end_user", "rater": "u"}
    same = [(comment(1), "Be long."), (comment(2), "Be short.")]
    assert list(contradicted(same, [(0, 1)])) == ["fb_2"]
    assert list(contradicted([(comment(1, **user), "a"), (comment(2), "b")], [(0, 1)])) == ["fb_1"]
    assert list(contradicted([(comment(1), "a"), (comment(2, **user), "b")], [(0, 1)])) == ["fb_2"]


def lesson(row: Any, verdict: str, revised: str = "new") -> Lesson:
    return Lesson(row.completion_id, "old", revised, verdict)


def test_a_lesson_is_taught_for_the_prompt_without_the_comment_against_the_old_answer() -> None:
    asked, kept, other = (make_row() for _ in range(3))
    made = Round((lesson(asked, "better"), lesson(kept, "kept")), frozenset({"fb"}), "base")
    answers = {row.completion_id: row for row in (asked, kept)}
    found = taught([asked, kept, other], answers, made)
    (row,) = [each for each in found if each.kind == "correction"]
    assert (row.kind, row.completion, row.target) == ("correction", "old", "new")
    assert row.messages == asked.messages
    reasons = {each.completion_id: each.dropped_reason for each in found if each is not row}
    # An old answer to a prompt that nobody tried the rule on would teach the opposite.
    assert reasons == {
        asked.completion_id: "comment_may_apply",
        kept.completion_id: None,
        other.completion_id: "comment_may_apply",
    }


def test_where_a_rule_does_not_hold_the_models_own_word_is_shown_and_not_a_sample_of_it() -> None:
    asked, sampled, calls = make_row(), make_row(completion="once"), make_row(completion="[]")
    call = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f"}}]}
    calls = replace(calls, said=call)
    sampled = replace(sampled, prompt_token_ids=(1,), completion_token_ids=(2,))
    lessons = (lesson(asked, "better"), lesson(sampled, "kept"), lesson(calls, "kept"))
    answers = {row.completion_id: row for row in (asked, sampled, calls)}
    found = taught([sampled, calls], answers, Round(lessons, frozenset({"fb"}), "base"))
    shown = {row.completion_id: row for row in found if row.kind == "replay"}
    assert {row.author for row in shown.values()} == {AUTHOR}
    own = shown[sampled.completion_id]
    assert (own.completion, own.dropped_reason) == ("old", None)
    assert (own.prompt_token_ids, own.completion_token_ids) == (None, None)
    assert shown[calls.completion_id] == replace(calls, author=AUTHOR)
    assert [row.split for row in admit(list(shown.values()), max_per_unit=50)] == ["train"] * 2


def test_contrasts_are_told_from_other_ordinary_answers() -> None:
    lessons = (corrected(author=AUTHOR),)
    assert TrainingData((*lessons, make_row(author=AUTHOR))).contrasted
    assert not TrainingData((*lessons, make_row())).contrasted
    assert not TrainingData(lessons).contrasted


def test_an_experts_own_answer_outranks_a_lesson_and_a_users_thumb_does_not() -> None:
    one, two = make_row(prompt="one"), make_row(prompt="two")
    made = Round((lesson(one, "better"), lesson(two, "better")), frozenset({"fb"}), "base")
    thumb = accepted(prompt="one", completion="old")
    right = corrected(prompt="two", target="the expert's")
    answers = {row.completion_id: row for row in (one, two)}
    found = admit(taught([thumb, right], answers, made), max_per_unit=50)
    live = {(row.author, row.target) for row in found if row.split == "train"}
    assert live == {(AUTHOR, "new"), ("expert", "the expert's")}
    why = {row.dropped_reason for row in found if row.split == "dropped"}
    assert why == {"comment_disagrees", "expert_disagrees"}


def test_without_a_better_answer_nothing_changes() -> None:
    row = make_row()
    made = Round((lesson(row, "not kept"),), frozenset({"fb"}), "base")
    assert taught([row], {row.completion_id: row}, made) == [row]


def test_rules_stand_in_the_system_message_or_in_the_last_question() -> None:
    user = {"role": "user", "content": "how much?"}
    rule = "Keep to these rules:\n- Name it."
    alone = hinted(Conversation([user]), ["Name it."], lambda _: True)
    assert alone.messages == [{"role": "system", "content": rule}, user]
    system = {"role": "system", "content": "You count."}
    both = hinted(Conversation([system, user]), ["Name it."], lambda _: True)
    assert both.messages == [{"role": "system", "content": f"You count.\n\n{rule}"}, user]
    refused = hinted(Conversation([user]), ["Name it."], lambda _: False)
    assert refused.messages == [{"role": "user", "content": f"how much?\n\n{rule}"}]


def test_a_correction_follows_the_answer_that_it_is_about() -> None:
    row = make_row(prompt="how much?", completion="12")
    roles = [each["role"] for each in corrected_prompt(row, "in EUR").messages]
    assert roles == ["user", "assistant", "user"]
    assert "in EUR" in corrected_prompt(row, "in EUR").messages[-1]["content"]
