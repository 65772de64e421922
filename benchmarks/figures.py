"""One JSON line per figure, the same keys everywhere."""

import json
import os
from typing import Any


def figure(name: str, value: float, unit: str, **more: Any) -> None:
    """Print one figure; `more` says the goal, the peer beside it, what was measured."""
    load = os.getloadavg()[0]
    line = {"figure": name, "value": round(value, 3), "unit": unit, **more, "load": round(load, 1)}
    print(json.dumps(line), flush=True)
