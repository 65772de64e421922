"""Does a replica serve the model that was trained? Its logprobs against the trainer's own.

Each probe holds the trainer's greedy continuation of a prompt. The replica continues the same
prompt greedily; on the common prefix of the two, and at the first token after it, both speak of
the same distribution, so their logprobs must agree. Where the tokens part, the trainer's token
must be among the replica's best with the trainer's logprob: then it was a tie, not another model.

How much they may differ belongs to the server and the base model, not to the adapter: a server that
computes in bfloat16 differs everywhere. So it is measured first on the base model itself.

An adapter must also leave others alone: vLLM 0.32 on the CPU answers the base model's requests with
the adapter in its last slot where both are in one batch (vllm-project/vllm#48421). So the base
model is asked again while the adapter answers.
"""

import math
import ssl
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import httpx

from everlearn.errors import ServingAway, ServingError
from serving.fleet import answer_message

TOLERANCE = 0.01
"""Mean absolute difference of logprobs (nats per token) of the worst probe.

Measured on a small random model (worst probe): the same adapter in float32 1e-6, its weights saved
as float16 3e-4, its alpha wrong by a sixteenth 0.11, the base model or another adapter in its
place 1.9 and 3.6. A server that computes in bfloat16 differs by 0.011 to 0.04 in the mean and by
0.125 on the worst token.
"""
HEADROOM = 2.0
"""Times what the base model differs by: an adapter adds steps that are rounded too."""
BASE_LIMIT = 0.25
"""A base model that differs by more (mean of the worst probe) is another model."""
TIMEOUT_SECONDS = 60.0
TOP = 5

Probe = Mapping[str, Any]
"""messages, max_tokens, prompt_token_ids, token_ids, logprobs, and `dated` where the template
prints the day: such a prompt is sent as its tokens, for the same words make others tomorrow."""


@dataclass(frozen=True)
class Tolerance:
    """What may differ, in nats: the mean of a probe's tokens, and a single token at a parting."""

    mean: float = TOLERANCE
    token: float = 0.0

    @property
    def tie(self) -> float:
        """Of the token at which the answers part."""
        return max(self.mean, self.token)


@dataclass(frozen=True)
class Verification:
    """Whether a replica serves what was trained; `reason` shows the comparison that decided."""

    ok: bool
    reason: str
    max_abs_difference: float
    """Of all compared logprobs; 0 when none could be compared."""
    worst_mean: float = 0.0
    """Mean difference of the worst probe."""


@dataclass(frozen=True)
class _Comparison:
    problem: str | None
    differences: tuple[float, ...]

    @property
    def mean(self) -> float:
        return sum(self.differences) / len(self.differences) if self.differences else 0.0


EXACT = Tolerance()


def measure(
    address: str,
    base_name: str,
    probes: Sequence[Probe],
    *,
    headers: Mapping[str, str] | None = None,
    tls: ssl.SSLContext | bool = True,
) -> Tolerance:
    """What this server's arithmetic costs, seen on the base model; at least `TOLERANCE`.

    ServingError where the base model is another one than the trainer's.
    """
    anything = Tolerance(BASE_LIMIT, math.inf)
    found = verify(address, base_name, probes, tolerance=anything, headers=headers, tls=tls)
    if not found.ok:
        raise ServingError(f"base model {base_name} is not the trainer's: {found.reason}")
    return Tolerance(
        max(TOLERANCE, HEADROOM * found.worst_mean),
        max(TOLERANCE, HEADROOM * found.max_abs_difference),
    )


def verify(
    address: str,
    model_name: str,
    probes: Sequence[Probe],
    *,
    tolerance: Tolerance = EXACT,
    headers: Mapping[str, str] | None = None,
    tls: ssl.SSLContext | bool = True,
) -> Verification:
    """Ask the replica at `address` (up to /v1) every probe and compare.

    A replica that cannot be asked is a ServingError: that says nothing about the model.
    """
    if not probes:
        return Verification(False, "there are no probes to compare", 0.0)
    comparisons = []
    with httpx.Client(headers=dict(headers or {}), timeout=TIMEOUT_SECONDS, verify=tls) as client:
        for number, probe in enumerate(probes):
            answer = _ask(client, address, model_name, probe)
            if isinstance(answer, str):
                return Verification(False, f"replica {address}: {answer}", 0.0)
            comparison = compare(probe, answer, tolerance)
            comparisons.append(comparison)
            if comparison.problem is not None:
                reason = f"replica {address}: probe {number}: {comparison.problem}"
                return Verification(False, reason, _largest(comparisons))
    worst = max(comparison.mean for comparison in comparisons)
    tokens = sum(len(comparison.differences) for comparison in comparisons)
    reason = (
        f"mean difference {worst:.2g} <= tolerance {tolerance.mean:.2g} "
        f"({len(probes)} probes, {tokens} tokens)"
    )
    return Verification(True, reason, _largest(comparisons), worst)


def verify_beside(
    address: str,
    names: tuple[str, str],
    base_probes: Sequence[Probe],
    probes: Sequence[Probe],
    *,
    tolerance: Tolerance = EXACT,
    headers: Mapping[str, str] | None = None,
    tls: ssl.SSLContext | bool = True,
) -> Verification:
    """Is the base model still itself while the adapter answers? `names`: the base's, the adapter's.

    A replica that cannot be asked is a ServingError.
    """
    base, model = names
    begun, over = threading.Event(), threading.Event()

    def keep_asking() -> None:
        try:
            with httpx.Client(
                headers=dict(headers or {}), timeout=TIMEOUT_SECONDS, verify=tls
            ) as client:
                while not over.is_set():
                    _ask(client, address, model, probes[0])
                    begun.set()
        finally:
            begun.set()

    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(keep_asking)
        try:
            begun.wait(TIMEOUT_SECONDS)
            found = verify(
                address, base, base_probes, tolerance=tolerance, headers=headers, tls=tls
            )
        finally:
            over.set()
        asked.result()
    return found


def compare(probe: Probe, answer: Mapping[str, Any], tolerance: Tolerance) -> _Comparison:
    """One probe against the body of the replica's answer; pure."""
    choice = answer["choices"][0]
    prompt = answer.get("prompt_token_ids")
    if prompt != list(probe["prompt_token_ids"]):
        return _Comparison("the prompt's tokens differ: another chat template or tokenizer", ())
    theirs, ours = choice["token_ids"], list(probe["token_ids"])
    entries = choice["logprobs"]["content"]
    same = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(theirs, ours, strict=False))))
    differences = [
        abs(entries[place]["logprob"] - probe["logprobs"][place]) for place in range(same)
    ]
    problem = None
    if same < len(ours):
        tie = _tie(probe, answer, same)
        problem = (
            None if tie is not None and tie <= tolerance.tie else _parting(probe, theirs, same)
        )
        differences += [tie] if tie is not None else []
    elif len(theirs) > len(ours) + 1:
        # One more is the end token, which not every trainer writes down.
        problem = f"the answer goes on after token {len(ours)}"
    if not all(math.isfinite(difference) for difference in differences):
        problem = "a logprob is no finite number"
    comparison = _Comparison(problem, tuple(differences))
    if problem is None and comparison.mean > tolerance.mean:
        problem = f"mean difference {comparison.mean:.2g} > tolerance {tolerance.mean:.2g}"
    return _Comparison(problem, comparison.differences)


def _tie(probe: Probe, answer: Mapping[str, Any], place: int) -> float | None:
    """How far the replica's logprob of the trainer's token is off; None: not among its best."""
    entries = answer["choices"][0]["logprobs"]["content"]
    if place >= len(entries):
        return None
    name = f"token_id:{probe['token_ids'][place]}"
    for entry in entries[place]["top_logprobs"]:
        if entry["token"] == name:
            return float(abs(entry["logprob"] - probe["logprobs"][place]))
    return None


def _parting(probe: Probe, theirs: Sequence[int], place: int) -> str:
    found = theirs[place] if place < len(theirs) else "the end"
    return f"token {place} is {found}, the trainer's was {probe['token_ids'][place]}"


def _largest(comparisons: Sequence[_Comparison]) -> float:
    return max((max(c.differences) for c in comparisons if c.differences), default=0.0)


def _ask(client: httpx.Client, address: str, model_name: str, probe: Probe) -> dict[str, Any] | str:
    """The replica's greedy continuation, or why it refuses to give one."""
    dated = bool(probe.get("dated"))
    asked = (
        {"prompt": probe["prompt_token_ids"], "logprobs": TOP}
        if dated
        else {"messages": probe["messages"], "logprobs": True, "top_logprobs": TOP}
    )
    body = {
        **asked,
        "model": model_name,
        "max_tokens": probe["max_tokens"],
        "temperature": 0.0,
        "return_token_ids": True,
        # Names tokens by id: two tokens may have the same text.
        "return_tokens_as_token_ids": True,
    }
    try:
        path = "completions" if dated else "chat/completions"
        answer = client.post(f"{address}/{path}", json=body)
    except httpx.HTTPError as error:
        reason = str(error) or type(error).__name__
        raise ServingAway(f"replica {address}: verifying {model_name}: {reason}") from error
    if answer.is_server_error:
        raise ServingAway(
            f"replica {address}: verifying {model_name}: "
            f"{answer.status_code}: {answer_message(answer)}"
        )
    if answer.is_error:
        return f"{answer.status_code}: {answer_message(answer)}"
    content: dict[str, Any] = answer.json()
    return _as_chat(content) if dated else content


def _as_chat(body: Mapping[str, Any]) -> dict[str, Any]:
    """The answer to a prompt of tokens in the form of a chat's."""
    choice = body["choices"][0]
    told = choice["logprobs"]
    entries = [
        {
            "logprob": logprob,
            "top_logprobs": [{"token": name, "logprob": each} for name, each in top.items()],
        }
        for logprob, top in zip(told["token_logprobs"], told["top_logprobs"], strict=True)
    ]
    said = {"token_ids": choice["token_ids"], "logprobs": {"content": entries}}
    return {"prompt_token_ids": choice["prompt_token_ids"], "choices": [said]}
