"use strict";
// Draws the charts of a report. The numbers and plotly.js lie packed in the page; nothing is loaded.
(async () => {
  const page = document.documentElement;
  const charts = [...document.querySelectorAll("[data-chart]")];
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const finger = matchMedia("(pointer: coarse)").matches;
  const drawn = new Set();
  const hidden = new Set();
  let printing = false;
  let data;

  // Colour maps of matplotlib, as in the pictures among the artifacts.
  const VIRIDIS = ["#440154", "#482878", "#3e4a89", "#31688e", "#26828e", "#1f9e89", "#35b779", "#6dcd59", "#b4de2c", "#fde725"];
  const PLASMA = [[13, 8, 135], [84, 2, 163], [139, 10, 165], [185, 50, 137], [219, 92, 104], [244, 136, 73], [254, 188, 43], [240, 249, 33]];
  const colorscale = VIRIDIS.map((color, i) => [i / (VIRIDIS.length - 1), color]);
  const config = { responsive: true, displayModeBar: false };

  const css = (name) => getComputedStyle(page).getPropertyValue(name).trim();
  const isDark = () => dark.matches && !printing;
  const whole = (x) => x.toLocaleString("en");

  async function unpack(id) {
    const bytes = Uint8Array.from(atob(document.getElementById(id).textContent), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).text();
  }

  function layerColor(index) {
    // Every line must stand out from the background: no dark ones on dark, no pale ones on white.
    const share = data.layers.length > 1 ? index / (data.layers.length - 1) : 0;
    const place = (isDark() ? 0.3 + 0.7 * share : 0.82 * share) * (PLASMA.length - 1);
    const low = Math.min(Math.floor(place), PLASMA.length - 2);
    const mixed = PLASMA[low].map((x, i) => Math.round(x + (place - low) * (PLASMA[low + 1][i] - x)));
    return `rgb(${mixed})`;
  }

  function layout(more) {
    const axis = { gridcolor: css("--line"), linecolor: css("--line"), zeroline: false, automargin: true,
      fixedrange: finger, exponentformat: "power", tickfont: { color: css("--soft") } };
    const few = lastStep() < 8 ? { dtick: 1 } : {};
    return {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: getComputedStyle(document.body).fontFamily, size: 12.5, color: css("--ink") },
      margin: { l: 8, r: 10, t: 8, b: 8 }, showlegend: false, dragmode: finger ? false : "zoom",
      hoverlabel: { bgcolor: css("--panel"), bordercolor: css("--soft"), font: { color: css("--ink") }, align: "left", namelength: 60 },
      legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", bgcolor: "rgba(0,0,0,0)" },
      ...more,
      xaxis: { ...axis, title: { text: "step", standoff: 4, font: { color: css("--soft") } }, tickformat: ",d", ...few, ...more.xaxis },
      yaxis: { ...axis, ...more.yaxis },
    };
  }

  const lastStep = () => Math.max(0, ...(data.steps ? data.steps.step.slice(-1) : []), ...data.valid_loss.step.slice(-1), ...data.layers.map((layer) => layer.end));

  const line = (x, y, name, color, more = {}) => ({ type: "scatter", mode: x.length > 1 ? "lines" : "markers",
    x, y, name, hovertemplate: "%{y:.4g}", ...more, line: { color, width: 1.8, ...more.line }, marker: { color, size: 8, ...more.marker } });

  // Where findings begin, by their number on the page; what begins close together shares a line. In a
  // chart of one layer only those about it, or about no layer, are shown.
  function marks(layer) {
    const here = data.marks.filter((mark) => !layer || !mark.layers.length || mark.layers.includes(layer)).sort((a, b) => a.step - b.step);
    const near = lastStep() / 25;
    const groups = [];
    for (const mark of here) {
      const last = groups[groups.length - 1];
      if (last && mark.step - last[0].step <= near) last.push(mark);
      else groups.push([mark]);
    }
    return groups.map((found) => {
      const step = found[0].step;
      // A colour-dim is dark on light pages too.
      const color = layer ? "#ffffff" : css(found.some((mark) => mark.severity === "critical") ? "--bad" : "--open");
      return { type: "line", xref: "x", yref: "paper", x0: step, x1: step, y0: 0, y1: 1, line: { color, width: 1.5, dash: "dot" },
        label: { text: `<b>${found.map((mark) => mark.number).sort((a, b) => a - b).join(", ")}</b>`, textangle: 0, textposition: "end", yanchor: "top",
          xanchor: step > lastStep() / 2 ? "right" : "left", font: { size: 12, color } } };
    });
  }

  const draw = {
    loss() {
      const traces = [];
      const blue = isDark() ? "#7db7f5" : "#0b5cad", orange = isDark() ? "#ffb26b" : "#b34700";
      const steps = data.steps;
      if (steps && steps.loss.some((y) => y !== null)) {
        traces.push(line(steps.step, steps.loss, "training, each step", blue, { opacity: 0.35, showlegend: false, line: { width: 1 } }));
        traces.push(line(steps.step, steps.loss_smooth, "training", blue));
      }
      const done = { mode: "lines+markers", marker: { size: 6 } };
      if (data.valid_loss.step.length) traces.push(line(data.valid_loss.step, data.valid_loss.value, "validation", orange, done));
      if (data.test_loss.step.length) traces.push(line(data.test_loss.step, data.test_loss.value, "test", css("--ink"), { mode: "markers", marker: { symbol: "star", size: 12 } }));
      return [traces, { showlegend: true, hovermode: "x unified", yaxis: logarithmic(traces), shapes: marks() }];
    },
    accuracy() {
      const green = isDark() ? "#6fcf97" : "#1a6b3c";
      const percent = { hovertemplate: "%{y:.2%}" };
      const traces = [];
      if (data.valid_accuracy.step.length) traces.push(line(data.valid_accuracy.step, data.valid_accuracy.value, "validation", green, { ...percent, mode: "lines+markers", marker: { size: 6 } }));
      if (data.test_accuracy.step.length) traces.push(line(data.test_accuracy.step, data.test_accuracy.value, "test", css("--ink"), { ...percent, mode: "markers", marker: { symbol: "star", size: 12 } }));
      return [traces, { showlegend: true, hovermode: "x unified", xaxis: { rangemode: "tozero" }, yaxis: { tickformat: ".0%", range: data.valid_accuracy.step.length ? shareRange(traces) : [-0.03, 1.03] } }];
    },
    lr: () => schedule("lr", isDark() ? "#7db7f5" : "#0b5cad"),
    momentum: () => schedule("momentum", isDark() ? "#ffb26b" : "#b34700"),
    curve(element) {
      const name = element.dataset.curve;
      const traces = data.layers.map((layer, i) => line(layer.first.map((x, k) => (x + layer.last[k]) / 2), layer[name], layer.name, layerColor(i),
        { visible: !hidden.has(i), hovertemplate: "%{fullData.name}<br>step %{x:,.0f}: %{y:.4g}<extra></extra>", line: { width: data.layers.length > 24 ? 1 : 1.6 } }));
      const share = name === "near_zero" || name === "dead_channels";
      const scale = (!share && symlog(traces)) || {};
      return [traces, { hovermode: "closest", shapes: marks(), yaxis: share ? { range: [-0.03, 1.03], tickformat: ".0%" } : scale }];
    },
    color_dim: (element) => colorDim(data.layers[Number(element.dataset.layer)]),
  };

  function schedule(name, color) {
    const steps = data.steps;
    const traces = [line(steps.step, steps[name], name, color)];
    const [low, high] = bounds(traces);
    const constant = high - low < 1e-9 ? { range: [0, Math.max(1.1 * high, 1e-12)] } : {};
    return [traces, { hovermode: "x unified", yaxis: { rangemode: name === "lr" ? "tozero" : "normal", ...constant } }];
  }

  // The outermost bins have no width of their own: they are drawn as one row each.
  const OUTER = 0.75;

  function binEdges(layer) {
    const bins = data.bins;
    const all = [bins[0] - OUTER, ...bins, bins[bins.length - 1] + OUTER];
    return all.slice(layer.low, layer.low + layer.hist[0].length + 1);
  }

  function binName(low, high) {
    const end = data.bins[data.bins.length - 1];
    if (high > end) return `above ${end}`;
    return low < -end ? `below ${-end}` : `${low} to ${high}`;
  }

  function colorDim(layer) {
    if (!layer.hist.length) throw new Error("nothing recorded");
    const edges = binEdges(layer);
    const steps = layer.first.map((first, k) => first === layer.last[k] ? `step ${whole(first)}` : `steps ${whole(first)} to ${whole(layer.last[k])}`);
    const z = [], text = [];
    for (let bin = 0; bin < edges.length - 1; bin++) {
      const name = binName(edges[bin], edges[bin + 1]);
      z.push(layer.hist.map((counts) => Math.log1p(counts[bin])));
      text.push(layer.hist.map((counts, k) => `${steps[k]}<br>activation ${name}<br>count ${whole(counts[bin])}`));
    }
    const most = z.reduce((top, row) => row.reduce((a, b) => Math.max(a, b), top), 0);
    const powers = Array.from({ length: 16 }, (_, k) => 10 ** (k + 1)).filter((count) => Math.log1p(count) <= most);
    const ticks = powers.filter((_, k) => k % Math.ceil(powers.length / 4) === 0);
    const trace = { type: "heatmap", x: [...layer.first, layer.end], y: edges, z, text, hovertemplate: "%{text}<extra></extra>", colorscale,
      zmin: 0, zmax: most || 1, colorbar: { thickness: 9, outlinewidth: 0, tickvals: [0, ...ticks.map(Math.log1p)],
        ticktext: ["0", ...ticks.map((count) => count.toLocaleString("en", { notation: "compact" }))], xpad: 4, title: { text: "count", side: "right" } } };
    return [[trace], { hovermode: "closest", shapes: marks(layer.name), xaxis: { showgrid: false }, yaxis: { showgrid: false, ...binTicks(edges) } }];
  }

  function binTicks(edges) {
    const end = data.bins[data.bins.length - 1];
    const low = edges[0], high = edges[edges.length - 1];
    const unit = [0.25, 0.5, 1, 2, 5].find((step) => (Math.min(high, end) - Math.max(low, -end)) / step <= 6) || 5;
    const vals = [], names = [];
    for (let value = Math.ceil(Math.max(low, -end) / unit) * unit; value <= Math.min(high, end); value += unit) {
      // The outer rows have labels of their own, which take the place of the nearest.
      if ((high > end && value > end - 1) || (low < -end && value < 1 - end)) continue;
      vals.push(value); names.push(String(value));
    }
    if (high > end) { vals.push(end + OUTER / 2); names.push(`> ${end}`); }
    if (low < -end) { vals.unshift(-end - OUTER / 2); names.unshift(`< −${end}`); }
    return { tickvals: vals, ticktext: names, range: [low, high] };
  }

  function show(element) {
    drawn.add(element);
    try {
      const [traces, more] = draw[element.dataset.chart](element);
      if (!traces.some((trace) => trace.type === "heatmap" || trace.y.some((y) => y !== null))) throw new Error("nothing recorded");
      Plotly.react(element, traces, layout({ ...more, ...(printing ? { width: 640, height: element.clientHeight, autosize: false } : { autosize: true }) }), config);
    } catch (error) {
      element.textContent = "";
      element.appendChild(document.createElement("p")).textContent = error.message === "nothing recorded" ? "Nothing was recorded." : `This chart could not be drawn: ${error.message}`;
      if (error.message !== "nothing recorded") page.dataset.state = "failed";
    }
  }

  const again = (kind) => drawn.forEach((element) => { if (!kind || element.dataset.chart === kind) show(element); });

  function paintLegend() {
    document.querySelectorAll(".chip").forEach((chip, i) => {
      chip.style.setProperty("--color", layerColor(i));
      chip.setAttribute("aria-pressed", String(!hidden.has(i)));
    });
  }

  function listen() {
    document.querySelectorAll(".legend button").forEach((button) => button.addEventListener("click", () => {
      const index = Number(button.dataset.layer);
      if (button.classList.contains("all")) hidden.clear();
      else if (button.classList.contains("none")) data.layers.forEach((_, i) => hidden.add(i));
      else if (!hidden.delete(index)) hidden.add(index);
      paintLegend();
      again("curve");
    }));
    const choice = document.getElementById("layer");
    const choose = () => { document.getElementById("chosen").dataset.layer = choice.value; show(document.getElementById("chosen")); };
    if (choice) choice.addEventListener("change", choose);
    document.querySelectorAll("[data-move]").forEach((button) => button.addEventListener("click", () => {
      choice.selectedIndex = Math.min(choice.length - 1, Math.max(0, choice.selectedIndex + Number(button.dataset.move)));
      choose();
    }));
    dark.addEventListener("change", () => { paintLegend(); again(); });
    addEventListener("beforeprint", () => { printing = true; paintLegend(); charts.forEach(show); });
    addEventListener("afterprint", () => { printing = false; paintLegend(); again(); });
  }

  try {
    data = JSON.parse(await unpack("data"));
    const script = document.createElement("script");
    script.textContent = await unpack("plotly");
    document.head.append(script);
    paintLegend();
    listen();
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
