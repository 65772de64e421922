"""Where a process answers Prometheus, and what each of them says of its disk.

- Port 0 means nowhere. A port that somebody else holds stops the start, with the setting's name.
- What cannot be read at a scrape is left out of it: the process goes on, and so does the rest.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

from prometheus_client import REGISTRY, CollectorRegistry, start_http_server
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from everlearn.config import Service
from everlearn.errors import ConfigError

FREE, TOTAL = "everlearn_data_free_bytes", "everlearn_data_total_bytes"


class DataFolder(Collector):
    """Room on the disk of the data folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def collect(self) -> Iterator[Metric]:
        """Both sizes; nothing while the folder is not there."""
        try:
            disk = shutil.disk_usage(self._folder)
        except OSError:
            return
        yield GaugeMetricFamily(FREE, "Free on the data folder's disk.", value=disk.free)
        yield GaugeMetricFamily(TOTAL, "Size of the data folder's disk.", value=disk.total)

    def describe(self) -> Iterator[Metric]:
        """So that nobody looks at the disk before a scrape."""
        return iter(())


def answer_prometheus(
    service: Service, key: str, port: int, registry: CollectorRegistry = REGISTRY
) -> None:
    """Answer at `port`, the setting `key`, in a thread of its own; 0: nowhere."""
    if not port:
        return
    registry.register(DataFolder(service.data_path))
    try:
        start_http_server(port, registry=registry)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(f"{key} = {port}: {reason}; choose a free port, or 0 for none") from error
