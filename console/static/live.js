// Pages that follow the loop ask again when something changed; without this they are as of loading.
"use strict";
if (document.querySelector("[hx-trigger^='changed']") && window.EventSource) {
  const source = new EventSource("/live");
  source.addEventListener("changed", () => {
    // not under somebody's hands
    const busy = document.activeElement && document.activeElement.closest("main form");
    if (!busy && document.visibilityState === "visible") htmx.trigger(document.body, "changed");
  });
  window.addEventListener("pagehide", () => source.close());
}
