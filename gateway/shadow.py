"""Shadow traffic: a copy of a share of requests to the challenger, whose answers only we see."""

import asyncio

import msgspec

from everlearn.events import Completion
from everlearn.ids import completion_id
from gateway.assignment import fraction
from gateway.http.channel import Answer, UpstreamFailure
from gateway.http.stream import Collected
from gateway.routes import TaskRoute

MAX_IN_FLIGHT = 64
"""Copies at a time; more are not sent: users come first, and memory stays bounded."""


def wanted(route: TaskRoute, draft: Completion) -> bool:
    """Whether this request is copied: never one that the challenger answers anyway."""
    return (
        route.shadow_share > 0
        and route.challenger is not None
        and draft.arm != "challenger"
        and fraction("shadow", draft.completion_id) < route.shadow_share
    )


def again(draft: Completion) -> Completion:
    """A copy with an identity of its own."""
    return msgspec.structs.replace(draft, completion_id=completion_id(draft.task))


def copy_of(draft: Completion, route: TaskRoute) -> Completion:
    """The copy's own draft, under the challenger's name."""
    copy = again(draft)
    assert route.challenger is not None
    copy.arm, copy.version = "challenger", route.challenger.version
    copy.adapter_digest = route.challenger.adapter_digest
    copy.template_hash = route.challenger.template_hash
    copy.model_served = route.challenger.model
    copy.first_token_ms = copy.fallback_from = copy.error = None
    return copy


async def whole(answer: Answer) -> bytes:
    """The body of an answer, streamed or not; UpstreamFailure if it breaks off."""
    if answer.channel is None:
        return answer.body
    collected = Collected()
    try:
        answer.channel.stream_to(collected)
        return await collected.done
    except asyncio.CancelledError:
        answer.channel.abort()
        raise


def failure_code(failure: UpstreamFailure) -> int:
    """The HTTP status that a user would have been given."""
    return {"timeout": 504, "unavailable": 503}.get(failure.kind, 502)
