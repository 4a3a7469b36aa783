"use strict";
// Ranges and scales of a report's charts that plotly.js would not choose by itself.

function bounds(traces) {
  const values = traces.flatMap((trace) => trace.y).filter((y) => y !== null);
  return [values.reduce((a, b) => Math.min(a, b), Infinity), values.reduce((a, b) => Math.max(a, b), -Infinity)];
}

// Losses of a run that explodes span many powers of ten.
function logarithmic(traces) {
  const positive = traces.map((trace) => ({ y: trace.y.filter((y) => y > 0) }));
  const [low, high] = bounds(positive);
  const powers = Math.log10(high / low);
  if (!(powers > 2)) return { rangemode: "tozero" };
  return { type: "log", title: { text: "logarithmic" }, dtick: Math.ceil(powers / 6), exponentformat: "power" };
}

// Shares that hardly differ keep a range of ten points, and none goes far beyond 0 or 100 %.
function shareRange(traces) {
  const [low, high] = bounds(traces);
  const around = Math.max(0.05 * (high - low), (0.1 - (high - low)) / 2);
  return [Math.max(-0.03, low - around), Math.min(1.03, high + around)];
}

const FAR = 1000; // times the usual size: as in layer_stats.png

// What may be negative or 0 has no logarithm: linear up to the usual size, logarithmic beyond. The
// traces are changed, and keep their values for who points at them. Null where nothing is far away.
function symlog(traces) {
  const sizes = traces.flatMap((trace) => trace.y).filter(Boolean).map(Math.abs).sort((a, b) => a - b);
  const usual = sizes[Math.floor(sizes.length / 2)], most = sizes[sizes.length - 1];
  if (!(most > FAR * usual)) return null;
  const [low] = bounds(traces);
  const place = (y) => y === null ? null : Math.abs(y) <= usual ? y / usual : Math.sign(y) * (1 + Math.log10(Math.abs(y) / usual));
  for (const trace of traces) {
    trace.customdata = trace.y;
    trace.y = trace.y.map(place);
    trace.hovertemplate = trace.hovertemplate.replace("%{y:", "%{customdata:");
  }
  return { title: { text: `logarithmic beyond ${Number(usual.toPrecision(1))}` }, ...powersOfTen(place, usual, most, low < 0) };
}

function powersOfTen(place, usual, most, below) {
  const first = Math.ceil(Math.log10(usual)), last = Math.floor(Math.log10(most));
  const stride = Math.max(1, Math.floor((last - first) / 4));
  const all = Array.from({ length: Math.ceil((last - first) / stride) }, (_, k) => last - k * stride).reverse();
  const powers = all.filter((power) => place(10 ** power) > stride / 2); // others would lie on the 0
  const named = powers.map((power) => [place(10 ** power), `10<sup>${power}</sup>`]);
  const ticks = [...(below ? named.map(([y, text]) => [-y, `−${text}`]).reverse() : []), [0, "0"], ...named];
  return { tickvals: ticks.map(([y]) => y), ticktext: ticks.map(([, text]) => text) };
}
