// The page: signs in, asks the API every few seconds, shows what came. All state is in `state`.

import { get, getIfThere, Refused, signedIn, signIn, signOut } from "./api.js";
import { $, h, show } from "./dom.js";
import * as views from "./views.js";

const FIGURES_MS = 10000, REQUESTS_MS = 2500, PAGE = 50;
const state = { me: null, series: null, rows: [], cursor: null, older: false };
let timers = [];

const team = () => (state.me.role === "admin" ? $("team").value : state.me.team_id);
const ofTeam = (stats) => stats && { teams: stats.teams.filter((each) => !team() || each.team_id === team()) };
const chosen = () => ({ window: $("window").value, team_id: team() });

async function figures() {
  const [series, routing, health, latencies, usage, cache] = await Promise.all([
    get("/v1/usage/series", chosen()),
    get("/v1/usage/routing", chosen()),
    get("/v1/providers/health"),
    get("/v1/providers/series", { window: $("window").value }),
    team() ? get(`/v1/teams/${encodeURIComponent(team())}/usage`).then((one) => [one]) : get("/v1/usage").then((all) => all.teams),
    getIfThere("/v1/cache/stats").then(ofTeam),
  ]);
  state.series = series;
  show($("tiles"), views.tiles(series, routing, cache));
  chart();
  show($("budgets-body"), views.budgets(usage));
  show($("providers-body"), views.providers(health, latencies));
  show($("routing-body"), views.routing(routing));
  show($("cache-body"), views.cache(cache));
}

const chart = () => state.series && show($("usage-chart"), views.usage(state.series, $("measure").value, $("group").value, $("usage-chart").clientWidth));

async function requests({ older = false } = {}) {
  const query = { team_id: team(), status: $("status").value, limit: PAGE, cursor: older ? state.cursor : undefined };
  const answer = await get("/v1/requests", query);
  state.rows = older ? [...state.rows, ...answer.requests] : answer.requests;
  state.cursor = answer.next_cursor;
  state.older = older;
  $("more").hidden = answer.next_cursor === null;
  // Whoever is about to choose a row keeps it under the finger.
  const focused = document.activeElement?.getAttribute("aria-label");
  show($("requests-body"), views.requests(state.rows, open));
  if (focused) $("requests-body").querySelector(`[aria-label="${CSS.escape(focused)}"]`)?.focus();
}

function open(row) {
  const dialog = $("detail");
  show(dialog, views.detail(row, () => dialog.close()));
  dialog.showModal();
}

async function attempt(work) {
  try {
    await work();
    $("trouble").hidden = true;
  } catch (error) {
    if (error instanceof Refused && error.status === 401) return leave("That key is not known here.");
    $("trouble").textContent = error instanceof Refused ? error.message : "The gateway cannot be reached; trying again.";
    $("trouble").hidden = false;
  }
}

function every(period, work) {
  const again = async () => {
    if (!document.hidden) await attempt(work);
    if (signedIn()) timers[index] = setTimeout(again, period);
  };
  const index = timers.push(0) - 1;
  return again();
}

async function enter() {
  $("login").hidden = true;
  await attempt(async () => {
    const me = await get("/v1/me");
    $("who").textContent = me.role === "admin" ? "administrator" : me.team_id;
    $("team-choice").hidden = me.role !== "admin";
    $("group").value = "model";
    if (me.role === "admin") {
      const { teams } = await get("/v1/teams");
      show($("team"), h("option", { value: "" }, "all"), teams.map((each) => h("option", {}, each.team_id)));
    }
    state.me = me;
    $("bar").hidden = $("page").hidden = false;
  });
  if (!signedIn()) return;
  if (!state.me) {
    timers.push(setTimeout(enter, REQUESTS_MS));
    return;
  }
  every(FIGURES_MS, figures);
  every(REQUESTS_MS, () => ($("live").checked && !state.older ? requests() : undefined));
}

function leave(why = "") {
  signOut();
  timers.forEach(clearTimeout);
  timers = [];
  state.me = null;
  $("trouble").hidden = true;
  $("detail").close();
  for (const id of ["tiles", "usage-chart", "budgets-body", "providers-body", "routing-body", "cache-body", "requests-body"]) show($(id));
  $("bar").hidden = $("page").hidden = true;
  $("login").hidden = false;
  $("refused").textContent = why;
  $("key").focus();
}

$("login").addEventListener("submit", (event) => {
  event.preventDefault();
  signIn($("key").value.trim());
  $("key").value = "";
  enter();
});
$("out").addEventListener("click", () => leave());
for (const id of ["window", "team"]) $(id).addEventListener("change", () => attempt(() => Promise.all([figures(), requests()])));
addEventListener("resize", chart);
for (const id of ["measure", "group"]) $(id).addEventListener("change", chart);
$("status").addEventListener("change", () => attempt(requests));
$("live").addEventListener("change", () => $("live").checked && attempt(requests));
$("more").addEventListener("click", () => attempt(() => requests({ older: true })));
$("detail").addEventListener("click", (event) => event.target === $("detail") && $("detail").close());

if (signedIn()) enter();
else leave();
