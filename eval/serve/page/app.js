// The page: a conversation over the server's own API, and what each token does to the state.
import { Inside } from "./inside.js";

const $ = (id) => document.getElementById(id);
const inside = new Inside($);
let turns = []; // {role, content}; in a continued text, one turn that grows
let running = null; // AbortController of the reply that is being drawn

function headers() {
  const token = $("token").value.trim();
  const names = { "Content-Type": "application/json" };
  return token ? { ...names, Authorization: `Bearer ${token}` } : names;
}

async function connect() {
  try {
    const answer = await fetch("v1/models", { headers: headers() });
    if (answer.status === 401) return wants("This server asks for an access token (see Sampling).");
    const { data } = await answer.json();
    $("model").replaceChildren(...data.map((x) => new Option(x.id, x.id)));
    choose(data[0]);
    $("status").textContent = "ready";
    fail("");
  } catch {
    wants("The server does not answer; reload the page when it runs.");
  }
}

function choose(model) {
  document.title = `${model.id} · jaxmodels`;
  inside.describe(model);
  $("mode").value = model.chat === false ? "text" : "chat";
  $("mode").querySelector("[value=chat]").disabled = model.chat === false;
}

function wants(message) {
  $("status").textContent = "not connected";
  fail(message);
}

function fail(message) {
  $("error").textContent = message;
  $("error").hidden = !message;
}

function number(id) {
  const value = $(id).value.trim();
  return value === "" ? undefined : Number(value);
}

function options() {
  const stop = $("stop").value;
  return {
    model: $("model").value,
    stream: true,
    stream_options: { include_usage: true },
    inside: true,
    temperature: number("temperature"),
    top_p: number("top_p"),
    min_p: number("min_p"),
    top_k: number("top_k"),
    repetition_penalty: number("repetition_penalty"),
    max_tokens: number("max_tokens"),
    seed: number("seed") ?? Math.floor(Math.random() * 2 ** 31),
    ...(stop ? { stop: [stop] } : {}),
  };
}

function article(role, text) {
  $("hint")?.remove();
  const box = document.createElement("article");
  box.className = role;
  const name = document.createElement("header");
  name.textContent = role === "user" ? "You" : $("model").value;
  const body = document.createElement("div");
  body.textContent = text;
  box.append(name, body);
  $("log").append(box);
  $("log").scrollTop = $("log").scrollHeight;
  return body;
}

// Return a function that appends text to a box, once a frame: a layout for each token of a long
// reply would keep the page from hearing the keyboard.
function painter(box) {
  const text = document.createTextNode("");
  box.append(text);
  let waiting = "";
  return (piece) => {
    if (piece && !waiting) {
      requestAnimationFrame(() => {
        text.appendData(waiting);
        waiting = "";
        $("log").scrollTop = $("log").scrollHeight;
      });
    }
    waiting += piece;
  };
}

// Yield the objects of a stream of server-sent events.
async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const blocks = (rest + value).split(/\r?\n\r?\n/);
    rest = blocks.pop();
    for (const block of blocks) {
      for (const line of block.split(/\r?\n/)) {
        if (line.startsWith("data: ") && line !== "data: [DONE]") yield JSON.parse(line.slice(6));
      }
    }
  }
}

const SAID = {
  stop: "",
  length: "cut at the most tokens",
  cancelled: "stopped",
};

async function reply() {
  const chat = $("mode").value === "chat";
  const text = chat ? "" : turns.map((x) => x.content).join("");
  const body = chat ? { messages: turns } : { prompt: text };
  const path = chat ? "v1/chat/completions" : "v1/completions";
  running = new AbortController();
  busy(true);
  inside.begin();
  const started = performance.now();
  const place = article("assistant", "");
  const show = painter(place);
  let said = "", end = "", count = 0;
  try {
    const answer = await fetch(path, {
      method: "POST",
      headers: headers(),
      signal: running.signal,
      body: JSON.stringify({ ...body, ...options() }),
    });
    if (!answer.ok) {
      const problem = await answer.json().catch(() => null);
      throw new Error(problem?.error?.message ?? `the server says ${answer.status}`);
    }
    for await (const chunk of events(answer)) {
      if (chunk.error) throw new Error(chunk.error.message);
      const [choice] = chunk.choices ?? [];
      const piece = (chat ? choice?.delta?.content : choice?.text) ?? "";
      said += piece;
      show(piece);
      if (choice?.inside) inside.add(choice.inside);
      if (choice?.finish_reason) end = SAID[choice.finish_reason] ?? choice.finish_reason;
      count = chunk.usage?.completion_tokens ?? count;
    }
  } catch (error) {
    if (error.name === "AbortError") end = SAID.cancelled;
    else fail(error.message);
  }
  place.textContent = said; // also what is not painted yet
  if (said || end) turns.push({ role: "assistant", content: said });
  else place.parentElement.remove();
  if (said || end) {
    const note = document.createElement("footer");
    const seconds = (performance.now() - started) / 1000;
    const speed = count ? `${count} tokens, ${(count / seconds).toFixed(0)} a second` : "";
    note.textContent = [end, speed].filter(Boolean).join(" · ");
    place.after(note);
  }
  running = null;
  busy(false);
}

function busy(yes) {
  $("send").hidden = yes;
  $("halt").hidden = !yes;
  $("again").disabled = yes || !turns.some((x) => x.role === "user");
  $("fresh").disabled = yes || turns.length === 0;
  $("status").textContent = yes ? "writing" : "ready";
  $("log").setAttribute("aria-busy", String(yes));
  if (!yes) $("message").focus();
}

$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("message").value;
  if (running || !(text.trim() || ($("mode").value === "text" && turns.length))) return;
  fail("");
  $("message").value = "";
  if (text) {
    turns.push({ role: "user", content: text });
    article("user", text);
  }
  reply();
});
$("message").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    $("composer").requestSubmit();
  }
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && running) running.abort();
});
$("halt").addEventListener("click", () => running?.abort());
$("again").addEventListener("click", () => {
  if (turns.at(-1)?.role === "assistant") {
    turns.pop();
    $("log").lastElementChild?.remove();
  }
  fail("");
  reply();
});
$("fresh").addEventListener("click", () => {
  turns = [];
  $("log").replaceChildren();
  inside.begin();
  fail("");
  busy(false);
});
$("settings").addEventListener("submit", (event) => event.preventDefault());
$("settings").addEventListener("input", (event) => {
  const shown = $("settings").querySelector(`output[for=${event.target.id}]`);
  if (shown) shown.textContent = event.target.value;
});
$("token").addEventListener("change", connect);
function show(name, yes) {
  $(name).hidden = !yes;
  $(`open-${name}`).setAttribute("aria-expanded", String(yes));
  document.querySelector("main").classList.toggle("narrow", $("inside").hidden);
  inside.draw();
}
for (const name of ["settings", "inside"]) {
  $(`open-${name}`).addEventListener("click", () => show(name, $(name).hidden));
}
show("inside", innerWidth > 768); // on a phone, the conversation needs the room
connect();
