// Links, turns, groups, raw text, export, live pages, keys. Continues page.js in the same script.

// ------------------------------------------------------------------------------ links
function linkOf(number, token) {
  const row = data.episodes[number], fields = new URLSearchParams({ run: row.run, episode: row.place });
  if (token !== null) fields.set("token", token);
  return `#${fields}`;
}
function remember(how) {
  const link = linkOf(state.shown[state.at], state.token);
  if (link === location.hash) return;
  if (how === "push") history.pushState(null, "", link);
  else history.replaceState(null, "", link);
}
// Open what the address names; return whether it names an episode of this page.
async function route() {
  const link = new URLSearchParams(location.hash.slice(1));
  if (link.has("tab")) show(link.get("tab"));
  if (!link.has("episode")) {
    $("viewer").classList.remove("reading");
    if (!link.has("tab")) show(document.querySelector("section.tab").id);
    if (matchMedia("(min-width: 46.01rem)").matches && !$("viewer").hidden) select(0, null);
    return false;
  }
  const place = Number(link.get("episode"));
  const number = data.episodes.findIndex((row) => row.run === link.get("run") && row.place === place);
  if (number < 0) return false;
  show("viewer");
  if (!state.shown.includes(number)) {
    for (const id of FILTERS) $(id).value = "";
    filter();
  }
  const token = link.has("token") ? Number(link.get("token")) : null;
  await select(state.shown.indexOf(number), null, token);
  return true;
}
addEventListener("popstate", route);

// ------------------------------------------------------------------------------ tokens, turns
function paneOf(number) {
  return document.querySelector(`.pane[data-number="${number}"]`);
}
function showToken() {
  for (const node of document.querySelectorAll(".target")) node.classList.remove("target");
  const pane = paneOf(state.shown[state.at]);
  if (state.token === null || !pane) return;
  const around = [...pane.querySelectorAll("[data-from]")];
  const node = pane.querySelector(`span[data-i="${state.token}"]`) ??
    around.find(({ dataset }) => dataset.from <= state.token && state.token < dataset.to);
  if (!node) return;
  node.classList.add("target");
  if (node.tagName === "DETAILS") node.open = true;
  node.scrollIntoView({ block: "center" });
}
function goToken(number, token, how) {
  if (number !== state.shown[state.at]) {
    const place = state.shown.indexOf(number);
    if (place >= 0) select(place, how, token);
    return;
  }
  state.token = token;
  remember(how);
  showToken();
}
// A turn is what the policy writes between two texts of the environment.
function turn(step, number = state.shown[state.at]) {
  const pane = paneOf(number);
  if (!pane) return;
  const at = number === state.shown[state.at] ? state.token ?? -1 : -1;
  const starts = [...pane.querySelectorAll("[data-turn]")].map((node) => Number(node.dataset.turn));
  const next = step > 0 ? starts.find((start) => start > at) : starts.findLast((start) => start < at);
  if (next !== undefined) goToken(number, next, "replace");
}

// ------------------------------------------------------------------------------ other episodes
const keyOf = (row) => `${row.id}\n${row.question}`;
function sameQuestion(number, run) {
  const key = keyOf(data.episodes[number]);
  const found = data.episodes.findIndex((row) => row.run === run && keyOf(row) === key);
  return found < 0 || found === number ? null : found;
}
function otherRuns(number) {
  const own = data.episodes[number], key = keyOf(own);
  const others = data.episodes.filter((row) => row.run !== own.run && keyOf(row) === key);
  return [...new Set(others.map((row) => row.run))];
}
// One run after the other stands beside, then none; it stays while one moves through the list.
function nextBeside() {
  const number = state.shown[state.at];
  if (number === undefined) return;
  const runs = otherRuns(number);
  state.beside = runs[runs.indexOf(state.beside) + 1] ?? null;
  state.pinned = state.beside === null ? null : sameQuestion(number, state.beside);
  drawPanes();
}
function toggleView(view) {
  state.view = state.view === view ? "tokens" : view;
  drawPanes();
}
// All rollouts of a question: the mean is that of the recorded group, or else of the run.
function group(number) {
  const own = data.episodes[number], key = keyOf(own), node = make("div", "scroll group"), table = make("table");
  const rows = data.episodes.filter((row) => keyOf(row) === key);
  const fellows = (row) => rows.filter((other) => other.run === row.run && other.group === row.group && other.valid);
  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / Math.max(1, values.length);
  const recorded = rows.some((row) => row.advantage !== null);
  const count = `${rows.length} ${rows.length === 1 ? "rollout" : "rollouts"} of this question`;
  const head = ["episode", "outcome", "reward", "above group", "searches", "tokens", "answer"];
  if (recorded) head.splice(4, 0, "advantage");
  table.append(make("caption", "", `${count}; mean reward ${mean(rows.map((row) => row.reward)).toFixed(3)}`), line("th", head));
  for (const row of rows) {
    const above = row.valid ? row.reward - mean(fellows(row).map((other) => other.reward)) : null;
    const cells = ["", outcome(row), row.reward.toFixed(3), signed(above)];
    if (recorded) cells.push(signed(row.advantage));
    cells.push(String(row.searches), String(row.policy), row.answer ?? "none");
    const tr = line("td", cells), open = make("button", "", `${row.run}, ${row.place}`);
    open.addEventListener("click", () => openEpisode(data.episodes.indexOf(row)));
    tr.firstChild.append(open);
    if (row === own) tr.className = "own";
    table.append(tr);
  }
  node.append(table, make("p", "note", "“above group” is the reward less the mean of the same group " +
    "(where none was recorded: of the same run); “advantage” is the mean of what the run recorded."));
  return node;
}
const signed = (value) => (value === null ? "–" : `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(3)}`);
function line(cell, texts) {
  const tr = make("tr");
  tr.append(...texts.map((text) => make(cell, "", text)));
  return tr;
}
function openEpisode(number) {
  state.view = "tokens";
  if (!state.shown.includes(number)) {
    for (const id of FILTERS) $(id).value = "";
    filter();
  }
  select(state.shown.indexOf(number), "push");
}

// ------------------------------------------------------------------------------ raw, export
function raw(row, episode) {
  const node = make("div", "raw"), words = texts(episode.tokens, vocabularies[row.vocabulary]);
  node.append(make("h3", "", "Text"), make("pre", "text", words.join("")), make("h3", "", "Ids by source"));
  const runs = [];
  for (let i = 0; i < words.length; ) {
    const end = runEnd(episode.sources, i);
    runs.push(`${SOURCES[episode.sources[i]]} ${i}–${end - 1}: ${episode.tokens.slice(i, end).join(" ")}`);
    i = end;
  }
  node.append(make("pre", "ids", runs.join("\n")));
  return node;
}
async function exportLine(number) {
  const { text: _, vocabulary, ...row } = data.episodes[number], episode = await unpack(number);
  const plain = ([title, text, supporting]) => ({ title: title.join(""), text: text.join(""), supporting });
  const searches = episode.searches.map((search) => ({ ...search, documents: search.documents.map(plain) }));
  const text = texts(episode.tokens, vocabularies[vocabulary]).join("");
  const content = JSON.stringify({ ...row, ...episode, searches, text });
  const link = make("a");
  link.href = URL.createObjectURL(new Blob([`${content}\n`], { type: "application/jsonl" }));
  link.download = `${row.run}-${row.place}.jsonl`.replace(/[^\w.-]+/g, "_");
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
function legend() {
  const node = make("div", "signs"), kinds = ["prompt", "policy", "retrieved", "notice", "tag", "fault"];
  const names = { tag: "tag of the policy", fault: "format fault" };
  node.append(...kinds.map((kind) => make("span", kind, names[kind] ?? kind)), make("mark", "", "gold answer"));
  return node;
}

// ------------------------------------------------------------------------------ live pages
// A page from a file may not look whether it was rewritten, so it loads itself again.
const LIVE = "search-env-live";
function saveView() {
  const pane = paneOf(state.shown[state.at]);
  const kept = {
    filters: FILTERS.map((id) => $(id).value), list: $("list").scrollTop, pane: pane?.scrollTop ?? 0,
    panes: $("panes").scrollTop, theme: document.documentElement.dataset.theme ?? null,
    tab: document.querySelector("section.tab:not([hidden])")?.id,
    color: state.color, open: state.open, view: state.view, beside: state.beside,
    at: state.at >= 0 ? linkOf(state.shown[state.at], state.token) : null,
  };
  sessionStorage.setItem(LIVE, JSON.stringify(kept));
}
async function restoreView() {
  const kept = JSON.parse(sessionStorage.getItem(LIVE) ?? "null");
  sessionStorage.removeItem(LIVE);
  if (!kept) return false;
  FILTERS.forEach((id, n) => { $(id).value = kept.filters[n]; });
  for (const id of FILTERS) if ($(id).selectedIndex === -1) $(id).value = "";
  if (kept.theme) document.documentElement.dataset.theme = kept.theme;
  Object.assign(state, { color: kept.color, open: kept.open, view: kept.view, beside: kept.beside });
  filter();
  if (kept.at) {
    history.replaceState(null, "", kept.at);
    await route();
    $("panes").scrollTop = kept.panes;
    const pane = paneOf(state.shown[state.at]);
    if (pane) pane.scrollTop = kept.pane;
  }
  if (kept.tab) show(kept.tab);
  $("list").scrollTop = kept.list;
  drawList();
  return true;
}
let waiting = Boolean(data.refresh);
function reload() {
  const busy = $("help").open || !getSelection().isCollapsed || document.activeElement?.id === "f-text";
  if (!waiting || busy) return;
  saveView();
  location.reload();
}
if (data.refresh) {
  $("live").hidden = false;
  $("live").addEventListener("click", () => {
    waiting = !waiting;
    $("live").setAttribute("aria-pressed", String(waiting));
  });
  loaded.then(() => setInterval(reload, 1000 * data.refresh));
}

// ------------------------------------------------------------------------------ keyboard
$("keys").addEventListener("click", () => $("help").showModal());
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || $("help").open || $("viewer").hidden) return;
  if (/^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  const current = state.shown[state.at];
  const keys = {
    j: () => select(state.at + 1), ArrowDown: () => select(state.at + 1),
    k: () => select(state.at - 1), ArrowUp: () => select(state.at - 1),
    Home: () => select(0), End: () => select(state.shown.length - 1),
    "]": () => turn(1), "[": () => turn(-1),
    "/": () => $("f-text").focus(),
    c: nextColor, e: toggleOpen, s: nextBeside,
    g: () => toggleView("group"), r: () => toggleView("raw"),
    p: () => current !== undefined && togglePin(current),
    x: () => current !== undefined && exportLine(current),
    "?": () => $("help").showModal(),
    Escape: () => $("viewer").classList.remove("reading"),
  };
  const action = keys[event.key];
  if (!action || event.target.closest?.(".pane") && event.key.startsWith("Arrow")) return;
  event.preventDefault();
  action();
});
function nextColor() {
  const select = document.querySelector(".tools select");
  if (!select) return;
  state.color = select.options[(select.selectedIndex + 1) % select.options.length].value;
  drawPanes();
}

async function begin() {
  if (!data.episodes.length) return;
  if (await restoreView()) return;
  filter();
  route();
}
begin();
document.documentElement.dataset.ready = "yes";
