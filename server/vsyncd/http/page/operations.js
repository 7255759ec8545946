// Shows the answer of GetStatus. All text from the server is set as textContent, so that it is never parsed as HTML.
"use strict";

const INTERVAL_MS = 5000;
const MAX_INTERVAL_MS = 60000;
const TIMEOUT_MS = 15000;
const MAX_TREND = 180; // polls, 15 minutes
const SHOWN_ROWS = 25; // of a table, until all are asked for
const FEW_ROWS = 10;
const KEY_TYPES = ["CPF", "CNPJ", "PHONE", "EMAIL", "EVP"];
const STATES = {
  HEALTHY: { tone: "good", mark: "✓", text: "Healthy" },
  DEGRADED: { tone: "warn", mark: "!", text: "Degraded" },
  UNHEALTHY: { tone: "bad", mark: "✗", text: "Unhealthy" },
};
const BATCH_STATES = {
  FAILED: { tone: "bad", order: 0 },
  RUNNING: { tone: "good", order: 1 },
  STARTING: { tone: "warn", order: 2 },
  PENDING: { tone: "none", order: 3 },
  COMPLETED: { tone: "none", order: 4 },
};

// ---- elements -------------------------------------------------------------------------------------------------------

const byId = (id) => document.getElementById(id);

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== undefined && child !== ""));
  return element;
}

const el = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);
const svg = (tag, attributes = {}, ...children) =>
  fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

// What each place shows, as JSON: what has not changed is not built again, so that focus and selection remain.
const shown = new Map();

function show(id, data, build) {
  const key = JSON.stringify(data);
  if (shown.get(id) === key) return;
  shown.set(id, key);
  const focused = document.activeElement?.id;
  byId(id).replaceChildren(...[build(data)].flat().filter((child) => child !== undefined));
  if (focused && document.activeElement?.id !== focused) byId(focused)?.focus();
}

// ---- formats --------------------------------------------------------------------------------------------------------

const number = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const compact = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const decimal = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });

function milliseconds(value) {
  if (value === undefined) return "–";
  if (value >= 10000) return `${number.format(value / 1000)} s`;
  return value >= 1000 ? `${decimal.format(value / 1000)} s` : `${(value < 10 ? decimal : number).format(value)} ms`;
}

function bytes(value) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  for (; value >= 1024 && unit < units.length - 1; unit += 1) value /= 1024;
  return `${decimal.format(value)} ${units[unit]}`;
}

function duration(seconds) {
  const steps = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
  const at = Math.max(0, steps.findIndex(([, size]) => seconds >= size));
  if (seconds < 1) return "0 s";
  const [unit, size] = steps[at];
  const next = steps[at + 1];
  const rest = next ? Math.floor((seconds % size) / next[1]) : 0;
  return `${Math.floor(seconds / size)} ${unit}${rest && seconds / size < 10 ? ` ${rest} ${next[0]}` : ""}`;
}

let clockOffset = 0; // of the server's clock in milliseconds

function relative(iso) {
  const seconds = (new Date(iso).getTime() - Date.now() - clockOffset) / 1000;
  return seconds > 0 ? `in ${duration(seconds)}` : `${duration(-seconds)} ago`;
}

function time(iso) {
  if (!iso) return "–";
  const exact = new Date(iso).toLocaleString("en-GB", { timeZoneName: "short" });
  return el("time", { datetime: iso, title: exact }, relative(iso));
}

const badge = (tone, ...text) => el("span", { class: `badge ${tone}` }, ...text);
const plural = (count, one, many = `${one}s`) => `${number.format(count)} ${count === 1 ? one : many}`;
const short = (method) => method.replace(/^(.*\.)?([^.]+\/)/, "$2");

// ---- tables ---------------------------------------------------------------------------------------------------------

const expanded = new Set();

// A column is [title, the content of a cell, options]. On a narrow screen each row is a list.
function table(id, label, columns, rows, { matrix = false, limit = SHOWN_ROWS } = {}) {
  const visible = expanded.has(id) ? rows : rows.slice(0, limit);
  // The roles are explicit, because `display` of a narrow screen would remove them.
  const head = columns.map(([title, , options = {}]) =>
    el("th", { scope: "col", role: "columnheader", class: options.number ? "number" : undefined }, title),
  );
  const body = visible.map((row) =>
    el("tr", { role: "row" }, ...columns.map(([title, cell, options = {}]) => {
      const content = [cell(row)].flat().filter((part) => part !== undefined && part !== "");
      if (options.header) return el("th", { scope: "row", role: "rowheader" }, ...content);
      const names = [options.number && "number", options.wrap && "wrap", options.full && "full", !content.length && "blank"];
      const found = names.filter(Boolean).join(" ");
      return el("td", { role: "cell", class: found || undefined, "data-label": title }, ...content);
    })),
  );
  const grid = el("table", { role: "table", "aria-label": label, class: matrix ? "matrix" : undefined },
    el("thead", { role: "rowgroup" }, el("tr", { role: "row" }, ...head)),
    el("tbody", { role: "rowgroup" }, ...body));
  const region = el("div", { class: "stack" }, grid);
  return rows.length > limit ? [region, moreButton(id, rows.length, limit)] : region;
}

function moreButton(id, count, limit) {
  const open = expanded.has(id);
  const button = el("button", { type: "button", class: "more", id: `${id}-more`, "aria-expanded": String(open) },
    open ? `Show the first ${limit}` : `Show all ${number.format(count)}`);
  button.addEventListener("click", () => {
    if (!expanded.delete(id)) expanded.add(id);
    shown.delete(id);
    render();
  });
  return button;
}

const nothing = (text) => el("p", { class: "empty" }, text);

function unavailable(section) {
  const found = status.unavailable.find((each) => each.section === section);
  return found && el("p", { class: "tone warn" }, `Not available: ${found.reason}`);
}

// ---- charts ---------------------------------------------------------------------------------------------------------

function niceMaximum(value) {
  if (value <= 0) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 2.5, 5, 10].map((step) => step * power).find((step) => step >= value);
}

// Draws the axes, and calls `draw` with functions for the position of a minute and of a value.
function chart(id, label, maximum, count, unit, draw) {
  const width = Math.max(240, byId(id).clientWidth);
  const [height, left, bottom, top] = [170, 52, 20, 8];
  const x = (index) => left + (index * (width - left)) / count;
  const y = (value) => top + (1 - value / maximum) * (height - top - bottom);
  const lines = [0, 0.5, 1].flatMap((share) => [
    svg("line", { class: "grid", x1: left, x2: width, y1: y(share * maximum), y2: y(share * maximum) }),
    svg("text", { x: left - 8, y: y(share * maximum) + 4, "text-anchor": "end" }, unit(share * maximum)),
  ]);
  const begin = svg("text", { x: left, y: height - 4 }, `${count} min ago`);
  const end = svg("text", { x: width, y: height - 4, "text-anchor": "end" }, "now");
  return svg("svg", { class: "chart", role: "img", "aria-label": label, viewBox: `0 0 ${width} ${height}` },
    ...lines, begin, end, ...draw(x, y));
}

const perMinute = (minute, count) => (minute.seconds >= 1 ? (count * 60) / Math.max(minute.seconds, 10) : 0);

function rateChart(minutes) {
  const rates = minutes.map((minute) => perMinute(minute, minute.calls));
  const now = rates[Math.max(0, rates.length - 2)] ?? 0;
  const errors = minutes.reduce((sum, minute) => sum + minute.errors, 0);
  const label = `Calls per minute: ${number.format(now)} in the last complete minute, at most ` +
    `${number.format(Math.max(0, ...rates))}. ${plural(errors, "error")}.`;
  return chart("rate-chart", label, niceMaximum(Math.max(0, ...rates)), 15, compact.format.bind(compact), (x, y) =>
    minutes.flatMap((minute, index) => {
      const at = 15 - minutes.length + index;
      const failed = perMinute(minute, minute.errors);
      const [width, base, total] = [Math.max(1, x(1) - x(0) - 4), y(0), y(rates[index])];
      const text = `${new Date(minute.begin).toLocaleTimeString("en-GB")}: ${number.format(minute.calls)} calls, ` +
        `${number.format(minute.errors)} errors`;
      return [
        svg("rect", { class: "calls", x: x(at) + 2, y: total, width, height: Math.max(0, base - total) },
          svg("title", {}, text)),
        svg("rect", { class: "errors", x: x(at) + 2, y: y(failed), width, height: Math.max(0, base - y(failed)) },
          svg("title", {}, text)),
      ];
    }));
}

function latencyChart(minutes) {
  const values = minutes.flatMap((minute) => [minute.p50_ms, minute.p99_ms]).filter((value) => value !== undefined);
  const last = [...minutes].reverse().find((minute) => minute.p99_ms !== undefined);
  const label = last
    ? `Latency: P50 ${milliseconds(last.p50_ms)}, P99 ${milliseconds(last.p99_ms)} in the last minute with calls; ` +
      `P99 at most ${milliseconds(Math.max(...values))}.`
    : "Latency: no calls.";
  return chart("latency-chart", label, niceMaximum(Math.max(0, ...values)), 15, milliseconds, (x, y) =>
    ["p99", "p50"].flatMap((name) => {
      const points = minutes
        .map((minute, index) => [x(15 - minutes.length + index + 0.5), minute[`${name}_ms`]])
        .filter(([, value]) => value !== undefined)
        .map(([at, value]) => `${at.toFixed(1)},${y(value).toFixed(1)}`);
      if (points.length === 1) points.push(points[0].replace(/^[^,]+/, (at) => String(Number(at) + 6)));
      return points.length ? [svg("polyline", { class: `line ${name}`, points: points.join(" ") })] : [];
    }));
}

// A sparkline without axes. The figure beside it has the value, so it is hidden from screen readers.
function spark(values) {
  const known = values.map((value) => value ?? 0);
  if (known.length < 2) return svg("svg", { "aria-hidden": "true", viewBox: "0 0 100 34" });
  const maximum = Math.max(...known) || 1;
  const points = known.map((value, index) =>
    `${((index * 100) / (known.length - 1)).toFixed(2)},${(32 - (value / maximum) * 29).toFixed(2)}`);
  return svg("svg", { "aria-hidden": "true", viewBox: "0 0 100 34", preserveAspectRatio: "none" },
    svg("polygon", { class: "area", points: `0,34 ${points.join(" ")} 100,34` }),
    svg("polyline", { class: "line", points: points.join(" ") }));
}

function progressBar(batch) {
  const parts = ["synced", "failed", "skipped", "leased"].map((name) => [name, batch[`${name}_records`]]);
  const total = batch.total_records || 1;
  let at = 0;
  const bars = parts.map(([name, count]) => {
    const bar = svg("rect", { class: name, x: at, y: 0, width: (count * 100) / total, height: 10 });
    at += (count * 100) / total;
    return bar;
  });
  const label = parts.map(([name, count]) => `${number.format(count)} ${name}`).join(", ");
  return svg("svg", { class: "progress", role: "img", "aria-label": `${label} of ${number.format(batch.total_records)}`,
    viewBox: "0 0 100 10", preserveAspectRatio: "none" },
  svg("rect", { class: "track", x: 0, y: 0, width: 100, height: 10 }), ...bars);
}

// ---- sections -------------------------------------------------------------------------------------------------------

let status = null;
const trends = new Map();

function trend(name, value) {
  const values = [...(trends.get(name) ?? []), value].slice(-MAX_TREND);
  trends.set(name, values);
}

const databases = () => status.health.dependencies.filter((each) => each.config?.pool_info);
const lagOf = (dependency) => dependency.config?.metadata?.replication_lag_ms;
const done = (batch) => batch.synced_records + batch.failed_records + batch.skipped_records;
const batchState = (batch) => batch.status.replace("SYNC_BATCH_STATUS_", "");
const batchRate = () => status.batches.reduce((sum, batch) => sum + (batch.records_per_second ?? 0), 0);
const maxLag = () => Math.max(...databases().map((each) => Number(lagOf(each) ?? -1)));
const usedConnections = () => databases().reduce((sum, each) => sum + each.config.pool_info.active_connections, 0);

function renderState() {
  const state = STATES[status.health.status] ?? STATES.UNHEALTHY;
  byId("state").closest("section").className = `card hero ${state.tone}`;
  show("state", [state.text], () => [el("span", { "aria-hidden": "true" }, state.mark), el("span", {}, state.text)]);
  show("reason", [status.health.message], ([message]) => message);
  byId("version").textContent = status.version;
  document.title = `${state.mark} ${state.text} · vsyncd`;
  const facts = [["Started", status.start_time], ["Instances", status.instances.length || "unknown"]];
  show("facts", facts, () => facts.map(([name, value]) =>
    el("div", {}, el("dt", {}, name), el("dd", {}, name === "Started" ? time(value) : String(value)))));
  show("findings", status.findings, (findings) => findings.map((finding) => {
    const critical = finding.severity === "FINDING_SEVERITY_CRITICAL";
    const name = critical ? "Critical" : "Warning";
    return el("li", { class: critical ? "bad" : "warn" },
      el("span", { class: "mark", "aria-hidden": "true" }, critical ? "✗" : "!"),
      el("span", {}, el("span", { class: "hidden" }, `${name}: `), finding.message));
  }));
}

function tile(title, value, unit, values, tone) {
  return el("div", { class: `card tile ${tone ?? ""}` }, el("h3", {}, title),
    el("div", { class: "value" }, value, el("span", { class: "unit" }, ` ${unit}`)), spark(values));
}

function renderTiles() {
  const minutes = status.calls.minutes;
  const complete = minutes.at(-2) ?? minutes.at(-1);
  const sum = (name) => minutes.reduce((total, minute) => total + minute[name], 0);
  const pools = databases().map((each) => each.config.pool_info);
  const maximum = pools.reduce((total, pool) => total + pool.max_connections, 0);
  const waiting = pools.reduce((total, pool) => total + pool.wait_count, 0);
  const lag = maxLag();
  const records = status.vsyncs.reduce((total, vsync) => total + vsync.count, 0);
  const data = [minutes, pools, lag, records, batchRate(), [...trends]];
  show("tiles", data, () => [
    tile("Calls", compact.format(complete ? perMinute(complete, complete.calls) : 0), "per minute",
      minutes.map((minute) => perMinute(minute, minute.calls))),
    tile("Server errors", number.format(sum("server_errors")), `of ${compact.format(sum("calls"))} calls`,
      minutes.map((minute) => minute.server_errors), sum("server_errors") ? "bad" : undefined),
    tile("P99", milliseconds(complete?.p99_ms), "last minute", minutes.map((minute) => minute.p99_ms)),
    tile("Connections in use", number.format(usedConnections()), `of ${maximum}, ${waiting} waiting`,
      trends.get("connections") ?? [], waiting ? "warn" : undefined),
    tile("Synchronisation", compact.format(batchRate()), "records per second", trends.get("rate") ?? []),
    lag >= 0
      ? tile("Replica lag", milliseconds(lag), "largest", trends.get("lag") ?? [])
      : tile("CIDs", compact.format(records), plural(new Set(status.vsyncs.map((each) => each.ispb)).size, "participant"),
        trends.get("records") ?? []),
  ]);
}

function renderCalls() {
  const { minutes, methods } = status.calls;
  show("rate-chart", [minutes, byId("rate-chart").clientWidth], () => rateChart(minutes));
  show("latency-chart", [minutes, byId("latency-chart").clientWidth], () => latencyChart(minutes));
  show("methods", methods, () => {
    if (!methods.length) return nothing("No calls in the last 15 minutes.");
    const rows = [...methods].sort((one, two) => two.calls - one.calls || one.method.localeCompare(two.method));
    return table("methods", "Calls by method", [
      ["Method", (row) => [short(row.method), row.streaming ? el("span", { class: "sub" }, "stream") : ""], { header: true }],
      ["Calls", (row) => number.format(row.calls), { number: true }],
      ["Errors", (row) => number.format(row.errors), { number: true }],
      ["Server errors", (row) => row.server_errors
        ? el("strong", { class: "tone bad" }, number.format(row.server_errors)) : "0", { number: true }],
      ["In flight", (row) => number.format(row.in_flight), { number: true }],
      ["P50", (row) => milliseconds(row.p50_ms), { number: true }],
      ["P99", (row) => milliseconds(row.p99_ms), { number: true }],
    ], rows, { limit: FEW_ROWS });
  });
}

function renderDependencies() {
  show("dependency-list", status.health.dependencies, (dependencies) => table("dependency-list", "Dependencies", [
    ["Name", (row) => [row.name, row.is_critical ? "" : el("span", { class: "sub" }, "optional")], { header: true }],
    ["State", (row) => badge(STATES[row.status].tone, el("span", { "aria-hidden": "true" }, STATES[row.status].mark),
      row.status.toLowerCase())],
    ["Breaker", (row) => row.config?.metadata?.circuit_breaker ?? ""],
    ["Latency", (row) => `${number.format(row.response_time_ms)} ms`, { number: true }],
    ["Pool", (row) => {
      const pool = row.config?.pool_info;
      return pool ? `${pool.active_connections} of ${pool.max_connections}, ${pool.wait_count} waiting` : "";
    }],
    ["Lag", (row) => (lagOf(row) === undefined ? "" : milliseconds(Number(lagOf(row)))), { number: true }],
    ["Message", (row) => (row.status === "HEALTHY" ? "" : row.message), { wrap: true }],
  ], dependencies));
}

function renderImports() {
  show("import-list", [status.imports, status.unavailable], ([imports]) => unavailable("imports") ??
    (imports.length ? table("import-list", "Imports", [
      ["Import", (row) => el("span", { class: "mono" }, row.import_id), { header: true }],
      ["Inserted", (row) => number.format(row.inserted_records), { number: true }],
      ["Skipped", (row) => number.format(row.skipped_records), { number: true }],
      ["Replaced", (row) => number.format(row.replaced_records), { number: true }],
      ["Rejected", (row) => number.format(row.rejected_records), { number: true }],
      ["Rate", (row) => `${number.format(row.records_per_second)}/s`, { number: true }],
      ["Last chunk", (row) => time(row.updated_at)],
    ], imports) : nothing("No import is running.")));
}

function renderBatches() {
  show("batch-summary", status.batches, (batches) => {
    if (!batches.length) return [];
    const counts = Object.keys(BATCH_STATES)
      .map((state) => [state, batches.filter((batch) => batchState(batch) === state).length])
      .filter(([, count]) => count)
      .map(([state, count]) => badge(BATCH_STATES[state].tone, `${count} ${state}`));
    const [total, ended] = [batches.reduce((sum, each) => sum + each.total_records, 0),
      batches.reduce((sum, each) => sum + done(each), 0)];
    const keys = ["synced", "failed", "skipped", "leased"].map((name) => el("span", { class: `key ${name}` }, name));
    return [...counts, el("span", {}, `${number.format(ended)} of ${number.format(total)} records`), ...keys];
  });
  show("batch-list", [status.batches, status.unavailable], ([batches]) => unavailable("batches") ??
    (batches.length ? table("batch-list", "Batches", [
      ["Participant", (row) => [row.ispb || "all", el("span", { class: "sub" }, row.batch_date)], { header: true }],
      ["Status", (row) => badge(BATCH_STATES[batchState(row)]?.tone ?? "none", batchState(row))],
      ["Progress", (row) => el("div", {}, progressBar(row), el("span", { class: "sub" },
        `${number.format(done(row))} of ${number.format(row.total_records)}` +
        (row.total_records ? ` (${Math.floor((done(row) * 100) / row.total_records)} %)` : ""))), { full: true }],
      ["Rate", (row) => (row.records_per_second === undefined ? "" : `${decimal.format(row.records_per_second)}/s`),
        { number: true }],
      ["Ready", (row) => (row.completed_at ? time(row.completed_at)
        : row.estimated_completion ? time(row.estimated_completion) : "")],
      ["Leased", (row) => (row.leased_records ? [number.format(row.leased_records), el("span", { class: "sub" },
        "first ends ", time(row.oldest_lease_expires_at))] : "")],
      ["Failed", (row) => (row.failed_records ? [number.format(row.failed_records), ...row.failure_reasons.map((each) =>
        el("span", { class: "sub" }, `${each.reason} ${number.format(each.records)}`))] : ""), { wrap: true }],
    ], [...batches].sort((one, two) => (BATCH_STATES[batchState(one)]?.order ?? 9) - (BATCH_STATES[batchState(two)]?.order ?? 9)
      || two.failed_records - one.failed_records || one.ispb.localeCompare(two.ispb)))
      : nothing("There is no batch today.")));
}

function verdict(vsync) {
  if (vsync.verdict === "DIRECTORY_RESULT_OK") {
    return el("span", { class: "sub tone good" }, "✓ ", el("span", {}, "OK since "), time(vsync.verdict_since));
  }
  if (vsync.verdict === "DIRECTORY_RESULT_NOK") {
    return el("span", { class: "badge bad" }, "✗ rejected ", time(vsync.verdict_since));
  }
  return el("span", { class: "sub" }, "not verified");
}

function renderVsyncs() {
  const groups = Map.groupBy ? Map.groupBy(status.vsyncs, (each) => each.ispb) : groupByIspb(status.vsyncs);
  const isRejected = (vsync) => vsync.verdict === "DIRECTORY_RESULT_NOK";
  const rejected = status.vsyncs.filter(isRejected).length;
  const verified = status.vsyncs.filter((vsync) => vsync.verdict === "DIRECTORY_RESULT_OK").length;
  show("vsync-summary", [groups.size, rejected, verified, status.vsyncs.length], () => (groups.size ? [
    el("span", {}, plural(groups.size, "participant")),
    rejected ? badge("bad", `✗ ${plural(rejected, "VSync")} rejected`) : undefined,
    badge("good", `✓ ${number.format(verified)} OK`),
    el("span", { class: "muted" }, `${number.format(status.vsyncs.length - rejected - verified)} not verified`),
  ] : []));
  byId("vsync-filter-row").hidden = groups.size < 2;
  const [wanted, onlyRejected] = [byId("vsync-filter").value.trim(), byId("vsync-nok").checked];
  const rows = [...groups]
    .filter(([ispb, vsyncs]) => ispb.includes(wanted) && (!onlyRejected || vsyncs.some(isRejected)))
    .sort(([one, first], [two, second]) =>
      second.filter(isRejected).length - first.filter(isRejected).length || one.localeCompare(two));
  const cell = (type) => ([, vsyncs]) => {
    const found = vsyncs.find((vsync) => vsync.key_type === `KEY_TYPE_${type}`);
    return found ? [el("span", { title: `VSync ${found.vsync}` }, compact.format(found.count)), verdict(found)] : "";
  };
  show("vsync-list", [rows, status.unavailable], () => unavailable("vsyncs") ?? (rows.length
    ? table("vsync-list", "VSyncs by participant and key type",
      [["Participant", ([ispb]) => ispb, { header: true }], ...KEY_TYPES.map((type) => [type, cell(type)])],
      rows, { matrix: true })
    : nothing(groups.size ? "No participant matches." : "There are no CIDs.")));
}

function groupByIspb(vsyncs) {
  const groups = new Map();
  for (const vsync of vsyncs) groups.set(vsync.ispb, [...(groups.get(vsync.ispb) ?? []), vsync]);
  return groups;
}

function renderFailures() {
  show("failure-list", status.failures, (failures) => (failures.length ? table("failure-list", "Failed calls", [
    ["When", (row) => time(row.time)],
    ["Method", (row) => short(row.method), { header: true }],
    ["Code", (row) => [row.code, row.reason ? el("span", { class: "sub" }, row.reason) : ""], { wrap: true }],
    ["Correlation id", (row) => el("span", { class: "mono" }, row.correlation_id), { wrap: true }],
    ["Duration", (row) => milliseconds(row.duration_ms), { number: true }],
  ], failures, { limit: FEW_ROWS }) : nothing("No call has failed since the start.")));
}

function renderUpkeep() {
  show("job-list", [status.jobs, status.unavailable], ([jobs]) => [unavailable("jobs"),
    jobs.length ? table("job-list", "Jobs", [
      ["Job", (row) => [row.name, el("span", { class: "sub" }, row.exclusive ? "one instance" : "this instance")],
        { header: true }],
      ["Last run", (row) => (row.running ? badge("good", "running") : time(row.last_started))],
      ["Last success", (row) => time(row.last_succeeded)],
      ["Interval", (row) => (row.interval_ms ? duration(row.interval_ms / 1000) : ""), { number: true }],
      ["Error", (row) => (row.last_error ? el("span", { class: "tone bad" }, row.last_error) : ""), { wrap: true }],
    ], jobs) : nothing("No job has run.")]);
  const backups = status.backups;
  show("backups", backups ?? {}, () => (backups ? [
    ["Newest backup", backups.last_at ? time(backups.last_at) : el("strong", { class: "tone bad" }, "none")],
    ["Size", bytes(backups.last_bytes)],
    ["Verified", backups.last_verified_at ? time(backups.last_verified_at) : el("strong", { class: "tone warn" }, "none")],
    ["Next", time(backups.due_at)],
    ["Stored", Object.entries(backups.states).map(([state, count]) => `${count} ${state}`).join(", ") || "none"],
  ] : [["Backups", "not scheduled by this instance"]]).map(([name, value]) =>
    el("div", {}, el("dt", {}, name), el("dd", {}, value))));
  show("partition-list", status.partitioned_tables, (tables) => (tables.length ? table("partition-list", "Partitions", [
    ["Partitioned table", (row) => el("span", { class: "mono" }, row.table), { header: true }],
    ["Until", (row) => time(row.complete_until)],
    ["Expired", (row) => number.format(row.expired_partitions), { number: true }],
  ], tables) : []));
  show("migration-list", [status.migration_sets, status.unavailable], ([sets]) => unavailable("migrations") ??
    (sets.length ? table("migration-list", "Migrations", [
      ["Migration set", (row) => el("span", { class: "mono" }, row.set), { header: true }],
      ["Version", (row) => number.format(row.version), { number: true }],
      ["Needed", (row) => (row.required_version > row.version
        ? el("strong", { class: "tone bad" }, number.format(row.required_version))
        : row.required_version ? number.format(row.required_version) : "not used"), { number: true }],
    ], sets) : []));
  show("instance-list", [status.instances, status.unavailable], ([instances]) => unavailable("instances") ??
    table("instance-list", "Instances", [
      ["Address", (row) => row.address || "socket", { header: true }],
      ["Connected", (row) => time(row.connected_at)],
    ], instances));
}

function render() {
  if (status === null) return;
  renderState();
  renderTiles();
  renderCalls();
  renderDependencies();
  renderImports();
  renderBatches();
  renderVsyncs();
  renderFailures();
  renderUpkeep();
}

// ---- polling --------------------------------------------------------------------------------------------------------

let timer = 0;
let failedPolls = 0;
let receivedAt = 0;
let nextPollAt = 0;
let paused = false;
let polling = false;

function schedule(delay) {
  clearTimeout(timer);
  nextPollAt = Date.now() + delay;
  if (!paused && !document.hidden) timer = setTimeout(poll, delay);
}

async function poll() {
  if (polling) return;
  polling = true;
  const abort = new AbortController();
  const timeout = setTimeout(() => abort.abort(), TIMEOUT_MS);
  try {
    const response = await fetch("status", { cache: "no-store", signal: abort.signal });
    if (!response.ok) throw new Error(`HTTP ${response.status}`);
    receive(await response.json());
    failedPolls = 0;
  } catch (error) {
    failedPolls += 1;
    byId("main").classList.toggle("stale", status !== null);
    if (!(error instanceof TypeError || error.name === "AbortError")) console.error(error);
  } finally {
    clearTimeout(timeout);
    polling = false;
  }
  schedule(failedPolls ? Math.min(MAX_INTERVAL_MS, INTERVAL_MS * 2 ** (failedPolls - 1)) : INTERVAL_MS);
  tick();
}

function receive(answer) {
  status = answer;
  receivedAt = Date.now();
  clockOffset = new Date(answer.collected_at).getTime() - receivedAt;
  trend("connections", usedConnections());
  trend("rate", batchRate());
  trend("lag", Math.max(0, maxLag()));
  trend("records", status.vsyncs.reduce((sum, vsync) => sum + vsync.count, 0));
  byId("main").classList.remove("stale");
  render();
}

function tick() {
  byId("age").textContent = paused ? "Paused" : receivedAt ? `Updated ${duration((Date.now() - receivedAt) / 1000)} ago` : "Loading";
  const seconds = Math.max(0, Math.ceil((nextPollAt - Date.now()) / 1000));
  if (failedPolls && byId("connection").hidden) byId("connection").hidden = false;
  if (!failedPolls) byId("connection").hidden = true;
  const text = failedPolls ? `vsyncd does not answer. Next attempt ${seconds ? `in ${seconds} s` : "now"}.` : "";
  // Screen readers would read each second, so the text changes every ten seconds and at the end.
  if (failedPolls && (seconds % 10 === 0 || !byId("connection-text").textContent)) byId("connection-text").textContent = text;
  for (const element of document.querySelectorAll("time")) {
    const now = relative(element.dateTime);
    if (element.textContent !== now) element.textContent = now;
  }
}

byId("pause").addEventListener("click", () => {
  paused = !paused;
  byId("pause").setAttribute("aria-pressed", String(paused));
  if (paused) clearTimeout(timer);
  else poll();
  tick();
});
byId("retry").addEventListener("click", poll);
byId("vsync-filter").addEventListener("input", render);
byId("vsync-nok").addEventListener("change", render);
document.addEventListener("visibilitychange", () => (document.hidden ? clearTimeout(timer) : paused || poll()));
let resizing = 0;
addEventListener("resize", () => {
  cancelAnimationFrame(resizing);
  resizing = requestAnimationFrame(render);
});
setInterval(tick, 1000);
poll();
