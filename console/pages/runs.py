"""`GET /runs`: the trainings of a task, the methods tried, and the curves of one of them."""

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse
from markupsafe import Markup

from console.charts import Line, lines
from console.render import page
from console.source import Asks, Read, Source
from console.tracking import Run, history, runs
from everlearn.errors import NotFound

router = APIRouter()

CURVES = ("reward", "heldout", "select", "loss", "kl", "entropy")
"""What a metric's name must hold to be drawn, in this order."""
DRAWN = 8


@router.get("/runs", response_class=HTMLResponse)
def all_runs(request: Request, source: Read, asked: Asks, run: str = "") -> HTMLResponse:
    """The page of one task."""
    found = runs(source.service, asked.one)
    chosen = next((each for each in found.rows if each.run_id == run), None)
    if run and chosen is None and found.problem is None:
        raise NotFound(f"task {asked.one} has no run {run} among its newest")
    chosen = chosen or next(iter(found.rows), None)
    return page(
        request, "runs", asked=asked, rows=found.rows, problem=found.problem, chosen=chosen,
        curves=_curves(source, chosen) if chosen else [], mlflow=source.service.mlflow.tracking_uri,
    )  # fmt: skip


def _curves(source: Source, run: Run) -> list[tuple[str, Markup]]:
    wanted = [name for word in CURVES for name in sorted(run.metrics) if word in name.lower()]
    drawn = []
    for name in list(dict.fromkeys(wanted))[:DRAWN]:
        points = history(source.service, run.run_id, name)
        if len(points) > 1:
            drawn.append((name, lines([Line(name, points)], label=name, across="steps")))
    return drawn
