"use strict";
(function () {
  const root = document.documentElement;
  const TABS = ["tasks", "layers", "cost", "overall", "published", "about"];
  const SVG = "http://www.w3.org/2000/svg";
  let records = null;

  // before anything is drawn: which part is shown, and whether it is dark
  const asked = wanted();
  root.classList.add("js");
  root.dataset.tab = TABS.includes(asked) ? asked : "tasks";
  const night = matchMedia("(prefers-color-scheme: dark)");
  setTheme(remembered() || (night.matches ? "dark" : "light"));
  night.addEventListener("change", () => remembered() || setTheme(night.matches ? "dark" : "light"));
  document.addEventListener("DOMContentLoaded", start);

  function start() {
    tabs();
    document.querySelectorAll("table[data-words]").forEach(sortable);
    document.getElementById("filter").addEventListener("input", (event) => filter(event.target.value));
    document.getElementById("theme").addEventListener("click", () => {
      const theme = root.dataset.theme === "dark" ? "light" : "dark";
      remember(theme);
      setTheme(theme);
    });
    setTheme(root.dataset.theme);
    document.addEventListener("click", (event) => {
      const button = event.target.closest("button[data-k]");
      if (button) open(Number(button.dataset.k));
    });
    const dialog = document.getElementById("record");
    dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
    dialog.addEventListener("close", () => at("#" + root.dataset.tab));
    const find = (name) => name.startsWith("record=") && open(told().cells.findIndex((cell) => cell.key === name.slice(7)));
    find(asked);
    addEventListener("hashchange", () => find(wanted()));
  }
  function wanted() {
    try { return decodeURIComponent(location.hash.slice(1)); } catch { return ""; }
  }

  // theme: what the reader chose is kept where the browser lets a file keep anything
  function remembered() {
    try { return localStorage.getItem("wavbench-theme"); } catch { return null; }
  }
  function remember(theme) {
    try { localStorage.setItem("wavbench-theme", theme); } catch { /* then it holds until the page is left */ }
  }
  function setTheme(theme) {
    root.dataset.theme = theme === "dark" ? "dark" : "light";
    const button = document.getElementById("theme");
    if (button) button.textContent = theme === "dark" ? "Light" : "Dark";
  }
  function at(hash) {
    try { history.replaceState(null, "", hash); } catch { /* the address stays as it was */ }
  }

  function tabs() {
    const list = document.getElementById("tabs");
    const links = Array.from(list.querySelectorAll("a"));
    list.setAttribute("role", "tablist");
    const show = (link, focus) => {
      const name = link.hash.slice(1);
      root.dataset.tab = name;
      links.forEach((other) => {
        other.setAttribute("aria-selected", String(other === link));
        other.tabIndex = other === link ? 0 : -1;
      });
      if (focus) link.focus();
    };
    links.forEach((link, k) => {
      const panel = document.getElementById(link.hash.slice(1));
      link.id = "tab-" + panel.id;
      link.setAttribute("role", "tab");
      link.setAttribute("aria-controls", panel.id);
      panel.setAttribute("role", "tabpanel");
      panel.setAttribute("aria-labelledby", link.id);
      link.addEventListener("click", (event) => { event.preventDefault(); show(link, true); at(link.hash); });
      link.addEventListener("keydown", (event) => {
        const ways = { ArrowRight: k + 1, ArrowLeft: k - 1 + links.length, Home: 0, End: links.length - 1, " ": k };
        if (!(event.key in ways)) return;
        event.preventDefault();
        const other = links[ways[event.key] % links.length];
        show(other, true);
        at(other.hash);
      });
    });
    show(links.find((link) => link.hash.slice(1) === root.dataset.tab) || links[0], false);
  }

  // sorting: names as words, all else by the first number that stands in a cell; what has none is last either way
  function sortable(table) {
    const headings = Array.from(table.tHead.rows[0].cells);
    headings.forEach((heading, column) => {
      const text = heading.querySelector(".head");
      const button = element("button", { type: "button", class: "head" });
      button.append(...text.childNodes);
      text.replaceWith(button);
      heading.setAttribute("aria-sort", "none");
      button.addEventListener("click", () => {
        const before = heading.getAttribute("aria-sort");
        const first = heading.hasAttribute("data-down") ? "descending" : "ascending";
        const second = first === "ascending" ? "descending" : "ascending";
        headings.forEach((other) => other.setAttribute("aria-sort", "none"));
        heading.setAttribute("aria-sort", before === first ? second : first);
        sort(table.tBodies[0], column, before === first ? second : first, heading.classList.contains("name"));
      });
    });
  }
  function sort(body, column, order, named) {
    const sign = order === "ascending" ? 1 : -1;
    const rows = Array.from(body.rows, (row) => {
      const text = row.cells[column].textContent.trim();
      const number = text.replaceAll(",", "").match(/-?\d+(\.\d+)?(e[-+]?\d+)?/i);
      const value = named ? text : number && Number(number[0]);
      return { row, value: text === "" || text === "-" ? null : value };
    });
    rows.sort((a, b) => {
      if (a.value === null || b.value === null) return (a.value === null) - (b.value === null);
      return sign * (named ? a.value.localeCompare(b.value, undefined, { numeric: true }) : a.value - b.value);
    });
    body.append(...rows.map((item) => item.row));
  }

  // filter: a row and a column stand together where their words hold all that was typed
  function filter(text) {
    const wanted = text.toLowerCase().split(/\s+/).filter(Boolean);
    const all = 2 ** wanted.length - 1;
    const named = (row) => Array.from(row.querySelectorAll("td:first-child, .n"), (cell) => cell.textContent)
      .join(" ") + " " + (row.dataset.words || "");
    const found = (words) => wanted.reduce((sum, word, k) => sum + (words.toLowerCase().includes(word) ? 2 ** k : 0), 0);
    let shown = 0;
    document.querySelectorAll("table[data-words]").forEach((table) => {
      const own = found(table.dataset.words);
      const headings = Array.from(table.tHead.rows[0].cells);
      const boards = headings.some((heading) => heading.dataset.words !== undefined);
      const columns = headings.map((heading) => own | found(heading.dataset.words || ""));
      const rows = Array.from(table.tBodies[0].rows, (row) => ({ row, bits: found(named(row)) }));
      const seen = columns.map((bits, k) => k === 0 || !boards || rows.some((item) => (item.bits | bits) === all));
      let some = 0;
      rows.forEach(({ row, bits }) => {
        row.hidden = boards ? !columns.some((other, k) => k > 0 && (other | bits) === all) : (own | bits) !== all;
        some += row.hidden ? 0 : 1;
      });
      if (boards) {
        for (const row of table.rows) seen.forEach((on, k) => { row.cells[k].hidden = !on; });
      }
      const section = table.closest(".board");
      if (section) section.hidden = !some;
      if (section && section.closest("#tasks")) shown += some;
    });
    document.getElementById("found").textContent = wanted.length ? shown + (shown === 1 ? " row" : " rows") : "";
  }

  // a record
  function told() {
    records = records || JSON.parse(document.getElementById("data").textContent);
    return records;
  }
  function open(place) {
    const record = told().cells[place];
    if (!record) return;
    const dialog = document.getElementById("record");
    dialog.replaceChildren(...shown(place, record));
    if (!dialog.open) dialog.showModal();
    dialog.scrollTop = 0;
    at("#record=" + record.key);
  }
  // values are kept short: what many records share stands in `texts`, once, and cells say where
  function shared(place) { return records.texts[place]; }
  function pairs([names, ...values]) { return shared(names).map((name, k) => [name, values[k]]); }

  function shown(place, record) {
    const about = shared(record.about);
    const [checkpoint, hash] = shared(record.checkpoint);
    const layers = record.layers === "mix" ? "mix of its layers" : "layer " + record.layers;
    const close = element("button", { type: "button" }, "Close");
    close.addEventListener("click", () => document.getElementById("record").close());
    const title = element("h2", { id: "record-title" }, record.of + ", " + about.task + " on " + about.corpus);
    const seeds = element("div", { class: "seeds" }, "Seeds:");
    for (const other of record.seeds || []) {
      const button = element("button", { type: "button", "data-k": other, "aria-pressed": String(other === place) });
      button.textContent = String(records.cells[other].seed);
      seeds.append(button);
    }
    const [value, low, high] = record.value;
    const result = [
      [about.metric + " (" + about.unit + ")", value + "  [" + low + ", " + high + "]"],
      ["test", about.n.toLocaleString("en") + " " + (about.metric === "EER" ? "trials" : "utterances") + ", interval over " + about.over + "s"],
      ...pairs(record.secondary).map(([name, own]) => [name.replaceAll("_", " "), own]),
    ];
    const provenance = [
      ["checkpoint", checkpoint],
      ["checkpoint hash", hash],
      ["feature store", record.store],
      ["corpus", about.corpus],
      ["corpus hash", about["corpus hash"]],
      ["licence of the recordings", about.licence],
      ["pretrained on its audio", about.heard.length ? about.heard.join(", ") : "not known to be"],
      ["protocol", about.protocol],
      ["split", about.split],
      ["head", about.head + ", " + layers],
      ["adaptation", about.adaptation],
      ["seed", record.seed],
      ["commit", about.commit || "outside a checkout"],
      ["started", record.started],
      ["record", "runs/" + record.key + ".json"],
    ];
    const cost = pairs(record.cost).map(([name, own]) => [name.replaceAll("_", " "), own === null ? null : own.toLocaleString("en")]);
    const versions = Object.entries(about.versions).map(([name, number]) => name + " " + number).join(", ");
    const parts = [
      part("Result", list(result)),
      part("Learning rate", ...rates(record, about.higher)),
      record.weights.length > 2 ? part("Weights of the mix, by layer", weights(record.weights)) : null,
      record.confusion ? part("Confusions", confusion(record.confusion)) : null,
      record.frequent ? part("Confusions", frequent(record.frequent)) : null,
      record.errors ? part("Spread of " + shared(record.errors[0])[0], spread(record.errors)) : null,
      part("Provenance", list(provenance)),
      part("Cost", list(cost)),
      part("Versions", element("p", { class: "soft" }, versions)),
      part("Config", element("pre", { tabindex: "0" }, shared(record.config))),
    ];
    const head = element("header", {}, title, close);
    return [head, record.seeds ? seeds : "", element("div", { class: "parts" }, ...parts.filter(Boolean))];
  }

  function rates(record, higher) {
    const folds = record.rates.map(([chosen, ...curve]) => ({
      chosen,
      points: pairs(curve).map(([rate, value]) => ({ rate, x: Math.log10(Number(rate)), y: value }))
        .filter((point) => Number.isFinite(point.x) && point.y !== null).sort((a, b) => a.x - b.x),
    }));
    const points = folds.flatMap((fold) => fold.points);
    const words = element("p", { class: "soft" }, "chosen: " + [...new Set(folds.map((fold) => fold.chosen))].join(", ")
      + "; on dev, " + (higher ? "higher" : "lower") + " is better"
      + (folds.length > 1 ? "; a line for each of " + folds.length + " folds" : ""));
    if (!points.length) return [words];
    const told = folds.length > 1 ? "" : points.map((point) => point.rate + ": " + point.y).join(", ");
    const chart = frame(extent(points.map((p) => p.x)), extent(points.map((p) => p.y)), "Score on dev by learning rate. " + told);
    for (const fold of folds) {
      const line = fold.points.map((p, k) => (k ? "L" : "M") + chart.x(p.x) + " " + chart.y(p.y)).join("");
      chart.svg.append(shape("path", { d: line }));
      for (const p of fold.points) {
        const kind = Number(p.rate) === fold.chosen ? "chosen" : "";
        chart.svg.append(shape("circle", { cx: chart.x(p.x), cy: chart.y(p.y), r: 3.5, class: kind }, p.rate + ": " + p.y));
      }
    }
    for (const rate of new Set(points.map((p) => p.rate))) chart.below(Math.log10(Number(rate)), rate);
    return [chart.svg, words];
  }
  function weights([place, ...shares]) {
    const numbers = shared(place);
    const chart = frame([-0.5, shares.length - 0.5], [0, Math.max(...shares)], "Weight of each layer. "
      + shares.map((share, k) => numbers[k] + ": " + share).join(", "));
    shares.forEach((share, k) => {
      bar(chart, k - 0.4, k + 0.4, share, "", numbers[k] + ": " + share);
      if (shares.length < 15 || k % 4 === 0) chart.below(k, String(numbers[k]));
    });
    return chart.svg;
  }
  function spread([place, from, to, ...counts]) {
    const [what, ...names] = shared(place);
    const width = (to - from) / counts[0].length;
    const sums = counts.map((own) => Math.max(1, own.reduce((a, b) => a + b, 0)));
    const height = (count, k) => (names.length ? count / sums[k] : count);
    const top = Math.max(...counts.flatMap((own, k) => own.map((count) => height(count, k))));
    const words = names.length ? names.join(" (blue) and ") + " (brown), each as shares" : "";
    const chart = frame([from, to], [0, top], what + " " + words);
    counts.forEach((own, k) => own.forEach((count, at) => count && bar(chart, from + at * width, from + (at + 1) * width,
      height(count, k), k ? "other" : "", String(count))));
    for (const at of [0, 0.25, 0.5, 0.75, 1]) {
      const value = Number((from + at * (to - from)).toPrecision(3));
      chart.below(from + at * (to - from), value + (at === 1 && to === 200 ? "+" : ""));
    }
    return names.length ? element("div", {}, chart.svg, element("p", { class: "soft" }, words)) : chart.svg;
  }
  function bar(chart, from, to, value, kind, words) {
    const [left, right, top] = [chart.x(from), chart.x(to), chart.y(value)];
    const width = Math.max(right - left - 1, 0.5);
    chart.svg.append(shape("rect", { x: left, y: top, width, height: chart.bottom - top, class: kind }, words));
  }
  function confusion([place, ...counts]) {
    const classes = shared(place);
    const head = element("tr", {}, element("th", {}, "is \\ taken for"), ...classes.map((name) => element("th", { scope: "col" }, name)));
    const rows = counts.map((own, k) => {
      const sum = Math.max(1, own.reduce((a, b) => a + b, 0));
      const cells = own.map((count) => {
        const cell = element("td", {}, String(count));
        cell.style.setProperty("--share", String(count / sum));
        return cell;
      });
      return element("tr", {}, element("th", { scope: "row" }, classes[k]), ...cells);
    });
    const table = element("table", { class: "confusion" }, element("thead", {}, head), element("tbody", {}, ...rows));
    return element("div", { class: "wide", tabindex: "0" }, table);
  }
  function frequent([count, ...found]) {
    const lines = found.map(([is, taken, times]) => [is + " taken for " + taken, times]);
    return element("div", {}, element("p", { class: "soft" }, "The most frequent among " + count + " classes:"), list(lines));
  }

  // drawing
  function frame([left, right], [low, high], words) {
    const [width, height, edge, foot, bottom] = [460, 190, 46, 34, 156];
    const svg = shape("svg", { viewBox: "0 0 " + width + " " + height, class: "chart", role: "img", "aria-label": words });
    const chart = {
      svg,
      bottom,
      x: (value) => round(edge + (width - edge - 14) * (right > left ? (value - left) / (right - left) : 0.5)),
      y: (value) => round(bottom - (bottom - 12) * (high > low ? (value - low) / (high - low) : 0.5)),
      below: (value, text) => svg.append(label(chart.x(value), height - foot + 18, text, "middle")),
    };
    svg.append(shape("path", { class: "axis", d: "M" + edge + " 6V" + bottom + "H" + (width - 8) }));
    for (const value of high > low ? [low, (low + high) / 2, high] : [low]) {
      svg.append(label(edge - 5, chart.y(value) + 4, String(Number(value.toPrecision(3))), "end"));
    }
    return chart;
  }
  function extent(values) {
    const [low, high] = [Math.min(...values), Math.max(...values)];
    const margin = (high - low || Math.abs(high) || 1) * 0.06;
    return [low - margin, high + margin];
  }
  function round(value) { return Math.round(value * 10) / 10; }
  function label(x, y, text, anchor) {
    const node = shape("text", { x, y, "text-anchor": anchor });
    node.textContent = text;
    return node;
  }
  function shape(name, attributes, words) {
    const node = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) if (value !== "") node.setAttribute(key, value);
    if (words) {
      const title = document.createElementNS(SVG, "title");
      title.textContent = words;
      node.append(title);
    }
    return node;
  }
  function element(name, attributes, ...children) {
    const node = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.append(...children);
    return node;
  }
  function part(title, ...children) { return element("section", {}, element("h3", {}, title), ...children); }
  function list(pairs) {
    const shown = (value) => (value === null || value === undefined || value === "" ? "-" : String(value));
    return element("dl", {}, ...pairs.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, shown(value))]));
  }
})();
