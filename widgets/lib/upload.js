// A file in parts, each acknowledged before the next: Jupyter drops messages above 10 MiB without a word.

import { base64 } from "./arrays.js";

const PATIENCE = 60; // seconds that a part may take

/** Send a file; `progress` is told the share that arrived. Rejects with Python's words, or when `signal` ends. */
export async function upload(file, ask, part, { progress = () => {}, signal }) {
  const { upload: id } = await ask({ ask: "begin", name: file.name || "pasted", size: file.size }, undefined, PATIENCE);
  let plain = false; // whether this host has been found to carry no binary
  for (let at = 0; at < file.size; ) {
    if (signal.aborted) {
      await ask({ ask: "cancel", upload: id });
      throw new Error("cancelled");
    }
    const bytes = await file.slice(at, at + part).arrayBuffer();
    const more = plain ? { text: base64(new Uint8Array(bytes)) } : {};
    const { received } = await ask({ ask: "part", upload: id, offset: at, ...more }, plain ? undefined : [bytes], PATIENCE);
    if (received === at && plain) throw new Error(`${file.name || "pasted"}: nothing of it arrives at the kernel. Name its path instead.`);
    plain ||= received === at;
    at = received;
    progress(received / file.size);
  }
  if (signal.aborted) {
    await ask({ ask: "cancel", upload: id });
    throw new Error("cancelled");
  }
  return ask({ ask: "finish", upload: id }, undefined, PATIENCE);
}
