"use strict";
// The web worker of a page: runs the network on typed arrays, follows an edited text, and continues it.
// Shapes: V vocabulary size, E embedding size, L layers, H hidden size, G rows of all gates of a layer.

const STRIDE = 32;  // characters between two saved states
const SLICE = 16;  // milliseconds of work before messages are handled
const BURST = 50;  // most characters written per slice: nobody can read more
const GUESSES = 5;

const sigmoid = x => 1 / (1 + Math.exp(-x));
const tanh = x => 1 - 2 / (Math.exp(2 * x) + 1);

// Per cell kind, the part of a step after the products with the input, x (G), and the hidden state, r (G). Updates h and c (H).
const STEPS = {
  lstm(x, r, h, c) {
    const H = h.length;
    for (let j = 0; j < H; j++) {
      const i = sigmoid(x[j] + r[j]), f = sigmoid(x[j + H] + r[j + H]);
      c[j] = f * c[j] + i * tanh(x[j + 2 * H] + r[j + 2 * H]);
      h[j] = sigmoid(x[j + 3 * H] + r[j + 3 * H]) * tanh(c[j]);
    }
  },
  gru(x, r, h) {
    const H = h.length;
    for (let j = 0; j < H; j++) {
      const reset = sigmoid(x[j] + r[j]), update = sigmoid(x[j + H] + r[j + H]);
      const fresh = tanh(x[j + 2 * H] + reset * r[j + 2 * H]);
      h[j] = fresh + update * (h[j] - fresh);
    }
  },
  rnn(x, r, h) {
    for (let j = 0; j < h.length; j++) h[j] = tanh(x[j] + r[j]);
  },
};

// The matrix product: sum (R) += scales (R) * codes (R, C) x (C), with addresses as arguments; C is a multiple of 16. The bytes
// are WebAssembly with SIMD, eight times as fast as `multiply` below, which is for browsers without SIMD:
//
//   (module (import "" "memory" (memory 1)) (func (export "multiply")
//     (param $codes i32) (param $scales i32) (param $x i32) (param $sum i32) (param $rows i32) (param $columns i32)
//     (local $end i32) (local $at i32) (local $w v128) (local $a v128) (local $b v128) (local $c v128) (local $d v128)
//     (loop $row
//       at = x; end = codes + columns; a = b = c = d = 0
//       (loop $column
//         w = v128.load8x8_s codes
//         a += f32x4.convert_i32x4_s (i32x4.extend_low_i16x8_s w) * v128.load at
//         b += f32x4.convert_i32x4_s (i32x4.extend_high_i16x8_s w) * v128.load offset=16 at
//         w = v128.load8x8_s offset=8 codes
//         c += f32x4.convert_i32x4_s (i32x4.extend_low_i16x8_s w) * v128.load offset=32 at
//         d += f32x4.convert_i32x4_s (i32x4.extend_high_i16x8_s w) * v128.load offset=48 at
//         at += 64; codes += 16; br_if $column (codes < end))
//       a = (a + b) + (c + d); f32 sum[0] += scales[0] * (a0 + a1 + (a2 + a3))
//       scales += 4; sum += 4; rows -= 1; br_if $row rows)))
const KERNEL =
  "AGFzbQEAAAABCgFgBn9/f39/fwACDAEABm1lbW9yeQIAAQMCAQAHDAEIbXVsdGlwbHkAAAqQAgGNAgICfwV7A0AgAiEHIAAgBWohBv0MAAAAAAAAAAAA" +
  "AAAAAAAAACEJIAkhCiAJIQsgCSEMA0AgAP0BAwAhCCAJIAj9pwH9+gEgB/0ABAD95gH95AEhCSAKIAj9qAH9+gEgB/0ABBD95gH95AEhCiAA/QEDCCEI" +
  "IAsgCP2nAf36ASAH/QAEIP3mAf3kASELIAwgCP2oAf36ASAH/QAEMP3mAf3kASEMIAdBwABqIQcgAEEQaiIAIAZJDQALIAkgCv3kASALIAz95AH95AEh" +
  "CSADIAMqAgAgASoCACAJ/R8AIAn9HwGSIAn9HwIgCf0fA5KSlJI4AgAgAUEEaiEBIANBBGohAyAEQQFrIgQNAAsL";
const WIDTH = 16;  // codes read at a time

const decode = base64 => {
  const letters = atob(base64), bytes = new Uint8Array(letters.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = letters.charCodeAt(i);
  return bytes;
};
const padded = length => Math.ceil(length / WIDTH) * WIDTH;

function multiply(buffer, codes, scales, x, sum, rows, columns) {
  const code = new Int8Array(buffer, codes, rows * columns), values = new Float32Array(buffer, x, columns);
  const scale = new Float32Array(buffer, scales, rows), sums = new Float32Array(buffer, sum, rows);
  for (let row = 0, at = 0; row < rows; row++) {
    let total = 0;
    for (let j = 0; j < columns; j++) total += code[at++] * values[j];
    sums[row] += scale[row] * total;
  }
}

// The network. A state is one array: h (and c, for an LSTM) of each layer, and the id of the last character.
class Network {
  constructor({tensors, config}, packed) {
    const {vocabulary_size: V, num_layers: L, hidden_size: H, embedding_size: E, cell} = config;
    const bytes = decode(packed), found = {}, G = L ? tensors.find(([name]) => name === "layers.0.bias_ih_l0")[1] : 0;
    const sizes = tensors.map(([, rows, columns]) => rows * (4 + padded(columns)));
    this.reserve([...sizes, ...[E, H, H, G, G, V].map(length => 4 * padded(length))].reduce((a, b) => a + padded(b) + WIDTH));
    let at = 0;
    for (const [name, rows, columns] of tensors) {  // in the order of html.py
      const scales = this.take(Float32Array, rows), width = padded(columns), codes = this.take(Int8Array, rows * width);
      scales.set(new Float32Array(bytes.slice(at, at += 4 * rows).buffer));
      for (let row = 0; row < rows; row++) codes.set(bytes.subarray(at, at += columns), row * width);
      found[name] = {scales, codes, rows, width};  // a bias has only scales
    }
    this.H = H;
    this.parts = cell === "lstm" ? 2 : 1;
    this.residual = config.residual;
    this.advance = STEPS[cell];
    this.embedding = found["embedding.weight"];
    this.softmax = found["softmax.weight"];
    this.bias = found["softmax.bias"].scales;
    this.layers = Array.from({length: L}, (_, i) =>
      ["weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"].map(name => found[`layers.${i}.${name}`]));
    this.embedded = this.take(Float32Array, padded(E));
    this.hidden = this.take(Float32Array, padded(H));
    this.output = this.take(Float32Array, padded(H));
    this.fromInput = this.take(Float32Array, G);
    this.fromHidden = this.take(Float32Array, G);
    this.scores = this.take(Float32Array, V);
  }

  // Allocate memory, and choose the matrix product.
  reserve(size) {
    try {
      const memory = new WebAssembly.Memory({initial: Math.ceil(size / 65536)});
      const kernel = new WebAssembly.Instance(new WebAssembly.Module(decode(KERNEL)), {"": {memory}}).exports;
      this.buffer = memory.buffer;
      this.multiply = kernel.multiply;
    } catch {
      this.buffer = new ArrayBuffer(size);
      this.multiply = multiply.bind(null, this.buffer);
    }
    this.taken = 0;
  }

  // Allocate an array in this memory.
  take(Kind, length) {
    const array = new Kind(this.buffer, this.taken, length);
    this.taken += padded(array.byteLength);
    return array;
  }

  start() {
    return new Float32Array(this.layers.length * this.parts * this.H + 1);
  }

  step(state, id) {
    const {H, parts, output, hidden, fromInput, fromHidden} = this;
    state[state.length - 1] = id;
    this.layers.forEach(([input, recurrent, inputBias, recurrentBias], i) => {
      const [h, c] = [0, 1].map(k => state.subarray((i * parts + k) * H, (i * parts + k + 1) * H));
      fromInput.set(inputBias.scales);
      fromHidden.set(recurrentBias.scales);
      if (i) this.addProduct(input, output, fromInput);
      else this.addFirst(input, id, fromInput);
      hidden.set(h);
      this.addProduct(recurrent, hidden, fromHidden);
      this.advance(fromInput, fromHidden, h, c);
      this.pass(h, i);
    });
  }

  // The logits (V) after `state`, overwritten by the next call.
  logits(state) {
    const {H, parts, layers, scores} = this;
    scores.set(this.bias);
    layers.forEach((_, i) => this.pass(state.subarray(i * parts * H, (i * parts + 1) * H), i));
    if (layers.length) this.addProduct(this.softmax, this.output, scores);
    else this.addFirst(this.softmax, state[state.length - 1], scores);
    return scores;
  }

  // Copy the output of layer `i` to the input of the next one.
  pass(h, i) {
    if (i && this.residual) for (let j = 0; j < h.length; j++) this.output[j] += h[j];
    else this.output.set(h);
  }

  addProduct({codes, scales, rows, width}, x, sum) {
    this.multiply(codes.byteOffset, scales.byteOffset, x.byteOffset, sum.byteOffset, rows, width);
  }

  // Add the product of a matrix with the embedding (or one-hot vector) of a character to `sum`.
  addFirst(matrix, id, sum) {
    const {embedding, embedded} = this, {codes, scales, rows, width} = matrix;
    if (embedding) {
      for (let j = 0; j < embedding.width; j++) embedded[j] = embedding.codes[id * embedding.width + j] * embedding.scales[id];
      this.addProduct(matrix, embedded, sum);
    } else for (let row = 0; row < rows; row++) sum[row] += codes[row * width + id] * scales[row];
  }
}

// Computes the state at any position of an edited text. Each text or record starts after the model's start character.
class Reader {
  constructor(facts, network) {
    this.network = network;
    this.unknown = facts.unknown;  // id of the symbol for unknown characters, which is never written; null without one
    this.costs = facts.costs;  // bits to add to the surprisal of a known and of an unknown character
    this.separator = {line: 1, paragraph: 2}[facts.records] ?? 0;  // line breaks that end a record
    this.characters = Array.from(facts.vocabulary);
    this.ids = new Map(this.characters.map((character, id) => [character, id]));
    if (this.unknown !== null) this.ids.delete(this.characters[this.unknown]);
    this.first = network.start();
    network.step(this.first, facts.start);
    this.text = [];  // characters
    this.bits = [];  // bits of each character, as far as computed
    this.marks = [this.first];  // states after every STRIDE characters
    this.state = this.first.slice();
    this.at = 0;  // characters read
  }

  // Change the text. Everything after the first difference must be read again.
  set(text) {
    let same = 0;
    while (same < text.length && text[same] === this.text[same]) same++;
    this.text = text;
    this.bits.length = Math.min(this.bits.length, same);
    this.marks.length = Math.min(this.marks.length, Math.floor(same / STRIDE) + 1);
    if (this.at > same) this.at = Infinity;  // the state belongs to no position of this text
  }

  // Take one step towards the state after `place` characters. Returns: whether that is reached.
  reach(place) {
    const mark = Math.min(Math.floor(place / STRIDE), this.marks.length - 1);
    if (this.at > place || this.at < mark * STRIDE) {
      this.state.set(this.marks[mark]);
      this.at = mark * STRIDE;
    }
    if (this.at < place) this.read();
    return this.at === place;
  }

  // Read the next character.
  read() {
    const id = this.ids.get(this.text[this.at]) ?? this.unknown;
    if (id !== null) this.network.step(this.state, id);
    this.at++;
    if (this.endsRecord()) this.state.set(this.first);
    if (this.at === this.marks.length * STRIDE) this.marks.push(this.state.slice());
  }

  // Compute the bits of the next character, as `charrnn eval` does.
  charge(logits) {
    const id = this.ids.get(this.text[this.at]), [known, unknown] = this.costs;
    const symbol = id ?? this.unknown;
    const bits = symbol === null ? 0 : (logSum(logits) - logits[symbol]) / Math.LN2;
    if (bits === Infinity) return void this.bits.push(NaN);  // a blank record is not scored
    this.bits.push(bits + (id === undefined ? unknown : known));
  }

  endsRecord() {
    const {at, separator, text} = this;
    return separator > 0 && at >= separator && text[at - 1] === "\n" && text[at - separator] === "\n";
  }

  // The logits of the next character. A record never ends while it is blank, since no training text has a blank record.
  logits() {
    const logits = this.network.logits(this.state);
    if (this.separator && this.isBlank()) logits[this.ids.get("\n")] = -Infinity;
    return logits;
  }

  // Whether the record up to here has nothing but white space.
  isBlank() {
    const {separator, text} = this;
    for (let i = this.at - 1; i >= 0; i--) {
      if (text[i] === "\n" && (separator === 1 || text[i - 1] === "\n")) return true;
      if (!/\s/.test(text[i])) return false;
    }
    return true;
  }

  guesses() {
    const logits = this.logits(), total = logSum(logits);
    const best = [...logits.keys()].filter(id => id !== this.unknown).sort((a, b) => logits[b] - logits[a] || a - b);
    return best.slice(0, GUESSES).filter(id => logits[id] > -Infinity).map(id => [this.characters[id], Math.exp(logits[id] - total)]);
  }
}

function logSum(logits) {
  const top = logits.reduce((a, b) => Math.max(a, b));
  return top + Math.log(logits.reduce((sum, logit) => sum + Math.exp(logit - top), 0));
}

// A random number in [0, 1) that depends only on the seed and k, so that stopping and continuing gives the same text.
function uniform(seed, k) {
  const mix = x => {  // the finalizer of MurmurHash3
    x = Math.imul(x ^ (x >>> 16), 0x85ebca6b);
    x = Math.imul(x ^ (x >>> 13), 0xc2b2ae35);
    return x ^ (x >>> 16);
  };
  const high = mix(mix(seed + 0x9e3779b9) + k), low = mix(high + 0x9e3779b9);
  return ((high >>> 5) * 2 ** 26 + (low >>> 6)) / 2 ** 53;
}

// Draw the id of the next character with `chance` in [0, 1), like charrnn's sampler, but never `unknown`.
function draw(logits, unknown, {temperature, topP}, chance) {
  const ids = [...logits.keys()].filter(id => id !== unknown);
  const best = ids.reduce((a, b) => logits[b] > logits[a] ? b : a);
  if (!temperature) return best;
  const weights = logits.map(logit => Math.exp((logit - logits[best]) / temperature));
  let total = ids.reduce((sum, id) => sum + weights[id], 0);
  if (topP < 1) {
    ids.sort((a, b) => logits[b] - logits[a] || a - b);
    let kept = 0, sum = 0;
    while (sum < topP * total && kept < ids.length) sum += weights[ids[kept++]];
    ids.length = kept;
    total = sum;
  }
  let left = chance * total;
  return ids.find(id => (left -= weights[id]) < 0) ?? best;
}

// Work is done in slices, with messages handled in between. A job is a generator that yields true at the end of a slice.

let reader = null, job = null, report = () => {}, pending = false;
const ticks = new MessageChannel();  // setTimeout(0) would wait 4 ms
ticks.port1.onmessage = work;

// Send the likeliest characters at the cursor and, with `surprise`, the bits of each character from position `scored` on.
function* show({text, cursor, scored, surprise, version}) {
  const count = part => Array.from(part).length;
  reader.set(Array.from(text));
  const place = count(text.slice(0, cursor));
  let sent = count(text.slice(0, scored));
  report = () => {
    if (reader.bits.length > sent) postMessage({kind: "bits", version, bits: reader.bits.slice(sent)});
    sent = Math.max(sent, reader.bits.length);
  };
  while (!reader.reach(place)) yield false;
  postMessage({kind: "next", version, guesses: reader.guesses()});
  while (surprise && reader.bits.length < reader.text.length) {
    while (!reader.reach(reader.bits.length)) yield false;
    reader.charge(reader.logits());
    yield false;
  }
}

// Continue the text by a number of characters or, with a line-by-line model, of records.
function* write({text, length, seed, ...settings}) {
  const began = performance.now();
  let written = "";
  report = () => {
    if (written) postMessage({kind: "wrote", text: written});
    written = "";
  };
  try {
    reader.set(Array.from(text));
    while (!reader.reach(reader.text.length)) yield false;
    for (let left = length; left > 0;) {
      const logits = reader.logits();
      const character = reader.characters[draw(logits, reader.unknown, settings, uniform(seed, reader.at))];
      reader.text.push(character);
      if (reader.bits.length === reader.at) reader.charge(logits);
      reader.read();
      written += character;
      if (!reader.separator || reader.endsRecord()) left--;
      yield written.length >= BURST;
    }
  } finally {
    report();
    postMessage({kind: "done", seconds: (performance.now() - began) / 1000});
  }
}

function work() {
  const began = performance.now();
  let step = {done: !job, value: false};
  while (!step.done && !step.value && performance.now() < began + SLICE) step = job.next();
  report();
  pending = !step.done;
  if (step.value) setTimeout(work, began + SLICE - performance.now());
  else if (pending) ticks.port2.postMessage(null);
}

onmessage = ({data: {kind, ...data}}) => {
  if (kind === "model") {
    reader = new Reader(data.facts, new Network(data.facts, data.packed));
    postMessage({kind: "ready"});
  }
  job?.return();  // an interrupted job sends what it has
  report = () => {};
  job = kind === "show" ? show(data) : kind === "write" ? write(data) : null;
  job?.next();
  if (job && !pending) work();
};
