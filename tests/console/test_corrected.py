"""What the release page draws of a judge that people's labels correct."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from console.pages.releases import _means
from console.source import Source
from everlearn.lake.ducklake import open_lake
from tests.builders import make_service

RELEASE = "rel_1"


def test_the_running_mean_is_what_people_say_and_not_what_the_judge_does(tmp_path: Path) -> None:
    """The judge finds every answer good, people every one that half of chance shows them bad."""
    lake = open_lake(make_service(tmp_path))
    rows: list[dict[str, Any]] = [
        {
            **{"release_id": RELEASE, "metric": metric, "position": n, "value": 1.0},
            **{"treated": n % 4 < 2, "drawn": metric == "judged" and n % 2 == 0},
            **({"label_share": 0.5} if metric == "judged" else {}),
            **({"label": 0.0} if metric == "judged" and n % 2 == 0 else {}),
        }
        for metric in ("judged", "plain")
        for n in range(40)
    ]
    lake.commit(lambda transaction: transaction.append("release_units", rows))
    source = cast(
        Source,
        SimpleNamespace(rows=lambda sql, params: lake.read(sql, params).to_pylist()),
    )
    heights = {}
    for metric in ("judged", "plain"):
        drawn = _means(source, RELEASE, metric)
        assert ("corrected by labels" in drawn) == (metric == "judged")
        heights[metric] = {
            float(points.split(",")[-1]) for points in re.findall(r'points="([^"]+)"', drawn)
        }
    lake.close()
    (top,), (bottom,) = heights["plain"], heights["judged"]
    assert top < bottom
