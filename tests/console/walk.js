() => {
  const faults = [], all = (what) => [...document.querySelectorAll(what)];
  const name = (e) => (e.getAttribute("aria-label") || e.textContent || "").trim();
  const seen = (e) => e.checkVisibility();
  if (!document.documentElement.lang) faults.push("no language");
  if (!document.title.trim()) faults.push("no title");
  if (all("h1").length !== 1) faults.push(`${all("h1").length} first headings`);
  if (all("main").length !== 1) faults.push("no main");
  for (const e of all("input:not([type=hidden]), select, textarea").filter(seen))
    if (!e.getAttribute("aria-label") && ![...e.labels].some((l) => l.textContent.trim()))
      faults.push(`no label: ${e.outerHTML}`);
  for (const e of all("a[href], button").filter(seen))
    if (!name(e)) faults.push(`no name: ${e.outerHTML}`);
  for (const e of all("img:not([alt]), svg:not([aria-label]):not([aria-hidden])"))
    faults.push(`no text: ${e.outerHTML.slice(0, 90)}`);
  for (const e of all("[tabindex]")) if (e.tabIndex > 0) faults.push(`order: ${e.outerHTML}`);
  for (const e of all("a[href^='#']"))
    if (!document.querySelector(e.getAttribute("href"))) faults.push(`leads nowhere: ${e.href}`);
  const ids = all("[id]").map((e) => e.id);
  for (const id of ids.filter((id, n) => ids.indexOf(id) !== n)) faults.push(`twice: ${id}`);
  const over = document.documentElement.scrollWidth - document.documentElement.clientWidth;
  if (over > 0) faults.push(`${over} px wider than ${innerWidth}`);
  return faults;
}
