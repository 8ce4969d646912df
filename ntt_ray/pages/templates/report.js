"use strict";
(() => {
  const slider = document.getElementById("score");
  if (!slider) return;
  const names = JSON.parse(document.getElementById("report-data").textContent).classes;
  const boxes = [...document.querySelectorAll(".filters input")];
  const own = new Set(boxes.map((box) => box.dataset.k));
  const tip = document.getElementById("tip");
  const visibleCount = document.getElementById("visible-count");
  const shots = [...document.querySelectorAll(".shot")].map((shot) => ({
    figure: shot,
    tally: shot.querySelector(".tally"),
    judged: shot.querySelector("svg.truth") !== null,
    masks: [...shot.querySelectorAll("g.m")].map(read),
    truth: [...shot.querySelectorAll("g.t")].map(read),
  }));
  const groups = [...document.querySelectorAll(".group")];
  const large = document.getElementById("large");
  const largePanes = document.getElementById("large-panes");
  let hot = null;

  function read(el) {
    const { k, s, r } = el.dataset;
    return { el, k: own.has(k) ? k : "rest", score: s === "" ? -1 : Number(s), right: r };
  }

  function update() {
    const cut = Number(slider.value);
    const on = new Set(boxes.filter((box) => box.checked).map((box) => box.dataset.k));
    const some = boxes.some((box) => !box.checked);
    let total = 0, images = 0;
    for (const shot of shots) {
      let visible = 0, right = 0, wrong = 0, missed = 0, objects = 0;
      for (const mask of shot.masks) {
        const show = mask.score >= cut && on.has(mask.k);
        mask.el.classList.toggle("off", !show);
        visible += show;
        right += show && mask.right === "1";
        wrong += show && mask.right === "0";
      }
      for (const mask of shot.truth) {
        const miss = mask.score < cut;
        mask.el.classList.toggle("off", !on.has(mask.k));
        mask.el.classList.toggle("miss", miss);
        missed += miss && on.has(mask.k);
        objects += on.has(mask.k);
      }
      // classes choose images, too; where all are chosen, those with nothing in them stay
      const show = !some || visible > 0 || objects > 0;
      shot.figure.hidden = !show;
      images += show;
      total += visible;
      shot.tally.replaceChildren(...(shot.judged
        ? [part(right + " right", right && "good"), " · ", part(wrong + " wrong", wrong && "bad"),
           " · ", part(missed + " missed", missed && "bad")]
        : [visible + (visible === 1 ? " mask" : " masks")]));
    }
    for (const group of groups) group.hidden = some && !group.querySelector(".shot:not([hidden])");
    document.getElementById("no-image").hidden = !some || images > 0;
    document.getElementById("image-count").textContent = some ? " in " + images + " of " + shots.length + " images" : "";
    document.getElementById("setting").textContent = "--set merge.min_score=" + cut.toFixed(2);
    visibleCount.textContent = total.toLocaleString("en");
    document.getElementById("score-value").textContent = cut.toFixed(2);
    point(null);
  }

  function part(text, kind) {
    const span = document.createElement("span");
    span.textContent = text;
    if (kind) span.className = kind;
    return span;
  }

  function describe(el) {
    const { k, s, r } = el.dataset;
    const name = names[k];
    if (el.matches(".t")) {
      if (!el.matches(".miss")) return name + ", found with " + Number(s).toFixed(2);
      return name + (s === "" ? ", missed" : ", missed at this score");
    }
    const judged = r === "1" ? ", right" : r === "0" ? ", wrong" : "";
    return name + " " + Number(s).toFixed(2) + judged;
  }

  function point(el, x, y) {
    if (hot && hot !== el) hot.classList.remove("hot");
    hot = el;
    if (!el) { tip.textContent = ""; return; }
    const text = describe(el);
    if (!el.matches(".hot") || tip.lastChild?.textContent !== text) {
      const dot = document.createElement("i");
      dot.className = "dot " + [...el.classList].find((name) => /^c\d+/.test(name));
      tip.replaceChildren(dot, text);
    }
    el.classList.add("hot");
    const box = tip.getBoundingClientRect();
    const left = Math.max(4, Math.min(x + 14, innerWidth - box.width - 4));
    const top = y + 18 + box.height > innerHeight ? y - box.height - 12 : y + 18;
    tip.style.transform = "translate(" + Math.round(left) + "px," + Math.round(top) + "px)";
  }

  function follow(event) {
    const el = event.target.closest?.(".pic g.m, .pic g.t");
    point(el || null, event.clientX, event.clientY);
  }

  // the panes of an image, as large as the window; masks stay as the controls left them
  function enlarge(figure, from) {
    document.getElementById("large-name").textContent = figure.querySelector("figcaption > bdi").textContent;
    largePanes.replaceChildren(...[...figure.querySelector(".panes").children].map((pane) => pane.cloneNode(true)));
    for (const el of largePanes.querySelectorAll("[id]")) el.removeAttribute("id");
    for (const picture of largePanes.querySelectorAll("svg")) {
      picture.dataset.whole = picture.getAttribute("viewBox");
      picture.dataset.text = parseFloat(picture.style.getPropertyValue("--text"));
    }
    point(null);
    large.append(tip);
    large.showModal();
    if (from) closer(from);
  }

  // all panes show the same part: the surroundings of a mask, or everything
  function closer(mask) {
    for (const picture of largePanes.querySelectorAll("svg")) {
      const [, , width, height] = picture.dataset.whole.split(" ").map(Number);
      let share = 1, x = 0, y = 0;
      if (mask) {
        const box = mask.querySelector("path").getBBox();
        share = Math.min(1, Math.max(1.6 * box.width / width, 1.6 * box.height / height, 0.08));
        x = Math.min(Math.max(0, box.x + box.width / 2 - share * width / 2), (1 - share) * width);
        y = Math.min(Math.max(0, box.y + box.height / 2 - share * height / 2), (1 - share) * height);
      }
      picture.setAttribute("viewBox", [x, y, share * width, share * height].join(" "));
      picture.style.setProperty("--text", share * picture.dataset.text + "px");
    }
    large.classList.toggle("close", mask !== null);
  }

  function clicked(event) {
    const picture = event.target.closest?.("svg.pic");
    if (!picture) return;
    const mask = event.target.closest("g.m, g.t");
    if (large.contains(picture)) closer(mask);
    else enlarge(picture.closest(".shot"), null);
  }

  function copy() {
    const line = document.getElementById("setting");
    getSelection().selectAllChildren(line);
    navigator.clipboard?.writeText(line.textContent).catch(() => {});
  }

  // arrow keys walk through the visible masks of the picture that has the focus
  function walk(event) {
    if (event.key.toLowerCase() === "m" && !event.ctrlKey && !event.metaKey && !event.altKey) {
      switchMasks.checked = !switchMasks.checked;
      applySwitches();
      return;
    }
    const picture = event.target.closest?.("svg.pic");
    if (!picture) return;
    if (event.key === "Enter") {
      const mask = hot && picture.contains(hot) ? hot : null;
      if (large.contains(picture)) closer(mask);
      else enlarge(picture.closest(".shot"), null);
      return;
    }
    if (event.key === "Escape") { point(null); return; }
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!step) return;
    const masks = [...picture.querySelectorAll("g.m:not(.off), g.t:not(.off)")];
    if (!masks.length) return;
    event.preventDefault();
    const at = masks.indexOf(hot);
    const next = masks[at < 0 ? (step > 0 ? 0 : masks.length - 1) : (at + step + masks.length) % masks.length];
    const box = next.getBoundingClientRect();
    point(next, box.left + box.width / 2, box.top + box.height / 2);
  }

  slider.addEventListener("input", update);
  for (const box of boxes) box.addEventListener("change", update);
  for (const [id, checked] of [["all", true], ["none", false]]) {
    document.getElementById(id).addEventListener("click", () => {
      for (const box of boxes) box.checked = checked;
      update();
    });
  }
  const switchNames = document.getElementById("names");
  const switchMasks = document.getElementById("masks");
  function applySwitches() {
    document.body.classList.toggle("named", switchNames.checked);
    document.body.classList.toggle("bare", !switchMasks.checked);
  }
  for (const box of [switchNames, switchMasks]) box.addEventListener("change", applySwitches);
  document.addEventListener("click", clicked);
  for (const button of document.querySelectorAll(".enlarge")) {
    button.addEventListener("click", () => enlarge(button.closest(".shot"), null));
  }
  document.getElementById("copy").addEventListener("click", copy);
  document.getElementById("whole").addEventListener("click", () => closer(null));
  document.getElementById("close").addEventListener("click", () => large.close());
  large.addEventListener("close", () => { point(null); document.body.append(tip); });
  addEventListener("pointermove", follow, { passive: true });
  addEventListener("pointerdown", follow, { passive: true });
  addEventListener("keydown", walk);
  addEventListener("scroll", () => { if (hot) point(null); }, { passive: true });
  applySwitches();
  update();
})();
