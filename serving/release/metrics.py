"""What the release controller says of itself to Prometheus; nothing here decides."""

from prometheus_client import Counter, Gauge

LEADS = Gauge("everlearn_releases_leads", "1: this controller decides; 0: it follows another's")
ROUND = Gauge(
    "everlearn_releases_last_round_timestamp_seconds",
    "When a round of the task was last done to its end",
    ["task"],
)
FAILED = Counter("everlearn_releases_failed_rounds", "Rounds that ended in an error", ["task"])
