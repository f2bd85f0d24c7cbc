"use strict";
/* Everything is in the page without this. It sorts, filters and links; what is shown is kept in the hash. */
{
  const $ = (selector, inside = document) => inside.querySelector(selector);
  const $$ = (selector, inside = document) => [...inside.querySelectorAll(selector)];
  const D = JSON.parse($("#data").textContent), N = D.names.length;
  const [where, tip, filter, all, csv] = ["#where", "#tip", "#filter", "#all", "#csv"].map(id => $(id));

  /* Numbers: column k of matrix n in model m. */
  const said = (name, i) => D[name][0][D[name][1][i]];
  const other = (k, m, n, i) => D.details[n]?.[2][m]?.[2 * D.others.indexOf(k) + i] ?? null;
  const value = (k, m, n) => k in D.columns ? D.columns[k][m * N + n] : other(k, m, n, 0);
  const percentile = (k, m, n) => {
    const v = value(k, m, n), kind = D.kind[1];
    if (v == null || !(k in D.columns)) return other(k, m, n, 1);
    const known = D.names.flatMap((_, i) => kind[i] === kind[n] ? value(k, m, i) ?? [] : []);
    const less = known.filter(w => w < v).length, same = known.filter(w => w === v).length;
    return Math.floor(50 * (2 * less + same) / known.length + 0.5);
  };
  const show = (v, k) => {
    if (v == null) return "–";
    if (D.whole[D.keys.indexOf(k)] || v === 0 || Math.abs(v) >= 1000) return Math.round(v).toLocaleString("en");
    return Math.abs(v) < 1e-4 ? v.toExponential(2).replace(/e-(\d)$/, "e-0$1") : v.toPrecision(3);
  };

  const state = () => new URLSearchParams(location.hash.slice(1));
  const go = (changes, entry) => {
    const s = state();
    for (const [k, v] of Object.entries(changes)) v ? s.set(k, v) : s.delete(k);
    history[entry ? "pushState" : "replaceState"](null, "", "#" + s);
    apply();
  };

  /* The table. */
  const heads = $$("#modules thead th"), keys = heads.map(head => head.dataset.k), FEW = 50, MANY = 1000;
  const words = {
    module: (m, n) => D.names[n],
    model: m => D.models[m],
    shape: (m, n) => said("shape", n).join(" × "),
    status: (m, n) => said("state", m * N + n),
    percentile: (m, n, sorted) => percentile(sorted, m, n) ?? "–",
  };
  const order = { ...words, model: m => m, shape: (m, n) => said("shape", n).reduce((a, b) => a * b) };
  const rows = s => {
    const asked = s.get("sort") ?? D.sort, k = asked.replace("-", ""), sign = asked === k ? -1 : 1;
    const wanted = (s.get("q") ?? "").toLowerCase(), list = [];
    D.models.forEach((model, m) => D.names.forEach((name, n) => {
      const status = words.status(m, n);
      if (status == null || !`${name} ${model} ${status}`.toLowerCase().includes(wanted)) return;
      const by = k in D.columns ? value(k, m, n) : order[k](m, n);
      list.push({ m, n, by, none: by == null, fine: !status.startsWith("failed"), norm: value("relative_norm", m, n) });
    }));
    const compare = (a, b) => a.by < b.by ? -sign : a.by > b.by ? sign : 0;
    list.sort((a, b) =>
      a.fine - b.fine || a.none - b.none || compare(a, b) || b.norm - a.norm || a.n - b.n || a.m - b.m);
    return { k, sign, list };
  };
  const add = (parent, tag, textContent, className = "") =>
    Object.assign(parent.appendChild(document.createElement(tag)), { textContent, className });
  const table = s => {
    const { k, sign, list } = rows(s), ranked = k in D.columns ? k : D.sort;
    const some = list.slice(0, s.has("all") ? MANY : FEW), count = number => number.toLocaleString("en");
    $("#modules tbody").replaceChildren(...some.map(({ m, n }) => {
      const tr = document.createElement("tr");
      heads.forEach(({ className }, i) => {
        const text = words[keys[i]]?.(m, n, ranked) ?? show(value(keys[i], m, n), keys[i]);
        if (keys[i] !== "module") return add(tr, "td", text, className);
        const th = add(tr, "th", "", className);
        th.scope = "row";
        add(th, "a", text).href = "#" + new URLSearchParams({ m: text });
      });
      return tr;
    }));
    heads.forEach((head, i) => head.ariaSort = keys[i] !== k ? null : sign > 0 ? "ascending" : "descending");
    $("#count").textContent = `${count(some.length)} of ${count(list.length)} rows`;
    all.textContent = s.has("all") ? `first ${FEW} rows` : list.length > MANY ? `first ${MANY} rows` : "all rows";
  };
  const copy = () => {
    const inert = text => /^[=+\-@\t\r]/.test(text) ? "'" + text : text;
    const quoted = text => /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
    const { k, list } = rows(state()), ranked = k in D.columns ? k : D.sort;
    const field = (c, m, n) => c in words ? inert(String(words[c](m, n, ranked))) : String(value(c, m, n) ?? "");
    const lines = [keys, ...list.map(({ m, n }) => keys.map(c => field(c, m, n)))];
    csv.value = lines.map(line => line.map(quoted).join(",") + "\n").join("");
    csv.hidden = false;
    csv.select();
    navigator.clipboard?.writeText(csv.value).catch(() => {});  // not allowed everywhere: the text stays selected
  };

  /* One matrix. What draws is the twin of points, marks, flags and squares in detail.py. */
  const grid = length => {
    const octaves = [...Array(40).keys()].flatMap(p => [2 ** p, 3 * 2 ** p]).filter(i => i < length);
    return length ? [...octaves, length].sort((a, b) => a - b) : [];
  };
  const points = ([length = 0, ...falls] = []) => {
    let height = 0;
    const ys = falls.map(fall => height += fall), end = ys.indexOf(D.height) + 1 || ys.length;
    const along = i => (D.width * Math.log(i) / Math.log(D.longest)).toFixed(1);
    return grid(length).slice(0, end).map((i, p) => `${along(i)},${ys[p]}`).join(" ");
  };
  const ends = cosine => [cosine].flat(), hit = cosine => ends(cosine).at(-1) / 1000 < D.epsilon;
  const marks = (cosines, hits) => cosines.map((cosine, i) => {
    const [bottom, top] = [ends(cosine)[0], ends(cosine).at(-1)].map(mille => D.height * (1000 - mille) / 1000);
    const x = (i + 0.5) * D.width / cosines.length;
    return hit(cosine) === hits ? `M${x.toFixed(1)} ${(top - 1).toFixed(1)}V${(bottom + 1).toFixed(1)}` : "";
  }).join("");
  const flags = cosines => cosines.slice(0, 32).map((cosine, i) => hit(cosine) ? `M-1.6 ${i + 0.5}h1.4` : "").join("");
  const squares = (code, step) => code.split(",").map((row, y) => {
    const digits = [...row.replace(/[a-z]/g, letter => "0".repeat(letter.charCodeAt() - 96))];
    return digits.map((digit, x) => +digit === step ? `M${x} ${y}h1` : "").join("");
  }).join("");
  const open = n => {
    const [base = [], details = []] = D.details[n] ?? [], place = [words.shape(0, n), said("dtype", n)];
    $("#module h3").textContent = D.names[n];
    if (D.layer[n] != null) place.push(`layer ${D.layer[n]}`);
    $("#about").textContent = [...place, said("kind", n)].join(", ");
    $("#folded").hidden = n in D.details;
    $$("#curves tbody tr").forEach((tr, m) => {
      const [tuned = [], update = [], edge = null, left = [], right = [], ...codes] = details[m] ?? [];
      const set = (selector, name, text) => $(selector, tr).setAttribute(name, text);
      set(".w0", "points", points(base));
      set(".w1", "points", points(tuned));
      set(".dw", "points", points(update));
      set(".edge", "d", edge == null ? "" : `M0 ${edge}H${D.width}`);
      [["left", left], ["right", right]].forEach(([side, cosines], i) => {
        set(`.${side} .ok`, "d", marks(cosines, false));
        set(`.${side} .hit`, "d", marks(cosines, true));
        set(`.${side} .flag`, "d", flags(cosines));
        for (let step = 1; step < 7; step++) set(`.${side} .s${step}`, "d", squares(codes[i] ?? "", step));
        for (const name of ["width", "height"]) set(`.${side} .ground`, name, (codes[i] ?? "").split(",").length);
        $(`.${side} p`, tr).hidden = codes[i] != null;
        $(`.${side}.like svg`, tr).classList.toggle("gone", codes[i] == null);
      });
    });
    $$("#numbers tbody tr").forEach((tr, i) => [...tr.cells].slice(1, -1).forEach((td, m) => {
      const k = D.keys[i], p = percentile(k, m, n);
      td.textContent = k in D.columns || n in D.details ? show(value(k, m, n), k) : "left out";
      if (p != null) add(td, "small", ` ${p}`);
    }));
  };

  /* The maps: pointer or arrow keys choose a cell, a click or Enter opens its matrix, a first tap only tells. */
  let at = {};
  const cursor = document.createElementNS("http://www.w3.org/2000/svg", "rect");
  const named = new Map(D.names.map((_, n) => [`${D.kind[1][n]} ${D.layer[n]}`, n]).reverse());
  const strip = target => target?.closest?.("#where svg[data-model]");
  const point = (svg, x, y) => {
    if (x < 0 || y < 0 || x >= D.layers.length || y >= D.mapped) return;
    const m = +svg.dataset.model, n = named.get(`${y} ${D.layers[x]}`), pick = $("input[name=metric]:checked");
    const v = n == null ? null : value(pick.value, m, n);
    at = { svg, x, y, n };
    $("g", svg).append(cursor);
    const box = { class: "cursor", x: x * D.pitch, y: y * D.pitch, width: D.pitch, height: D.pitch };
    for (const [name, text] of Object.entries(box)) cursor.setAttribute(name, text);
    tip.textContent = `${D.models[m]}, layer ${D.layers[x]} ${D.kind[0][y]}: ` + (v == null ? "not measured"
      : `${show(v, pick.value)} ${pick.dataset.unit}, percentile ${percentile(pick.value, m, n)} of its kind`);
    tip.hidden = false;
    const here = cursor.getBoundingClientRect(), frame = where.getBoundingClientRect();
    tip.style.top = `${here.bottom - frame.top + 6}px`;
    tip.style.left = `${Math.max(0, Math.min(here.left - frame.left, frame.width - tip.offsetWidth))}px`;
  };
  const pointed = event => {
    const svg = strip(event.target), to = svg && $("g", svg).getScreenCTM();
    const [x, y] = svg ? [(event.clientX - to.e) / to.a, (event.clientY - to.f) / to.d] : [];
    if (svg) point(svg, Math.floor(x / D.pitch), Math.floor(y / D.pitch));
    return svg;
  };
  const leave = () => { tip.hidden = true; cursor.remove(); };
  const enter = () => at.n != null && go({ m: D.names[at.n] }, true);
  const walk = event => {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1], Enter: [] }[event.key];
    if (!strip(event.target) || !step) return;
    event.preventDefault();
    if (event.key === "Enter") return enter();
    const [x, y] = [at.x + step[0], at.y + step[1]];
    if (y >= 0 && y < D.mapped) return point(at.svg, x, y);
    const strips = $$("svg[data-model]", where).filter(svg => svg.checkVisibility());
    const next = strips[strips.indexOf(at.svg) + step[1]];
    if (!next) return;
    at = { svg: next, x, y: y < 0 ? D.mapped - 1 : 0 };
    next.focus();
  };

  let arrived = null, shown = D.first;
  const apply = () => {
    const s = state(), name = s.get("m"), n = D.names.indexOf(name);
    const pick = document.getElementById(`pick-${s.get("metric") ?? D.chosen}`);
    if (pick) pick.checked = true;
    if (filter.value !== (s.get("q") ?? "")) filter.value = s.get("q") ?? "";
    table(s);
    if (n >= 0 && n !== shown) open(shown = n);
    if (n >= 0 && name !== arrived) $("#module").scrollIntoView();
    arrived = name;
  };

  const fold = open => $$("#method details").forEach(part => part.open = open);
  fold(false);
  addEventListener("beforeprint", () => fold(true));
  addEventListener("afterprint", () => fold(false));
  $$(".scripted").forEach(part => part.hidden = false);
  $$("#where .map").forEach(map => $$("svg[data-model]", map).forEach((svg, i) => {
    svg.setAttribute("role", "application");
    svg.setAttribute("tabindex", i ? -1 : 0);
  }));
  heads.filter((_, i) => keys[i] !== "percentile").forEach(head => {
    const button = document.createElement("button");
    button.append(...head.childNodes);
    head.append(button);
    button.onclick = () => go({ sort: (head.ariaSort === "descending" ? "-" : "") + head.dataset.k });
  });
  $$("input[name=metric]").forEach(pick => pick.onchange = () => go({ metric: pick.value }));
  filter.oninput = () => go({ q: filter.value });
  all.onclick = () => go({ all: state().has("all") ? "" : "1" });
  $("#copy").onclick = copy;
  where.addEventListener("pointermove", event => pointed(event) || strip(document.activeElement) || leave());
  where.addEventListener("pointerleave", leave);
  where.addEventListener("focusin", event => {
    const svg = strip(event.target);
    if (svg) at.svg === svg ? point(svg, at.x, at.y) : point(svg, 0, 0);
  });
  where.addEventListener("focusout", leave);
  where.addEventListener("keydown", walk);
  where.addEventListener("click", event => {
    const before = at;
    if (pointed(event) && (event.pointerType !== "touch" || (before.svg === at.svg && before.n === at.n))) enter();
  });
  document.addEventListener("click", event => {
    const link = event.target.closest?.('a[href^="#m="]');
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    arrived = null;
    go({ m: new URLSearchParams(link.hash.slice(1)).get("m") }, true);
  });
  addEventListener("popstate", apply);
  apply();
}
