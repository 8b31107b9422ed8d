(() => {
  const find = name => document.getElementById("write-" + name);
  const make = (kind, text = "") => Object.assign(document.createElement(kind), {textContent: text});
  const STEPS_BACK = 200, PAUSE = 1000;  // most changes to undo; milliseconds of pause after which typing counts as a new change
  const LEVELS = 8;  // colours: one per bit of surprisal
  const NAMES = {" ": "space", "\n": "line break", "\t": "tab", "\xa0": "hard space"};
  const SIGNS = {" ": "␣", "\n": "↵", "\t": "⇥", "\xa0": "⍽"};
  const JOINED = /^[\p{M}\u200d\ufe0f\udc00-\udfff]$/u;  // drawn together with the character before
  const root = document.getElementById("writing"), box = find("text"), paper = find("paper");
  const go = find("go"), surprise = find("surprise"), longest = box.maxLength;
  const facts = JSON.parse(find("facts").textContent);
  const number = value => value.toLocaleString("en");

  // The text; per UTF-16 unit, "1" if the model wrote it; bits of the first `scored` units, NaN if unknown; the lines drawn below
  // the text box, whose own letters are transparent.
  let text = "", who = "", bits = [], scored = 0, lines = [];
  let version = 0;  // number of changes of the text so far
  let caret = {start: 0, end: 0};  // in the box, before the next event
  let writing = null;  // while the model writes: position, length written so far, scroll position
  let back = [], forth = [], typedAt = -Infinity;

  // A text box can't hold carriage returns: show a sign instead.
  const shown = part => part.replaceAll("\r", "␍"), meant = part => part.replaceAll("␍", "\r");

  // Drawing.

  const kindOf = i => {
    if (who[i] === "1") return "model";
    return surprise.checked && bits[i] >= 1 ? "s" + Math.min(LEVELS, Math.floor(bits[i])) : "";
  };
  const paint = (line, begin) => {
    const parts = [], end = begin + line.size;
    for (let i = begin, from = begin, kind = null; i <= end; i++) {
      const joined = i > begin && text[i] >= "\u0300" && JOINED.test(text[i]);
      const own = i === end ? null : joined ? kind : kindOf(i);
      if (own === kind) continue;
      if (i > from) parts.push(Object.assign(make("span", text.slice(from, i)), {className: kind}));
      kind = own;
      from = i;
    }
    line.replaceChildren(...parts.length ? parts : [make("br")]);
  };
  const repaint = (start, end) => {  // redraw the lines from position `start` to `end`
    let begin = 0;
    for (const line of lines) {
      if (begin <= end && begin + line.size >= start) paint(line, begin);
      begin += line.size + 1;
    }
  };
  const lineAt = place => {  // the line of a position: its number and start
    let k = 0, begin = 0;
    while (begin + lines[k].size < place) begin += lines[k++].size + 1;
    return [k, begin];
  };
  const reveal = place => {  // scroll down to the line of a position
    const line = lines[lineAt(place)[0]], low = line.offsetTop + line.offsetHeight + 20;
    if (low > paper.scrollTop + paper.clientHeight) paper.scrollTop = low - paper.clientHeight;
  };

  // Replace text[start:end] everywhere but in the box.
  const change = (start, end, inserted, by) => {
    const [first, top] = lineAt(start), [last, under] = lineAt(end);
    const added = inserted.length - (end - start), stop = under + lines[last].size + added;
    text = text.slice(0, start) + inserted + text.slice(end);
    who = who.slice(0, start) + by + who.slice(end);
    bits = bits.slice(0, start).concat(new Array(inserted.length).fill(NaN), bits.slice(end));
    scored = Math.min(scored, start);
    version++;
    const fresh = text.slice(top, stop).split("\n").map(line => Object.assign(make("div"), {size: line.length}));
    lines[first].before(...fresh);
    lines.splice(first, last - first + 1, ...fresh).forEach(line => line.remove());
    repaint(top, stop);
  };

  // After a change.
  const refresh = () => {
    caret = {start: box.selectionStart, end: box.selectionEnd};
    const more = facts.records && asked() < Infinity ? `${number(asked())} more` : "Continue";
    go.textContent = writing ? "Stop" : more;
    go.disabled = !writing && text.length >= longest;
    find("undo").disabled = Boolean(writing) || !back.length;
    find("copy").disabled = !text;
    find("next").inert = box.readOnly = Boolean(writing);
    root.toggleAttribute("data-surprise", surprise.checked);
    if (!writing) worker.postMessage({kind: "show", text: meant(text), cursor: caret.end, scored, surprise: surprise.checked, version});
  };
  const asked = () => Math.floor(find("length").value) > 0 ? Math.floor(find("length").value) : Infinity;
  const say = words => find("status").textContent = words;

  // Undo and redo. Each entry stores what a change replaced.
  const mark = () => {
    back = [...back, {text, who, ...caret}].slice(-STEPS_BACK);
    forth = [];
    typedAt = -Infinity;
  };
  const travel = (from, to) => {
    if (writing || !from.length) return;
    to.push({text, who, ...caret});
    const now = from.pop();
    let start = 0, end = text.length, tail = now.text.length;
    const same = (i, k) => text[i] === now.text[k] && who[i] === now.who[k];
    while (start < Math.min(end, tail) && same(start, start)) start++;
    while (Math.min(end, tail) > start && same(end - 1, tail - 1)) end--, tail--;
    change(start, end, now.text.slice(start, tail), now.who.slice(start, tail));
    box.value = text;
    box.setSelectionRange(now.start, now.end);
    typedAt = -Infinity;
    refresh();
  };

  // The user's typing.
  const insert = (start, end, inserted) => {
    if (performance.now() - typedAt > PAUSE) mark();
    typedAt = performance.now();
    change(start, end, inserted, "0".repeat(inserted.length));
  };
  const typed = () => {  // find the difference between the box and the text
    const value = box.value, after = value.length - box.selectionEnd;
    let start = 0, kept = 0;
    while (kept < Math.min(after, text.length) && value.at(-1 - kept) === text.at(-1 - kept)) kept++;
    while (start < Math.min(text.length, value.length) - kept && value[start] === text[start]) start++;
    insert(start, text.length - kept, value.slice(start, value.length - kept));
    refresh();
  };
  const take = character => {  // insert a suggestion
    const {start, end} = caret, inserted = shown(character);
    insert(start, end, inserted);
    box.setRangeText(inserted, start, end, "end");
    reveal(start + inserted.length);
    refresh();
  };

  // The model's writing, added to the text once per frame.
  let waiting = "";
  const flush = () => {
    if (!waiting) return;
    const inserted = waiting.slice(0, longest - text.length), {at} = writing;
    const follow = Math.abs(paper.scrollTop - writing.top) < 2;  // unless the user has scrolled
    waiting = "";
    change(at, at, inserted, "1".repeat(inserted.length));
    writing.at += inserted.length;
    writing.count += inserted.length;
    box.setRangeText(inserted, at, at, "end");
    if (follow) reveal(writing.at);
    if (follow) writing.top = paper.scrollTop;
    if (text.length >= longest) worker.postMessage({kind: "stop"});
  };
  const write = () => {
    mark();
    const seed = find("seed").value, any = crypto.getRandomValues(new Uint32Array(1))[0];
    reveal(caret.end);
    writing = {at: caret.end, count: 0, top: paper.scrollTop};
    worker.postMessage({
      kind: "write", text: meant(text.slice(0, caret.end)), length: asked(), seed: seed === "" ? any : Math.floor(seed),
      temperature: +find("temperature").value, topP: +find("top-p").value,
    });
    say("writing");
    refresh();
  };
  const finish = seconds => {
    flush();
    const {at, count} = writing;
    writing = null;
    if (!count) back.pop();
    find("heard").textContent = text.slice(Math.max(at - count, at - 400), at);
    const pace = `${number(count)} characters, ${number(Math.round(count / seconds))} a second`;
    say(text.length >= longest ? "the page is full" : pace);
    refresh();
  };
  const toggle = () => writing ? worker.postMessage({kind: "stop"}) : go.disabled || write();

  const offer = guesses => find("next").replaceChildren(...guesses.map(([character, p]) => {
    const item = make("li"), button = make("button"), bar = make("i");
    const percent = p >= 0.995 ? "99+ %" : p < 0.01 ? "< 1 %" : Math.round(p * 100) + " %";
    const code = "U+" + character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
    const name = NAMES[character] ?? (/^[\p{C}\p{Z}]$/u.test(character) ? code : character);
    const sign = SIGNS[character] ?? (/^\p{M}$/u.test(character) ? "◌" + character : name);
    button.type = "button";
    button.append(make("b", sign), make("small", percent), bar);
    button.setAttribute("aria-label", `${name}, ${percent}`);
    button.addEventListener("click", () => take(character));
    bar.style.setProperty("--p", p);
    item.append(button);
    return item;
  }));

  const worker = new Worker(URL.createObjectURL(new Blob([find("engine").textContent], {type: "text/javascript"})));
  worker.onerror = event => say("this browser can't run the model: " + event.message);
  worker.onmessage = ({data: {kind, ...data}}) => {
    if (kind === "ready") {
      say("");
      refresh();
    } else if (kind === "wrote") {
      if (!waiting) requestAnimationFrame(flush);
      waiting += shown(data.text);
    } else if (kind === "done") finish(data.seconds);
    else if (data.version !== version || writing) return;  // the text has changed since
    else if (kind === "next") offer(data.guesses);
    else {
      const start = scored;
      for (const value of data.bits) for (let n = text.codePointAt(scored) > 0xffff ? 2 : 1; n; n--) bits[scored++] = value;
      repaint(start, scored);
    }
  };
  worker.postMessage({kind: "model", facts, packed: find("weights").textContent});

  go.addEventListener("click", toggle);
  find("undo").addEventListener("click", () => travel(back, forth));
  find("copy").addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(meant(text));
    } catch {  // the browser denies clipboard access to local files
      box.select();
      document.execCommand("copy");
      box.setSelectionRange(caret.start, caret.end);
    }
    say("copied");
  });
  for (const name of ["temperature", "top-p"]) {
    const tell = () => find(name + "-said").value = (+find(name).value).toFixed(2);
    find(name).addEventListener("input", tell);
    tell();
  }
  find("length").addEventListener("input", refresh);
  surprise.addEventListener("change", () => {
    refresh();
    repaint(0, text.length);
  });
  box.addEventListener("input", typed);
  box.addEventListener("beforeinput", event => {
    if (!event.inputType.startsWith("history")) return;
    event.preventDefault();
    event.inputType === "historyUndo" ? travel(back, forth) : travel(forth, back);
  });
  document.addEventListener("selectionchange", () => {
    const moved = caret.start !== box.selectionStart || caret.end !== box.selectionEnd;
    if (!moved || writing || box.value !== text) return;
    typedAt = -Infinity;
    refresh();
  });
  root.addEventListener("keydown", event => {
    const command = event.ctrlKey || event.metaKey, key = event.key.toLowerCase(), inBox = event.target === box;
    if ((event.key === "Escape" && writing) || (command && event.key === "Enter")) toggle();
    else if (command && inBox && key === "z" && !event.shiftKey) travel(back, forth);
    else if (command && inBox && (key === "y" || key === "z")) travel(forth, back);
    else return;
    event.preventDefault();
  });

  lines = [find("mirror").appendChild(Object.assign(make("div"), {size: 0}))];
  repaint(0, 0);
  if (facts.records) {
    find("length").value = 20;
    find("unit").textContent = facts.records === "line" ? "Lines" : "Paragraphs";
  }
})();
