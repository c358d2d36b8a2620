// Moves one cursor through all panels that share an x axis and writes the values there above them; by mouse or keys.
"use strict";
(() => {
  const panels = [...document.querySelectorAll("figure[data-curves]")].map((figure) => ({
    figure,
    svg: figure.querySelector("svg"),
    cursor: figure.querySelector("line.cursor"),
    at: figure.querySelector(".at"),
    curves: JSON.parse(figure.dataset.curves),
    axis: figure.dataset.axis,
    left: figure.querySelector(".grid")?.x1.baseVal.value,
    right: figure.querySelector(".grid")?.x2.baseVal.value,
    low: Number(figure.dataset.low),
    high: Number(figure.dataset.high),
    reads: [...figure.querySelectorAll("b[data-read]")].map((b) => ({ b, last: b.textContent })),
  })).filter((panel) => panel.cursor);

  const nearest = (xs, x) => xs.reduce((best, value, i) => (Math.abs(value - x) < Math.abs(xs[best] - x) ? i : best), 0);
  const show = (value) => {
    const size = Math.abs(value);
    if (value !== 0 && (size < 1e-3 || size >= 1e7)) return value.toExponential(2);
    return size >= 1000 ? Math.round(value).toLocaleString("en").replaceAll(",", "\u202f") : String(+value.toPrecision(3));
  };

  const move = (axis, x) => {
    for (const panel of panels) {
      if (panel.axis !== axis) continue;
      const place = panel.left + ((x - panel.low) / (panel.high - panel.low)) * (panel.right - panel.left);
      panel.cursor.setAttribute("x1", place);
      panel.cursor.setAttribute("x2", place);
      panel.figure.classList.add("reading");
      panel.at.textContent = `${axis} ${show(Math.round(x))}`;
      panel.curves.forEach((curve, i) => {
        if (curve.x.length) panel.reads[i].b.textContent = show(curve.y[nearest(curve.x, x)]);
      });
    }
  };
  const leave = () => {
    for (const panel of panels) {
      panel.figure.classList.remove("reading");
      panel.at.textContent = "";
      panel.reads.forEach(({ b, last }) => { b.textContent = last; });
    }
  };

  for (const panel of panels) {
    panel.svg.addEventListener("pointermove", (event) => {
      const box = panel.svg.getBoundingClientRect();
      const inside = ((event.clientX - box.left) / box.width) * panel.svg.viewBox.baseVal.width;
      const share = Math.min(1, Math.max(0, (inside - panel.left) / (panel.right - panel.left)));
      move(panel.axis, panel.low + share * (panel.high - panel.low));
    });
    panel.svg.addEventListener("pointerleave", leave);
    // With the keyboard: arrows go from point to point, Home and End to the ends; the values are read out.
    let at = null;
    const xs = [...new Set(panel.curves.flatMap((curve) => curve.x))].sort((a, b) => a - b);
    const values = panel.figure.querySelector(".reads");
    panel.svg.addEventListener("keydown", (event) => {
      const last = xs.length - 1;
      const next = { ArrowLeft: (at ?? last + 1) - 1, ArrowRight: (at ?? -1) + 1, Home: 0, End: last }[event.key];
      if (next === undefined || last < 0) return;
      event.preventDefault();
      at = Math.min(last, Math.max(0, next));
      values.setAttribute("aria-live", "polite");
      move(panel.axis, xs[at]);
    });
    panel.svg.addEventListener("blur", () => { at = null; values.removeAttribute("aria-live"); leave(); });
  }
})();
