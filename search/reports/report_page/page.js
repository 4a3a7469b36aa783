"use strict";
// Draws the charts of a study. The figures and plotly.js lie packed in the page; nothing is loaded.
(async () => {
  const page = document.documentElement;
  const charts = [...document.querySelectorAll("[data-chart]")];
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const finger = matchMedia("(pointer: coarse)").matches;
  const drawn = new Set();
  const config = { responsive: true, displayModeBar: false };
  let printing = false;
  let data;

  const css = (name) => getComputedStyle(page).getPropertyValue(name).trim();

  async function unpack(id) {
    const bytes = Uint8Array.from(atob(document.getElementById(id).textContent), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).text();
  }

  const parts = (color) => color.startsWith("#")
    ? [1, 3, 5].map((at) => parseInt(color.slice(at, at + 2), 16))
    : color.match(/\d+/g).slice(0, 3).map(Number);

  // Optuna's blues go from white to dark: on this page from faint to strong, whatever its scheme.
  function shade(blue) {
    const strength = 1 - Math.min(parts(blue)[0], 247) / 247;
    const low = parts(css("--faint")), high = parts(css("--strong"));
    return `rgb(${low.map((x, i) => Math.round(x + strength * (high[i] - x)))})`;
  }

  function shaded(trace) {
    const copy = structuredClone(trace);
    const marker = copy.marker || {};
    if (Array.isArray(marker.colorscale)) marker.colorscale = marker.colorscale.map(([at, color]) => [at, shade(color)]);
    if (marker.colorbar) Object.assign(marker.colorbar, { thickness: 10, outlinewidth: 0, xpad: 6 });
    if (copy.line && typeof copy.line.color === "string" && copy.line.color.startsWith("rgb")) copy.line.color = shade(copy.line.color);
    return copy;
  }

  function layout(figure, element) {
    const given = structuredClone(figure.layout);
    const axis = { gridcolor: css("--line"), linecolor: css("--line"), zeroline: false, automargin: true, exponentformat: "power", fixedrange: finger, tickfont: { color: css("--soft") } };
    const axes = Object.fromEntries(["xaxis", "yaxis"].map((name) => {
      const own = given[name] || {};
      return [name, { ...axis, ...own, title: { standoff: 6, ...own.title, font: { color: css("--soft") } } }];
    }));
    // The numbers at the axes of the parallel coordinates lie upon its lines.
    (given.annotations || []).forEach((mark) => Object.assign(mark, { bgcolor: css("--panel"), opacity: 0.85 }));
    return {
      ...given, ...axes,
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: getComputedStyle(document.body).fontFamily, size: 12.5, color: css("--ink") },
      margin: { l: given.shapes ? 54 : 8, r: 10, t: 12, b: 8 }, dragmode: finger ? false : "zoom", hovermode: "closest",
      hoverlabel: { bgcolor: css("--panel"), bordercolor: css("--soft"), font: { color: css("--ink") }, align: "left", namelength: 60 },
      legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", bgcolor: "rgba(0,0,0,0)" },
      showlegend: given.showlegend !== false && figure.data.filter((trace) => trace.showlegend !== false && trace.name).length > 1,
      ...(printing ? { width: 640, height: element.clientHeight, autosize: false } : { autosize: true }),
    };
  }

  function show(element) {
    drawn.add(element);
    try {
      const figure = data[Number(element.dataset.chart)][Number(element.dataset.figure)];
      Plotly.react(element, figure.data.map(shaded), layout(figure, element), config);
    } catch (error) {
      element.textContent = "";
      element.appendChild(document.createElement("p")).textContent = `This chart could not be drawn: ${error.message}`;
      page.dataset.state = "failed";
    }
  }

  const again = () => drawn.forEach(show);

  try {
    data = JSON.parse(await unpack("data"));
    const script = document.createElement("script");
    script.textContent = await unpack("plotly");
    document.head.append(script);
    dark.addEventListener("change", again);
    addEventListener("beforeprint", () => { printing = true; charts.forEach(show); });
    addEventListener("afterprint", () => { printing = false; again(); });
    // Charts are drawn when they come near the window: a page of many is there at once.
    const near = new IntersectionObserver((entries) => entries.forEach((entry) => {
      if (entry.isIntersecting) { near.unobserve(entry.target); show(entry.target); }
    }), { rootMargin: "500px" });
    charts.forEach((element) => near.observe(element));
    page.dataset.state = page.dataset.state || "ready";
  } catch (error) {
    page.dataset.state = "failed";
    const old = typeof DecompressionStream === "undefined";
    charts.forEach((element) => {
      element.appendChild(document.createElement("p")).textContent = old ? "This browser is too old for the charts (it lacks DecompressionStream)." : `The charts could not be drawn: ${error.message}`;
    });
  }
})();
