"""`GET /completeness`: what each gateway acknowledged against what the lake holds."""

from typing import Any

from fastapi import APIRouter

from collector.ledger import ledger, totals
from console.source import Read

router = APIRouter()


@router.get("/completeness")
def completeness(source: Read) -> dict[str, Any]:
    """The ledger."""
    return totals(ledger(source.service, source.lake))
