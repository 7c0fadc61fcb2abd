
"use strict";
(() => {
  const language = document.documentElement.lang;
  const one = (selector) => document.querySelector(selector);
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const tools = one("#tools"), found = one("#found"), auto = one("#auto");
  const fields = all("input, select", tools);

  // Times: of the reader's zone, and where it matters how long from now.
  const two = (number) => String(number).padStart(2, "0");
  const day = (at) => `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())}`;
  const local = (at, seconds) =>
    `${day(at)} ${two(at.getHours())}:${two(at.getMinutes())}${seconds ? ":" + two(at.getSeconds()) : ""}`;
  const relative = new Intl.RelativeTimeFormat(language, { style: "short" });
  const units = [["day", 86400], ["hour", 3600], ["minute", 60], ["second", 1]];
  function fromNow(at) {
    const seconds = (at - Date.now()) / 1000;
    const [unit, length] = units.find(([, length]) => Math.abs(seconds) >= length) || units[3];
    return relative.format(Math.trunc(seconds / length), unit);
  }
  function tell(time) {
    const at = new Date(time.dateTime), kinds = time.classList;
    if (!kinds.contains("rel")) time.textContent = local(at, kinds.contains("stamp"));
    else {
      time.title = local(at, true);
      time.textContent = kinds.contains("due") && at <= Date.now() ? tools.dataset.soon : fromNow(at);
    }
  }
  all("time[datetime]").forEach(tell);
  const moving = all("time.rel");

  // Is the page as new as it should be? Its clock and the reader's may differ, so both are told.
  const late = one("#late"), early = one("#early"), grace = 60e3;
  function compare() {
    const now = Date.now(), { written, promised } = late.dataset;
    for (const clock of all(".clock")) clock.textContent = local(new Date(now), true);
    late.hidden = promised === "0" || now <= promised * 1000 + grace;
    early.hidden = now >= written * 1000 - grace;
  }
  compare();
  setInterval(() => { compare(); moving.forEach(tell); }, 10e3);

  // Search and filters.
  const plain = (text) => text.normalize("NFKC").toLowerCase();
  const sections = all("section").map((section) => ({
    section, state: section.dataset.s, rows: all(".v", section), count: one(`#${section.querySelector("h2").id} .count`),
  }));
  for (const each of sections) each.known = each.count.textContent;
  const of = (text, shown, all) => text.replace("{shown}", shown).replace("{all}", all);
  const rows = sections.flatMap(({ state, rows }) => rows.map((row) => ({ row, state, name: null })));
  function filter() {
    const { q, state, family, precision } = Object.fromEntries(fields.map((field) => [field.id, field.value]));
    const words = plain(q).split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const voice of rows) {
      const { f = "", p = "" } = voice.row.dataset;
      voice.name ??= plain(voice.row.querySelector(".n").textContent);
      const fits = (!state || voice.state === state) && (!family || f === family) &&
        (!precision || p.split(" ").includes(precision)) && words.every((word) => voice.name.includes(word));
      if (voice.row.hidden === fits) voice.row.hidden = !fits;
      shown += fits;
    }
    for (const { section, rows, count, known } of sections) {
      const left = rows.filter((row) => !row.hidden).length;
      section.hidden = left === 0;
      count.textContent = left === rows.length ? known : of(tools.dataset.part, left, known);
    }
    found.textContent = shown ? of(found.dataset.text, shown, rows.length) : found.dataset.none;
  }
  tools.addEventListener("input", () => { filter(); keep(); });
  tools.addEventListener("submit", (event) => event.preventDefault());
  // With scripts on, what stands in <noscript> is text to the browser: thousands of pictures cost nothing until seen.
  function draw(fold) {
    const picture = fold.querySelector("noscript");
    if (picture) picture.outerHTML = picture.textContent;
  }
  addEventListener("toggle", ({ target }) => { draw(target); keep(); }, true);
  auto.addEventListener("change", () => keep());

  // What the reader has set lives in the history entry, which a reload leaves alone and file: pages may write. The
  // browser itself knows the place, because whatever is open has its full height at once.
  const folds = () => all("details");
  const label = (fold) => fold.querySelector(".n").textContent;
  function keep() {
    const state = {
      fields: fields.map((field) => field.value), auto: auto.checked, open: all("details[open]").map(label),
      focus: document.activeElement.id, at: one("#q").selectionEnd,
      fold: document.activeElement.matches("summary") ? label(document.activeElement.parentNode) : null,
    };
    try { history.replaceState(state, ""); return true; } catch { return false; }
  }
  function restore({ fields: values, auto: checked, open, focus, at, fold }) {
    fields.forEach((field, index) => { field.value = values[index]; if (field.value !== values[index]) field.value = ""; });
    auto.checked = checked;
    if (open.length || fold) for (const details of folds()) {
      if (open.includes(label(details))) { details.open = true; draw(details); }
      if (fold === label(details)) details.firstElementChild.focus({ preventScroll: true });
    }
    filter();
    if (focus) document.getElementById(focus)?.focus({ preventScroll: true });
    if (focus === "q") one("#q").setSelectionRange(at, at);
  }
  auto.parentNode.hidden = false;
  tools.hidden = rows.length === 0;
  if (history.state?.fields) restore(history.state); else filter();

  // The daemon writes the file anew, so the page is read anew: never while somebody does something with it, sooner while
  // voices are in work, and the more rarely the longer it takes. Accepted: where the share has gone, the browser says so.
  let touched = -Infinity, composing = false;
  for (const kind of ["keydown", "pointerdown", "input", "wheel", "touchmove", "scroll"])
    addEventListener(kind, () => { touched = performance.now(); }, { capture: true, passive: true });
  addEventListener("compositionstart", () => { composing = true; });
  addEventListener("compositionend", () => { composing = false; });
  const busy = one("[data-s=in_work], [data-s=waiting]") !== null;
  addEventListener("load", () => setInterval(() => {
    const now = performance.now(), took = performance.getEntriesByType("navigation")[0]?.duration ?? 0;
    const idle = now - touched > 20e3 && !composing && !document.hidden && getSelection().isCollapsed;
    if (auto.checked && idle && now > Math.max(busy ? 15e3 : 60e3, 20 * took) && keep()) location.reload();
  }, 1e3));
})();
