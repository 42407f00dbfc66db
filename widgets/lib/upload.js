// A file in parts, each acknowledged before the next: Jupyter drops messages above 10 MiB without a word.

const PATIENCE = 60; // seconds that a part may take

/** Send a file; `progress` is told the share that arrived. Rejects with Python's words, or when `signal` ends. */
export async function upload(file, ask, part, { progress = () => {}, signal }) {
  const { upload: id } = await ask({ ask: "begin", name: file.name || "pasted", size: file.size }, undefined, PATIENCE);
  for (let at = 0; at < file.size; at += part) {
    if (signal.aborted) {
      await ask({ ask: "cancel", upload: id });
      throw new Error("cancelled");
    }
    const bytes = await file.slice(at, at + part).arrayBuffer();
    const { received } = await ask({ ask: "part", upload: id, offset: at }, [bytes], PATIENCE);
    progress(received / file.size);
  }
  return ask({ ask: "finish", upload: id }, undefined, PATIENCE);
}
