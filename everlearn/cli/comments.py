"""`everlearn comments TASK`: what people wrote, what it asks for, and whether it teaches."""

from typing import TYPE_CHECKING, Any

import click

from everlearn.cli import config_option, json_option

if TYPE_CHECKING:
    from trainer.lessons.board import Standing


@click.command("comments")
@click.argument("task_name", metavar="TASK")
@click.option(
    "--learn",
    is_flag=True,
    help="Sort what is new, try whether the model can follow it, answer logged prompts again.",
)
@json_option
@config_option
def command(task_name: str, learn: bool, as_json: bool, config_path: str | None) -> None:
    """Every comment on TASK's answers: its sort, its rule and where it stands - refused, waiting,
    teaching or learned - with the reason. `train` teaches the lessons that --learn made."""
    import json

    from everlearn.config import load
    from everlearn.lake.ducklake import open_lake
    from everlearn.process_log import set_up
    from everlearn.task import load_task

    service = load(config_path)
    set_up(service.logging, "comments")
    task = load_task(service, task_name)

    from evaluators.quarantine import released
    from trainer.lessons.rows import latest
    from trainer.lessons.sorting import read_desk

    lake = open_lake(service, read_only=not learn)
    try:
        believed = released(service, task.task)
        if learn:
            from everlearn.installation import heldout_salt
            from registry.versions import Registry
            from trainer.lessons.school import teach

            found = teach(
                service,
                task,
                lake,
                Registry(service).champion(task.task),
                salt=heldout_salt(service),
                report=lambda line: click.echo(line, err=True),
                released=believed,
            )
        else:
            found = read_desk(lake, task, believed).standings()
        lessons = sum(lesson.better for lesson in latest(lake, task.task).lessons)
    finally:
        lake.close()
    if as_json:
        rows = [_row(each) for each in found]
        click.echo(json.dumps({"task": task.task, "lessons": lessons, "comments": rows}))
        return
    click.echo("\n".join(_lines(task.task, found, lessons)))


def _row(each: "Standing") -> dict[str, Any]:
    comment = each.comment
    return {
        **{"feedback_id": comment.feedback_id, "completion_id": comment.completion_id},
        **{"author": comment.author, "rater": comment.rater, "text": comment.text},
        **{"given_at": comment.given_at.isoformat(), "sort": each.sort, "rule": each.rule},
        **{"state": each.state, "why": each.why},
    }


def _lines(task: str, found: "list[Standing]", lessons: int) -> list[str]:
    from collections import Counter

    counts = Counter(each.state for each in found)
    told = ", ".join(f"{number} {state}" for state, number in counts.most_common())
    lines = [f"{task}: {len(found)} comments ({told or 'none'}), {lessons} lessons"]
    for each in found:
        text = each.rule or " ".join(each.comment.text.split())
        shown = text if len(text) <= 100 else f"{text[:97]}..."
        lines.append(
            f"  {each.state:<8} {each.sort or 'unsorted':<11} {each.comment.rater}: {shown!r}"
        )
        lines.append(f"           {each.why}  ({each.comment.feedback_id})")
    return lines
