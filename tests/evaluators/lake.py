"""Rows in a real lake, as the collector would have brought them."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from everlearn.ids import new_id
from everlearn.lake.ducklake import DuckLake, open_lake
from tests.builders import make_service

START = datetime(2026, 1, 1, tzinfo=UTC)


class Rows:
    """A lake and what stands in it, one second between two rows."""

    def __init__(self, folder: Path) -> None:
        self.service = make_service(folder)
        self.lake: DuckLake = open_lake(self.service)
        self._seconds = 0

    def answered(self, prompt: str, text: str, **fields: Any) -> str:
        """Add a completion; its id."""
        row = {
            "completion_id": new_id("cmpl"), "task": "text2sql", "status": "ok", "arm": "champion",
            "version": "base", "received_at": self._now(), "response_text": text,
            "messages": json.dumps([{"role": "user", "content": prompt}]), **fields,
        }  # fmt: skip
        self.lake.commit(lambda transaction: transaction.append("completions", [row]))
        return str(row["completion_id"])

    def said(self, completion_id: str | None, **fields: Any) -> str:
        """Add feedback, a user's thumb-up unless told otherwise; its id."""
        row = {
            "feedback_id": new_id("fb"), "completion_id": completion_id, "kind": "binary",
            "name": "thumbs", "author": "end_user", "weight": 1.0, "received_at": self._now(),
            **({} if fields.get("kind", "binary") != "binary" else {"value_bool": True}), **fields,
        }  # fmt: skip
        self.lake.commit(lambda transaction: transaction.append("feedback", [row]))
        return str(row["feedback_id"])

    def corrected(self, completion_id: str, text: str) -> str:
        """Add an expert's correction."""
        return self.said(completion_id, kind="correction", value_text=text, author="expert")

    def scores(self) -> dict[tuple[str, str], float | None]:
        """Current values by (completion, grader)."""
        rows = self.lake.read("SELECT completion_id, evaluator, value FROM scores_current")
        return {(row["completion_id"], row["evaluator"]): row["value"] for row in rows.to_pylist()}

    def count(self, table: str) -> int:
        """Rows of a table."""
        return int(self.lake.read(f"SELECT count(*) AS n FROM {table}").to_pylist()[0]["n"])

    def _now(self) -> datetime:
        self._seconds += 1
        return START + timedelta(seconds=self._seconds)
