"use strict";
(() => {
  const $ = (s, e = document) => e.querySelector(s), $$ = (s, e = document) => [...e.querySelectorAll(s)];
  const D = JSON.parse($("#data").textContent), N = D.names.length, heads = $$("#modules thead th");
  const body = $("#modules tbody"), filter = $("#filter"), tip = $("#tip"), where = $("#where");
  const said = (name, i) => D[name][0][D[name][1][i]];
  const other = (k, m, n, i) => D.details[n]?.[2][m]?.[2 * D.others.indexOf(k) + i] ?? null;
  const value = (k, m, n) => k in D.columns ? D.columns[k][m * N + n] : other(k, m, n, 0);
  const show = (v, k) => {
    if (v == null) return "–";
    if (D.whole[D.keys.indexOf(k)] || v === 0 || Math.abs(v) >= 1000) return Math.round(v).toLocaleString("en");
    return Math.abs(v) < 1e-4 ? v.toExponential(2).replace(/e-(\d)$/, "e-0$1") : v.toPrecision(3);
  };
  const percentile = (k, m, n) => {
    if (!(k in D.columns)) return other(k, m, n, 1);
    const v = value(k, m, n), kind = D.kind[1];
    if (v == null) return null;
    let less = 0, same = 0, all = 0;
    for (let i = 0; i < N; i++) {
      const w = kind[i] === kind[n] ? value(k, m, i) : null;
      if (w != null) { all++; less += w < v; same += w === v; }
    }
    return Math.floor(50 * (2 * less + same) / all + 0.5);
  };
  const text = (k, m, n, sorted) => ({
    module: () => D.names[n], model: () => D.models[m], shape: () => said("shape", n).join(" × "),
    status: () => said("state", m * N + n), percentile: () => percentile(sorted, m, n) ?? "–",
  }[k] ?? (() => show(value(k, m, n), k)))();

  /* State lives in the hash, so that it can be sent to somebody. */
  const state = () => new URLSearchParams(location.hash.slice(1));
  const go = (changes, entry) => {
    const s = state();
    for (const [k, v] of Object.entries(changes)) v ? s.set(k, v) : s.delete(k);
    history[entry ? "pushState" : "replaceState"](null, "", "#" + s);
    apply();
  };

  const rows = s => {
    const asked = s.get("sort") ?? D.sort, k = asked.replace(/^-/, ""), up = asked !== k ? 1 : -1;
    const wanted = (s.get("q") ?? "").toLowerCase(), list = [];
    for (let i = 0; i < N * D.models.length; i++) {
      const m = Math.floor(i / N), n = i % N;
      if (said("state", i) != null && (!wanted || `${D.names[n]} ${D.models[m]} ${text("status", m, n)}`.toLowerCase().includes(wanted)))
        list.push([m, n, k in D.columns ? value(k, m, n) : k === "shape" ? said("shape", n).reduce((a, b) => a * b) : k === "model" ? m : text(k, m, n), value("relative_norm", m, n) ?? 0, !text("status", m, n).startsWith("failed")]);
    }
    list.sort((a, b) => a[4] - b[4] || (a[2] == null) - (b[2] == null) || (a[2] < b[2] ? -up : a[2] > b[2] ? up : 0) || b[3] - a[3] || a[1] - b[1] || a[0] - b[0]);
    return { k, up, list };
  };
  const table = s => {
    const { k, up, list } = rows(s), some = s.has("all") ? list : list.slice(0, 50);
    body.replaceChildren(...some.map(([m, n]) => {
      const tr = document.createElement("tr");
      for (const head of heads) {
        const cell = tr.appendChild(document.createElement(head.dataset.k === "module" ? "th" : "td"));
        const target = head.dataset.k === "module" ? cell.appendChild(document.createElement("a")) : cell;
        target.textContent = text(head.dataset.k, m, n, k in D.columns ? k : D.sort);
        cell.className = head.className;
        if (target !== cell) { cell.scope = "row"; target.href = "#" + new URLSearchParams({ m: D.names[n] }); }
      }
      return tr;
    }));
    heads.forEach(h => h.dataset.k === k ? h.setAttribute("aria-sort", up > 0 ? "ascending" : "descending") : h.removeAttribute("aria-sort"));
    $("#count").textContent = `${some.length.toLocaleString("en")} of ${list.length.toLocaleString("en")} rows`;
    $("#all").textContent = s.has("all") ? "first 50" : "all rows";
  };

  /* One matrix: the twins of points, marks, flags and squares in detail.py. */
  const grid = n => [...Array(44).keys()].flatMap(p => [2 ** p, 3 * 2 ** p]).concat(n).filter((i, p, all) => i <= n && all.indexOf(i) === p).sort((a, b) => a - b);
  const points = c => {
    let y = 0;
    const ys = (c ?? []).slice(1).map(fall => y += fall), end = ys.indexOf(D.height);
    return grid(c?.[0] ?? 0).slice(0, end < 0 ? ys.length : end + 1)
      .map((i, p) => `${(D.width * Math.log(i) / Math.log(D.longest)).toFixed(1)},${ys[p]}`).join(" ");
  };
  const pair = c => Array.isArray(c) ? c : [c, c], hit = c => pair(c)[1] / 1000 < D.epsilon;
  const marks = (cs, h) => cs.map((c, i) => hit(c) !== h ? "" :
    `M${((i + 0.5) * D.width / cs.length).toFixed(1)} ${(D.height * (1000 - pair(c)[1]) / 1000 - 1).toFixed(1)}V${(D.height * (1000 - pair(c)[0]) / 1000 + 1).toFixed(1)}`).join("");
  const squares = (code, step) => code.split(",").map((r, y) => [...r.replace(/[a-z]/g, z => "0".repeat(z.charCodeAt() - 96))]
    .map((d, x) => +d === step ? `M${x} ${y}h1` : "").join("")).join("");
  const set = (e, s, name, v) => $(s, e)?.setAttribute(name, v);
  let shown = D.first;
  const open = n => {
    const [base, details] = D.details[n] ?? [null, []];
    shown = n;
    $("#module h3").textContent = D.names[n];
    $("#about").textContent = `${text("shape", 0, n)}, ${said("dtype", n)}` + (D.layer[n] == null ? "" : `, layer ${D.layer[n]}`) + `, ${said("kind", n)}`;
    $("#folded").hidden = !!base;
    $$("#curves tbody tr").forEach((tr, m) => {
      const [tuned, update, edge, ...sides] = details[m] ?? [null, null, null, [], [], null, null];
      set(tr, ".w0", "points", points(base)); set(tr, ".w1", "points", points(tuned)); set(tr, ".dw", "points", points(update));
      set(tr, ".edge", "d", edge == null ? "" : `M0 ${edge}H${D.width}`);
      ["left", "right"].forEach((side, i) => {
        const code = sides[2 + i], cs = sides[i];
        set(tr, `.${side} .ok`, "d", marks(cs, false)); set(tr, `.${side} .hit`, "d", marks(cs, true));
        const map = $(`.${side}.like`, tr);
        $("p", map).hidden = code != null; $("svg", map).classList.toggle("gone", code == null);
        for (let step = 1; step < 7; step++) set(map, ".s" + step, "d", squares(code ?? "", step));
        set(map, ".flag", "d", cs.slice(0, 32).map((c, r) => hit(c) ? `M-1.6 ${r + 0.5}h1.4` : "").join(""));
      });
    });
    $$("#numbers tbody tr").forEach((tr, i) => D.models.slice(0, tr.cells.length - 2).forEach((_, m) => {
      const k = D.keys[i], p = percentile(k, m, n), cell = tr.cells[m + 1];
      cell.textContent = show(value(k, m, n), k);
      if (p != null) cell.appendChild(document.createElement("small")).textContent = " " + p;
    }));
  };

  /* The maps: the pointer or the arrow keys choose a cell. */
  let at = null;
  const P = D.pitch, cursor = document.createElementNS("http://www.w3.org/2000/svg", "rect");
  cursor.setAttribute("class", "cursor"); cursor.setAttribute("width", P); cursor.setAttribute("height", P);
  const cells = new Map();
  for (let n = N; n--;) cells.set(`${D.kind[1][n]},${D.layer[n]}`, n);
  const picked = () => $("input[name=metric]:checked")?.value;
  const strips = () => $$("svg[data-model]", where).filter(s => s.getClientRects().length);
  const point = (svg, x, y) => {
    if (x < 0 || y < 0 || x >= D.layers.length || y >= D.mapped) return;
    const m = +svg.dataset.model, n = cells.get(`${y},${D.layers[x]}`), k = picked(), v = n == null ? null : value(k, m, n);
    at = { svg, x, y, n };
    $("g", svg).append(cursor);
    cursor.setAttribute("x", x * P); cursor.setAttribute("y", y * P);
    const unit = $(`#pick-${k}`).dataset.unit, p = v == null ? null : percentile(k, m, n);
    tip.textContent = `${D.models[m]}, layer ${D.layers[x]} ${D.kind[0][y]}: ` + (v == null ? "not measured" : `${show(v, k)} ${unit}`) + (p == null ? "" : `, percentile ${p} of its kind`);
    tip.hidden = false;
    const box = cursor.getBoundingClientRect(), frame = where.getBoundingClientRect();
    tip.style.top = box.bottom - frame.top + 6 + "px";
    tip.style.left = Math.max(0, Math.min(box.left - frame.left, frame.width - tip.offsetWidth)) + "px";
  };
  const under = e => {
    const svg = e.target.closest("svg[data-model]");
    if (!svg) return null;
    const box = $("g", svg).getScreenCTM();
    return [svg, Math.floor((e.clientX - box.e) / box.a / P), Math.floor((e.clientY - box.f) / box.d / P)];
  };
  const leave = () => { tip.hidden = true; cursor.remove(); };
  const openCell = () => at?.n != null && go({ m: D.names[at.n] }, true);
  where.addEventListener("pointermove", e => { const u = under(e); u ? point(...u) : where.contains(document.activeElement?.closest("svg")) || leave(); });
  where.addEventListener("pointerleave", leave);
  where.addEventListener("click", e => {
    const u = under(e), again = u && at && at.svg === u[0] && at.x === u[1] && at.y === u[2];
    if (u) { point(...u); if (e.pointerType !== "touch" || again) openCell(); }
  });
  where.addEventListener("focusin", e => { const svg = e.target.closest("svg[data-model]"); if (svg) at?.svg === svg ? point(svg, at.x, at.y) : point(svg, 0, 0); });
  where.addEventListener("focusout", leave);
  where.addEventListener("keydown", e => {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[e.key];
    if (!e.target.closest("svg[data-model]") || !at || !(step || e.key === "Enter")) return;
    e.preventDefault();
    if (!step) return openCell();
    const all = strips(), x = at.x + step[0], y = at.y + step[1], next = all[all.indexOf(at.svg) + Math.sign(step[1])];
    if (y >= 0 && y < D.mapped) point(at.svg, x, y);
    else if (next) { at = { svg: next, x, y: y < 0 ? D.mapped - 1 : 0 }; next.focus(); }
  });

  const apply = () => {
    const s = state(), pick = document.getElementById("pick-" + (s.get("metric") ?? D.chosen)), n = D.names.indexOf(s.get("m"));
    if (pick) pick.checked = true;
    if (filter.value !== (s.get("q") ?? "")) filter.value = s.get("q") ?? "";
    table(s);
    if (n >= 0 && n !== shown) open(n);
    if (n >= 0 && s.get("m") !== arrived) $("#module").scrollIntoView();
    arrived = s.get("m");
  };
  let arrived = null;

  $$("[hidden].scripted").forEach(e => e.hidden = false);
  $$("#where .map").forEach(map => $$("svg[data-model]", map).forEach((svg, i) => { svg.setAttribute("tabindex", i ? -1 : 0); svg.setAttribute("role", "application"); }));
  heads.forEach(h => {
    const button = document.createElement("button");
    button.append(...h.childNodes);
    h.append(button);
    button.onclick = () => go({ sort: h.getAttribute("aria-sort") === "descending" ? "-" + h.dataset.k : h.dataset.k });
  });
  heads.filter(h => h.dataset.k === "percentile").forEach(h => h.replaceChildren(...h.firstChild.childNodes));
  filter.oninput = () => go({ q: filter.value });
  $("#all").onclick = () => go({ all: state().has("all") ? "" : "1" });
  $("#copy").onclick = () => {
    const quote = c => /[",\n]/.test(c) ? `"${c.replaceAll('"', '""')}"` : c, safe = c => /^[=+\-@\t\r]/.test(c) ? "'" + c : c;
    const { k, list } = rows(state()), keys = heads.map(h => h.dataset.k), box = $("#csv");
    box.value = [keys, ...list.map(([m, n]) => keys.map(c => c in D.columns ? value(c, m, n) ?? "" : safe(String(text(c, m, n, k)))))]
      .map(r => r.map(c => quote(String(c))).join(",")).join("\n") + "\n";
    box.hidden = false; box.select();
    navigator.clipboard?.writeText(box.value).catch(() => {});
  };
  $$("input[name=metric]").forEach(i => i.onchange = () => go({ metric: i.value }));
  document.addEventListener("click", e => {
    const a = e.target.closest('a[href^="#m="]');
    if (a && !e.ctrlKey && !e.metaKey && !e.shiftKey) { e.preventDefault(); arrived = null; go({ m: new URLSearchParams(a.hash.slice(1)).get("m") }, true); }
  });
  addEventListener("popstate", apply);
  apply();
})();
