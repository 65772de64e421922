"""Tickets of Alderlight, a company that does not exist, and the JSON they should become.

Nobody outside can know the answers: a queue is called after a colour, a product by its code, and
what counts as urgent is the company's own rule. A ticket is put together from an opening, a
complaint, details, perhaps a deadline and a closing, then typed as people type. No two are equal.

- `tickets("asked", seed)` are what users send, `tickets("kept", seed)` only ever measure.
- A sixth of the complaints is worded as no user ever does, in kept tickets alone.
"""

import hashlib
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Part = Literal["asked", "kept"]

COMPLAINTS = {
    # billing
    "amber": (
        "I was charged twice for the {product}",
        "the invoice for my {product} shows the wrong amount",
        "my card was billed {price} but the {product} costs less on your site",
        "there is no VAT number on the bill for the {product}",
        "you took {price} from my account and I do not know why, I only have a {product}",
        "the discount code was not taken off when I paid for the {product}",
        "please send the receipt of the {product} to our accounts department",
        "the payment for the {product} failed, yet the bank shows {price} as paid",
        "our company name is missing on the invoice for {count} pieces of the {product}",
        "I paid for the {product} by bank transfer and now get a payment reminder",
        "why is there a fee of {price} on the bill of the {product}?",
        "I would like to pay for the {product} in instalments but was billed in full",
    ),
    # delivery
    "birch": (
        "the {product} has not arrived",
        "tracking says my {product} was delivered but nothing is here",
        "the parcel with the {product} went to my old address",
        "I have been waiting {count} days for the {product}",
        "the courier left the {product} with a neighbour nobody knows",
        "only one of two boxes came, the {product} is still missing",
        "can you ship the {product} to a pick-up point instead?",
        "the {product} is stuck at customs since {count} days",
        "when will the {product} be sent? The order still says 'packing'",
        "the driver did not ring and took the {product} back to the depot",
        "I would like to change the delivery address of the {product}",
        "according to the courier the parcel with the {product} is lost",
    ),
    # broken
    "coral": (
        "the {product} does not turn on",
        "the {product} makes a buzzing noise",
        "after {count} days the {product} simply stopped working",
        "the {product} came with a crack in the glass",
        "the battery of the {product} is empty after an hour",
        "the {product} flickers all evening",
        "one button of the {product} is stuck",
        "the {product} gets so hot that one cannot touch it",
        "there is smoke coming out of the {product}",
        "the cable of the {product} was torn when I opened the box",
        "the {product} switches itself off every {count} minutes",
        "the light of the {product} went out and never came back",
    ),
    # account
    "dune": (
        "I cannot log in to register my {product}",
        "the password reset for my account never comes, I want to add a {product}",
        "please change the e-mail address under which my {product} is registered",
        "my account is locked after {count} attempts, it holds my {product}",
        "I have two accounts and the {product} is in the wrong one",
        "delete my account please, I sold the {product}",
        "the app does not accept my user name since I added the {product}",
        "the code for signing in does not arrive, so I cannot see my {product}",
        "I want to hand my {product} over to my sister's account",
        "somebody else seems to be signed in to my account and sees my {product}",
        "my profile shows the name of a stranger next to the {product}",
        "how do I turn off two-step sign-in for the account with the {product}?",
    ),
    # returns
    "ebony": (
        "I want to send the {product} back",
        "how do I return the {product}? It is not what I expected",
        "I sent the {product} back {count} days ago and have no refund",
        "please exchange the {product} for another colour",
        "the return label for the {product} does not print",
        "I changed my mind about the {product} and want my money back",
        "can I return the {product} without the box?",
        "I ordered one {product} too many and would like to give it back",
        "you refunded {price} only, the returned {product} was {price} more",
        "I got the {product} as a present and would rather swap it",
        "how long may I try the {product} before it has to go back?",
        "the shop would not take the {product} back",
    ),
    # how does it work
    "flint": (
        "how do I connect the {product} to the wifi?",
        "can the {product} stand outside when it rains?",
        "is there a manual of the {product} in Spanish?",
        "what bulb fits in the {product}?",
        "how do I dim the {product}?",
        "does the {product} work with a timer?",
        "how many watts does the {product} need?",
        "how is the {product} cleaned?",
        "can I pair {count} of the {product} with one remote?",
        "which screws do I need to mount the {product} on a brick wall?",
        "is there a way to make the {product} come on at sunset?",
        "what does the blinking blue dot on the {product} mean?",
    ),
}
"""Queue -> what is said by people whom it helps. The last two of each are never asked."""
NEW_WORDINGS = 2

PRODUCTS = {
    "AL-10": ("reading lamp", "Lumo", "Lumo reading lamp", "little desk lamp"),
    "AL-25": ("floor lamp", "Tall Oak", "Tall Oak floor lamp", "standing lamp"),
    "AL-40": ("garden lantern", "Firefly", "Firefly lantern", "outdoor lantern"),
    "AL-55": ("alarm clock", "Dawn", "Dawn clock", "wake-up light"),
    "AL-70": ("light strip", "Ribbon", "Ribbon light strip", "LED strip"),
}

URGENT = (
    "I need this solved by {day}.", "Please hurry, we open our shop on {day}.",
    "This cannot wait until next week.", "It is urgent.", "My guests arrive on {day}!",
    "I will call my lawyer on {day}.", "Answer today please.", "We leave on {day}, so be quick.",
    "If nothing happens by {day} I cancel everything.", "It is for a funeral on {day}.",
)  # fmt: skip
CALM = (
    "No hurry.", "Whenever you find the time.", "It is not important, I am just curious.",
    "There is no rush at all.", "Take your time.", "I can wait.", "", "", "", "", "", "",
)  # fmt: skip
OPENINGS = (
    "Hello,", "Hi there,", "Good morning,", "Dear support,", "Hey", "Dear Alderlight team,", "",
    "To whom it may concern,", "Hi, {name} here.", "Good evening, my name is {name}.",
    "Hello again,", "Second message from me:", "",
)  # fmt: skip
DETAILS = (
    "Order {order}.", "My order number is {order}.", "(order {order})", "I bought it on {date}.",
    "Bought in your shop in {city}.", "It was a present from my {relative}.", "I live in {city}.",
    "I wrote {count} days ago already.", "I like your products otherwise.", "", "", "",
    "My {relative} has the same one.", "The customer number is {order}.",
    "It stands in our {room}.",
)  # fmt: skip
CLOSINGS = (
    "Thanks, {name}", "Best regards\n{name}", "Kind regards, {name}, {city}", "Cheers",
    "Thank you!", "", "", "{name}", "Yours sincerely\n{name}", "Sent from my phone",
    "Greetings from {city}",
)  # fmt: skip
NAMES = (
    "Ana Ruiz", "B. Okafor", "Chen Wei", "Dora", "Emil Novak", "Fatima", "G. Larsen", "Hugo",
    "Ines Moreau", "J. Park", "Katya", "Liam O'Brien", "Mira", "N. Haddad", "Otto", "Priya Nair",
)  # fmt: skip
CITIES = ("Porto", "Leeds", "Graz", "Turku", "Lyon", "Ghent", "Bari", "Cork", "Malmo", "Brno")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
RELATIVES = ("mother", "brother", "aunt", "neighbour", "boss", "daughter")
ROOMS = ("kitchen", "hall", "bedroom", "office", "garden shed", "living room")

SYSTEM = "Sort the ticket. Answer in JSON with queue, product and urgent."
"""What the application says to the model; the names it wants stand nowhere."""


@dataclass(frozen=True)
class Ticket:
    """A ticket and what it should become."""

    text: str
    queue: str
    product: str
    urgent: bool
    new_wording: bool
    """The complaint is worded as no asked ticket is."""

    @property
    def answer(self) -> str:
        return json.dumps({"queue": self.queue, "product": self.product, "urgent": self.urgent})


def tickets(part: Part, seed: int) -> Iterator[Ticket]:
    """Tickets without end, each once; the two parts share none, whatever the seeds."""
    rng, seen = random.Random(f"{part} {seed}"), set[str]()
    while True:
        ticket = _ticket(rng, part)
        if ticket.text not in seen and part_of(ticket) == part:
            seen.add(ticket.text)
            yield ticket


def part_of(ticket: Ticket) -> Part:
    """A fifth of all tickets is kept, by its text for ever."""
    return "kept" if hashlib.sha256(ticket.text.encode()).digest()[0] < 51 else "asked"


def right(answer: str, ticket: Ticket) -> bool:
    """Whether the answer is JSON with every field as it should be, and nothing else."""
    return parsed(answer) == parsed(ticket.answer)


def parsed(answer: str) -> object:
    """The JSON of an answer; None when it is none."""
    try:
        found: object = json.loads(answer)
    except ValueError:
        return None
    return found


def _ticket(rng: random.Random, part: Part) -> Ticket:
    queue = rng.choice(tuple(COMPLAINTS))
    wordings = COMPLAINTS[queue]
    number = rng.randrange(len(wordings) - (NEW_WORDINGS if part == "asked" else 0))
    product = rng.choice(tuple(PRODUCTS))
    urgent = rng.random() < 0.4
    complaint = wordings[number].replace("{product}", rng.choice(PRODUCTS[product]))
    if rng.random() < 0.7:
        complaint = complaint[0].upper() + complaint[1:]
    if not complaint.endswith("?"):
        complaint += "."
    pieces = [complaint, rng.choice(DETAILS), rng.choice(URGENT if urgent else CALM)]
    if rng.random() < 0.4:
        rng.shuffle(pieces)
    text = " ".join(filter(None, (rng.choice(OPENINGS), *pieces, rng.choice(CLOSINGS))))
    text = _typed(_filled(text, rng), rng)
    return Ticket(text, queue, product, urgent, number >= len(wordings) - NEW_WORDINGS)


def _filled(text: str, rng: random.Random) -> str:
    return text.format(
        name=rng.choice(NAMES),
        city=rng.choice(CITIES),
        day=rng.choice(DAYS),
        relative=rng.choice(RELATIVES),
        room=rng.choice(ROOMS),
        order=f"{rng.choice('ABKX')}{rng.randrange(10_000, 99_999)}",
        date=f"{rng.randrange(1, 29)}.{rng.randrange(1, 13)}.",
        count=rng.randrange(3, 20),
        price=f"{rng.randrange(10, 200)}.{rng.choice(('00', '50', '90'))} euros",
    )


def _typed(text: str, rng: random.Random) -> str:
    """As people type: now and then all small, without full stops, in capitals, or with a slip."""
    habit = rng.random()
    if habit < 0.15:
        text = text.lower()
    elif habit < 0.25:
        text = text.replace(".", "").replace(",", "")
    elif habit < 0.28:
        text = text.upper()
    if rng.random() < 0.3:
        place = rng.randrange(1, len(text) - 2)
        if text[place : place + 2].isalpha():
            text = text[:place] + text[place + 1] + text[place] + text[place + 2 :]
    return text
