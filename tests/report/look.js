(() => {
  const box = (element) => element.getBoundingClientRect();
  const shown = (element) => { const b = box(element); return b.width > 0 && b.height > 0; };
  const name = (element) => `${element.tagName.toLowerCase()}.${element.getAttribute("class") || ""}: ${element.textContent.slice(0, 60)}`;
  const inScroller = (element) => element.closest(".scroll") !== null;
  const width = document.documentElement.clientWidth;
  const all = [...document.body.querySelectorAll("*")].filter((e) => shown(e) && !["SCRIPT", "STYLE"].includes(e.tagName));

  // Text that leaves its own box where the box hides the rest, or that leaves the page.
  const clipped = all.filter((e) => {
    const style = getComputedStyle(e);
    const hides = ["hidden", "clip"].includes(style.overflowX) || ["hidden", "clip"].includes(style.overflowY);
    return !(e instanceof SVGElement) && hides && (e.scrollWidth > e.clientWidth + 1 || e.scrollHeight > e.clientHeight + 1);
  }).map(name);
  const outside = all.filter((e) => !inScroller(e) && (box(e).right > width + 0.5 || box(e).left < -0.5)).map(name);
  // Text in a column so narrow that it reads downwards.
  const squeezed = all.filter((e) => {
    const text = e.children.length === 0 ? e.textContent.trim() : "";
    return !(e instanceof SVGElement) && text.length >= 3 && box(e).width < 24 && box(e).height > 2.5 * box(e).width;
  }).map(name);
  const svgText = [...document.querySelectorAll("figure svg text")].filter((e) => {
    const own = box(e), frame = box(e.closest("svg"));
    return own.left < frame.left - 0.5 || own.right > frame.right + 0.5 || own.top < frame.top - 0.5 || own.bottom > frame.bottom + 0.5;
  }).map(name);
  const overlapping = [...document.querySelectorAll("figure svg")].flatMap((svg) => {
    const texts = [...svg.querySelectorAll("text.tick")];
    return texts.flatMap((a, i) => texts.slice(i + 1).filter((b) => {
      const p = box(a), q = box(b);
      return p.left < q.right && q.left < p.right && p.top + 2 < q.bottom - 2 && q.top + 2 < p.bottom - 2;
    }).map((b) => `${svg.getAttribute("aria-label")}: ${a.textContent} | ${b.textContent}`));
  });

  const charts = [...document.querySelectorAll("figure svg")].filter(shown).map((svg) => ({
    label: svg.getAttribute("aria-label"),
    drawn: [...svg.querySelectorAll("path.line, path.layer, path.band, rect.bar")].filter((e) => {
      const own = box(e), style = getComputedStyle(e);
      return own.width > 0 && (style.stroke !== "none" || style.fill !== "none");
    }).length,
    colours: [...new Set([...svg.querySelectorAll("path.line")].map((e) => getComputedStyle(e).stroke))],
  }));
  const smallest = Math.min(...[...document.querySelectorAll("figure svg text")].filter(shown).map((e) => {
    const scale = box(e.closest("svg")).width / e.closest("svg").viewBox.baseVal.width;
    return parseFloat(getComputedStyle(e).fontSize) * scale;
  }));
  const chart = document.querySelector("figure.line svg");

  // Arrow keys on the first curve over steps.
  const figure = [...document.querySelectorAll("figure[data-axis=step]")].find((e) => shown(e) && e.querySelector(".title").textContent === "Reward");
  const keyboard = figure && {
    at: ["ArrowRight", "ArrowRight", "ArrowLeft"].map((key) => {
      figure.querySelector("svg").dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
      return figure.querySelector(".at").textContent;
    }),
    live: figure.querySelector(".reads").getAttribute("aria-live"),
  };
  figure?.querySelector("svg").dispatchEvent(new FocusEvent("blur"));
  return {
    inner: [innerWidth, innerHeight],
    scroll_width: document.documentElement.scrollWidth,
    height: document.documentElement.scrollHeight,
    clipped, outside, squeezed, svg_text_outside: svgText, overlapping, charts,
    smallest_text: Number.isFinite(smallest) ? smallest : null,
    title: document.title,
    checks: [...document.querySelectorAll(".checks tbody tr")].filter(shown).length,
    keyboard,
    folded: [...document.querySelectorAll(".fold")].filter(shown).length,
    requests: performance.getEntriesByType("resource").map((e) => e.name),
    injected: window.injected === undefined ? null : String(window.injected),
    background: getComputedStyle(document.body).backgroundColor,
    samples: [...document.querySelectorAll(".sample .response")].map((e) => e.textContent),
    first_chart: chart && { top: box(chart).top + scrollY, x: box(chart).left + box(chart).width * 0.6, height: box(chart).height },
  };
})()
