"use strict";

const find = (id) => document.getElementById(id);
const COLORS = ["#e4572e", "#1f8fe0", "#2e9e4f", "#b05cc6", "#d19a00", "#00a3a3", "#d94f8c"];
const SMALL = 64; // pixels; smaller pictures are shown as squares of colour
const MOST = 8; // pictures of one request, so that answers come early
let card = null;
let entries = []; // {file, item, url, answer, map}
let queue = Promise.resolve();

function element(name, properties = {}, ...children) {
  const node = Object.assign(document.createElement(name), properties);
  node.append(...children);
  return node;
}

function percent(share) {
  return `${(100 * share).toFixed(1)} %`;
}

// ---- requests -----------------------------------------------------------------------------------

class Refused extends Error {}

async function ask(path, options = {}) {
  const token = sessionStorage.getItem("token");
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  for (;;) {
    let response;
    try {
      response = await fetch(path, { ...options, headers });
    } catch {
      throw new Error("The server does not answer.");
    }
    if (response.ok) return response;
    if (response.status === 503 && response.headers.has("Retry-After")) {
      await new Promise((done) => setTimeout(done, 1000 * response.headers.get("Retry-After")));
      continue;
    }
    const text = await response.json().then((body) => body.error, () => response.statusText);
    if (response.status === 401) throw new Refused(text);
    throw new Error(text);
  }
}

async function loadCard() {
  try {
    card = await (await ask("model")).json();
  } catch (error) {
    const refused = error instanceof Refused;
    find("access").hidden = !refused;
    find("drop").hidden = true;
    find("refusal").textContent = refused && sessionStorage.getItem("token") ? error.message : "";
    find("summary").textContent = refused ? "" : error.message;
    if (refused) find("token").focus();
    return;
  }
  find("access").hidden = true;
  find("drop").hidden = false;
  find("name").textContent = document.title = title();
  find("classes").hidden = !card.classes;
  find("count").textContent = `${(card.classes || []).length} classes`;
  find("names").textContent = (card.classes || []).join(", ");
  find("summary").textContent = summary();
  find("map-switch").hidden = !card.map;
  find("score-switch").hidden = card.task !== "detection";
  if (card.lowest_score > Number(find("score").min)) find("score").min = card.lowest_score;
  predictAll(entries.filter((entry) => !entry.answer)); // those that waited for the token
}

function title() {
  const name = card.task === "detection" ? `Faster R-CNN on ${card.network}` : card.network;
  return card.precision === "float32" ? name : `${name} (${card.precision})`;
}

function summary() {
  const error = card.error || {}, int8 = card.int8 || {};
  const where = ({ data, split }) => (split ? `${data} (${split})` : data);
  const parts = [];
  if (error.error_top1 !== undefined)
    parts.push(`${error.error_top1.toFixed(2)} % error on ${where(error)}`);
  for (const [name, value] of Object.entries(error.ap || {}).slice(0, 1))
    parts.push(`${name} ${value.toFixed(1)} % on ${where(error)}`);
  if (parts.length && card.int8) parts[0] += " in float32";
  for (const [key, name] of [["error", "error"], ["ap", "average precision"]])
    if (int8[`${key}_int8`] !== undefined) {
      const [before, after] = ["float32", "int8"].map((bits) => int8[`${key}_${bits}`].toFixed(2));
      parts.push(`eight bits: ${name} ${after} % instead of ${before} % on ${where(int8)}`);
    }
  return [...parts, card.source].filter(Boolean).join(" · ");
}

// ---- pictures -----------------------------------------------------------------------------------

function add(files) {
  if (!card) return;
  const added = [...files].map((file) => {
    const item = element("li", { className: card.task });
    return { file, item, url: URL.createObjectURL(file) };
  });
  find("pictures").prepend(...added.map((entry) => entry.item));
  added.forEach(draw);
  entries = [...added, ...entries];
  find("clear").hidden = !entries.length;
  predictAll(added);
}

function predictAll(some) {
  for (let i = 0; i < some.length; i += MOST) {
    const part = some.slice(i, i + MOST);
    queue = queue.then(() => predict(part));
  }
}

async function predict(part) {
  part = part.filter((entry) => !entry.answer && entries.includes(entry));
  if (!part.length) return;
  report();
  const form = new FormData();
  for (const entry of part) form.append("image", entry.file, entry.file.name || "picture");
  const lowest = card.task === "detection" ? `?score=${find("score").min}` : "";
  try {
    const answers = await (await ask(`predict${lowest}`, { method: "POST", body: form })).json();
    part.forEach((entry, i) => { entry.answer = answers[i]; });
  } catch (error) {
    if (error instanceof Refused) return loadCard();
    if (part.length > 1) { // each alone, so that one cannot spoil the others
      for (const entry of part) await predict([entry]);
      return;
    }
    part[0].answer = { error: error.message };
  }
  report();
  part.forEach(draw);
  if (find("map").checked) await Promise.all(part.map((entry) => explain(entry)));
}

function report() {
  const done = entries.filter((entry) => entry.answer);
  const failed = done.filter((entry) => entry.answer.error).length;
  let text = `${done.length} of ${entries.length} pictures are done.`;
  if (failed) text += ` ${failed} could not be read.`;
  if (entries.length === 1) text = done.length ? spoken(done[0]) : `Looking at ${nameOf(entries[0])}.`;
  find("state").textContent = text;
}

function nameOf({ file }) {
  return file.name || "the picture";
}

function spoken(entry) {
  const { answer } = entry;
  if (answer.error) return answer.error;
  if (answer.objects) return `${nameOf(entry)}: ${shown(answer).length} objects.`;
  return `${nameOf(entry)}: ${answer.labels[0].label}, ${percent(answer.labels[0].probability)}.`;
}

function shown(answer) {
  return answer.objects.filter((object) => object.score >= Number(find("score").value) - 1e-9);
}

async function explain(entry, label) {
  if (!card.map || !entry.answer || !entry.answer.labels) return;
  const chosen = label || entry.answer.labels[0].label;
  const form = new FormData();
  form.append("image", entry.file, entry.file.name || "picture");
  try {
    const path = `explain?class=${encodeURIComponent(chosen)}`;
    const response = await ask(path, { method: "POST", body: form });
    const url = URL.createObjectURL(await response.blob());
    if (entry.map) URL.revokeObjectURL(entry.map.url);
    entry.map = { label: chosen, url };
  } catch (error) {
    find("state").textContent = error.message;
  }
  draw(entry);
}

// ---- drawing ------------------------------------------------------------------------------------

function draw(entry) {
  const { file, item, answer } = entry;
  const pressed = item.contains(document.activeElement) ? document.activeElement.value : null;
  const map = find("map").checked && entry.map;
  const name = file.name || "picture";
  const alt = map ? `Where the network sees ${map.label} in ${name}` : name;
  const image = element("img", { src: map ? map.url : entry.url, alt });
  const view = element("div", { className: "view" }, image);
  image.onload = () => {
    const side = Math.max(image.naturalWidth, image.naturalHeight);
    image.classList.toggle("small", !map && side <= SMALL);
    if (answer && answer.objects) view.append(boxes(shown(answer), image));
  };
  image.onerror = () => view.replaceChildren(element("p", { textContent: "No preview." }));
  const list = element("ul", { className: "labels" });
  const text = element("div", {}, element("h2", { textContent: name }), list);
  if (!answer) text.append(element("p", { textContent: "Waiting." }));
  else if (answer.error) text.append(element("p", { className: "error", textContent: answer.error }));
  else if (answer.labels) list.append(...answer.labels.map((label) => labelRow(entry, label, map)));
  else list.append(...objectRows(shown(answer)));
  item.replaceChildren(view, text);
  if (pressed) [...item.querySelectorAll("button")].find((row) => row.value === pressed)?.focus();
}

function labelRow(entry, { label, probability }, map) {
  const row = element(card.map ? "button" : "div", { className: "row" });
  row.append(element("span", { textContent: label }));
  row.append(element("span", { textContent: percent(probability) }));
  row.style.setProperty("--share", probability);
  if (card.map) { // a label chooses the class of the map
    const help = `Show where the network sees ${label}`;
    Object.assign(row, { type: "button", value: label, title: help, onclick: () => choose(entry, label) });
    row.setAttribute("aria-pressed", String(Boolean(map) && map.label === label));
  }
  return element("li", {}, row);
}

function choose(entry, label) {
  if (!find("map").checked) {
    find("map").checked = true;
    showMaps(entry);
  }
  explain(entry, label);
}

function showMaps(except) {
  for (const entry of entries.filter((entry) => entry !== except)) {
    if (find("map").checked && !entry.map) explain(entry);
    else draw(entry);
  }
}

function color(label) {
  const place = card.classes ? card.classes.indexOf(label) : Number(label);
  return COLORS[Math.max(0, place) % COLORS.length];
}

function objectRows(objects) {
  if (!objects.length) return [element("li", { textContent: "No objects of this score." })];
  return objects.map(({ label, score }) => {
    const mark = element("span", { className: "mark" });
    mark.style.backgroundColor = color(label);
    const row = element("div", { className: "row" }, element("span", {}, mark, label));
    row.append(element("span", { textContent: percent(score) }));
    row.style.setProperty("--share", score);
    return element("li", {}, row);
  });
}

function boxes(objects, image) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  svg.setAttribute("viewBox", `0 0 ${image.naturalWidth} ${image.naturalHeight}`);
  svg.setAttribute("aria-hidden", "true");
  for (const { label, score, box: [x, y, right, bottom] } of objects) {
    const rect = document.createElementNS(space, "rect");
    const values = { x, y, width: right - x, height: bottom - y, stroke: color(label) };
    for (const [name, value] of Object.entries(values)) rect.setAttribute(name, value);
    const title = document.createElementNS(space, "title");
    title.textContent = `${label} ${percent(score)}`;
    rect.append(title);
    svg.append(rect);
  }
  return svg;
}

// ---- events -------------------------------------------------------------------------------------

find("files").addEventListener("change", (event) => {
  add(event.target.files);
  event.target.value = "";
});
addEventListener("paste", (event) => add(event.clipboardData.files));
addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("over");
});
addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("over");
});
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("over");
  add(event.dataTransfer.files);
});
find("map").addEventListener("change", () => showMaps());
find("score").addEventListener("input", (event) => {
  document.querySelector("output").textContent = Number(event.target.value).toFixed(2);
  entries.forEach(draw);
});
find("clear").addEventListener("click", () => {
  for (const entry of entries) {
    URL.revokeObjectURL(entry.url);
    if (entry.map) URL.revokeObjectURL(entry.map.url);
  }
  entries = [];
  find("pictures").replaceChildren();
  find("clear").hidden = true;
  find("state").textContent = "";
  find("files").focus();
});
find("access").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("token", find("token").value);
  loadCard().then(() => card && find("files").focus());
});
loadCard();
