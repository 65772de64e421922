// The label page by keyboard. Without it the page is plain forms.
"use strict";

const press = (form, verdict) =>
  document.querySelector(`#${form} button[value="${verdict}"]`)?.click();
const field = (name) => document.querySelector(`#label [name="${name}"]`);
const turns = [...document.querySelectorAll(".turn")];
let at = turns.length - 1;
const criteria = [...document.querySelectorAll(".criterion")];
let asked = -1;
let sent = false;

function move(step) {
  at = Math.min(Math.max(at + step, 0), turns.length - 1);
  turns[at]?.focus();
  turns[at]?.scrollIntoView({ block: "nearest" });
}

function unfold() {
  for (const each of turns[at]?.querySelectorAll("details") ?? []) each.open = !each.open;
}

function ask(step) {
  if (!criteria.length) return;
  asked = Math.min(asked + step, criteria.length - 1);
  criteria[asked].focus();
}

// Answers the criterion that is before the labeller, and goes on to the next.
function tell(value) {
  if (asked < 0) ask(1);
  const told = criteria[asked]?.querySelector(`input[value="${value}"]`);
  if (told) told.checked = true;
  ask(1);
}

const number = (key) => document.querySelector(`#label button[data-key="${key}"]`)?.click();

const KEYS = {
  ...Object.fromEntries([1, 2, 3, 4, 5].map((key) => [key, () => number(key)])),
  r: () => ask(1),
  y: () => tell("yes"),
  x: () => tell("no"),
  s: () => press("label", "skip"),
  t: () => press("label", "tie"),
  u: () => press("undo", "undo"),
  c: () => field("correction")?.focus(),
  n: () => field("comment")?.focus(),
  j: () => move(1),
  k: () => move(-1),
  o: unfold,
};

document.addEventListener("keydown", (event) => {
  const typing = event.target.matches("input:not([type=radio]), textarea");
  if (typing) {
    if (event.key === "Escape") event.target.blur();
    if (event.key === "Enter" && event.ctrlKey && event.target.name === "correction") {
      event.preventDefault();
      (document.querySelector('#label button[value="down"]') ?? document.querySelector('#label button[value="1"]'))?.click();
    }
    return;
  }
  // A key that is held down judges one answer, not every one that comes.
  if (event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
  const action = KEYS[event.key];
  if (!action) return;
  event.preventDefault();
  action();
});

// A verdict pressed twice is given once.
document.addEventListener("submit", (event) => {
  if (sent) event.preventDefault();
  sent = true;
});
