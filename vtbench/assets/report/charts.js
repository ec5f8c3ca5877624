"use strict";
// A chart over uPlot: series of points with intervals, with or without a line, a legend of buttons and a table of values.
// Names come from anywhere: they reach the page as text alone.

const COLOURS = 8;
const SHAPES = ["circle", "square", "triangle", "diamond"];

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "class") made.className = value;
    else if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

function number(value) {
  return value === "Infinity" ? Infinity : value === "-Infinity" ? -Infinity : value ?? null;
}

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function shapeAt(shape, x, y, r) {
  const path = new Path2D();
  if (shape === "circle") path.arc(x, y, r, 0, 2 * Math.PI);
  else if (shape === "square") path.rect(x - r * 0.9, y - r * 0.9, 1.8 * r, 1.8 * r);
  else {
    const corners = shape === "triangle" ? [[0, -1.2], [1.1, 0.9], [-1.1, 0.9]] : [[0, -1.3], [1.3, 0], [0, 1.3], [-1.3, 0]];
    corners.forEach(([dx, dy], at) => (at ? path.lineTo(x + dx * r, y + dy * r) : path.moveTo(x + dx * r, y + dy * r)));
    path.closePath();
  }
  return path;
}

function extent(values, log) {
  const known = values.filter((value) => Number.isFinite(value) && (!log || value > 0));
  if (!known.length) return log ? [0.1, 1] : [0, 1];
  let low = Math.min(...known);
  let high = Math.max(...known);
  if (log) return low === high ? [low / 2, high * 2] : [low / (high / low) ** 0.06, high * (high / low) ** 0.06];
  if (low === high) return [low - (Math.abs(low) || 1) * 0.1, high + (Math.abs(high) || 1) * 0.1];
  const room = (high - low) * 0.06;
  return [low >= 0 && low < room ? -room / 3 : low - room, high + room];
}

function shorter(value) {
  if (!Number.isFinite(value)) return value === null ? "-" : value > 0 ? "∞" : "−∞";
  return String(Number(value.toPrecision(4)));
}

function ticks(chart, splits, axis, space, step) {
  const decimals = Math.max(0, Math.min(8, -Math.floor(Math.log10(step) + 1e-9)));
  const places = Math.abs(step * 10 ** decimals - Math.round(step * 10 ** decimals)) > 1e-6 ? decimals + 1 : decimals; // 2.5, 0.25
  return splits.map((value) => value.toFixed(places));
}

// spec: {title, note, x: {label, log, words}, y: {label}, series: [{name, line, points: [{x, y, low, high, name, hollow}]}],
//        lines: [y], reach: [y that the axis must hold], frontier: [[x, y]], pick(point), labels}
function drawChart(place, spec) {
  place.chart?.destroy();
  place.chart = null;
  place.replaceChildren();
  if (spec.title) place.append(element("h4", {}, spec.title));
  if (spec.note) place.append(element("p", { class: "note" }, spec.note));
  const series = spec.series
    .map((one) => ({ ...one, points: one.points.filter((p) => Number.isFinite(p.x) && Number.isFinite(p.y) && (!spec.x.log || p.x > 0)) }))
    .filter((one) => one.points.length);
  const left = spec.series.reduce((sum, one) => sum + one.points.length, 0) - series.reduce((sum, one) => sum + one.points.length, 0);
  if (!series.length) {
    place.append(element("p", {}, "Nothing to draw: no run has both values, and finite ones."));
    return;
  }
  const all = series.flatMap((one) => one.points);
  const xs = extent(all.map((p) => p.x), spec.x.log);
  const ys = extent(all.flatMap((p) => [p.y, p.low ?? p.y, p.high ?? p.y]).concat(spec.lines ?? [], spec.reach ?? []));
  const text = colour("--text");
  const faint = colour("--faint");
  const line = colour("--line");
  const ground = colour("--ground");
  const styled = series.map((one, at) => ({ colour: colour(`--c${at % COLOURS}`), shape: SHAPES[Math.floor(at / COLOURS) % SHAPES.length] }));
  const ratio = devicePixelRatio || 1;
  let taken = [];

  const paths = (u, index) => {
    const one = series[index - 1];
    const { colour: ink, shape } = styled[index - 1];
    const context = u.ctx;
    const at = (p) => [u.valToPos(p.x, "x", true), u.valToPos(p.y, "y", true)];
    context.save();
    context.strokeStyle = context.fillStyle = ink;
    context.lineWidth = 1.6 * ratio;
    if (one.line) {
      context.beginPath();
      one.points.forEach((p, i) => (i ? context.lineTo(...at(p)) : context.moveTo(...at(p))));
      context.stroke();
      if (spec.labels) one.points.slice(1).forEach((p, i) => along(at(one.points[i]), at(p)));
    }
    for (const p of one.points) {
      const [x, y] = at(p);
      if (Number.isFinite(p.low) && Number.isFinite(p.high) && p.low !== null && p.high !== null) {
        context.globalAlpha = 0.55;
        context.lineWidth = ratio;
        context.beginPath();
        const [low, high] = [u.valToPos(p.low, "y", true), u.valToPos(p.high, "y", true)];
        taken.push([x - 3 * ratio, high, x + 3 * ratio, low]);
        context.moveTo(x, low);
        context.lineTo(x, high);
        for (const end of [low, high]) {
          context.moveTo(x - 3 * ratio, end);
          context.lineTo(x + 3 * ratio, end);
        }
        context.stroke();
        context.globalAlpha = 1;
      }
      const drawn = shapeAt(shape, x, y, (one.line ? 3.2 : 4.5) * ratio);
      context.lineWidth = 1.4 * ratio;
      if (p.hollow) context.stroke(drawn);
      else context.fill(drawn);
      taken.push([x - 5 * ratio, y - 5 * ratio, x + 5 * ratio, y + 5 * ratio]);
    }
    context.restore();
    return null;
  };

  const along = ([fromX, fromY], [toX, toY]) => { // no label may lie on a line
    const parts = Math.ceil(Math.hypot(toX - fromX, toY - fromY) / (6 * ratio));
    for (let part = 0; part <= parts; part++) {
      const [x, y] = [fromX + ((toX - fromX) * part) / parts, fromY + ((toY - fromY) * part) / parts];
      taken.push([x - ratio, y - ratio, x + ratio, y + ratio]);
    }
  };

  const free = (box, u) =>
    box[0] > u.bbox.left && box[2] < u.bbox.left + u.bbox.width && box[1] > u.bbox.top && box[3] < u.bbox.top + u.bbox.height &&
    taken.every((other) => box[2] < other[0] || box[0] > other[2] || box[3] < other[1] || box[1] > other[3]);

  const finish = (u) => {
    const context = u.ctx;
    context.save();
    context.font = `${11 * ratio}px system-ui, "Liberation Sans", sans-serif`;
    context.textBaseline = "middle";
    context.textAlign = "left";
    for (const level of spec.lines ?? []) {
      context.strokeStyle = faint;
      context.setLineDash([5 * ratio, 4 * ratio]);
      context.beginPath();
      const y = u.valToPos(level, "y", true);
      context.moveTo(u.bbox.left, y);
      context.lineTo(u.bbox.left + u.bbox.width, y);
      context.stroke();
    }
    if (spec.frontier?.length > 1) {
      context.strokeStyle = text;
      context.globalAlpha = 0.7;
      context.lineWidth = ratio;
      context.setLineDash([2 * ratio, 3 * ratio]);
      context.beginPath();
      spec.frontier.forEach(([x, y], i) => {
        const to = [u.valToPos(x, "x", true), u.valToPos(y, "y", true)];
        if (i) context.lineTo(...to);
        else context.moveTo(...to);
      });
      context.stroke();
      context.globalAlpha = 1;
    }
    context.setLineDash([]);
    if (spec.labels) {
      series.forEach((one, at) => {
        if (!u.series[at + 1].show) return;
        context.fillStyle = styled[at].colour;
        const labelled = one.line ? one.points.slice(-1).map((p) => [p, one.name]) : one.points.map((p) => [p, p.name]);
        for (const [p, name] of labelled) {
          const shown = name.length > 24 ? `${name.slice(0, 23)}…` : name;
          const width = context.measureText(shown).width;
          const [x, y] = [u.valToPos(p.x, "x", true), u.valToPos(p.y, "y", true)];
          const [gap, half] = [8 * ratio, 7 * ratio];
          const spots = [[x + gap, y], [x - gap - width, y], [x - width / 2, y - 2 * half], [x - width / 2, y + 2 * half]];
          const spot = spots.find(([left, top]) => free([left, top - half, left + width, top + half], u));
          if (!spot) continue;
          context.strokeStyle = ground;
          context.lineWidth = 3 * ratio;
          context.strokeText(shown, ...spot);
          context.fillText(shown, ...spot);
          taken.push([spot[0], spot[1] - half, spot[0] + width, spot[1] + half]);
        }
      });
    }
    context.restore();
  };

  const axis = (label, extra) => ({
    label, stroke: text, labelSize: 22, labelFont: '13px system-ui, "Liberation Sans", sans-serif', font: '12px system-ui, "Liberation Sans", sans-serif',
    grid: { stroke: line, width: 1 }, ticks: { stroke: line, width: 1 }, ...extra,
  });
  const words = spec.x.words?.length ? spec.x.words : null;
  const box = element("div", { role: "img", "aria-label": `${spec.y.label} against ${spec.x.label}: ${all.length} points of ${series.length} series. The values are in the table below.` });
  place.append(box);
  const width = Math.max(260, place.clientWidth);
  const options = {
    mode: 2, width, height: Math.round(Math.min(440, Math.max(280, width * 0.62))), pxAlign: false,
    legend: { show: false }, cursor: { show: false }, padding: [10, 12, 0, 0],
    scales: { x: { time: false, distr: spec.x.log ? 3 : 1, range: () => xs }, y: { range: () => ys } },
    axes: [
      axis(spec.x.label, {
        ...(words ? { splits: () => words.map((_, at) => at), values: () => words } : {
          space: 55,
          ...(spec.x.log ? { splits: () => logSplits(xs), filter: (u, splits) => splits, values: (u, splits) => splits.map(shorter) } : { values: ticks }),
        }),
      }),
      axis(spec.y.label, { size: 66, values: ticks }),
    ],
    series: [{}, ...series.map((one) => ({ label: one.name, paths, points: { show: false } }))],
    hooks: { drawClear: [() => { taken = []; }], draw: [finish] },
  };
  const data = [null, ...series.map((one) => [one.points.map((p) => p.x), one.points.map((p) => p.y)])];
  const chart = new uPlot(options, data, box);
  place.chart = chart;

  const tip = element("div", { class: "tip", hidden: "" });
  box.append(tip);
  const nearest = (event) => {
    let best = null;
    let distance = 24;
    series.forEach((one, at) => {
      if (!chart.series[at + 1].show) return;
      for (const p of one.points) {
        const away = Math.hypot(chart.valToPos(p.x, "x") - event.offsetX, chart.valToPos(p.y, "y") - event.offsetY);
        if (away < distance) [best, distance] = [p, away];
      }
    });
    return best;
  };
  chart.over.addEventListener("mousemove", (event) => {
    const p = nearest(event);
    tip.hidden = !p;
    chart.over.style.cursor = p && spec.pick ? "pointer" : "";
    if (!p) return;
    const interval = Number.isFinite(p.low) && p.low !== null ? ` (${shorter(p.low)} to ${shorter(p.high)})` : "";
    tip.textContent = `${p.name}\n${spec.x.label}: ${words ? words[Math.round(p.x)] : shorter(p.x)}\n${spec.y.label}: ${shorter(p.y)}${interval}`;
    const [x, y] = [chart.over.offsetLeft + chart.valToPos(p.x, "x"), chart.over.offsetTop + chart.valToPos(p.y, "y")];
    tip.style.left = `${Math.min(x + 10, box.clientWidth - tip.offsetWidth - 2)}px`;
    tip.style.top = `${Math.max(0, y - tip.offsetHeight - 8)}px`;
  });
  chart.over.addEventListener("mouseleave", () => { tip.hidden = true; });
  if (spec.pick) chart.over.addEventListener("click", (event) => { const p = nearest(event); if (p) spec.pick(p); });

  if (series.length > 1) {
    const legend = element("div", { class: "legend", role: "group", "aria-label": "Series", tabindex: "0" });
    series.forEach((one, at) => {
      const button = element("button", { type: "button", "aria-pressed": "true" }, swatch(styled[at], one.line), one.name);
      button.addEventListener("click", () => {
        const show = !chart.series[at + 1].show;
        chart.setSeries(at + 1, { show });
        button.setAttribute("aria-pressed", String(show));
      });
      legend.append(button);
    });
    place.append(legend);
  }
  if (left) place.append(element("p", {}, element("small", {}, `${left} points without a finite value are not drawn.`)));
  place.append(valuesTable(spec, series, words));
}

function logSplits([low, high]) {
  const steps = high / low > 30 ? [1, 3] : [1, 2, 5];
  const found = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++) {
    for (const step of steps) {
      const value = Number((step * 10 ** power).toPrecision(3));
      if (value >= low && value <= high) found.push(value);
    }
  }
  if (found.length > 1) return found;
  return [0, 1, 2, 3, 4].map((at) => Number((low + ((high - low) * (at + 0.5)) / 5).toPrecision(2)));
}

function swatch(style, line) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  svg.setAttribute("viewBox", "0 0 20 12");
  svg.setAttribute("aria-hidden", "true");
  const add = (tag, attributes) => {
    const made = document.createElementNS(space, tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    svg.append(made);
  };
  if (line) add("path", { d: "M0 6H20", stroke: style.colour, "stroke-width": 2 });
  const forms = { square: "M6 2h8v8h-8z", triangle: "M10 1l5 9h-10z", diamond: "M10 1l5 5l-5 5l-5-5z" };
  if (style.shape === "circle") add("circle", { cx: 10, cy: 6, r: 4, fill: style.colour });
  else add("path", { d: forms[style.shape], fill: style.colour });
  return svg;
}

function valuesTable(spec, series, words) {
  const details = element("details", {}, element("summary", {}, "Values"));
  details.addEventListener("toggle", () => {
    if (!details.open || details.querySelector("table")) return;
    const body = element("tbody");
    for (const one of series) {
      for (const p of one.points) {
        const cells = [words ? words[Math.round(p.x)] : shorter(p.x), shorter(p.y), Number.isFinite(p.low) && p.low !== null ? `${shorter(p.low)} to ${shorter(p.high)}` : ""];
        const row = element("tr", {}, element("th", { scope: "row" }, one.line && !spec.whole ? `${one.name}: ${p.name}` : p.name));
        cells.forEach((cell) => row.append(element("td", { class: "num" }, cell)));
        body.append(row);
      }
    }
    const head = element("tr");
    for (const title of ["", spec.x.label, spec.y.label, "95% interval"]) head.append(element(title ? "th" : "td", title ? { scope: "col" } : {}, title));
    const table = element("table", {}, element("thead", {}, head), body);
    details.append(element("div", { class: "wide", tabindex: "0", role: "group", "aria-label": "Values of the chart" }, table));
  });
  return details;
}
