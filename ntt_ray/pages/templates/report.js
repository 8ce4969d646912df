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
    tally: shot.querySelector(".tally"),
    judged: shot.querySelector("svg.truth") !== null,
    masks: [...shot.querySelectorAll("g.m")].map(read),
    truth: [...shot.querySelectorAll("g.t")].map(read),
  }));
  let hot = null;

  function read(el) {
    const { k, s, r } = el.dataset;
    return { el, k: own.has(k) ? k : "rest", score: s === "" ? -1 : Number(s), right: r };
  }

  function update() {
    const cut = Number(slider.value);
    const on = new Set(boxes.filter((box) => box.checked).map((box) => box.dataset.k));
    let total = 0;
    for (const shot of shots) {
      let visible = 0, right = 0, wrong = 0, missed = 0;
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
      }
      total += visible;
      shot.tally.replaceChildren(...(shot.judged
        ? [part(right + " right", right && "good"), " · ", part(wrong + " wrong", wrong && "bad"),
           " · ", part(missed + " missed", missed && "bad")]
        : [visible + (visible === 1 ? " mask" : " masks")]));
    }
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

  // arrow keys walk through the visible masks of the picture that has the focus
  function walk(event) {
    const picture = event.target.closest?.("svg.pic");
    if (!picture) return;
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
  const applyNames = () => document.body.classList.toggle("named", switchNames.checked);
  switchNames.addEventListener("change", applyNames);
  addEventListener("pointermove", follow, { passive: true });
  addEventListener("pointerdown", follow, { passive: true });
  addEventListener("keydown", walk);
  addEventListener("scroll", () => { if (hot) point(null); }, { passive: true });
  applyNames();
  update();
})();
