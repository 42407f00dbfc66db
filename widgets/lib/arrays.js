// Arrays as Python sends them: { view, dtype, shape }, where view is binary in a notebook and base64 in a page.

const KINDS = {
  uint8: Uint8Array, int8: Int8Array, uint16: Uint16Array, int32: Int32Array, float32: Float32Array,
  float64: Float64Array,
};

function bytesOf(view) {
  if (typeof view === "string") {
    const text = atob(view), bytes = new Uint8Array(text.length);
    for (let k = 0; k < text.length; k++) bytes[k] = text.charCodeAt(k); // Uint8Array.from takes thirty times as long
    return bytes;
  }
  if (view instanceof ArrayBuffer) return new Uint8Array(view);
  return new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
}

/** A typed array with the numbers of `packed`, row by row. */
export function numbers(packed) {
  const Kind = KINDS[packed.dtype];
  if (!Kind) throw new Error(`An array of ${packed.dtype} was sent; this view reads ${Object.keys(KINDS).join(", ")}.`);
  const bytes = bytesOf(packed.view);
  const wanted = packed.shape.reduce((a, b) => a * b, 1) * Kind.BYTES_PER_ELEMENT;
  if (bytes.byteLength !== wanted) throw new Error(`An array of ${wanted} bytes came with ${bytes.byteLength}.`);
  return new Kind(bytes.slice().buffer); // a copy: a view into a message need not be aligned
}

/** A binary attachment as bytes. */
export function binary(packed) {
  return bytesOf(packed.view);
}

/** Put the buffers of a message back in the places that name them: { "buffer": 2 } becomes the third one. */
export function withBuffers(value, buffers) {
  if (Array.isArray(value)) return value.map((part) => withBuffers(part, buffers));
  if (value && typeof value === "object") {
    if (Number.isInteger(value.buffer) && Object.keys(value).length === 1) return buffers[value.buffer];
    return Object.fromEntries(Object.entries(value).map(([key, part]) => [key, withBuffers(part, buffers)]));
  }
  return value;
}

/** Whether the binary parts of a value were lost on their way: an array is there, its numbers are not. */
export function lacking(value) {
  if (!value || typeof value !== "object" || Array.isArray(value)) return Array.isArray(value) && value.some(lacking);
  if (value.dtype && value.shape) return !(typeof value.view === "string" || value.view?.byteLength >= 0);
  return Object.values(value).some(lacking);
}

/** Bytes as base64, for hosts that carry no binary. */
export function base64(bytes) {
  const parts = [];
  for (let at = 0; at < bytes.length; at += 8192) parts.push(String.fromCharCode(...bytes.subarray(at, at + 8192)));
  return btoa(parts.join(""));
}
