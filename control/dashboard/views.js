// Panels: what the API answered -> elements. Nothing here asks or remembers anything.

import { ranked, spark, stacked, timeline } from "./chart.js";
import { ago, chip, clock, count, empty, h, ms, pct, place, table, usd } from "./dom.js";

export const MEASURES = {
  cost_usd: [(point) => point.cost_usd, usd],
  tokens: [(point) => point.input_tokens + point.output_tokens, count],
  requests: [(point) => point.requests, count],
};
const sum = (points, of) => points.reduce((total, point) => total + of(point), 0);

export function tiles(series, routing, cache) {
  const requests = sum(series.points, (point) => point.requests);
  const failed = sum(series.points, (point) => point.failed);
  const tokens = sum(series.points, MEASURES.tokens[0]);
  const input = sum(series.points, (point) => point.input_tokens);
  const hits = cache && sum(cache.teams, (team) => team.hits + team.semantic_hits);
  const saved = routing.auto.saved_usd;
  return [
    tile("Requests", count(requests), series.window === "24h" ? "in 24 hours" : `in ${series.window}`),
    tile("Tokens", count(tokens), `${count(input)} in, ${count(tokens - input)} out`),
    tile("Cost", usd(sum(series.points, MEASURES.cost_usd[0])), "as far as prices are known"),
    tile("Failed", requests ? pct(failed / requests) : "–", `${count(failed)} requests`),
    tile("Saved by routing", saved === null || !routing.auto.requests ? "–" : usd(saved), routing.auto.hard_model ? `against always ${routing.auto.hard_model}` : "no hard model"),
    tile("Served from cache", cache ? count(hits) : "off", cache ? `${usd(sum(cache.teams, (team) => team.saved_usd))} saved` : "cache.exact: true"),
  ];
}

const tile = (name, value, more) =>
  h("dl", { class: "tile" }, h("dt", {}, name), h("dd", { class: "value" }, value), h("dd", { class: "more" }, more));

export function usage(series, measure, group, width) {
  const [of, format] = MEASURES[measure];
  if (!series.points.some((point) => point.requests)) {
    return [empty("No requests in this time. Send one: ", h("code", {}, `POST ${location.origin}/v1/chat/completions`), " with a team's key.")];
  }
  return stacked(series, group, of, format, `${measure.replace("_usd", "")} by ${group === "model" ? "model" : "team"} over ${series.window}`, width);
}

export function budgets(teams) {
  if (!teams.length) return [empty("No teams.")];
  return [h("div", { class: "budgets" }, teams.flatMap((team) => [meter(team, "daily"), meter(team, "monthly")]))];
}

function meter(team, name) {
  const window = team[name];
  const unit = window.limit_tokens === null && window.limit_usd !== null ? "usd" : "tokens";
  const format = unit === "usd" ? usd : count;
  const limit = window[`limit_${unit}`], used = window[`used_${unit}`], held = window[`held_${unit}`] ?? 0;
  const marks = team.alert_thresholds_pct ?? [];
  const share = limit ? (100 * used) / limit : 0;
  const state = limit === null ? "" : share >= 100 ? "full" : marks.length && share >= marks[0] ? "warn" : "";
  const bar = h("div", { class: `meter ${state}`, role: "meter", "aria-label": `${team.team_id} ${name}`, "aria-valuemin": 0, "aria-valuemax": 100, "aria-valuenow": Math.round(share) });
  if (limit) {
    bar.append(place(h("span", { class: "used" }), { left: 0, width: `${Math.min(100, share)}%` }));
    bar.append(place(h("span", { class: "held" }), { left: `${Math.min(100, share)}%`, width: `${(100 * held) / limit}%` }));
    for (const mark of marks) bar.append(place(h("span", { class: "mark", title: `alert at ${mark} %` }), { left: `${mark}%` }));
  }
  const title = h("strong", {}, team.team_id, h("span", { class: "quiet" }, ` ${name}`));
  const figures = limit === null ? `${format(used)} used, no limit` : `${format(used)} of ${format(limit)} ${unit === "tokens" ? "tokens" : ""}`;
  const notes = [held ? `${format(held)} held` : null, limit === null ? null : `${share.toFixed(1)} %`, team.auto_downgrade_active ? "auto is downgraded" : null];
  return h("div", { class: "budget" },
    h("div", { class: "line" }, title, h("span", {}, figures)), bar,
    h("div", { class: "line quiet" }, h("span", {}, notes.filter(Boolean).join(", ")), h("span", {}, window.resets_at ? `resets ${new Date(window.resets_at).toLocaleString([], { dateStyle: "medium", timeStyle: "short", hourCycle: "h23" })}` : "")));
}

const STATUS = { healthy: "good", degraded: "warn", down: "bad" };
const CIRCUIT = { closed: "good", "half-open": "warn", open: "bad" };

export function providers(health, series) {
  const rows = health.providers.map((each) => {
    const own = series.points.filter((point) => point.provider === each.provider);
    const lines = [own.map((point) => point.p50_latency_ms), own.map((point) => point.p99_latency_ms)];
    return [
      each.provider, chip(each.status, STATUS[each.status]), chip(each.circuit, CIRCUIT[each.circuit]),
      pct(each.error_rate_1m), pct(each.error_rate_5m), ms(each.p50_latency_ms), ms(each.p99_latency_ms),
      own.length ? spark(lines, `first byte of ${each.provider}, p50 and p99, over ${series.window}`) : h("span", { class: "quiet" }, "no attempts"),
      ago(each.last_failure_at),
    ];
  });
  const columns = [["Provider"], ["Status"], ["Circuit"], ["Errors 1 min", "number"], ["5 min", "number wide"], ["p50", "number wide"], ["p99", "number"], ["Latency over time", "wide"], ["Last failure", "wide"]];
  return [h("div", { class: "scroll" }, table("Time to the first byte of an answer; blue p50, orange p99", columns, rows))];
}

export function routing(answer) {
  const groups = ranked(answer.decisions, "decision", (each) => each.requests);
  if (!groups.length) return [empty("Nothing was routed in this time. Ask for ", h("code", {}, "model: auto"), " to have the cheapest capable model chosen.")];
  const total = sum(groups, (each) => each.total);
  const bar = h("div", { class: "share", role: "img", "aria-label": "Share of each decision" },
    groups.map((each) => place(h("span", { class: `b${each.colour}`, title: `${each.name}: ${each.total}` }), { width: `${(100 * each.total) / total}%` })));
  const rows = groups.map((each) => {
    const own = answer.decisions.filter((one) => one.decision === each.key);
    const models = ranked(own, "model", (one) => one.requests).map((one) => one.name).join(", ");
    return [h("span", { class: "nowrap" }, h("span", { class: `swatch b${each.colour} inline` }), each.name), models, count(each.total), usd(sum(own, (one) => one.cost_usd))];
  });
  const { auto } = answer;
  const told = auto.requests === 0 ? "No request asked for auto."
    : auto.saved_usd === null ? `auto cost ${usd(auto.cost_usd)}; what it saved is not known: the hard model has no price.`
    : `auto cost ${usd(auto.cost_usd)}; always ${auto.hard_model} would have cost ${usd(auto.always_hard_usd)}: ${usd(auto.saved_usd)} saved.`;
  return [bar, table("How models were chosen", [["Decision"], ["Models", "wide"], ["Requests", "number"], ["Cost", "number"]], rows), h("p", {}, told)];
}

export function cache(answer) {
  if (!answer) return [empty("The cache is off. Turn it on in gateway.yaml: ", h("code", {}, "cache: {exact: true}"))];
  const rows = answer.teams.map((team) => [
    team.team_id, count(team.hits), count(team.semantic_hits), count(team.saved_tokens), usd(team.saved_usd), pct(team.estimated_wrong_hit_rate), count(team.entries),
  ]);
  const columns = [["Team"], ["Hits", "number"], ["Semantic", "number wide"], ["Tokens saved", "number"], ["Saved", "number"], ["Wrong, est.", "number wide"], ["Entries", "number wide"]];
  return rows.length ? [h("div", { class: "scroll" }, table("Since the cache was turned on", columns, rows))] : [empty("Nothing was served from the cache yet.")];
}

const ENDED = { success: "good", fallback: "warn", failed: "bad", cancelled: "", refused: "warn" };

export function requests(rows, onOpen) {
  if (!rows.length) return [empty("No requests here yet.")];
  const cells = rows.map((row) => [
    h("button", { class: "link mono", type: "button", onclick: () => onOpen(row), "aria-label": `Details of request ${row.request_id}` }, clock(row.received_at)),
    row.team_id, chip(row.status, ENDED[row.status]), model(row), row.cache_hit ? "cache" : row.provider_used ?? "–",
    count(row.input_tokens), count(row.output_tokens), usd(row.cost_usd), ms(row.latency_ms), ms(row.first_byte_ms),
  ]);
  const columns = [["Time"], ["Team", "wide"], ["Status"], ["Model"], ["Provider", "wide"], ["In", "number wide"], ["Out", "number wide"], ["Cost", "number"], ["Took", "number"], ["First byte", "number wide"]];
  return [table("Newest first; choose a time for details", columns, cells)];
}

function model(row) {
  const asked = row.model_requested, used = row.model_used || row.model_routed;
  return asked && used && asked !== used ? `${asked} → ${used}` : used || asked || "–";
}

export function detail(row, onClose) {
  const facts = [
    ["Request", h("code", {}, row.request_id)], ["Trace", h("code", {}, row.trace_id)], ["Team", row.team_id],
    ["Status", h("span", {}, chip(row.status, ENDED[row.status]), row.error_code ? ` ${row.error_code}` : "", row.http_status ? ` (HTTP ${row.http_status})` : "")],
    ["Model", model(row)],
    ["Routing", row.routing_decision || "–"],
    ["Answered by", row.cache_hit ? "the cache" : row.provider_used ?? "nobody"],
    ["Tokens", `${count(row.input_tokens)} in (${count(row.cached_tokens)} from the provider's cache), ${count(row.output_tokens)} out (${count(row.reasoning_tokens)} reasoning)${row.estimated ? ", estimated" : ""}`],
    ["Held", `${count(row.estimated_input_tokens + row.estimated_output_tokens)} tokens`],
    ["Cost", row.price_known ? usd(row.cost_usd) : "price not known"],
    ["Answer", `${row.stream ? "streamed" : "whole"}${row.native ? ", passed by Envoy alone" : ""}, ${count(row.response_bytes)} bytes${row.finish_reason ? `, finish reason ${row.finish_reason}` : ""}`],
  ];
  return [
    h("div", { class: "head" }, h("h2", { id: "detail-title" }, `Request of ${new Date(row.received_at).toLocaleString([], { hourCycle: "h23" })}`), h("button", { type: "button", onclick: onClose }, "Close")),
    h("dl", { class: "facts" }, facts.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)])),
    h("h3", {}, "Time"), timeline(spans(row), row.latency_ms),
    h("h3", {}, "Decision"), decision(row),
  ];
}

function spans(row) {
  const began = new Date(row.received_at).getTime();
  const attempts = row.attempt_log.map((each, index) => ({
    name: `${index + 1}. ${each.provider}`, start: new Date(each.started_at).getTime() - began, length: each.total_ms ?? 0,
    colour: each.verdict === "ok" ? 2 : 5, text: [each.status ?? each.flags.join(", "), ms(each.total_ms)].filter(Boolean).join(", "),
  }));
  return [
    { name: "request", start: 0, length: row.latency_ms, colour: 0, text: ms(row.latency_ms) },
    { name: "decision", start: 0, length: row.gateway_latency_ms ?? 0, colour: 1, text: ms(row.gateway_latency_ms) }, ...attempts,
  ];
}

function decision(row) {
  let start = 0;
  const steps = Object.entries(row.steps_us ?? {}).map(([name, us]) => {
    start += us;
    return { name, start: (start - us) / 1000, length: us / 1000, colour: 1, text: ms(us / 1000) };
  });
  return steps.length ? timeline(steps, start / 1000) : empty("No steps were timed.");
}
