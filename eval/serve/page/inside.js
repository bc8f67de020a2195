// What each token does to the state: a map of parts by tokens, the heads, and a table.

const MOST = 96; // tokens that the map shows
const ROW = 12, NAMES = 84; // pixels of a part, and of the names of parts
const WORDS = { change: "changed by", kept: "kept", norm: "norm" };

export class Inside {
  constructor($) {
    this.$ = $;
    this.parts = [];
    this.begin();
    $("quantity").addEventListener("change", () => this.draw());
    const map = $("map");
    map.tabIndex = 0;
    map.addEventListener("pointermove", (event) => this.choose(this.at(event.offsetX)));
    map.addEventListener("pointerleave", () => this.choose(null));
    map.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!step || !this.columns.length) return;
      event.preventDefault();
      const from = this.chosen ?? this.columns.length - (step > 0 ? 1 : 0);
      this.choose(Math.max(0, Math.min(this.columns.length - 1, from + step)));
    });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
    $("table").parentElement.addEventListener("toggle", () => this.tell());
    addEventListener("resize", () => this.draw());
  }

  // Take the names of the parts from the description of a model.
  describe(model) {
    const parts = model.parts ?? [];
    this.parts = parts.map((x) => (x.layer == null ? x.name : `${x.layer} ${x.name}`));
    this.words = parts.map((x) => (x.layer == null ? x.name : `layer ${x.layer} ${x.name}`));
    this.draw();
  }

  begin() {
    this.columns = [];
    this.chosen = null;
    this.draw();
  }

  // Add tokens, each {token, norm, change, kept: [a number a part]} and RNK's heads.
  add(tokens) {
    this.columns.push(...tokens);
    this.columns = this.columns.slice(-MOST);
    if (!this.asked) {
      this.asked = requestAnimationFrame(() => {
        this.asked = null;
        this.draw();
      });
    }
  }

  at(x) {
    const column = Math.floor((x - NAMES) / this.size);
    return column >= 0 && column < this.columns.length ? column : null;
  }

  choose(column) {
    this.chosen = column;
    this.draw();
  }

  draw() {
    const { $, columns, parts } = this;
    const canvas = $("map"), name = $("quantity").value;
    const width = canvas.clientWidth || 320, height = Math.max(parts.length, 1) * ROW;
    const scale = devicePixelRatio || 1;
    canvas.style.height = `${height}px`;
    canvas.width = width * scale;
    canvas.height = height * scale;
    this.size = (width - NAMES) / Math.max(columns.length, 24);
    const pen = canvas.getContext("2d");
    pen.scale(scale, scale);
    const style = getComputedStyle(canvas);
    pen.font = `9px ${style.fontFamily}`;
    pen.textBaseline = "middle";
    pen.fillStyle = pen.strokeStyle = style.color;
    parts.forEach((part, row) => pen.fillText(part, 4, (row + 0.5) * ROW, NAMES - 8));
    pen.fillStyle = style.getPropertyValue("--accent");
    const most = parts.map((_, row) => Math.max(...columns.map((x) => x.norm?.[row] ?? 0), 1e-9));
    columns.forEach((column, i) => {
      parts.forEach((_, row) => {
        const value = column[name]?.[row] ?? 0;
        pen.globalAlpha = Math.min(1, Math.abs(name === "norm" ? value / most[row] : value));
        pen.fillRect(NAMES + i * this.size, row * ROW, Math.ceil(this.size), ROW - 1);
      });
    });
    pen.globalAlpha = 1;
    if (this.chosen !== null) pen.strokeRect(NAMES + this.chosen * this.size, 0, this.size, height);
    this.tell();
  }

  // Say in words what the chosen token did, or the last one.
  tell() {
    const { $, columns, parts, words } = this;
    const column = columns[this.chosen ?? columns.length - 1];
    $("map").setAttribute("aria-label", `Map of ${parts.length} parts by ${columns.length} tokens`);
    $("heads").hidden = !column?.intent;
    if (!column) {
      $("reading").textContent = "Nothing has been read yet.";
      $("table").replaceChildren();
      return;
    }
    const name = $("quantity").value, values = column[name] ?? [];
    const order = values.map((_, i) => i).sort((a, b) => Math.abs(values[b]) - Math.abs(values[a]));
    const format = (x) => (name === "norm" ? x.toPrecision(3) : `${(100 * x).toFixed(1)} %`);
    const most = order.slice(0, 3).map((i) => `${words[i]} ${WORDS[name]} ${format(values[i])}`);
    $("reading").textContent = `Token ${JSON.stringify(column.token)}: ${most.join(", ")}.`;
    if (column.intent) this.tellHeads(column);
    if ($("table").parentElement.open) this.tabulate(column);
  }

  tellHeads(column) {
    const { $ } = this;
    const rows = [["can answer", column.answerable], ["ends in this chunk", column.stop]];
    $("numbers").replaceChildren(
      ...[...rows.map(([k, v]) => [k, `${(100 * v).toFixed(0)} %`]),
        ["norm of the plan", column.plan_norm.toPrecision(3)]].flatMap(([k, v]) => {
        const [term, value] = [document.createElement("dt"), document.createElement("dd")];
        [term.textContent, value.textContent] = [k, v];
        return [term, value];
      }),
    );
    $("intents").replaceChildren(...Object.entries(column.intent).map(([name, share]) => {
      const row = document.createElement("div");
      row.className = "bar";
      const [label, bar, value] = ["span", "i", "span"].map((x) => document.createElement(x));
      label.textContent = name;
      bar.style.width = `${100 * share}%`;
      value.textContent = `${(100 * share).toFixed(0)} %`;
      row.append(label, bar, value);
      return row;
    }));
  }

  tabulate(column) {
    const table = document.createElement("table");
    const line = (cells, kind) => {
      const row = document.createElement("tr");
      for (const text of cells) {
        const cell = document.createElement(kind);
        cell.textContent = text;
        row.append(cell);
      }
      table.append(row);
    };
    line(["layer, part", "norm", "changed", "kept"], "th");
    this.parts.forEach((part, i) => line(
      [part, column.norm[i].toPrecision(3), ...["change", "kept"].map((x) => column[x][i].toFixed(3))],
      "td",
    ));
    this.$("table").replaceChildren(table);
  }
}
