"""A browser at the console: signed in by a key, with the token its forms carry."""

import re
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import yaml
from fastapi import FastAPI
from fastapi.testclient import TestClient

from everlearn.config import Service
from everlearn.keys import create_key
from everlearn.state import open_state

HERE = "http://127.0.0.1:8200"
ACCEPT = {"accept": "text/html,application/xhtml+xml"}


def make_key(service: Service, role: str, **fields: Any) -> str:
    """A key of the state store, named as its role unless told otherwise."""
    fields = {"id": role, "role": role, **fields}
    with closing(open_state(service)) as state:
        return create_key(state, time.time(), **fields)


def write_task(folder: Path, name: str) -> None:
    """A task with one grader, `same`."""
    grader = {
        "name": "same", "type": "string_check", "operation": "eq",
        "input": "{{ sample.output_text }}", "reference": "{{ item.reference }}",
    }  # fmt: skip
    task = {
        "task": name, "base_model": "base", "upstream": "local", "graders": [grader],
        "release": {"primary": "same"},
    }  # fmt: skip
    (folder / "tasks" / f"{name}.yaml").write_text(yaml.safe_dump(task))


class Browser:
    """A session."""

    def __init__(self, client: TestClient) -> None:
        self.client = client

    def get(self, path: str) -> Any:
        return self.client.get(path)

    def post(self, path: str, **form: str) -> Any:
        """With the token of the session, as every form of its pages has it."""
        return self.client.post(path, data={"csrf": self.csrf(), **form})

    def csrf(self) -> str:
        found = re.search(r'name="csrf" value="([0-9a-f]+)"', self.client.get("/").text)
        assert found is not None
        return found[1]


@contextmanager
def browser(app: FastAPI, key: str | None = None) -> Iterator[Browser]:
    """Nobody, or signed in by this key."""
    with TestClient(app, base_url=HERE, headers=ACCEPT, follow_redirects=False) as client:
        if key is not None:
            answer = client.post("/signin", data={"key": key, "target": "/"})
            assert answer.status_code == 303, answer.text
        yield Browser(client)
