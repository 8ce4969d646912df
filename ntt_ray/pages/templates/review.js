"use strict";
(() => {
  const $ = id => document.getElementById(id);
  const data = JSON.parse($("review-data").textContent);
  const verdicts = [...document.querySelectorAll("[data-verdict]")].map(b => b.dataset.verdict);
  const words = Object.fromEntries([...document.querySelectorAll("[data-verdict]")].map(b => [b.dataset.verdict, b.lastChild.textContent.trim()]));
  const place = "ntt-ray-review-" + data.draw;
  const numbers = new Map(data.classes.map((c, n) => [c.id, n]));
  const named = id => data.classes[numbers.get(id)];
  const colour = id => "c" + numbers.get(id) % 12;
  const MOST_UNDO = 2000;
  let state = {reviewer: "", labels: {}, corrections: {}, images: {}, drafts: {}, history: [], at: 0, markClass: null};
  const MOST_ANSWERS = 50;
  let chosen = 0, cross = null, hidden = false, pressed = null, asking = null, answer = 0;

  function load() {
    try {
      const kept = JSON.parse(localStorage.getItem(place));
      if (kept && typeof kept === "object") state = Object.assign(state, kept);
    } catch { /* nothing was kept, or this browser keeps nothing */ }
    state.at = Math.max(0, Math.min(state.at, data.items.length));
  }
  function save() {
    try { localStorage.setItem(place, JSON.stringify(state)); }
    catch { $("kept").textContent = "This browser keeps nothing: export before you close the page."; }
  }
  const item = () => data.items[state.at];
  const isDone = it => (it.kind === "label" ? state.labels : state.images)[it.id] !== undefined;
  function draft(it) {
    return state.drafts[it.id] || state.images[it.id] ||
      {labels: Object.fromEntries(it.labels.map(l => [l.id, "right"])), missed: []};
  }
  function remember(what, id, label = null) {
    const before = state[what][id], correction = label === null ? undefined : state.corrections[label];
    state.history.push({what, id, at: state.at, before: before === undefined ? null : before, label, correction: correction === undefined ? null : correction});
    if (state.history.length > MOST_UNDO) state.history.shift();
  }
  function undo() {
    const last = state.history.pop();
    if (!last) return;
    restore(state[last.what], last.id, last.before);
    if (last.label !== null && last.label !== undefined) restore(state.corrections, last.label, last.correction);
    go(last.at);
  }
  function restore(values, id, before) {
    if (before === null) delete values[id]; else values[id] = before;
  }
  function go(to) {
    state.at = Math.max(0, Math.min(to, data.items.length));
    chosen = 0; cross = null; pressed = null; asking = null;
    save(); show();
  }
  function judge(verdict) {
    const it = item();
    if (!it) return;
    const label = it.kind === "label" ? it : it.labels[chosen];
    if (!label) return;
    const asks = verdict === "class" && data.classes.length > 1;
    if (it.kind === "label") {
      remember("labels", it.id, it.id);
      state.labels[it.id] = verdict;
      delete state.corrections[it.id];
      if (!asks) return go(state.at + 1);
    } else {
      const now = draft(it);
      change(it, {...now, labels: {...now.labels, [label.id]: verdict}}, label.id);
    }
    if (asks) ask(label);
  }
  function ask(label) {
    asking = label; answer = 0;
    $("filter").value = "";
    save(); show();
    $("filter").focus();
  }
  const answers = () => {
    const text = $("filter").value.trim().toLowerCase();
    return data.classes.filter(c => c.id !== asking.class && c.name.toLowerCase().includes(text)).slice(0, MOST_ANSWERS);
  };
  function answered(found) {
    if (found) state.corrections[asking.id] = {category_id: found.id};
    asking = null;
    $("filter").blur();
    if (item().kind === "label") go(state.at + 1); else { save(); show(); }
  }
  function change(it, now, label = null) {
    remember("drafts", it.id, label);
    if (label !== null) delete state.corrections[label];
    state.drafts[it.id] = now;
    save(); show();
  }
  function mark(it, x, y, width = 0, height = 0) {
    const now = draft(it);
    const round = v => Math.round(v / it.scale * 10) / 10;
    const found = {x: round(x), y: round(y), width: round(width), height: round(height), category_id: state.markClass};
    change(it, {...now, missed: [...now.missed, found]});
  }
  function finish() {
    const it = item();
    if (!it || it.kind !== "image") return;
    remember("images", it.id);
    state.images[it.id] = draft(it);
    go(state.at + 1);
  }
  function exported() {
    const said = Object.assign({}, ...Object.values(state.images).map(image => image.labels), state.labels);
    const corrections = Object.fromEntries(Object.entries(state.corrections).filter(([id]) => said[id] === "class"));
    return {format_version: 1, draw: data.draw, design: data.design,
      reviewer: state.reviewer.trim() || "reviewer", labels: state.labels, corrections, images: state.images};
  }
  function download() {
    const url = URL.createObjectURL(new Blob([JSON.stringify(exported(), null, 1)], {type: "application/json"}));
    const link = document.createElement("a");
    link.href = url; link.download = "verdicts.json";
    document.body.append(link); link.click(); link.remove();
    setTimeout(() => URL.revokeObjectURL(url), 10000);
  }

  function svg(name, attributes, ...children) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  }
  function picture(it, label) {
    const size = {width: it.width, height: it.height};
    const shown = it.uri ? svg("image", {...size, href: it.uri}) : svg("rect", {...size, class: "blank"});
    return svg("svg", {viewBox: `0 0 ${it.width} ${it.height}`, role: "img", "aria-label": label}, shown);
  }
  function show() {
    const it = item(), done = data.items.filter(isDone).length;
    $("bar").value = done;
    $("count").textContent = `${done} of ${data.items.length}`;
    $("undo").disabled = !state.history.length;
    $("verdicts").hidden = !it || asking !== null;
    $("asking").hidden = asking === null;
    $("whole").hidden = !it || it.kind !== "image" || asking !== null;
    $("file").textContent = it ? it.file : "";
    if ($("reason")) $("reason").textContent = it && it.reason || "";
    if (!it) {
      const text = document.createElement("p");
      text.textContent = done === data.items.length ? "All verdicts are given: export them." : "The end; some were passed over.";
      $("stage").replaceChildren(text);
      $("question").textContent = "Thank you";
      references(null);
      return;
    }
    if (it.kind === "label") showLabel(it); else showImage(it);
    $("stage").firstChild.classList.toggle("hidden", hidden);
    if (asking !== null) showAnswers();
  }
  function showAnswers() {
    const found = answers(), typed = $("filter").value !== "";
    answer = Math.max(0, Math.min(answer, found.length - 1));
    $("answers").replaceChildren(...found.map((c, n) => {
      const row = document.createElement("li"), dot = document.createElement("i");
      row.className = "answer"; row.id = "answer-" + n;
      row.setAttribute("role", "option");
      row.setAttribute("aria-selected", n === answer);
      dot.className = colour(c.id);
      row.append(dot);
      if (n < 9 && !typed) { const kbd = document.createElement("kbd"); kbd.textContent = n + 1; row.append(kbd, " "); }
      row.append(c.name);
      row.addEventListener("click", () => answered(c));
      return row;
    }));
    if (found.length) { $("filter").setAttribute("aria-activedescendant", "answer-" + answer); $("answers").children[answer].scrollIntoView({block: "nearest"}); }
    else $("filter").removeAttribute("aria-activedescendant");
    references(found.length ? found[answer].id : null);
  }
  function keyOfAnswer(event) {
    const found = answers(), digit = Number(event.key), typed = $("filter").value !== "";
    if (event.key === "Escape") answered(null);
    else if (event.key === "Enter") { if (found.length) answered(found[answer]); }
    else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      answer = (answer + (event.key === "ArrowDown" ? 1 : -1) + found.length) % Math.max(1, found.length);
      showAnswers();
    }
    else if (!typed && digit >= 1 && digit <= Math.min(9, found.length)) answered(found[digit - 1]);
    else return;
    event.preventDefault();
  }
  function press(verdict) {
    for (const button of document.querySelectorAll("[data-verdict]")) button.setAttribute("aria-pressed", button.dataset.verdict === verdict);
  }
  function showLabel(it) {
    const name = named(it.class).name, shown = picture(it, `${name} in ${it.file}`);
    shown.append(svg("path", {d: it.path, class: colour(it.class)}));
    $("stage").replaceChildren(shown);
    const better = state.corrections[it.id];
    $("question").textContent = better ? `${name}: is ${named(better.category_id).name}` : name;
    press(state.labels[it.id]);
    references(it.class);
  }
  function showImage(it) {
    const now = draft(it), shown = picture(it, it.file);
    shown.classList.add("whole");
    it.labels.forEach((label, n) => {
      const right = now.labels[label.id] === "right";
      shown.append(svg("path", {d: label.path, class: `${colour(label.class)}${n === chosen ? " chosen" : ""}${right ? "" : " not-right"}`}));
    });
    const point = it.width / 90;
    for (const m of now.missed) {
      const at = {x: m.x * it.scale, y: m.y * it.scale};
      shown.append(m.width > 0
        ? svg("rect", {...at, width: m.width * it.scale, height: m.height * it.scale, class: "mark"})
        : svg("circle", {cx: at.x, cy: at.y, r: point, class: "mark"}));
    }
    if (cross) {
      shown.append(svg("path", {d: `M${cross.x - 3 * point} ${cross.y}h${6 * point}M${cross.x} ${cross.y - 3 * point}v${6 * point}`, class: "cross"}));
    }
    shown.addEventListener("pointerdown", event => { pressed = where(shown, event); });
    shown.addEventListener("pointerup", event => {
      if (!pressed) return;
      const from = pressed, to = where(shown, event);
      pressed = null;
      const clip = (v, most) => Math.max(0, Math.min(v, most));
      const x0 = clip(Math.min(from.x, to.x), it.width), x1 = clip(Math.max(from.x, to.x), it.width);
      const y0 = clip(Math.min(from.y, to.y), it.height), y1 = clip(Math.max(from.y, to.y), it.height);
      if (Math.min(x1 - x0, y1 - y0) > point / 2) mark(it, x0, y0, x1 - x0, y1 - y0);
      else mark(it, x0, y0);
    });
    $("stage").replaceChildren(shown);
    $("question").textContent = now.missed.length ? `Whole image: ${now.missed.length} missing` : "Whole image: what is missing?";
    $("labels").replaceChildren(...it.labels.map((label, n) => {
      const row = document.createElement("li"), button = document.createElement("button"), dot = document.createElement("i");
      dot.className = colour(label.class);
      button.type = "button";
      button.setAttribute("aria-current", n === chosen);
      const better = state.corrections[label.id];
      button.append(dot, `${named(label.class).name}: ${words[now.labels[label.id]]}${better ? `, is ${named(better.category_id).name}` : ""}`);
      button.addEventListener("click", () => { chosen = n; show(); });
      row.append(button);
      return row;
    }));
    const current = it.labels[chosen];
    press(current && now.labels[current.id]);
    references(current ? current.class : null);
  }
  function where(shown, event) {
    return new DOMPoint(event.clientX, event.clientY).matrixTransform(shown.getScreenCTM().inverse());
  }
  function references(id) {
    const own = id === null ? [] : named(id).references;
    $("references-title").hidden = !own.length;
    $("references").replaceChildren(...own.map(crop => {
      const shown = picture(crop, `reference in ${crop.file}`);
      shown.append(svg("path", {d: crop.path, class: colour(id)}));
      return shown;
    }));
  }

  function step(event, it) {
    const by = it.width * (event.shiftKey ? 0.004 : 0.025);
    const [dx, dy] = {ArrowLeft: [-by, 0], ArrowRight: [by, 0], ArrowUp: [0, -by], ArrowDown: [0, by]}[event.key];
    cross = cross || {x: it.width / 2, y: it.height / 2};
    cross = {x: Math.max(0, Math.min(it.width, cross.x + dx)), y: Math.max(0, Math.min(it.height, cross.y + dy))};
    show();
  }
  document.addEventListener("keydown", event => {
    const from = event.target.tagName;
    if (asking !== null) {
      if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
      if (event.target === $("filter") || (from !== "INPUT" && from !== "BUTTON")) keyOfAnswer(event);
      return;
    }
    if (event.ctrlKey || event.metaKey || event.altKey || from === "INPUT" || from === "SELECT") return;
    if (from === "BUTTON" && (event.key === "Enter" || event.key === " ")) return;
    const it = item(), image = it && it.kind === "image", key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const digit = Number(key);
    if (digit >= 1 && digit <= verdicts.length) judge(verdicts[digit - 1]);
    else if (key === "u" || key === "Backspace") undo();
    else if (key === "e") download();
    else if (key === "h") { hidden = !hidden; show(); }
    else if (key === "PageUp" || (!image && key === "ArrowLeft")) go(state.at - 1);
    else if (key === "PageDown" || (!image && key === "ArrowRight")) go(state.at + 1);
    else if (image && key.startsWith("Arrow")) step(event, it);
    else if (image && key === "m") { cross = cross || {x: it.width / 2, y: it.height / 2}; mark(it, cross.x, cross.y); }
    else if (image && key === "n" && it.labels.length) { chosen = (chosen + 1) % it.labels.length; show(); }
    else if (image && key === "Enter") finish();
    else return;
    event.preventDefault();
  });
  for (const button of document.querySelectorAll("[data-verdict]")) {
    button.addEventListener("click", () => { judge(button.dataset.verdict); button.blur(); });
  }
  $("filter").addEventListener("input", () => { answer = 0; showAnswers(); });
  $("skip").addEventListener("click", () => answered(null));
  $("undo").addEventListener("click", () => { undo(); $("undo").blur(); });
  $("export").addEventListener("click", download);
  $("done").addEventListener("click", () => { finish(); $("done").blur(); });
  $("reviewer").addEventListener("input", () => { state.reviewer = $("reviewer").value; save(); });
  $("mark-class").addEventListener("change", () => { state.markClass = Number($("mark-class").value); save(); });

  load();
  if (!numbers.has(state.markClass)) state.markClass = data.classes.length ? data.classes[0].id : null;
  $("mark-class").replaceChildren(...data.classes.map(c => new Option(c.name, c.id, false, c.id === state.markClass)));
  $("reviewer").value = state.reviewer;
  show();
})();
