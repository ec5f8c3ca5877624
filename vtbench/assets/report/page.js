"use strict";
// The page's own script: tabs, tables that sort and filter, charts, the gallery, two runs side by side.

(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  let pictures = null; // parsed when the first one is looked at
  const addressOf = (key) => (pictures ??= JSON.parse(document.getElementById("images").textContent))[key];
  const title = (name) => data.metrics[name]?.[0] ?? name;
  const headed = (name) => `${title(name)} ${data.metrics[name]?.[3] ?? ""}`.trim();
  const digits = (name, value) => {
    value = number(value);
    return value === null ? "-" : Number.isFinite(value) ? value.toFixed(data.metrics[name]?.[2] ?? 4) : value > 0 ? "∞" : "−∞";
  };
  const score = (run, name) => data.runs[run].scores[name];
  const badness = (name, value) => {
    const direction = data.metrics[name]?.[1];
    return direction === "higher" ? -value : direction === "one" ? Math.abs(value - 1) : value;
  };
  const fill = (select, pairs, chosen) => {
    select.replaceChildren(...pairs.map(([value, text]) => element("option", { value }, text)));
    if (pairs.some(([value]) => String(value) === String(chosen))) select.value = chosen;
  };

  // --- tabs ---

  const tabs = [...document.querySelectorAll("[role=tab]")];
  const started = new Set();

  function show(tab, focus) {
    for (const one of tabs) {
      const own = one === tab;
      one.setAttribute("aria-selected", String(own));
      one.tabIndex = own ? 0 : -1;
      document.getElementById(one.getAttribute("aria-controls")).hidden = !own;
    }
    if (focus) tab.focus();
    const panel = document.getElementById(tab.getAttribute("aria-controls"));
    if (started.has(panel)) return;
    started.add(panel);
    if (panel.dataset.table !== undefined) start(panel, data.tables[Number(panel.dataset.table)]);
    if (panel.id === "panel-two") startTwo(panel);
  }

  tabs.forEach((tab, at) => {
    tab.addEventListener("click", () => show(tab));
    tab.addEventListener("keydown", (event) => {
      const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: tabs.length - 1 }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      show(tabs[(to + tabs.length) % tabs.length], true);
    });
  });

  // --- tables ---

  function startTable(panel) {
    const table = panel.querySelector(".board");
    const body = table.tBodies[0];
    const rows = [...body.rows];
    const heads = [...table.tHead.rows[0].cells];
    const words = panel.querySelector(".words");
    const kind = panel.querySelector(".class");
    const ranked = panel.querySelector(".ranked");

    function filter() {
      const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean);
      let count = 0;
      for (const row of rows) {
        const fits = wanted.every((word) => row.dataset.words.includes(word)) && (!kind.value || row.dataset.class === kind.value) &&
          (!ranked.checked || row.dataset.ranked !== undefined);
        row.hidden = !fits;
        count += fits;
      }
      panel.querySelector(".shown").textContent = `${count} of ${rows.length} runs`;
    }

    function sort(at) {
      const rising = heads[at].getAttribute("aria-sort") !== "ascending";
      heads.forEach((head, other) => (other === at ? head.setAttribute("aria-sort", rising ? "ascending" : "descending") : head.removeAttribute("aria-sort")));
      const keyed = rows.map((row) => {
        const text = row.cells[at].dataset.v ?? "";
        const value = text === "" ? NaN : number(text) === text ? Number(text) : number(text);
        return { row, text, value };
      });
      const numeric = keyed.every(({ text, value }) => text === "" || !Number.isNaN(value));
      const compare = (a, b) => (numeric ? (a.value === b.value ? 0 : a.value - b.value) : a.text.localeCompare(b.text, "en", { numeric: true }));
      keyed.sort((a, b) => (a.text === "") - (b.text === "") || (rising ? compare(a, b) : compare(b, a)));
      body.append(...keyed.map(({ row }) => row)); // what is missing stays last
    }

    const spelled = panel.querySelector(".spelled");
    spelled.addEventListener("input", () => table.classList.toggle("open", spelled.checked));
    panel.querySelector(".filters").addEventListener("input", filter);
    panel.querySelector(".filters").addEventListener("submit", (event) => event.preventDefault());
    heads.forEach((head, at) => head.querySelector("button").addEventListener("click", () => sort(at)));
  }

  function showRow(panel, run) {
    panel.querySelectorAll("tr.found").forEach((row) => row.classList.remove("found"));
    const row = panel.querySelector(`tr[data-run="${run}"]`);
    if (!row) return;
    row.classList.add("found");
    row.scrollIntoView({ block: "center" });
  }

  // --- quality against rate ---

  const RATES = { bpp: "bits/pixel", bpp_entropy: "bits/pixel after an ideal coder", tokens: "tokens a picture" };

  function startRates(panel, table) {
    const section = panel.querySelector(".rates");
    const [quality, rate, anchor] = ["quality", "rate", "anchor"].map((name) => section.querySelector(`.${name}`));
    const rated = Object.entries(RATES).filter(([name]) => table.runs.some((run) => place(run, name) !== null));
    if (!table.qualities.length) return void (section.hidden = true);
    fill(quality, table.qualities.map((name) => [name, headed(name)]), table.primary);
    fill(rate, rated, "bpp");
    fill(anchor, Object.keys(table.anchors).map((name) => [name, name]));
    anchor.parentElement.hidden = !anchor.options.length;

    function place(run, name) {
      return name === "tokens" ? data.runs[run].tokens : number(score(run, name)?.[0] ?? null);
    }

    function point(run, name, along) {
      const [value, low, high] = (score(run, name) ?? []).map(number);
      return { x: place(run, along), y: value ?? null, low: low ?? null, high: high ?? null, name: data.runs[run].name, run };
    }

    const apart = new Set(table.apart); // no part of a curve, of the frontier or of rates at equal quality

    function draw(box, along, label, heading) {
      const name = quality.value;
      const members = table.runs.filter((run) => place(run, along) !== null && data.runs[run].family !== "control");
      // Both charts have one axis of quality, so that floats and bits can be told apart and still be seen together.
      const reach = table.runs.filter((run) => data.runs[run].family !== "control").flatMap((run) => (score(run, name) ?? []).map(number)).filter((value) => value !== null);
      const lines = Object.entries(table.anchors).map(([family, runs]) => ({
        name: family, line: true, points: runs.filter((run) => members.includes(run)).map((run) => point(run, name, along)).sort((a, b) => a.x - b.x),
      }));
      const coded = along === "bpp" ? table.coded[name] : {}; // decodes from the first codes, from more, from all: bits, no others
      for (const [run, points] of Object.entries(coded)) {
        lines.push({
          name: data.runs[run].name, line: true,
          points: points.map(([x, ...said]) => {
            const [y, low, high] = said.slice(0, 3).map(number);
            return { x, y, low, high, name: said[3], run: Number(run) };
          }),
        });
      }
      const singles = new Map();
      for (const run of members.filter((run) => !coded[run] && !Object.values(table.anchors).flat().includes(run))) {
        const family = apart.has(run) ? "not comparable" : data.runs[run].family;
        if (!singles.has(family)) singles.set(family, { name: family, line: false, points: [] });
        singles.get(family).points.push({ ...point(run, name, along), hollow: apart.has(run) });
      }
      const edge = (table.frontiers[name]?.[along] ?? []).map((run) => [place(run, along), number(score(run, name)[0])]);
      box.hidden = !members.length;
      if (members.length) {
        drawChart(box, {
          title: edge.length > 1 ? `${heading}; the dotted line is the frontier` : heading,
          note: members.some((run) => apart.has(run)) ? "Hollow points may not be compared with the others; the table says why." : "",
          x: { label, log: true }, y: { label: headed(name) }, series: [...singles.values(), ...lines],
          frontier: edge.filter((pair) => pair.every(Number.isFinite)), labels: true, reach, pick: (p) => showRow(panel, p.run),
        });
      }
    }

    function savings() {
      const box = section.querySelector(".savings");
      box.replaceChildren();
      const rows = table.savings[quality.value]?.[anchor.value];
      if (!rows?.length) return;
      const body = element("tbody");
      for (const [who, percent, why] of rows) {
        const said = percent === null ? "-" : `${percent > 0 ? "+" : ""}${percent.toFixed(1)}%`;
        body.append(element("tr", {}, element("th", { scope: "row" }, element("bdi", {}, who)), element("td", { class: "num" }, said), element("td", {}, percent === null ? `refused: ${why}` : `${title(quality.value)} ${why}`)));
      }
      const head = element("tr", {}, element("th", { scope: "col" }, `against ${anchor.value}`), element("th", { scope: "col", class: "num" }, "bits at equal quality"), element("th", { scope: "col" }, "over"));
      box.append(element("table", {}, element("caption", {}, `Bjøntegaard's rate difference in ${title(quality.value)}: below zero takes fewer bits than ${anchor.value}`), element("thead", {}, head), body));
    }

    function redraw() {
      draw(section.querySelector(".bits"), rate.value || "bpp", RATES[rate.value] ?? "", "Discrete tokenizers and codecs");
      draw(section.querySelector(".floats"), "latent_values", "values/pixel", "Continuous latents, on an axis of their own: floats have no bits");
      savings();
    }
    for (const one of [quality, rate, anchor]) one.addEventListener("input", redraw);
    redraw();
    return redraw;
  }

  // --- diagnostics ---

  function startDiagnostics(panel, table) {
    const section = panel.querySelector(".diagnostics");
    if (!section) return;
    const { names, against, mates } = table.diagnostics;
    const [diagnostic, metric] = ["diagnostic", "metric"].map((name) => section.querySelector(`.${name}`));
    fill(diagnostic, names.map((name) => [name, headed(name)]));
    fill(metric, against.map((name) => [name, headed(name)]), against.includes("lpips") ? "lpips" : against[0]);

    function redraw() {
      const families = new Map();
      for (const [run, mate] of Object.entries(mates)) {
        const [x] = (score(mate, metric.value) ?? [null]).map(number);
        const [y, low, high] = (score(run, diagnostic.value) ?? [null, null, null]).map(number);
        if (x === null || y === null) continue;
        const { family, name } = data.runs[run];
        if (!families.has(family)) families.set(family, { name: family, line: false, points: [] });
        families.get(family).points.push({ x, y, low, high, name, run: Number(run) });
      }
      drawChart(section.querySelector(".chart"), {
        x: { label: `${headed(metric.value)} of the reconstruction` }, y: { label: headed(diagnostic.value) },
        series: [...families.values()], labels: true, pick: (p) => showRow(panel, p.run),
      });
    }
    for (const one of [diagnostic, metric]) one.addEventListener("input", redraw);
    redraw();
    return redraw;
  }

  // --- curves and steps ---

  function startCurves(panel, table) {
    const section = panel.querySelector(".curves");
    if (!section) return;
    const select = section.querySelector(".curve");
    const picked = section.querySelector("fieldset");
    const preferred = table.curves.find((one) => one.metric === table.primary) ?? table.curves[0];
    fill(select, table.curves.map((one, at) => [at, one.title]), table.curves.indexOf(preferred));
    const runs = table.runs.filter((run) => !table.apart.includes(run));
    const some = Math.max(1, Math.ceil(runs.length / 8));
    runs.forEach((run, at) => {
      const box = element("input", { type: "checkbox", value: run });
      box.checked = at % some === 0 || runs.length <= 8;
      picked.append(element("label", {}, box, ` ${data.runs[run].name}`));
    });

    function redraw() {
      const one = table.curves[Number(select.value)];
      const chosen = [...picked.querySelectorAll("input:checked")].map((box) => box.value);
      section.querySelector(".pick summary").textContent = `Runs in the curves: ${chosen.length} of ${runs.length}`;
      const xs = Object.values(one.series).flat().map(([x]) => x);
      const log = !one.labels.length && Math.min(...xs) > 0 && Math.max(...xs) / Math.min(...xs) >= 6;
      const drawn = chosen.filter((run) => one.series[run]);
      const series = drawn.map((run, at) => ({
        name: data.runs[run].name, line: !one.labels.length,
        points: one.series[run].map(([x, ...ends]) => {
          const [y, low, high] = ends.map(number);
          const aside = one.labels.length ? (0.5 * (at - (drawn.length - 1) / 2)) / drawn.length : 0; // words: beside each other
          return { x: x + aside, y, low, high, name: data.runs[run].name };
        }),
      }));
      drawChart(section.querySelector(".chart"), {
        title: one.title, note: one.line === null ? "" : `Under the dashed line, at ${one.line}, text is legible${legibility(chosen)}`,
        x: { label: one.axis, log, words: one.labels }, y: { label: headed(one.metric) }, series, lines: one.line === null ? [] : [one.line], whole: true,
      });
    }

    function legibility(chosen) {
      const known = chosen.map((run) => [run, score(run, "legibility")]).filter(([, value]) => value);
      const shown = ([run, value]) => `${data.runs[run].name} ${digits("legibility", value[0])}${value[1] === null ? "" : ` (${digits("legibility", value[1])} to ${digits("legibility", value[2])})`}`;
      return known.length ? `. Legible from, in px with 95% interval: ${known.map(shown).join(", ")}.` : ".";
    }
    select.addEventListener("input", redraw);
    picked.addEventListener("input", redraw);
    redraw();
    return redraw;
  }

  function startSteps(panel, table) {
    const section = panel.querySelector(".steps");
    if (!section) return;
    const select = section.querySelector(".metric");
    const names = table.qualities.filter((name) => table.steps.some((one) => one.points.some(([, run]) => score(run, name))));
    fill(select, names.map((name) => [name, headed(name)]), table.primary);
    function redraw() {
      const series = table.steps.map((one) => ({
        name: one.name, line: true,
        points: one.points.filter(([, run]) => score(run, select.value)).map(([x, run]) => {
          const [y, low, high] = score(run, select.value).map(number);
          return { x, y, low, high, name: data.runs[run].name, run };
        }),
      }));
      drawChart(section.querySelector(".chart"), { x: { label: "step" }, y: { label: headed(select.value) }, series, pick: (p) => showRow(panel, p.run) });
    }
    select.addEventListener("input", redraw);
    redraw();
    return redraw;
  }

  // --- the gallery ---

  function startGallery(panel, table) {
    const section = panel.querySelector(".gallery");
    const part = (name) => section.querySelector(`.${name}`);
    const runs = table.runs.filter((run) => data.galleries[run]);
    if (!runs.length) {
      part("nothing").hidden = false;
      part("body").hidden = true;
      return;
    }
    const [run, by, against, list, zoom, amplify] = ["run", "by", "against", "pictures", "zoom", "amplify"].map(part);
    fill(run, runs.map((one) => [one, data.runs[one].name]), runs.find((one) => data.runs[one].family !== "control" && Object.keys(data.galleries[one].kept).length) ?? runs[0]);
    let slider = null;

    const shelf = () => data.galleries[run.value];
    const value = (name, at) => number(shelf().values[name][at]);

    function changeRun() {
      const names = shelf().metrics.filter((name) => shelf().values[name].some((one) => one !== null));
      fill(by, names.map((name) => [name, headed(name)]), names.includes(by.value) ? by.value : shelf().order);
      fill(against, names.map((name) => [name, headed(name)]), names.includes(against.value) && against.value ? against.value : names.find((name) => name !== by.value) ?? by.value);
      changeOrder();
    }

    function changeOrder() {
      const { ids, kept, of } = shelf();
      const order = ids.map((_, at) => at).filter((at) => value(by.value, at) !== null).sort((a, b) => badness(by.value, value(by.value, b)) - badness(by.value, value(by.value, a)) || a - b);
      const wide = Math.max(...order.map((at) => digits(by.value, value(by.value, at)).length));
      list.replaceChildren(...order.map((at) => element("option", { value: at }, `${digits(by.value, value(by.value, at)).padStart(wide, "\u2007")} ${kept[at] ? "▣" : "▢"} ${ids[at]}`)));
      const count = Object.keys(kept).length;
      part("kept").textContent = `${ids.length} of ${of} pictures; ▣ ${count} can be seen here` + (count < ids.length ? ": `vtbench run … --keep-pictures worst:N` keeps them, `vtbench report --folder` shows all that are kept." : ".");
      list.value = order.find((at) => kept[at]) ?? order[0];
      drawChart(panel.querySelector(".gallery .chart"), {
        title: "Every picture; click one to see it", x: { label: headed(by.value) }, y: { label: headed(against.value) },
        series: [true, false].map((seen) => ({
          name: seen ? "can be seen" : "values alone", line: false,
          points: order.filter((at) => Boolean(kept[at]) === seen).map((at) => ({ x: value(by.value, at), y: value(against.value, at), name: ids[at], hollow: !seen, at })),
        })),
        pick: (p) => { list.value = p.at; changePicture(); },
      });
      changePicture();
    }

    function changePicture() {
      const { ids, kept, readings } = shelf();
      const at = list.value;
      const [slide, difference] = [part("slide"), part("difference")];
      const addresses = (kept[at] ?? []).map((key) => key && addressOf(key));
      slider = null;
      if (addresses.length === 2 && addresses.every(Boolean)) {
        const image = (index, what, slot) => element("img", { src: addresses[index], alt: `${what} of ${ids[at]}`, draggable: "false", ...(slot ? { slot } : {}) });
        slider = element("img-comparison-slider", { value: "50", "aria-label": "Share of the original", role: "slider", "aria-valuemin": "0", "aria-valuemax": "100", "aria-valuenow": "50", keyboard: "disabled" }, image(0, "Original", "first"), image(1, "Reconstruction", "second"));
        slider.addEventListener("keydown", slideByKey);
        slider.addEventListener("slide", () => slider?.setAttribute("aria-valuenow", String(Math.round(slider.value))));
        slide.replaceChildren(slider);
        difference.replaceChildren(element("div", { class: "stack" }, image(0, "Original"), image(1, "Difference from the reconstruction")));
        for (const one of section.querySelectorAll(".view img")) one.decode().then(size, () => {});
        gain();
      } else {
        const said = "This picture was not kept, or is not in this page.";
        slide.replaceChildren(element("p", {}, said));
        difference.replaceChildren(element("p", {}, said));
      }
      part("seen").textContent = "Original left, reconstruction right";
      reading(readings[at]);
    }

    function size() {
      for (const one of section.querySelectorAll(".view img")) one.style.width = `${one.naturalWidth * Number(zoom.value)}px`;
      const first = section.querySelector(".stack img");
      const stack = part("stack");
      if (first && stack) [stack.style.width, stack.style.height] = [first.style.width, `${first.naturalHeight * Number(zoom.value)}px`];
    }

    function gain() {
      section.querySelectorAll(".gain").forEach((one) => { one.textContent = amplify.value; });
      const stack = part("stack");
      if (stack) stack.style.filter = `brightness(${amplify.value})`;
    }

    function slideTo(share) {
      slider.value = share; // it keeps within 0 and 100
      slider.setAttribute("aria-valuenow", String(Math.round(slider.value)));
    }

    function slideByKey(event) { // the component's own keys move it from frame to frame: a short press did nothing
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const to = { ArrowRight: slider.value + 1, ArrowLeft: slider.value - 1, Home: 0, End: 100 }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      slideTo(to);
    }

    function flicker() {
      if (!slider) return;
      const original = Math.round(slider.value) !== 100;
      slideTo(original ? 100 : 0);
      part("seen").textContent = original ? "Original" : "Reconstruction";
    }

    function reading(found) {
      const marked = (heading, parts) => {
        const text = element("pre", { tabindex: "0", role: "region", "aria-label": heading });
        for (const [mark, words] of parts) text.append(mark === "=" ? words : element(mark === "-" ? "del" : "ins", {}, words));
        return element("div", {}, element("h4", {}, heading), text);
      };
      part("reading").replaceChildren();
      if (!found) return;
      if (found.truth !== null) part("reading").append(marked("What is written", [["=", found.truth]]));
      part("reading").append(marked("Read on the original", found.original), marked("Read on the reconstruction", found.reconstruction));
    }

    function move(step) {
      const to = list.selectedIndex + step;
      if (to < 0 || to >= list.options.length) return;
      list.selectedIndex = to;
      changePicture();
    }

    const views = [part("slide"), part("difference")];
    views.forEach((view, at) => view.addEventListener("scroll", () => {
      const other = views[1 - at];
      if (other.scrollLeft !== view.scrollLeft) other.scrollLeft = view.scrollLeft;
      if (other.scrollTop !== view.scrollTop) other.scrollTop = view.scrollTop;
    }));
    const keys = {
      f: flicker, n: () => move(1), p: () => move(-1),
      "+": () => { zoom.selectedIndex = Math.min(zoom.options.length - 1, zoom.selectedIndex + 1); size(); },
      "-": () => { zoom.selectedIndex = Math.max(0, zoom.selectedIndex - 1); size(); },
    };
    section.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("select:not(.pictures), input")) return;
      const act = keys[event.key.toLowerCase()];
      if (!act) return;
      event.preventDefault();
      act();
    });
    run.addEventListener("input", changeRun);
    by.addEventListener("input", changeOrder);
    against.addEventListener("input", changeOrder);
    list.addEventListener("input", changePicture);
    zoom.addEventListener("input", size);
    amplify.addEventListener("input", gain);
    part("flicker").addEventListener("click", flicker);
    zoom.value = part("slide").clientWidth >= 512 ? "2" : "1";
    changeRun();
    return changeOrder;
  }

  // --- two runs ---

  function startTwo(panel) {
    const [first, second] = ["first", "second"].map((name) => panel.querySelector(`.${name}`));
    for (const select of [first, second]) {
      select.replaceChildren(...data.tables.map((table) => element("optgroup", { label: table.title }, ...table.runs.map((run) => element("option", { value: run }, data.runs[run].name)))));
    }
    if (data.tables[0]?.runs.length > 1) second.value = data.tables[0].runs[1];

    const table = (heads, rows, label) => {
      const head = element("tr", {}, ...heads.map((text, at) => element("th", { scope: "col", ...(at && label === "Scores" ? { class: "num" } : {}) }, text)));
      const body = element("tbody", {}, ...rows.map(([name, ...cells]) => element("tr", {}, element("th", { scope: "row" }, name), ...cells.map((cell) => element("td", label === "Scores" ? { class: "num" } : {}, cell)))));
      return element("div", { class: "wide", tabindex: "0", role: "region", "aria-label": label }, element("table", {}, element("thead", {}, head), body));
    };

    function redraw() {
      const [one, other] = [data.runs[first.value], data.runs[second.value]];
      const facts = [...new Set([...Object.keys(one.facts), ...Object.keys(other.facts)])].filter((name) => one.facts[name] !== other.facts[name]);
      const shown = (name, found) => (found ? digits(name, found[0]) + (number(found[1] ?? null) === null ? "" : ` (${digits(name, found[1])} to ${digits(name, found[2])})`) : "-");
      const rows = Object.keys(data.metrics).filter((name) => one.scores[name] || other.scores[name]).map((name) => {
        const [a, b] = [one.scores[name], other.scores[name]];
        const [x, y] = [number(a?.[0] ?? null), number(b?.[0] ?? null)];
        const change = x === null || y === null || !Number.isFinite(y - x) ? "-" : `${y - x > 0 ? "+" : ""}${(y - x).toFixed(data.metrics[name][2])}`;
        return [headed(name), shown(name, a), shown(name, b), change];
      });
      panel.querySelector(".result").replaceChildren(
        element("h3", {}, "Surroundings"),
        ...(one.task === other.task ? [] : [element("p", {}, "These are runs of two tasks: their scores are of other pictures.")]),
        ...(one.facts.protocol === other.facts.protocol ? [] : [element("p", {}, "These are runs under two protocols: their scores are computed in other ways.")]),
        facts.length ? table(["what", one.full, other.full], facts.map((name) => [name, one.facts[name] ?? "-", other.facts[name] ?? "-"]), "Surroundings") : element("p", {}, "Nothing differs in their surroundings."),
        element("h3", {}, "Scores"),
        table(["metric", one.full, other.full, "second − first"], rows, "Scores"),
      );
    }
    first.addEventListener("input", redraw);
    second.addEventListener("input", redraw);
    redraw();
  }

  // --- start ---

  const redraws = [];

  function start(panel, table) {
    startTable(panel);
    for (const begin of [startDiagnostics, startRates, startCurves, startSteps, startGallery]) {
      const redraw = begin(panel, table);
      if (redraw) redraws.push([panel, redraw]);
    }
  }

  const again = () => redraws.forEach(([panel, redraw]) => { if (!panel.hidden) redraw(); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again);
  let width = innerWidth;
  let waiting = 0;
  addEventListener("resize", () => {
    if (innerWidth === width) return; // a phone's address bar moves the height alone
    width = innerWidth;
    clearTimeout(waiting);
    waiting = setTimeout(again, 150);
  });
  if (tabs.length) show(tabs[0]);
})();
