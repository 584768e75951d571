// The episode viewer. The page contains an index of all episodes, the bytes of the ids that occur,
// and one deflated block for each episode, which is unpacked when the episode is opened.
"use strict";
const data = JSON.parse(document.getElementById("index").textContent);
const $ = (id) => document.getElementById(id);
const make = (name, className = "", textContent = "") =>
  Object.assign(document.createElement(name), { className, textContent });
const ROW = 58;
const SOURCES = ["padding", "prompt", "policy", "retrieved", "notice"];
const state = {
  shown: [], at: -1, pinned: null, color: "source", open: false,
  view: "tokens", // or "raw", "group"
  token: null, // position that the address names
  beside: null, // run whose episode on the same question is shown beside
};
// Episodes are named by their run and their place in it, which stay when a run records more.
const places = new Map();
for (const row of data.episodes) {
  row.place = (places.get(row.run) ?? 0) + 1;
  places.set(row.run, row.place);
}

// ---------------------------------------------------------------------------------- tabs, theme
for (const button of document.querySelectorAll("nav button[data-tab]")) {
  button.addEventListener("click", () => {
    show(button.dataset.tab);
    history.pushState(null, "", `#tab=${button.dataset.tab}`);
  });
}
function show(tab) {
  for (const section of document.querySelectorAll("section.tab")) {
    section.hidden = section.id !== tab;
  }
  for (const button of document.querySelectorAll("nav button[data-tab]")) {
    button.setAttribute("aria-selected", String(button.dataset.tab === tab));
  }
  if (tab === "viewer") drawList();
}
$("theme").addEventListener("click", () => {
  const page = document.documentElement.dataset;
  page.theme ??= matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
  page.theme = page.theme === "dark" ? "light" : "dark";
});

// ------------------------------------------------------------------------------ unpacking
// This script precedes the blocks, so that the list appears while they are still being read.
const loaded = new Promise((resolve) => addEventListener("DOMContentLoaded", resolve));
let blocks = null;
const bytesOf = (base64) => Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
async function unpack(number) {
  await loaded;
  blocks ??= $("blocks").textContent.trim().split("\n");
  const inflate = new DecompressionStream("deflate");
  const stream = new Blob([bytesOf(blocks[number])]).stream().pipeThrough(inflate);
  return JSON.parse(await new Response(stream).text());
}
const vocabularies = data.vocabularies.map((words) =>
  Object.fromEntries(Object.entries(words).map(([id, base64]) => [id, bytesOf(base64)])),
);
// The bytes of a character that is split over tokens go to the token that completes it.
function texts(ids, vocabulary) {
  const decoder = new TextDecoder("utf-8");
  return ids.map((id) => decoder.decode(vocabulary[id] ?? new Uint8Array(), { stream: true }));
}

// ------------------------------------------------------------------------------ the list
function outcome(row) {
  if (!row.valid) return "invalid";
  if (row.em >= 1) return "right";
  if (row.answer === null) return "no answer";
  return row.f1 > 0 ? "partly" : "wrong";
}
function options(id, values, all) {
  $(id).replaceChildren(new Option(all, ""), ...values.map((v) => new Option(v, v)));
}
const FILTERS = ["f-text", "f-outcome", "f-stop", "f-searches", "f-run", "f-phase"];
const distinct = (get) => [...new Set(data.episodes.map(get))];
if (data.episodes.length) {
  const order = ["right", "partly", "wrong", "no answer", "invalid"];
  options("f-outcome", order.filter((o) => data.episodes.some((e) => outcome(e) === o)), "any outcome");
  options("f-stop", distinct((e) => e.stop).sort(), "any ending");
  options("f-searches", distinct((e) => e.searches).sort((a, b) => a - b).map(String), "any searches");
  options("f-run", distinct((e) => e.run), "all runs");
  options("f-phase", distinct((e) => e.phase).sort(), "any phase");
  for (const id of ["f-run", "f-phase"]) $(id).hidden = $(id).options.length < 3;
  for (const id of FILTERS) $(id).addEventListener("input", filter);
}
function filter() {
  const text = $("f-text").value.trim().toLowerCase();
  const is = (id, value) => $(id).value === "" || $(id).value === value;
  const fits = (row) =>
    is("f-outcome", outcome(row)) && is("f-stop", row.stop) && is("f-run", row.run) && is("f-phase", row.phase) &&
    is("f-searches", String(row.searches)) && row.text.includes(text);
  state.shown = [...data.episodes.keys()].filter((number) => fits(data.episodes[number]));
  const shown = state.shown.length.toLocaleString("en"), all = data.episodes.length.toLocaleString("en");
  $("count").textContent = shown === all ? `${all} episodes` : `${shown} of ${all} episodes`;
  $("list").scrollTop = 0;
  state.at = -1;
  drawList();
}
function drawList() {
  const list = $("list"), height = list.clientHeight || 600;
  const first = Math.max(0, Math.floor(list.scrollTop / ROW) - 5);
  const last = Math.min(state.shown.length, Math.ceil((list.scrollTop + height) / ROW) + 5);
  const rows = Array.from({ length: last - first }, (_, i) => rowOf(first + i));
  const space = make("div");
  space.style.height = `${state.shown.length * ROW}px`;
  list.replaceChildren(space, ...rows);
}
function rowOf(place) {
  const row = data.episodes[state.shown[place]], kind = outcome(row);
  const node = make("div", `row ${["right", "partly"].includes(kind) ? kind : "wrong"}`);
  node.style.top = `${place * ROW}px`;
  node.setAttribute("role", "option");
  node.id = `row-${place}`;
  node.setAttribute("aria-selected", String(place === state.at));
  const runs = $("f-run").hidden ? "" : `${row.run} · `;
  node.append(
    make("div", "q", row.question),
    make("div", "a", `${runs}${kind} · ${row.answer ?? row.stop} · ${row.searches} ${row.searches === 1 ? "search" : "searches"}`),
  );
  node.addEventListener("click", () => select(place, "push"));
  return node;
}
$("list").addEventListener("scroll", () => requestAnimationFrame(drawList));
addEventListener("resize", drawList);

// "push" adds a step to the browser's history, "replace" changes the last one, null neither.
async function select(place, how = "replace", token = null) {
  if (place < 0 || place >= state.shown.length) return;
  state.at = place;
  state.token = token;
  if (state.beside !== null) state.pinned = sameQuestion(state.shown[place], state.beside);
  if (how) remember(how);
  const list = $("list"), top = place * ROW;
  if (top < list.scrollTop) list.scrollTop = top;
  else if (top + ROW > list.scrollTop + list.clientHeight) list.scrollTop = top + ROW - list.clientHeight;
  drawList();
  list.setAttribute("aria-activedescendant", `row-${place}`);
  $("viewer").classList.add("reading");
  await drawPanes();
}

// ------------------------------------------------------------------------------ an episode
async function drawPanes() {
  // The table of a group has the pinned episode in it.
  const pinned = state.view === "group" ? null : state.pinned;
  const selected = [pinned, state.shown[state.at] ?? null].filter((n) => n !== null);
  const numbers = [...new Set(selected)];
  const panes = await Promise.all(numbers.map(drawPane));
  const current = state.shown[state.at] ?? null;
  if (numbers.length && ![state.pinned, current].includes(numbers.at(-1))) return; // outdated
  $("panes").replaceChildren(...panes);
  showToken();
}
async function drawPane(number) {
  const row = data.episodes[number], episode = await unpack(number);
  const pane = make("article", state.open ? "pane open" : "pane");
  pane.tabIndex = 0;
  pane.dataset.number = number;
  pane.append(make("h2", "", row.question), facts(row, episode), tools(number, episode));
  if (state.view === "raw") pane.append(raw(row, episode));
  else if (state.view === "group") pane.append(group(number));
  else pane.append(timeline(row, episode), legend(), stream(row, episode));
  return pane;
}
function facts(row, episode) {
  const node = make("div", "facts"), good = row.em >= 1;
  const add = (name, value, cls) => {
    const part = make("span", "", `${name} `);
    part.append(make("b", cls, value));
    node.append(part);
  };
  add("answer", row.answer ?? "none", good ? "good" : "bad");
  add("gold", row.golds.join(" / "));
  add("F1", row.f1.toFixed(2));
  add("ending", row.stop);
  add("searches", String(row.searches));
  add("tokens", `${row.policy} of ${episode.tokens.length}`);
  if (row.faults.length) add("format faults", row.faults.join(", "), "bad");
  add("run", `${row.run}, episode ${row.place}`);
  add("reward", `${row.reward.toFixed(3)} (${row.phase})`);
  add("question", row.id);
  return node;
}
function tools(number, episode) {
  const node = make("div", "tools");
  const back = make("button", "", "Back to the list");
  back.id = "back";
  back.addEventListener("click", () => $("viewer").classList.remove("reading"));
  const color = make("select");
  color.setAttribute("aria-label", "Colour tokens by");
  const colors = ["source", ...Object.keys(episode.signals)];
  color.append(...colors.map((name) => new Option(`colour: ${name.replace("_", "-")}`, name)));
  color.value = colors.includes(state.color) ? state.color : "source";
  color.addEventListener("change", () => { state.color = color.value; drawPanes(); });
  const button = (text, title, action, pressed = null) => {
    const made = make("button", "", text);
    made.title = title;
    if (pressed !== null) made.setAttribute("aria-pressed", String(pressed));
    made.addEventListener("click", action);
    node.append(made);
  };
  node.append(back, color);
  button("◂ Turn", "Previous turn ( [ )", () => turn(-1, number));
  button("Turn ▸", "Next turn ( ] )", () => turn(1, number));
  button("Whole documents", "( e )", toggleOpen, state.open);
  button("Group", "All rollouts of this question ( g )", () => toggleView("group"), state.view === "group");
  button("Raw", "The exact text and ids ( r )", () => toggleView("raw"), state.view === "raw");
  if (otherRuns(number).length) {
    const name = state.beside === null ? "Other policy" : `Beside: ${state.beside}`;
    button(name, "The same question by another policy ( s )", nextBeside, state.beside !== null);
  }
  button(state.pinned === number ? "Unpin" : "Pin", "Keep it beside others ( p )", () => togglePin(number), state.pinned === number);
  button("Export", "Download as a JSON line ( x )", () => exportLine(number));
  const scale = scaleOf(episode);
  if (scale) {
    const legend = make("span", "legend", `${format(scale.low)} `);
    const bar = make("i"), zero = (100 * -scale.low) / (scale.high - scale.low || 1);
    bar.style.background = `linear-gradient(90deg, ${shade(scale, scale.low)}, ${shade(scale, 0)} ${zero}%, ${shade(scale, scale.high)})`;
    legend.append(bar, ` ${format(scale.high)}`);
    node.append(legend);
  }
  return node;
}
function togglePin(number) {
  state.beside = null;
  state.pinned = state.pinned === number ? null : number;
  drawPanes();
}
function toggleOpen() {
  state.open = !state.open;
  for (const pane of document.querySelectorAll(".pane")) pane.classList.toggle("open", state.open);
  drawPanes();
}

// Colours of a signal: red below 0, blue above, strongest at the largest value of all episodes, so
// that episodes compare: an advantage is often the same for all tokens of an episode.
function scaleOf(episode) {
  if (!episode.signals[state.color]) return null;
  const [low, high] = data.ranges[state.color];
  return { low, high };
}
function shade(scale, value) {
  const share = value / (Math.max(scale.high, -scale.low) || 1);
  const strength = Math.sqrt(Math.abs(share)) * 0.75;
  return `rgba(var(${share < 0 ? "--warm" : "--cold"}), ${strength.toFixed(3)})`;
}
const format = (value) => (Math.abs(value) < 0.001 && value !== 0 ? value.toExponential(1) : value.toFixed(3));

function stream(row, episode) {
  const node = make("div", "stream"), words = texts(episode.tokens, vocabularies[row.vocabulary]);
  const scale = scaleOf(episode), faults = new Set(episode.faults), tags = tagTokens(episode);
  const searches = new Map(episode.searches.map((search) => [search.start, search]));
  let policy = 0, turns = 0, i = 0;
  while (i < words.length) {
    const source = SOURCES[episode.sources[i]];
    if (source === "prompt") {
      const end = runEnd(episode.sources, i), fold = make("details", "prompt");
      fold.append(make("summary", "", `prompt, ${end - i} tokens`), words.slice(i, end).join(""));
      [fold.dataset.from, fold.dataset.to] = [i, end];
      node.append(fold);
      i = end;
    } else if (searches.has(i)) {
      const search = searches.get(i);
      const shown = card(search);
      [shown.dataset.from, shown.dataset.to] = [i, search.end];
      node.append(shown);
      i = Math.max(search.end, i + 1);
    } else {
      const token = make("span", faults.has(i) ? "fault" : tags.has(i) ? "tag" : source, words[i]);
      token.dataset.i = i;
      if (source === "policy" && SOURCES[episode.sources[i - 1]] !== "policy") {
        turns += 1;
        const sign = make("span", "turn", `turn ${turns}`);
        sign.dataset.turn = i;
        node.append(sign);
      }
      if (source === "policy") {
        token.dataset.p = policy;
        if (scale) token.style.background = shade(scale, episode.signals[state.color][policy]);
        policy += 1;
      }
      node.append(token);
      i += 1;
    }
  }
  node.addEventListener("pointermove", (event) => tip(event, episode, words));
  node.addEventListener("pointerleave", () => { $("tip").hidden = true; });
  node.addEventListener("click", (event) => {
    const token = event.target.closest("span[data-i]");
    if (token) goToken(Number(token.closest(".pane").dataset.number), Number(token.dataset.i), "push");
  });
  return node;
}
function runEnd(sources, start) {
  let end = start;
  while (end < sources.length && sources[end] === sources[start]) end += 1;
  return end;
}
function tagTokens(episode) {
  const positions = new Set();
  for (const [start, end] of episode.tags) for (let i = start; i <= end; i++) positions.add(i);
  return positions;
}
function card(search) {
  const node = make("div", "card");
  node.append(make("div", "query", `Search: ${search.query}`));
  if (!search.documents.length) node.append(make("div", "doc", "No documents."));
  search.documents.forEach(([title, text, supporting], rank) => {
    const doc = make("div", "doc"), name = make("span", "title", `${rank + 1}. `);
    name.append(...marked(title));
    doc.append(name);
    if (supporting) doc.append(make("span", "support", " supporting"));
    const body = make("div", "text");
    body.append(...marked(text));
    doc.append(body);
    // A passage that holds a gold answer is shown whole: the mark may be far down.
    if (text.length > 1) doc.classList.add("whole");
    doc.addEventListener("click", () => {
      if (getSelection().isCollapsed) doc.classList.toggle("whole");
    });
    node.append(doc);
  });
  return node;
}
// Every second part is a gold answer, by the rule of the scores.
function marked(parts) {
  return parts.map((part, i) => (i % 2 ? make("mark", "", part) : part));
}
function tip(event, episode, words) {
  const token = event.target.closest("span[data-i]"), box = $("tip");
  box.hidden = !token;
  if (!token) return;
  const i = Number(token.dataset.i);
  const lines = [`${JSON.stringify(words[i])}  id ${episode.tokens[i]}`, `position ${i}, ${SOURCES[episode.sources[i]]}`];
  if (token.dataset.p !== undefined) {
    for (const [name, values] of Object.entries(episode.signals)) {
      lines.push(`${name.replace("_", "-")} ${format(values[Number(token.dataset.p)])}`);
    }
  }
  box.textContent = lines.join("\n");
  box.style.left = `${Math.min(event.clientX + 12, innerWidth - box.offsetWidth - 8)}px`;
  box.style.top = `${Math.min(event.clientY + 14, innerHeight - box.offsetHeight - 8)}px`;
}

// The sources along the tokens, and below them the parts of the reward.
function timeline(row, episode) {
  const node = make("div", "time"), track = make("div", "track"), count = Math.max(1, episode.tokens.length);
  node.setAttribute("role", "img");
  node.setAttribute("aria-label", `Sources of ${count} tokens, and the parts of the reward`);
  for (let i = 0; i < count; ) {
    const end = runEnd(episode.sources, i), part = make("i", SOURCES[episode.sources[i]]);
    part.style.width = `${(100 * (end - i)) / count}%`;
    part.title = `${SOURCES[episode.sources[i]]}, tokens ${i} to ${end - 1}`;
    track.append(part);
    i = end;
  }
  for (const i of episode.faults) {
    const mark = make("b");
    mark.style.left = `${(100 * i) / count}%`;
    mark.title = `format fault at token ${i}`;
    track.append(mark);
  }
  node.append(track);
  const parts = Object.entries(row.parts), most = Math.max(0.001, ...parts.map(([, value]) => Math.abs(value)));
  for (const [name, value] of parts) {
    const line = make("div", "part"), bar = make("i", value < 0 ? "minus" : "plus");
    bar.style.width = `${(60 * Math.abs(value)) / most}%`;
    line.append(make("span", "", `reward, ${name}: ${value.toFixed(3)}`), bar);
    node.append(line);
  }
  return node;
}
