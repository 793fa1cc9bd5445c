"use strict";
// Keep or reject the images of one part of a synthetic set. No library, no network. Everything that is decided
// lies in `decisions` (position in the set -> {word, reviewer, time}) and, after each key, in localStorage under
// the hash of the set's pixels, so that no decision can reach another set.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const at = (id) => document.getElementById(id);
  const n = data.images.length;
  const PER_PAGE = 120;
  const KEY = `cxr-review:${data.images_sha256}:${data.first}`;
  const SHOWN = { keep: "kept", reject: "rejected", undecided: "undecided" };

  let decisions = new Map();
  let undone = []; // what U takes back: [k, entry before]
  let visible = []; // k of the images that the filters let through
  let cursor = 0; // place in `visible`
  let stored = true;

  const word = (k) => decisions.get(k)?.word ?? "undecided";
  const say = (text, bad = false) => { at("message").textContent = text; at("message").classList.toggle("bad", bad); };

  function load() {
    try {
      const text = localStorage.getItem(KEY);
      const saved = text ? JSON.parse(text) : { decisions: [] };
      decisions = new Map(saved.decisions.filter(([k]) => k >= 0 && k < n));
      at("reviewer").value = saved.reviewer ?? "";
    } catch { stored = false; }
  }

  function save() {
    try {
      localStorage.setItem(KEY, JSON.stringify({ reviewer: at("reviewer").value, decisions: [...decisions] }));
    } catch { stored = false; }
    if (!stored) say("This browser keeps nothing of this page: export the CSV before you close it.", true);
  }

  // --- drawing -----------------------------------------------------------------------------------------------

  const picture = (k) => `data:image/png;base64,${data.images[k]}`;
  const page = () => Math.floor(cursor / PER_PAGE);
  const describe = (k) => `image ${data.first + k}, ${data.classes[data.class[k]]}`;

  function drawCell(cell, k) {
    cell.className = `cell ${word(k)}`;
    cell.setAttribute("aria-label", `${describe(k)}, ${SHOWN[word(k)]}`);
  }

  function drawGrid() {
    const start = page() * PER_PAGE;
    const cells = visible.slice(start, start + PER_PAGE).map((k, i) => {
      const cell = document.createElement("div");
      cell.id = `cell-${k}`;
      cell.setAttribute("role", "option");
      cell.addEventListener("click", () => move(start + i));
      const img = new Image();
      img.decoding = "async";
      img.alt = "";
      img.src = picture(k);
      cell.append(img);
      drawCell(cell, k);
      return cell;
    });
    at("grid").replaceChildren(...cells);
    at("grid").dataset.page = page();
    at("empty").hidden = visible.length > 0;
    const pages = Math.max(1, Math.ceil(visible.length / PER_PAGE));
    at("page").textContent = `${visible.length} shown · page ${page() + 1} of ${pages}`;
    at("before").disabled = page() === 0;
    at("after").disabled = page() >= pages - 1;
  }

  function drawCurrent() {
    const k = visible[cursor];
    for (const old of at("grid").querySelectorAll("[aria-selected=true]")) old.setAttribute("aria-selected", "false");
    for (const id of ["keep", "reject"]) at(id).disabled = k === undefined;
    if (k === undefined) {
      at("large").removeAttribute("src");
      at("caption").textContent = at("verdict").textContent = "";
      at("figure").className = "";
      return;
    }
    const cell = at(`cell-${k}`);
    cell.setAttribute("aria-selected", "true");
    at("grid").setAttribute("aria-activedescendant", cell.id);
    const box = cell.getBoundingClientRect();
    if (matchMedia("(min-width: 761px)").matches && (box.top < 110 || box.bottom > innerHeight)) {
      cell.scrollIntoView({ block: "center" });
    }
    if (at("large").dataset.k !== String(k)) {
      at("large").src = picture(k);
      at("large").dataset.k = k;
    }
    at("large").alt = `${describe(k)}, ${SHOWN[word(k)]}`;
    at("caption").textContent = `Image ${data.first + k} · ${data.classes[data.class[k]]} · latent ${data.z_index[k]}`;
    at("verdict").textContent = SHOWN[word(k)];
    at("figure").className = word(k);
  }

  function drawCounts() {
    let keep = 0;
    for (const entry of decisions.values()) keep += entry.word === "keep";
    const reject = decisions.size - keep;
    at("bar-keep").style.width = `${(100 * keep) / n}%`;
    at("bar-reject").style.width = `${(100 * reject) / n}%`;
    at("counts").textContent = `${keep} kept · ${reject} rejected · ${n - decisions.size} to go`;
    at("undo").disabled = undone.length === 0;
  }

  function draw() { drawGrid(); drawCurrent(); drawCounts(); }

  // --- acting ------------------------------------------------------------------------------------------------

  function move(to) {
    if (!visible.length) return;
    cursor = Math.min(Math.max(to, 0), visible.length - 1);
    if (at("grid").dataset.page !== String(page())) drawGrid();
    drawCurrent();
  }

  function put(k, entry) {
    if (entry) decisions.set(k, entry); else decisions.delete(k);
    const cell = at(`cell-${k}`);
    if (cell) drawCell(cell, k);
    save();
    drawCounts();
  }

  function decide(what, goOn) {
    const k = visible[cursor];
    if (k === undefined) return;
    undone.push([k, decisions.get(k)]);
    say("");
    put(k, { word: what, reviewer: at("reviewer").value.trim(), time: new Date().toISOString() });
    move(cursor + (goOn ? 1 : 0));
    if (decisions.size === n) say("Every image is decided: export the CSV.");
  }

  function undo() {
    const last = undone.pop();
    if (!last) return;
    put(...last);
    const place = visible.indexOf(last[0]);
    if (place >= 0) move(place); else filter(last[0]);
    drawCounts();
  }

  function filter(wanted) {
    const label = at("class").value, show = at("show").value;
    visible = [];
    for (let k = 0; k < n; k++) {
      if ((label === "" || data.class[k] === Number(label)) && (show === "all" || word(k) === show)) visible.push(k);
    }
    cursor = Math.max(0, visible.indexOf(wanted));
    draw();
  }

  function nextUndecided() {
    for (let step = 1; step <= visible.length; step++) {
      const place = (cursor + step) % visible.length;
      if (word(visible[place]) === "undecided") return move(place);
    }
    say("Nothing shown here is undecided.");
  }

  function columns() {
    return getComputedStyle(at("grid")).gridTemplateColumns.split(" ").length;
  }

  // --- leaving -----------------------------------------------------------------------------------------------

  const quoted = (value) => (/[",\r\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value);

  function csv() {
    const reviewer = at("reviewer").value.trim();
    const lines = ["images_sha256,position,class,z_seed,z_index,decision,reviewer,time"];
    for (let k = 0; k < n; k++) {
      const entry = decisions.get(k);
      const row = [data.images_sha256, data.first + k, data.classes[data.class[k]], data.z_seed[k], data.z_index[k], word(k)];
      row.push(entry ? entry.reviewer || reviewer : "", entry?.time ?? "");
      lines.push(row.map((value) => quoted(String(value))).join(","));
    }
    return lines.join("\r\n") + "\r\n";
  }

  function exportCsv() {
    const reviewer = at("reviewer").value.trim();
    at("reviewer").setAttribute("aria-invalid", reviewer === "");
    if (reviewer === "") {
      at("reviewer").focus();
      return say("Who decided? Type your name first: it stands in the CSV and in the curated set's manifest.", true);
    }
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([csv()], { type: "text/csv" }));
    const part = data.parts.length > 1 ? `-part${data.part}` : "";
    link.download = `review-${data.name}${part}-${reviewer}.csv`.replace(/[^\w.-]+/g, "_");
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
    const left = n - decisions.size;
    say(`Saved ${link.download}` + (left ? `; ${left} of ${n} images are undecided.` : "; every image is decided."));
  }

  // --- wiring ------------------------------------------------------------------------------------------------

  const KEYS = {
    k: () => decide("keep", true),
    r: () => decide("reject", true),
    u: undo,
    n: nextUndecided,
    " ": () => decide(word(visible[cursor]) === "keep" ? "reject" : "keep", false),
    "?": () => { at("keys").showModal(); at("close").focus(); }, // not the button that forgets
    ArrowLeft: () => move(cursor - 1),
    ArrowRight: () => move(cursor + 1),
    ArrowUp: () => move(cursor - columns()),
    ArrowDown: () => move(cursor + columns()),
    PageUp: () => move((page() - 1) * PER_PAGE),
    PageDown: () => move((page() + 1) * PER_PAGE),
    Home: () => move(0),
    End: () => move(visible.length - 1),
  };

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || at("keys").open) return;
    if (event.target.closest("input, select")) {
      if (event.key === "Escape") at("grid").focus({ preventScroll: true });
      return;
    }
    if (event.key === " " && event.target.closest("button")) return; // it presses the button
    const act = KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!act) return;
    event.preventDefault();
    act();
  });

  const clicked = { keep: KEYS.k, reject: KEYS.r, undo, export: exportCsv, help: KEYS["?"], before: KEYS.PageUp, after: KEYS.PageDown };
  for (const [id, act] of Object.entries(clicked)) at(id).addEventListener("click", act);
  at("close").addEventListener("click", () => at("keys").close());
  at("forget").addEventListener("click", () => {
    if (!confirm(`Forget ${decisions.size} decisions? An exported CSV stays.`)) return;
    decisions.clear();
    undone = [];
    save();
    at("keys").close();
    filter(0);
  });
  for (const id of ["class", "show"]) at(id).addEventListener("change", () => { filter(visible[cursor]); at("grid").focus({ preventScroll: true }); });
  at("reviewer").addEventListener("input", () => { at("reviewer").removeAttribute("aria-invalid"); say(""); save(); });

  let from = null; // where a finger went down on the large image
  at("figure").addEventListener("pointerdown", (event) => { from = event.pointerType === "touch" ? event : null; });
  at("figure").addEventListener("pointercancel", () => { from = null; });
  at("figure").addEventListener("pointerup", (event) => {
    if (!from) return;
    const [x, y] = [event.clientX - from.clientX, event.clientY - from.clientY];
    from = null;
    if (Math.abs(x) > 60 && Math.abs(x) > 2 * Math.abs(y)) decide(x > 0 ? "keep" : "reject", true);
  });
  addEventListener("storage", (event) => { if (event.key === KEY) { load(); undone = []; draw(); } }); // another tab

  document.title = at("title").textContent = `Review of ${data.name}`;
  at("about").textContent = `${data.total} images, ${data.size_px} px` + (data.parts.length > 1 ? `; ${data.first} to ${data.first + n - 1} here` : "");
  at("class").append(new Option("all", ""), ...data.classes.map((name, i) => new Option(name, i)));
  at("class").closest("label").hidden = data.classes.length < 2;
  at("command").textContent = `python curate.py synthetic=${data.name} filter=review 'filter.csv=[FILE.csv]'`;
  if (data.parts.length > 1) {
    at("parts").hidden = false;
    at("parts").append("Parts, each with its own CSV: ", ...data.parts.map((file, i) => {
      const link = document.createElement("a");
      [link.href, link.textContent] = [file, i + 1];
      if (i + 1 === data.part) link.setAttribute("aria-current", "page");
      return link;
    }));
  }
  load();
  filter([...Array(n).keys()].find((k) => word(k) === "undecided") ?? 0);
  if (!stored) save();
  at("grid").focus({ preventScroll: true });
})();
