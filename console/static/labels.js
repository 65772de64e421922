// The label page by keyboard. Without it the page is plain forms.
"use strict";

const press = (form, verdict) =>
  document.querySelector(`#${form} button[value="${verdict}"]`)?.click();
const field = (name) => document.querySelector(`#label [name="${name}"]`);
const turns = [...document.querySelectorAll(".turn")];
let at = turns.length - 1;
let sent = false;

function move(step) {
  at = Math.min(Math.max(at + step, 0), turns.length - 1);
  turns[at]?.focus();
  turns[at]?.scrollIntoView({ block: "nearest" });
}

function unfold() {
  for (const each of turns[at]?.querySelectorAll("details") ?? []) each.open = !each.open;
}

const KEYS = {
  1: () => press("label", "up"),
  2: () => press("label", "down"),
  s: () => press("label", "skip"),
  u: () => press("undo", "undo"),
  c: () => field("correction")?.focus(),
  n: () => field("comment")?.focus(),
  j: () => move(1),
  k: () => move(-1),
  o: unfold,
};

document.addEventListener("keydown", (event) => {
  const typing = event.target.matches("input, textarea");
  if (typing) {
    if (event.key === "Escape") event.target.blur();
    if (event.key === "Enter" && event.ctrlKey && event.target.name === "correction") {
      event.preventDefault();
      press("label", "down");
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
